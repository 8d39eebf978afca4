"""The name in a client's certificate, as the extension ``tls`` tells it: RFC 4514."""

from __future__ import annotations

import asyncio
import datetime
import ssl

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given, strategies

from cyasgi.wire.distinguished_name import subject_name
from support.http_connection import Recording
from support.real_clients import serving

GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def certificate(*relative, end=NOW + datetime.timedelta(days=36_500)):
    """A certificate, signed by itself, with a subject of these relative names, each of attributes as (type, text)."""
    names = [
        x509.RelativeDistinguishedName([x509.NameAttribute(*one) for one in attributes]) for attributes in relative
    ]
    subject = x509.Name(names)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")]))
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW - datetime.timedelta(days=3650))
        .not_valid_after(end)
        .sign(KEY, SHA256())
    )


def name_of(*relative):
    return subject_name(certificate(*relative).public_bytes(Encoding.DER))


CN, ORGANIZATION, UNIT, COUNTRY = (
    NameOID.COMMON_NAME,
    NameOID.ORGANIZATION_NAME,
    NameOID.ORGANIZATIONAL_UNIT_NAME,
    NameOID.COUNTRY_NAME,
)


@pytest.mark.parametrize(
    ("relative", "expected"),
    [
        ([], ""),
        ([[(COUNTRY, "DE")], [(ORGANIZATION, "Example")], [(CN, "Steve Kille")]], "CN=Steve Kille,O=Example,C=DE"),
        ([[(CN, 'James "Jim" Smith, III')]], 'CN=James \\"Jim\\" Smith\\, III'),
        ([[(CN, "a+b;c<d>e\\f=g")]], "CN=a\\+b\\;c\\<d\\>e\\\\f=g"),
        ([[(CN, "#1 # 2")]], "CN=\\#1 # 2"),
        ([[(CN, "  two ")]], "CN=\\  two\\ "),
        ([[(CN, " ")]], "CN=\\ "),
        ([[(CN, "Before\rAfter\n\0")]], "CN=Before\\0dAfter\\0a\\00"),
        ([[(CN, "Lučić Grüße 🎈")]], "CN=Lučić Grüße 🎈"),
        ([[(NameOID.DOMAIN_COMPONENT, "net")], [(NameOID.DOMAIN_COMPONENT, "example")]], "DC=example,DC=net"),
        ([[(NameOID.USER_ID, "jsmith")], [(NameOID.SERIAL_NUMBER, "7")]], "serialNumber=7,UID=jsmith"),
        ([[(NameOID.EMAIL_ADDRESS, "a@b.c")]], "1.2.840.113549.1.9.1=#16056140622e63"),
        ([[(x509.ObjectIdentifier("2.999.1234"), "Hi")]], "2.999.1234=#0c024869"),
        (
            [[(CN, "x" * 60)], [(UNIT, "y" * 60)], [(ORGANIZATION, "z" * 60)]],
            f"O={'z' * 60},OU={'y' * 60},CN={'x' * 60}",
        ),
        ([[(CN, "wide", _ASN1Type.BMPString)]], "CN=wide"),
        ([[(CN, "wider ü", _ASN1Type.UniversalString)]], "CN=wider ü"),
    ],
)
def test_name(relative, expected):
    assert name_of(*relative) == expected


def test_several_attributes_at_one_place():
    assert sorted(name_of([(CN, "L. Eagle"), (UNIT, "Sue, Grabbit")]).split("+")) == [
        "CN=L. Eagle",
        "OU=Sue\\, Grabbit",
    ]


def test_what_is_no_text():
    """A value that its type does not allow is written as it is encoded; so is one of another type."""
    der = certificate([(CN, "abcd")]).public_bytes(Encoding.DER)
    assert der.count(b"\x0c\x04abcd") == 1
    assert subject_name(der.replace(b"\x0c\x04abcd", b"\x0c\x04ab\xffd")) == "CN=#0c046162ff64"
    assert subject_name(der.replace(b"\x0c\x04abcd", b"\x04\x04abcd")) == "CN=#040461626364"


@pytest.mark.slow
@given(
    strategies.lists(strategies.text(strategies.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=16))
)
def test_as_another_library_has_it(texts):
    found = certificate(
        *([(kind, text)] for kind, text in zip([ORGANIZATION, UNIT, CN] * len(texts), texts, strict=False))
    )
    assert subject_name(found.public_bytes(Encoding.DER)) == found.subject.rfc4514_string()


@pytest.mark.slow
@given(strategies.binary(max_size=60))
def test_what_is_no_certificate(data):
    with pytest.raises(ValueError, match="not a certificate in DER"):
        subject_name(data)


def test_every_beginning():
    """However much of it is missing."""
    der = certificate([(CN, "abcd")]).public_bytes(Encoding.DER)
    for length in range(len(der)):
        with pytest.raises(ValueError, match="not a certificate in DER"):
            subject_name(der[:length])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("relative", "expected"), [([[(ORGANIZATION, "Acme, Inc.")], [(CN, "me")]], "CN=me,O=Acme\\, Inc."), ([], "")]
)
@pytest.mark.parametrize("demand", [ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED])
def test_in_scopes(cy, run, tmp_path, relative, expected, demand):
    """A client with a certificate is told of by chain and name, one without by neither."""
    authority = trustme.CA()
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(served)
    found = certificate(*relative)
    pem = found.public_bytes(Encoding.PEM)
    key = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "client.pem").write_bytes(pem + key)
    served.load_verify_locations(cadata=pem.decode())
    served.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    served.verify_mode = demand

    def trusting():
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    async def ask(address, context):
        reader, writer = await asyncio.open_connection(*address, ssl=context)
        writer.write(GET)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()

    async def main():
        application = Recording()
        async with serving(cy, application, tls=served, lifespan="off") as server:
            [address] = server.addresses
            known = trusting()
            known.load_cert_chain(tmp_path / "client.pem")
            await ask(address, known)
            if demand is ssl.CERT_OPTIONAL:
                await ask(address, trusting())
        first, *others = [scope["extensions"]["tls"] for scope in application.scopes]
        assert (first["client_cert_chain"], first["client_cert_name"]) == ([pem.decode()], expected)
        assert [(one["client_cert_chain"], one["client_cert_name"]) for one in others] == [([], None)] * len(others)

    run(main())

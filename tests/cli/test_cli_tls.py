"""The contexts that the options for TLS make: old versions and revoked certificates are refused."""

from __future__ import annotations

import datetime
import ssl

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from cyasgi.cli.errors import CommandError
from cyasgi.cli.tls import make_context

AUTHORITY = trustme.CA()
SERVER, REVOKED, GOOD = (AUTHORITY.issue_cert(name) for name in ("server.test", "revoked.test", "good.test"))
NOW = datetime.datetime.now(datetime.UTC)


def revoked(*issued, end=NOW + datetime.timedelta(days=1)):
    """The authority's list of revoked certificates, in PEM."""
    authority = x509.load_pem_x509_certificate(AUTHORITY.cert_pem.bytes())
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(NOW - datetime.timedelta(days=2))
        .next_update(end)
    )
    for one in issued:
        certificate = x509.load_pem_x509_certificate(one.cert_chain_pems[0].bytes())
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(certificate.serial_number)
            .revocation_date(NOW - datetime.timedelta(days=1))
            .build()
        )
    key = load_pem_private_key(AUTHORITY.private_key_pem.bytes(), None)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


@pytest.fixture
def context(tmp_path):
    """Makes a server's context, with these options beside its certificate."""
    (tmp_path / "server.pem").write_bytes(SERVER.private_key_and_cert_chain_pem.bytes())
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.cert_pem.bytes())

    def make(**options):
        given = dict.fromkeys(("keyfile", "keyfile_password", "ca_certs", "ciphers", "minimum_version", "crl"))
        given |= {"certfile": str(tmp_path / "server.pem"), "cert_reqs": "required"} | options
        return make_context(**given)

    return make


def shake_hands(server, *, certificate=None, newest=None):
    """The version that a client and the server agree on, by way of memory.

    Raises:
        ssl.SSLError: what the server says to it.
    """
    client = ssl.create_default_context()
    AUTHORITY.configure_trust(client)
    if certificate is not None:
        certificate.configure_cert(client)
    if newest is not None:
        client.maximum_version = newest
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname="server.test"),
        server.wrap_bio(up, down, server_side=True),
    ]
    # The server's error comes first, since it is the one that knows.
    for _ in range(10):
        for end in reversed(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[1].version()


def test_the_oldest_version(context):
    """Clients that have nothing newer are refused; others are not."""
    assert shake_hands(context(), newest=ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert shake_hands(context(minimum_version="TLSv1.2"), newest=ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        shake_hands(context(minimum_version="TLSv1.3"), newest=ssl.TLSVersion.TLSv1_2)
    assert shake_hands(context(minimum_version="TLSv1.3")) == "TLSv1.3"


def test_revoked_certificates(context, tmp_path):
    """A client whose certificate is in the list is refused; one with another certificate is not."""
    ca_certs, crl = str(tmp_path / "ca.pem"), tmp_path / "crl.pem"
    assert shake_hands(context(ca_certs=ca_certs), certificate=REVOKED)
    crl.write_bytes(revoked(REVOKED))
    server = context(ca_certs=ca_certs, crl=str(crl))
    assert shake_hands(server, certificate=GOOD)
    with pytest.raises(ssl.SSLError, match="revoked"):
        shake_hands(server, certificate=REVOKED)
    crl.write_bytes(revoked(REVOKED, end=NOW - datetime.timedelta(hours=1)))
    with pytest.raises(ssl.SSLError, match="CRL has expired"):
        shake_hands(context(ca_certs=ca_certs, crl=str(crl)), certificate=GOOD)


def test_a_list_that_is_none(context, tmp_path):
    """What is no list of revoked certificates is told."""
    crl = str(tmp_path / "ca.pem")
    with pytest.raises(CommandError, match=r"ca\.pem: no list of revoked certificates is in it \(PEM is expected\)"):
        context(ca_certs=crl, crl=crl)
    with pytest.raises(CommandError, match=r"none\.pem: no list of revoked certificates: No such"):
        context(ca_certs=crl, crl=str(tmp_path / "none.pem"))

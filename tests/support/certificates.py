"""Certificates for 127.0.0.1 and ::1, made anew for the tests that need them."""

from __future__ import annotations

import datetime

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: The password of `locked.pem`.
PASSWORD = "secret"


def write_certificates(directory):
    """Writes `ca.pem`, whom clients trust; `cert.pem` and its `key.pem`, which `locked.pem` has with a password; and
    `other.pem`, a key of another certificate."""
    authority = trustme.CA()
    issued, other = authority.issue_cert("127.0.0.1", "::1"), authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(directory / "cert.pem", append=True)
    key = issued.private_key_pem
    key.write_to_path(directory / "key.pem")
    locked = load_pem_private_key(key.bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD.encode())
    )
    (directory / "locked.pem").write_bytes(locked)
    other.private_key_pem.write_to_path(directory / "other.pem")
    return authority


def write_client_certificate(authority, directory):
    """Writes `client.pem` and `client-key.pem`: for clients alone, since Erlang does not accept what trustme makes."""
    key, issuer = ec.generate_private_key(ec.SECP256R1()), x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    now = datetime.datetime.now(datetime.UTC)
    issued = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(load_pem_private_key(authority.private_key_pem.bytes(), None), hashes.SHA256())
    )
    (directory / "client.pem").write_bytes(issued.public_bytes(Encoding.PEM))
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "client-key.pem").write_bytes(key_pem)

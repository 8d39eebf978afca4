"""Certificates for 127.0.0.1 and ::1, made anew for the tests that need them."""

from __future__ import annotations

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

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

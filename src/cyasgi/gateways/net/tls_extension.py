"""ASGI's TLS extension: what a scope says about an encrypted connection."""

from __future__ import annotations

from ssl import DER_cert_to_PEM_cert
from typing import Any

from ...wire.distinguished_name import subject_name

#: Protocol versions as TLS numbers them (RFC 5246 appendix E, RFC 8446 section 4.1.2).
VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


def tls_extension(tls: Any) -> dict[str, Any]:
    """Return ``scope["extensions"]["tls"]`` for a connection with this `ssl.SSLObject`."""
    certificate = tls.getpeercert(binary_form=True)
    cipher = tls.cipher()
    number = None
    if cipher is not None:
        found = [one["id"] & 0xFFFF for one in tls.context.get_ciphers() if one["name"] == cipher[0]]
        number = found[0] if found else None
    return {
        "server_cert": None,
        "client_cert_chain": [] if certificate is None else [DER_cert_to_PEM_cert(certificate)],
        "client_cert_name": None if certificate is None else subject_name(certificate),
        "client_cert_error": None,
        "tls_version": VERSIONS.get(tls.version()),
        "cipher_suite": number,
    }

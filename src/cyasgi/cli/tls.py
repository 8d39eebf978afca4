"""TLS, from the options that uvicorn has as well."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from .errors import (
    FAILED,
    MISUSED,
    CommandError,
)

#: Whether clients must have a certificate, by name and by uvicorn's number.
CERT_REQS = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
    "0": ssl.CERT_NONE,
    "1": ssl.CERT_OPTIONAL,
    "2": ssl.CERT_REQUIRED,
}


#: The oldest versions that can be asked for; OpenSSL's own default level refuses what is older.
VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def make_context(
    certfile: str,
    keyfile: str | None,
    keyfile_password: str | None,
    ca_certs: str | None,
    cert_reqs: str,
    ciphers: str | None,
    minimum_version: str | None = None,
    crl: str | None = None,
    protocols: Sequence[str] = ("http/1.1",),
) -> ssl.SSLContext:
    """Return a context for servers, with Python's defaults for what is None.

    Args:
        protocols: those that clients may ask for by ALPN.

    Raises:
        CommandError: a file is not what it should be, the password is wrong or missing, or a cipher is unknown.
    """

    def no_password() -> str:
        raise CommandError(f"{keyfile or certfile}: the key has a password: give --ssl-keyfile-password", MISUSED)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    try:
        # Without a function, OpenSSL would ask on the terminal.
        context.load_cert_chain(certfile, keyfile, no_password if keyfile_password is None else keyfile_password)
    except OSError as error:
        raise CommandError(_what_is_wrong(certfile, keyfile, keyfile_password, error), FAILED) from None
    if ca_certs is not None:
        try:
            context.load_verify_locations(ca_certs)
        except OSError as error:
            raise CommandError(f"{ca_certs}: no certificates: {_reason(error)}", FAILED) from None
        context.verify_mode = CERT_REQS[cert_reqs]
    if crl is not None:
        _load_revoked(context, crl)
    if minimum_version is not None:
        context.minimum_version = VERSIONS[minimum_version]
    if ciphers is not None:
        try:
            context.set_ciphers(ciphers)
        except ssl.SSLError:
            raise CommandError(f"--ssl-ciphers {ciphers!r}: OpenSSL knows none of these", MISUSED) from None
    return context


def _load_revoked(context: ssl.SSLContext, crl: str) -> None:
    """Refuse client certificates that are in this list of revoked ones (RFC 5280 section 5)."""
    try:
        with open(crl, "rb") as file:
            if b"-----BEGIN X509 CRL-----" not in file.read():
                raise CommandError(f"{crl}: no list of revoked certificates is in it (PEM is expected)")
        context.load_verify_locations(crl)
    except OSError as error:
        raise CommandError(f"{crl}: no list of revoked certificates: {_reason(error)}", FAILED) from None
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _what_is_wrong(certfile: str, keyfile: str | None, password: str | None, error: OSError) -> str:
    """Say why a certificate and its key could not be loaded: OpenSSL often says no more than "PEM lib"."""
    try:
        with open(certfile, "rb") as file:
            certificate = file.read()
        with open(keyfile or certfile, "rb") as file:
            key = file.read()
    except OSError as unreadable:
        return f"{unreadable.filename}: {unreadable.strerror}"
    if b"-----BEGIN CERTIFICATE-----" not in certificate:
        return f"{certfile}: no certificate is in it (PEM is expected)"
    if b"PRIVATE KEY-----" not in key:
        hint = "" if keyfile else "; give --ssl-keyfile"
        return f"{keyfile or certfile}: no private key is in it (PEM is expected){hint}"
    reason = _reason(error)
    if reason == "key values mismatch":
        return f"{keyfile or certfile}: the key is not that of the certificate in {certfile}"
    if password is not None and b"ENCRYPTED" in key:
        return f"{keyfile or certfile}: the key cannot be read with this password"
    names = certfile if keyfile is None else f"{certfile} and {keyfile}"
    return f"{names}: not a certificate with its key: {reason}"


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return error.strerror or str(error)

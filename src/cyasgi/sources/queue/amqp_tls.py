"""TLS to a broker: a context from the files that a URL names, and what goes wrong with it in words."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from .engine import EngineError

#: The options of a URL that name files: certificates to trust, one to show, and its key.
FILES = CAFILE, CERTFILE, KEYFILE = "cafile", "certfile", "keyfile"

#: How many errors are looked at that have caused each other.
LONGEST_CHAIN = 10


def check_files(files: Mapping[str, str]) -> None:
    """Raise ValueError for options that make no sense without others."""
    if KEYFILE in files and CERTFILE not in files:
        raise ValueError(f"{KEYFILE} needs a {CERTFILE}")


def client_context(files: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context that trusts the system's authorities, or those in ``cafile``, and checks the broker's name.

    Reads files: to be called in a thread.

    Raises:
        EngineError: a file is not what it should be; the message names it.
    """
    for name, path in files.items():
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise EngineError(f"{name}={path}: {error.strerror}") from None
    cafile, certfile, keyfile = (files.get(name) for name in FILES)
    try:
        context = ssl.create_default_context(cafile=cafile)
    except (OSError, ValueError):
        raise EngineError(f"{CAFILE}={cafile}: accepted is a file with certificates in PEM") from None
    if certfile is not None:
        try:
            # Without a function, OpenSSL would ask on the terminal.
            context.load_cert_chain(certfile, keyfile, _no_password)
        except (OSError, ValueError) as error:
            key = f" with {KEYFILE}={keyfile}" if keyfile is not None else ""
            reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
            raise EngineError(
                f"{CERTFILE}={certfile}{key}: accepted are a certificate and its key in PEM, "
                f"without a password ({reason})"
            ) from None
    return context


def _no_password() -> bytes:
    raise ValueError("the key has a password")


def tls_failure(error: BaseException | None) -> str | None:
    """Return in words what has gone wrong with TLS, by the errors that this one was caused by; None if nothing has."""
    # Chains of errors may have circles.
    for _ in range(LONGEST_CHAIN):
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the broker's certificate is not accepted: {error.verify_message}"
        if isinstance(error, ssl.SSLError):
            if error.reason == "WRONG_VERSION_NUMBER":
                return "the broker does not speak TLS at this port"
            return f"TLS has failed: {(error.reason or str(error)).replace('_', ' ').lower()}"
        if error is None:
            break
        error = error.__cause__ or error.__context__
    return None

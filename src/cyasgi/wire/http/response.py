"""The head of a response and its chunks, on the wire (RFC 9112 sections 4, 6 and 7)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from .._headers_py import (
    CLOSE,
    OWN_DATE,
    OWN_SERVER,
)
from ..headers import encode_lines
from .scope import REASONS

LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

STATUS_LINES = {status: b"HTTP/1.1 %d %s" % (status, REASONS.get(status, b"")) for status in range(200, 600)}


class Fields(NamedTuple):
    """The header lines of an application, checked: each with CRLF before it."""

    lines: bytes
    #: Content-Length, which is not among the lines; None if it was not given.
    length: int | None = None
    #: CLOSE: it wants the connection closed; OWN_DATE, OWN_SERVER: it gives Date, or Server, itself.
    asked: int = 0

    @property
    def close(self) -> bool:
        return bool(self.asked & CLOSE)

    @property
    def date(self) -> bool:
        return bool(self.asked & OWN_DATE)

    @property
    def server(self) -> bool:
        return bool(self.asked & OWN_SERVER)


def encode_fields(headers: Iterable[Any]) -> Fields:
    """As `cyasgi.wire.headers.encode_lines`."""
    return Fields(*encode_lines(headers))


def chunk(data: bytes) -> bytes:
    """One chunk, not the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)

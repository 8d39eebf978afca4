"""The head of a response and its chunks, on the wire (RFC 9112 sections 4, 6 and 7)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ..headers import (
    CLOSE,
    OWN_DATE,
    OWN_SERVER,
    encode_lines,
)
from .scope import REASONS

LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: RFC 8297; header lines follow.
EARLY_HINTS = b"HTTP/1.1 103 Early Hints"

STATUS_LINES = {status: b"HTTP/1.1 %d %s" % (status, REASONS.get(status, b"")) for status in range(200, 600)}


class Fields(NamedTuple):
    """The headers of an application, checked and encoded."""

    #: Header lines, each with CRLF before it.
    lines: bytes
    #: Content-Length, which is not among the lines; None if it was not given.
    length: int | None = None
    #: CLOSE: the connection is to be closed; OWN_DATE, OWN_SERVER: Date, or Server, is among the lines.
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
    """Check and encode headers as `cyasgi.wire.headers.encode_lines` does."""
    return Fields(*encode_lines(headers))


def chunk(data: bytes) -> bytes:
    """Return one chunk, not the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)

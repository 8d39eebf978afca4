"""The head of a response and its chunks, on the wire (RFC 9112 sections 4, 6 and 7)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from .http import REASONS

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")

LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

STATUS_LINES = {status: b"HTTP/1.1 %d %s" % (status, REASONS.get(status, b"")) for status in range(200, 600)}

#: Names that need more than to be written out.
PLAIN, LENGTH, ENCODING, CONNECTION, DATE, SERVER = range(6)
SPECIAL = {
    b"content-length": LENGTH,
    b"transfer-encoding": ENCODING,
    b"connection": CONNECTION,
    b"date": DATE,
    b"server": SERVER,
}

#: For each name that was written before, in the spelling that it was given in: the beginning of its line, and its kind.
_known: dict[bytes, tuple[bytes, int]] = {}
#: Names remembered; an application that makes up its own ones without end pays for checking them.
KNOWN_NAMES = 1024


#: What header lines ask for beside being written.
CLOSE, OWN_DATE, OWN_SERVER = 1, 2, 4


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


def _learn(name: Any) -> tuple[bytes, int]:
    if not isinstance(name, bytes):
        raise TypeError(f"the name of a response header must be bytes, got {name!r}")
    lower = name.lower()
    if not TOKEN.fullmatch(lower):
        raise ValueError(f"{name!r} is not the name of a header: accepted are letters, digits and !#$%&'*+-.^_`|~")
    found = b"\r\n" + lower + b": ", SPECIAL.get(lower, PLAIN)
    if len(_known) < KNOWN_NAMES and len(name) < 64:
        _known[name] = found
    return found


def _check(lines: list[bytes]) -> None:
    """Raises the error of the first value that is none."""
    for start, value in zip(lines[::2], lines[1::2], strict=True):
        name = start[2:-2]
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise TypeError(f"the value of the response header {name!r} must be bytes, got {value!r}")
        if any(char in bytes(value) for char in b"\r\n\0"):
            raise ValueError(f"the value of the response header {name!r} contains CR, LF or NUL: {bytes(value)!r}")


def encode_fields(headers: Iterable[Any]) -> Fields:
    """As `encode_lines`."""
    return Fields(*encode_lines(headers))


def encode_lines(headers: Iterable[Any]) -> tuple[bytes, int | None, int]:
    """Checks the headers of a response, or its trailers, and writes them out: what `Fields` has, as a plain tuple.

    Transfer-Encoding is left out, and what Connection says beside ``close`` and ``keep-alive`` is passed on: where a
    response ends is the server's business.

    Raises:
        TypeError: a header is not a pair of bytes.
        ValueError: a name is no token, a value contains CR, LF or NUL, or Content-Length is no number or not one.
    """
    lines: list[bytes] = []
    length: int | None = None
    special: list[tuple[int, bytes, bytes]] | None = None
    known = _known
    try:
        for name, value in headers:
            found = known.get(name) or _learn(name)
            if found[1] == LENGTH and length is None and value.isdigit() and len(value) < 19:
                length = int(value)
            elif found[1]:
                special = special or []
                special.append((found[1], found[0], value))
            else:
                lines.append(found[0])
                lines.append(value)
        encoded = (b"".join(lines), length, 0) if special is None else _special(lines, special, length)
    except (AttributeError, TypeError, ValueError) as error:
        _check(lines)
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"headers of a response must be pairs of bytes: {error}") from error
    block = encoded[0]
    count = len(lines) // 2
    if block.count(b"\n") != count or block.count(b"\r") != count or b"\0" in block:
        _check(lines)
    return encoded


def _special(
    lines: list[bytes], special: list[tuple[int, bytes, bytes]], length: int | None
) -> tuple[bytes, int | None, int]:
    asked = 0
    for kind, start, value in special:
        if kind == LENGTH:
            if not bytes(value).isdigit() or len(value) > 18:
                raise ValueError(f"Content-Length must be a number of bytes, got {value!r}")
            if length is not None and length != int(value):
                raise ValueError(f"there are two lengths, {length} and {int(value)}")
            length = int(value)
            continue
        if kind == ENCODING:
            continue
        if kind == CONNECTION:
            option = bytes(value).lower().strip()
            if option == b"close":
                asked |= CLOSE
            if option in (b"close", b"keep-alive"):
                continue
        elif kind == DATE:
            asked |= OWN_DATE
        else:
            asked |= OWN_SERVER
        lines.append(start)
        lines.append(value)
    return b"".join(lines), length, asked


def chunk(data: bytes) -> bytes:
    """One chunk, not the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)

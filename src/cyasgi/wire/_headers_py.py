"""The pure-Python twin of what is done for each header line of a request, or of a response."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")

#: Names of either side that are remembered in the spelling that they came in; with more of them, or longer ones, each
#: is looked at every time.
KNOWN_NAMES = 1024
KNOWN_SIZE = 64

# Requests

#: Headers that say where a request ends, or what becomes of its connection.
TELLING = frozenset(
    (
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    )
)

#: Names that came before, in the spelling that they came in: in lower case, and whether they are among the TELLING.
_came: dict[bytes, tuple[bytes, bool]] = {}


#: Names that many clients send, so that no others can take their places.
USUAL = (
    b"Accept Accept-Charset Accept-Encoding Accept-Language Authorization Cache-Control Connection Content-Length"
    b" Content-Type Cookie DNT Expect Forwarded Host If-Modified-Since If-None-Match Keep-Alive Origin Pragma Range"
    b" Referer Sec-CH-UA Sec-CH-UA-Mobile Sec-CH-UA-Platform Sec-Fetch-Dest Sec-Fetch-Mode Sec-Fetch-Site"
    b" Sec-Fetch-User Sec-WebSocket-Extensions Sec-WebSocket-Key Sec-WebSocket-Protocol Sec-WebSocket-Version TE"
    b" Transfer-Encoding Upgrade Upgrade-Insecure-Requests User-Agent Via X-Forwarded-For X-Forwarded-Host"
    b" X-Forwarded-Proto X-Real-IP X-Request-ID X-Requested-With"
).split()


def learn_name(name: bytes) -> tuple[bytes, bool]:
    """A name in lower case, and whether it is among the TELLING."""
    lower = name.lower()
    found = lower, lower in TELLING
    if len(_came) < KNOWN_NAMES and len(name) < KNOWN_SIZE:
        _came[name] = found
    return found


for _name in USUAL:
    _came[_name] = _came[_name.lower()] = learn_name(_name.lower())


class RequestHeaders:
    """Gathers the headers of a request from its parser, which calls `on_header` for each."""

    __slots__ = ("fields", "repeated", "telling")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begins another request."""
        #: Names in lower case, and values without white space around them.
        self.fields: list[tuple[bytes, bytes]] = []
        #: Those of the TELLING that came; the last value, if `repeated`.
        self.telling: dict[bytes, bytes] = {}
        #: Whether one of the TELLING came more than once.
        self.repeated = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; the parser has taken the white space before its value away."""
        lower, telling = _came.get(name) or learn_name(name)
        value = value.rstrip(b" \t")
        self.fields.append((lower, value))
        if telling:
            if lower in self.telling:
                self.repeated = True
            self.telling[lower] = value


# Responses

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
known: dict[bytes, tuple[bytes, int]] = {}

#: What header lines ask for beside being written.
CLOSE, OWN_DATE, OWN_SERVER = 1, 2, 4


def encode_lines(headers: Iterable[Any]) -> tuple[bytes, int | None, int]:
    """Checks the headers of a response, or its trailers, and writes them out: lines, each with CRLF before it; the
    Content-Length, which is not among them; and what they ask for: CLOSE, OWN_DATE, OWN_SERVER.

    Transfer-Encoding is left out, and so are ``close`` and ``keep-alive`` among the options of Connection, the others
    of which are passed on: where a response ends, and what becomes of the connection, is the server's to say.

    Raises:
        TypeError: a header is not a pair of bytes.
        ValueError: a name is no token, a value contains CR, LF or NUL, or Content-Length is no number or not one.
    """
    lines: list[bytes] = []
    length: int | None = None
    special: list[tuple[int, bytes, bytes]] | None = None
    try:
        for name, value in headers:
            found = known.get(name) or _learn(name)
            if found[1] == LENGTH and length is None and type(value) is bytes and value.isdigit() and len(value) < 19:
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
    if block.count(b"\n") != count or block.count(b"\r") != count or 0 in block:
        _check(lines)
    return encoded


def _learn(name: Any) -> tuple[bytes, int]:
    if not isinstance(name, bytes):
        raise TypeError(f"the name of a response header must be bytes, got {name!r}")
    lower = name.lower()
    if not TOKEN.fullmatch(lower):
        raise ValueError(f"{name!r} is not the name of a header: accepted are letters, digits and !#$%&'*+-.^_`|~")
    found = b"\r\n" + lower + b": ", SPECIAL.get(lower, PLAIN)
    if len(known) < KNOWN_NAMES and len(name) < KNOWN_SIZE:
        known[name] = found
    return found


def _check(lines: list[bytes]) -> None:
    """Raises the error of the first value that is none."""
    for start, value in zip(lines[::2], lines[1::2], strict=True):
        name = start[2:-2]
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise _no_bytes(name, value)
        if any(char in bytes(value) for char in b"\r\n\0"):
            raise ValueError(f"the value of the response header {name!r} contains CR, LF or NUL: {bytes(value)!r}")


def _no_bytes(name: bytes, value: Any) -> TypeError:
    return TypeError(f"the value of the response header {name!r} must be bytes, got {value!r}")


def _special(
    lines: list[bytes], special: list[tuple[int, bytes, bytes]], length: int | None
) -> tuple[bytes, int | None, int]:
    asked = 0
    for kind, start, value in special:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise _no_bytes(start[2:-2], value)
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
            # RFC 9110 section 7.6.1: a list, whose members are not case-sensitive.
            options = [option.strip(b" \t") for option in bytes(value).split(b",")]
            others = [option for option in options if option.lower() not in (b"", b"close", b"keep-alive")]
            if any(option.lower() == b"close" for option in options):
                asked |= CLOSE
            if not others:
                continue
            lines.append(start)
            lines.append(value if len(others) == len(options) else b", ".join(others))
            continue
        if kind == DATE:
            asked |= OWN_DATE
        else:
            asked |= OWN_SERVER
        lines.append(start)
        lines.append(value)
    return b"".join(lines), length, asked

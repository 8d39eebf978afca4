"""The pure-Python twin of what is done for each header of a request, or of a response."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")

#: Names that each cache holds at most; and the size in bytes from which on a name is not cached. Those that are not are
#: examined every time.
CACHED_NAMES = 1024
CACHED_SIZE = 64

# Requests

#: Headers that decide where a request ends, or what becomes of its connection.
FRAMING = frozenset(
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

#: For each name that was received, as it was spelled: the name in lower case, and whether it is among the FRAMING ones.
name_cache: dict[bytes, tuple[bytes, bool]] = {}

#: Names that many clients send: they are cached from the beginning, so that no others can take their places.
USUAL = (
    b"Accept Accept-Charset Accept-Encoding Accept-Language Authorization Cache-Control Connection Content-Length"
    b" Content-Type Cookie DNT Expect Forwarded Host If-Modified-Since If-None-Match Keep-Alive Origin Pragma Range"
    b" Referer Sec-CH-UA Sec-CH-UA-Mobile Sec-CH-UA-Platform Sec-Fetch-Dest Sec-Fetch-Mode Sec-Fetch-Site"
    b" Sec-Fetch-User Sec-WebSocket-Extensions Sec-WebSocket-Key Sec-WebSocket-Protocol Sec-WebSocket-Version TE"
    b" Transfer-Encoding Upgrade Upgrade-Insecure-Requests User-Agent Via X-Forwarded-For X-Forwarded-Host"
    b" X-Forwarded-Proto X-Real-IP X-Request-ID X-Requested-With"
).split()


def learn_name(name: bytes) -> tuple[bytes, bool]:
    """Return a name in lower case, and whether it is among the FRAMING ones."""
    lower = name.lower()
    found = lower, lower in FRAMING
    if len(name_cache) < CACHED_NAMES and len(name) < CACHED_SIZE:
        name_cache[name] = found
    return found


for _name in USUAL:
    name_cache[_name] = name_cache[_name.lower()] = learn_name(_name.lower())


def not_bytes(name: Any, value: Any) -> TypeError:
    """Return the error of a header whose name or value is not bytes."""
    return TypeError(f"a header must be two bytes objects, got {name!r} and {value!r}")


class RequestHeaders:
    """Collects the headers of a request from its parser, which calls `on_header` for each."""

    __slots__ = ("fields", "framing_headers", "repeated")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin another request."""
        #: Names in lower case, and values without white space around them.
        self.fields: list[tuple[bytes, bytes]] = []
        #: Those of the FRAMING headers that came, each with its last value.
        self.framing_headers: dict[bytes, bytes] = {}
        #: Whether one of them came more than once.
        self.repeated = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header, from whose value the parser has removed leading white space.

        Raises:
            TypeError: its name or value is not bytes.
        """
        if type(name) is not bytes or type(value) is not bytes:
            raise not_bytes(name, value)
        lower, framing = name_cache.get(name) or learn_name(name)
        value = value.rstrip(b" \t")
        self.fields.append((lower, value))
        if framing:
            if lower in self.framing_headers:
                self.repeated = True
            self.framing_headers[lower] = value


# Responses

#: Kinds of names: PLAIN ones are just written out.
PLAIN, LENGTH, ENCODING, CONNECTION, DATE, SERVER = range(6)
SPECIAL = {
    b"content-length": LENGTH,
    b"transfer-encoding": ENCODING,
    b"connection": CONNECTION,
    b"date": DATE,
    b"server": SERVER,
}

#: Headers that decide where a response ends and what becomes of the connection: the server sends them itself.
OWN_NAMES = frozenset((b"connection", b"content-length", b"transfer-encoding"))

#: For each name that was written before, as it was spelled: the beginning of its line, and its kind.
line_cache: dict[bytes, tuple[bytes, int]] = {}

#: What headers ask for beside being written: the connection to be closed; their own Date, or Server, to be used.
CLOSE, OWN_DATE, OWN_SERVER = 1, 2, 4


def encode_lines(headers: Iterable[Any]) -> tuple[bytes, int | None, int]:
    """Check and encode the headers of a response, or its trailers.

    Transfer-Encoding is left out, and so are the options ``close`` and ``keep-alive`` of Connection; its other options
    are passed on. The server decides where a response ends, and what becomes of the connection.

    Returns:
        The header lines, each with CRLF before it; the Content-Length, which is not among them; and what the headers
        ask for, of CLOSE, OWN_DATE and OWN_SERVER.

    Raises:
        TypeError: a header is not a pair of bytes.
        ValueError: a name is not a token, a value contains CR, LF or NUL, or there is a Content-Length that is not a
            number, or several that differ.
    """
    lines: list[bytes] = []
    length: int | None = None
    special: list[tuple[int, bytes, bytes]] | None = None
    try:
        for name, value in headers:
            found = line_cache.get(name) or _learn(name)
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
    if len(line_cache) < CACHED_NAMES and len(name) < CACHED_SIZE:
        line_cache[name] = found
    return found


def _check(lines: list[bytes]) -> None:
    """Raise the error of the first value that is wrong."""
    for start, value in zip(lines[::2], lines[1::2], strict=True):
        name = start[2:-2]
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise _value_not_bytes(name, value)
        if any(char in bytes(value) for char in b"\r\n\0"):
            raise ValueError(f"the value of the response header {name!r} contains CR, LF or NUL: {bytes(value)!r}")


def _value_not_bytes(name: bytes, value: Any) -> TypeError:
    return TypeError(f"the value of the response header {name!r} must be bytes, got {value!r}")


def _special(
    lines: list[bytes], special: list[tuple[int, bytes, bytes]], length: int | None
) -> tuple[bytes, int | None, int]:
    asked = 0
    for kind, start, value in special:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise _value_not_bytes(start[2:-2], value)
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

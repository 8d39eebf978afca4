"""What proxies say in headers: X-Forwarded-For and its like, and Forwarded (RFC 7239).

Each proxy writes behind what it was sent, so lists are read from the right, and no further than to the client: what
stands to the left of it was written by the client itself, and may be anything. Several lines of a header are one list.
A header that is malformed as far as it is read, or names too many proxies, is ignored as a whole.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from .trust import Trusted

FOR, PROTO, HOST = b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"
PORT, PREFIX, FORWARDED = b"x-forwarded-port", b"x-forwarded-prefix", b"forwarded"
#: The headers that are understood.
NAMES = tuple(name.decode() for name in (FOR, PROTO, HOST, PORT, PREFIX, FORWARDED))

#: Items of a list that are read, at most.
MAX_HOPS = 64
#: Bytes of one item, at most.
MAX_ITEM = 1024
#: Bytes of an address with its port, at most.
MAX_NODE = 128
#: What is cached: what so many combinations of headers say, and of how many bytes they are at most.
CACHED, CACHED_BYTES = 4096, 256

SCHEMES = {b"http": "http", b"ws": "http", b"https": "https", b"wss": "https"}
DEFAULT_PORTS = {"http": 80, "https": 443}

OBFUSCATED = rb"_[A-Za-z0-9._-]+"
#: RFC 7239 section 6.
NODE = re.compile(
    rb"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+)|(?P<name>[Uu][Nn][Kk][Nn][Oo][Ww][Nn]|%b))"
    rb"(?::(?:(?P<port>[0-9]{1,5})|%b))?" % (OBFUSCATED, OBFUSCATED)
)
AUTHORITY = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]{1,253}))(?::([0-9]{1,5}))?")
PREFIX_VALUE = re.compile(rb"(?:/[A-Za-z0-9\-._~!$&'()*+;=:@%]+)*/?")

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
#: Section 4; white space around the semicolon is accepted.
PAIR = re.compile(
    rb"[ \t]*(?:(?P<name>%b)=(?:(?P<token>%b)|\"(?P<quoted>(?:[^\"\\]|\\.)*)\"))?[ \t]*(?:;|\Z)" % (TOKEN, TOKEN),
    re.DOTALL,
)
QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)

Address = tuple[str, int]


class Said(NamedTuple):
    """What a proxy says of a request; None, or empty, for what it does not say."""

    client: Address | None = None
    #: ``http`` or ``https``, for WebSockets too.
    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    #: The path at which the proxy has the application, decoded.
    prefix: str = ""

    def server(self, scheme: str) -> Address | None:
        """Return the address that was asked, if the host is known; by default with the port of the scheme."""
        if self.host is None:
            return None
        return self.host, self.port if self.port is not None else DEFAULT_PORTS[scheme]


NOTHING = Said()


def said_in(headers: Sequence[tuple[bytes, bytes]], trusted: Trusted) -> Said:
    """Return what these headers, whose names are among `NAMES`, say; they come from a peer that is trusted."""
    if sum([len(value) for _, value in headers]) <= CACHED_BYTES:
        return _cached(tuple(headers), trusted)
    return _read(headers, trusted)


@lru_cache(maxsize=CACHED)
def _cached(headers: tuple[tuple[bytes, bytes], ...], trusted: Trusted) -> Said:
    return _read(headers, trusted)


def _read(headers: Sequence[tuple[bytes, bytes]], trusted: Trusted) -> Said:
    lines: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        lines.setdefault(name, []).append(value)
    client, scheme, authority = None, None, None
    if FORWARDED in lines:
        client, scheme, authority = _read_forwarded(lines[FORWARDED], trusted)
    if FOR in lines:
        client = _client(map(node, _items_from_right(lines[FOR])), trusted)
    if PROTO in lines:
        scheme = SCHEMES.get(_last(lines[PROTO]).lower())
    if HOST in lines:
        authority = _authority(_last(lines[HOST]))
    host, port = authority or (None, None)
    if PORT in lines and (found := _port(_last(lines[PORT]))):
        port = found
    prefix = _prefix(_last(lines[PREFIX])) if PREFIX in lines else ""
    return Said(client, scheme, host, port, prefix)


def node(text: bytes) -> Address | None:
    """Return the client that an item of X-Forwarded-For names; None if it is malformed.

    Beside what `Forwarded` allows, that may be an IPv6 address without brackets.
    """
    if len(text) > MAX_NODE:
        return None
    return _node(b"[%b]" % text if text.count(b":") > 1 and text[:1] != b"[" else text)


@lru_cache(maxsize=4096)
def _node(text: bytes) -> Address | None:
    """Return (host, port), with port 0 for one that is missing or obfuscated; None if the text is malformed."""
    match = NODE.fullmatch(text)
    if match is None:
        return None
    port = int(match["port"] or 0)
    if port > 65535:
        return None
    if match["name"] is not None:
        return match["name"].decode() if match["name"][0] == 95 else "unknown", port
    host = ipv4(match["four"]) if match["six"] is None else ipv6(match["six"])
    return None if host is None else (host, port)


def ipv4(text: bytes) -> str | None:
    """Return an IPv4 address in its usual form; None if it is none."""
    try:
        return str(ipaddress.IPv4Address(text.decode("ascii")))
    except ValueError:
        return None


def ipv6(text: bytes) -> str | None:
    """Return an IPv6 address in its usual form, and one that stands for IPv4 in that; None if it is none."""
    try:
        address = ipaddress.IPv6Address(text.decode("ascii"))
    except ValueError:
        return None
    return str(address.ipv4_mapped or address)


def _client(nodes: Iterator[Address | None], trusted: Trusted) -> Address | None:
    """Return the first client that is not a trusted proxy, else the last one; None if one is malformed."""
    found = None
    for found in nodes:
        if found is None or not trusted.has_host(found[0]):
            break
    return found


def _items_from_right(lines: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the items of a list (RFC 9110 section 5.6.1), the last one first; too many end with one that is empty."""
    count = 0
    for line in reversed(lines):
        end = len(line)
        while end >= 0:
            start = line.rfind(b",", 0, end)
            count += 1
            if count > MAX_HOPS:
                yield b""
                return
            item = line[start + 1 : end].strip(b" \t")
            if item:
                yield item
            end = start


def _last(lines: Sequence[bytes]) -> bytes:
    """Return the last item of a list: what the nearest proxy says."""
    return next(_items_from_right(lines), b"")


def _authority(text: bytes) -> tuple[str, int | None] | None:
    """Return host and port of ``host[:port]``; None if it is malformed."""
    match = AUTHORITY.fullmatch(text)
    if match is None:
        return None
    host = match[2].decode() if match[1] is None else ipv6(match[1])
    port = None if match[3] is None else _port(match[3])
    return None if host is None or port == 0 else (host, port)


def _port(text: bytes) -> int:
    """Return a port; 0 if it is malformed."""
    port = int(text) if text.isdigit() and len(text) <= 5 else 0
    return port if port <= 65535 else 0


def _prefix(text: bytes) -> str:
    """Return a path that can stand before another one; empty if it cannot."""
    if len(text) > MAX_ITEM or not PREFIX_VALUE.fullmatch(text):
        return ""
    try:
        prefix = unquote(text.decode("ascii"), errors="strict").removesuffix("/")
    except ValueError:
        return ""
    segments = prefix.split("/")[1:]
    if not prefix.isprintable() or "\\" in prefix or any(segment in ("", ".", "..") for segment in segments):
        # What begins with two slashes is another host in a link.
        return ""
    return prefix


# Forwarded


def _read_forwarded(
    lines: Sequence[bytes], trusted: Trusted
) -> tuple[Address | None, str | None, tuple[str, int | None] | None]:
    """Return the client, and the scheme and the authority that the proxy next to it was asked for."""
    pairs: dict[bytes, bytes] | None = None
    client: Address | None = None
    for element in _elements_from_right(lines):
        pairs = _pairs(element)
        if pairs is None:
            return None, None, None
        named = pairs.get(b"for")
        if named is None:
            # This proxy does not tell its client, so that nobody knows what came before.
            client = None
            break
        client = _node(named) if len(named) <= MAX_NODE else None
        if client is None:
            return None, None, None
        if not trusted.has_host(client[0]):
            break
    if pairs is None:
        return None, None, None
    scheme, authority = pairs.get(b"proto"), pairs.get(b"host")
    return (
        client,
        None if scheme is None else SCHEMES.get(scheme.lower()),
        None if authority is None else _authority(authority),
    )


def _elements_from_right(lines: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the elements of the list, the last one first; what is malformed ends with one that is malformed."""
    count = 0
    for line in reversed(lines):
        end = len(line)
        while end >= 0:
            start = _element_start(line, end)
            count += 1
            if count > MAX_HOPS or start is None:
                yield b"="
                return
            element = line[start:end].strip(b" \t")
            if element:
                yield element
            end = start - 1


def _element_start(line: bytes, end: int) -> int | None:
    """Return where the element that ends here begins: behind a comma that is not quoted, or with the line.

    None if it is too long, or a quotation in it has no beginning.
    """
    least = max(0, end - MAX_ITEM)
    at = end
    while True:
        comma, quote = line.rfind(b",", least, at), line.rfind(b'"', least, at)
        if comma > quote:
            return comma + 1
        if quote < 0:
            return None if least else 0
        # The end of a quotation: quotes within it have a backslash before them, its beginning has an equals sign.
        at = quote
        while True:
            at = line.rfind(b'"', least, at)
            if at < 0:
                return None
            if line[at - 1 : at] != b"\\":
                break


def _pairs(element: bytes) -> dict[bytes, bytes] | None:
    """Return the parameters of an element by their names in lower case; None if it is malformed."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(element):
        match = PAIR.match(element, at)
        if match is None:
            return None
        at = match.end()
        if match["name"] is None:
            continue
        name = match["name"].lower()
        if name in found:
            return None
        quoted = match["quoted"]
        found[name] = match["token"] if quoted is None else QUOTED_PAIR.sub(rb"\1", quoted)
    return found

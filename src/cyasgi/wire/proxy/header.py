"""The PROXY protocol, versions 1 and 2: the header that a proxy sends before what its client sends.

The specification is HAProxy's `proxy-protocol.txt
<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>`_. What follows the addresses in version 2 is skipped.
"""

from __future__ import annotations

import re
import socket
from typing import NamedTuple

from .forwarded import ipv4, ipv6

#: Section 2.2.
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
#: Section 2.1: bytes of a header of version 1, at most.
MAX_V1 = 107
#: Bytes of a header of version 2, at most. Its length field would allow 65,551; addresses take 232, and certificates of
#: clients, which are the largest of what is skipped, fit into the rest.
MAX_V2 = 8192
#: Bytes before the addresses of version 2.
FIXED = 16
START_V1 = b"PROXY "

PORT = rb"(0|[1-9][0-9]{0,4})"
LINE = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) %b %b\r\n" % (PORT, PORT))
UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")

LOCAL, PROXIED = 0, 1
#: What is proxied, by the byte that says so; and the size of each of both addresses, with the port. Whether TCP or UDP
#: is proxied makes no difference.
UNSPEC, TCP4, UDP4, TCP6, UDP6, STREAM, DGRAM = 0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32
SIZES = {UNSPEC: 0, TCP4: 12, UDP4: 12, TCP6: 36, UDP6: 36, STREAM: 216, DGRAM: 216}

#: As ASGI has it: a path and None for a Unix socket, None for one without a name.
Address = tuple[str, int | None]


class ProxyHeaderError(ValueError):
    """What came is no header of the PROXY protocol."""


class ProxyHeader(NamedTuple):
    """For whom a connection or a datagram comes."""

    client: Address | None
    #: The address that the client has asked.
    server: Address | None
    #: Whether it comes from the proxy itself, or for somebody whom it does not know, so that the addresses are those of
    #: the connection.
    direct: bool = False


DIRECT = ProxyHeader(None, None, True)


class ProxyHeaderReader:
    """Reads the header at the beginning of a stream, however that is cut into pieces."""

    __slots__ = ("_data", "header")

    def __init__(self) -> None:
        self._data = b""
        #: The header, once it is complete.
        self.header: ProxyHeader | None = None

    @property
    def size(self) -> int:
        """How many bytes have been taken."""
        return len(self._data)

    def feed(self, data: bytes) -> int:
        """Take the bytes that belong to the header; return how many these are, 1 or more of any that are given.

        Raises:
            ProxyHeaderError: it is malformed or too long. The error comes with the first byte that is wrong, but for
                addresses, which are looked at when they are complete.
        """
        before = len(self._data)
        whole = self._data + data
        end = _end_v2(whole) if whole[:1] == SIGNATURE[:1] else _end_v1(whole)
        self._data = whole[:end]
        if end is not None:
            self.header = _read(self._data)
            return end - before
        return len(data)


def read_datagram(data: bytes) -> tuple[ProxyHeader, int]:
    """Return the header of version 2 at the head of a datagram, and its size.

    Raises:
        ProxyHeaderError: there is none.
    """
    if data[:1] != SIGNATURE[:1]:
        raise ProxyHeaderError("there is no PROXY header of version 2")
    end = _end_v2(data)
    if end is None:
        raise ProxyHeaderError("the PROXY header is incomplete")
    return _read_v2(data[:end]), end


def _end_v1(data: bytes) -> int | None:
    """Return the size of the header; None if it is not complete."""
    if data[: len(START_V1)] != START_V1[: len(data)]:
        raise ProxyHeaderError("there is no PROXY header")
    end = data.find(b"\r\n", 0, MAX_V1) + 2
    if end > 1:
        return end
    if len(data) >= MAX_V1:
        raise ProxyHeaderError(f"the PROXY header is longer than {MAX_V1} bytes")
    return None


def _end_v2(data: bytes) -> int | None:
    """Return the size of the header; None if it is not complete."""
    if data[: len(SIGNATURE)] != SIGNATURE[: len(data)]:
        raise ProxyHeaderError("there is no PROXY header")
    if len(data) > 12 and (data[12] >> 4 != 2 or data[12] & 15 not in (LOCAL, PROXIED)):
        raise ProxyHeaderError(f"the PROXY header has version and command {data[12]:#04x}: accepted are 0x20 and 0x21")
    if len(data) < FIXED:
        return None
    size = FIXED + int.from_bytes(data[14:FIXED], "big")
    if size > MAX_V2:
        raise ProxyHeaderError(f"the PROXY header has {size} bytes: accepted are {MAX_V2}")
    return size if len(data) >= size else None


def _read(data: bytes) -> ProxyHeader:
    if data[:1] == SIGNATURE[:1]:
        return _read_v2(data)
    if UNKNOWN.fullmatch(data):
        return DIRECT
    match = LINE.fullmatch(data)
    if match is None:
        raise ProxyHeaderError(f"the PROXY header is malformed: {data!r}")
    read = ipv4 if match[1] == b"TCP4" else ipv6
    client, server = read(match[2]), read(match[3])
    ports = int(match[4]), int(match[5])
    if client is None or server is None or max(ports) > 65535:
        raise ProxyHeaderError(f"the PROXY header has a malformed address: {data!r}")
    return ProxyHeader((client, ports[0]), (server, ports[1]))


def _read_v2(data: bytes) -> ProxyHeader:
    if data[12] & 15 == LOCAL:
        return DIRECT
    kind = data[13]
    size = SIZES.get(kind)
    if size is None:
        accepted = ", ".join(f"{one:#04x}" for one in SIZES)
        raise ProxyHeaderError(f"the PROXY header has the family and protocol {kind:#04x}: accepted are {accepted}")
    if len(data) < FIXED + size:
        raise ProxyHeaderError(f"the PROXY header has {len(data) - FIXED} bytes for addresses of {size}")
    if kind == UNSPEC:
        return DIRECT
    addresses = data[FIXED : FIXED + size]
    if size == SIZES[STREAM]:
        return ProxyHeader(_path(addresses[:108]), _path(addresses[108:]))
    width = 4 if size == SIZES[TCP4] else 16
    ports = addresses[2 * width :]
    return ProxyHeader(
        (_host(addresses[:width]), int.from_bytes(ports[:2], "big")),
        (_host(addresses[width : 2 * width]), int.from_bytes(ports[2:], "big")),
    )


def _host(packed: bytes) -> str:
    if len(packed) == 4:
        return socket.inet_ntop(socket.AF_INET, packed)
    if packed.startswith(bytes(10) + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)


def _path(data: bytes) -> Address | None:
    """Return the path of a Unix socket; None for one without a name, or with one that is not printable."""
    path = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
    return (path, None) if path and path.isprintable() else None

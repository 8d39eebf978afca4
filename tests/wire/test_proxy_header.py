"""The PROXY protocol: headers of both versions, however they are cut, and what is none."""

from __future__ import annotations

import socket

import pytest
from hypothesis import example, given, strategies as st

from cyasgi.wire.proxy.header import (
    DIRECT,
    MAX_V1,
    MAX_V2,
    SIGNATURE,
    ProxyHeader,
    ProxyHeaderError,
    ProxyHeaderReader,
    read_datagram,
)

CLIENT, SERVER = ("192.0.2.1", 56324), ("198.51.100.2", 443)
CLIENT6, SERVER6 = ("2001:db8::1", 1), ("2001:db8::2", 65535)


def v2(kind, addresses=b"", *, command=1, more=b"", size=None):
    size = len(addresses + more) if size is None else size
    return SIGNATURE + bytes([0x20 | command, kind]) + size.to_bytes(2, "big") + addresses + more


def pair(family, client, server):
    packed = [socket.inet_pton(family, one[0]) for one in (client, server)]
    return b"".join(packed) + b"".join(one[1].to_bytes(2, "big") for one in (client, server))


FOUR, SIX = pair(socket.AF_INET, CLIENT, SERVER), pair(socket.AF_INET6, CLIENT6, SERVER6)
TLV = b"\x04\x00\x03abc\xee\x00\x01x"
HEADERS = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", ProxyHeader(CLIENT, SERVER)),
    (b"PROXY TCP6 2001:db8::1 2001:DB8:0::2 1 65535\r\n", ProxyHeader(CLIENT6, SERVER6)),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 56324 443\r\n", ProxyHeader(CLIENT, SERVER)),
    (b"PROXY UNKNOWN\r\n", DIRECT),
    (b"PROXY UNKNOWN ffff:f...f:ffff whatever\r\n", DIRECT),
    (v2(0x11, FOUR), ProxyHeader(CLIENT, SERVER)),
    (v2(0x12, FOUR), ProxyHeader(CLIENT, SERVER)),
    (v2(0x21, SIX), ProxyHeader(CLIENT6, SERVER6)),
    (v2(0x22, SIX), ProxyHeader(CLIENT6, SERVER6)),
    (v2(0x11, FOUR, more=TLV), ProxyHeader(CLIENT, SERVER)),
    (v2(0x11, FOUR, more=bytes(MAX_V2 - 28)), ProxyHeader(CLIENT, SERVER)),
    (v2(0x21, pair(socket.AF_INET6, ("::ffff:192.0.2.1", 56324), SERVER6)), ProxyHeader(CLIENT, SERVER6)),
    (v2(0x31, b"/run/a".ljust(108, b"\0") + bytes(108)), ProxyHeader(("/run/a", None), None)),
    (v2(0x31, b"/run/a\nb".ljust(108, b"\0") + b"s" * 108), ProxyHeader(None, ("s" * 108, None))),
    (v2(0x00), DIRECT),
    (v2(0x00, more=TLV), DIRECT),
    (v2(0x00, command=0), DIRECT),
    (v2(0x11, FOUR, command=0), DIRECT),
    # The specification: a receiver discards the rest of a LOCAL header, the family included.
    (v2(0xFF, b"xyz", command=0), DIRECT),
]
BAD = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01",
    b"proxy TCP4",
    b"PROXY\tTCP4 192.0.2.1 198.51.100.2 56324 443\r\n",
    b"PROXY  TCP4 192.0.2.1 198.51.100.2 56324 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 \r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 056324 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
    b"PROXY TCP4 192.0.2.256 198.51.100.2 56324 443\r\n",
    b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
    b"PROXY TCP6 192.0.2.1 198.51.100.2 56324 443\r\n",
    b"PROXY UDP4 192.0.2.1 198.51.100.2 56324 443\r\n",
    b"PROXY UNKNOWNX\r\n",
    b"PROXY UNKNOWN a\rb\r\n",
    b"PROXY UNKNOWN " + b"x" * MAX_V1,
    b"PROXY \r\n",
    b"\r\nGET / HTTP/1.1\r\n",
    v2(0x11, FOUR[:-1]),
    v2(0x21, FOUR),
    v2(0x31, bytes(215)),
    v2(0x13, FOUR),
    v2(0x41, FOUR),
    v2(0x11, FOUR, command=2),
    v2(0x11, FOUR, size=MAX_V2),
    v2(0x11, FOUR, size=65535),
    SIGNATURE + b"\x11\x11\0\x0c" + FOUR,
    SIGNATURE[:-1] + b"x",
]


def read(data, step):
    """The header at the beginning of a stream and what is left, if so many bytes come at a time."""
    reader = ProxyHeaderReader()
    while data and reader.header is None:
        taken = reader.feed(data[:step])
        assert 0 < taken <= step
        data = data[taken:]
    return reader.header, data


@pytest.mark.parametrize("step", [1, 7, 70_000])
@pytest.mark.parametrize(("data", "expected"), HEADERS)
def test_headers(data, expected, step):
    """A header is read to its end and no further, in pieces of any size."""
    assert read(data + b"GET / HTTP/1.1\r\n\r\n", step) == (expected, b"GET / HTTP/1.1\r\n\r\n")
    for size in {1, len(data) // 2, len(data) - 1}:
        assert read(data[:size], step) == (None, b"")


@pytest.mark.parametrize("step", [1, 70_000])
@pytest.mark.parametrize("data", BAD)
def test_what_is_no_header(data, step):
    with pytest.raises(ProxyHeaderError):
        read(data, step)


def test_what_is_no_header_shows_at_once():
    """Nobody waits for the rest of what cannot become a header."""
    for data in (b"G", b"PR0", b"\r\n\r\r", SIGNATURE + b"\x22"):
        with pytest.raises(ProxyHeaderError):
            ProxyHeaderReader().feed(data)


@pytest.mark.parametrize(("data", "expected"), HEADERS)
def test_datagrams(data, expected):
    """A datagram has a header of version 2, whole, before its payload."""
    if data.startswith(b"PROXY"):
        with pytest.raises(ProxyHeaderError):
            read_datagram(data)
        return
    assert read_datagram(data + b"payload") == (expected, len(data))
    assert read_datagram(data) == (expected, len(data))
    for size in range(min(len(data), 300)):
        with pytest.raises(ProxyHeaderError):
            read_datagram(data[:size])


@given(
    st.binary(max_size=40)
    | st.tuples(st.sampled_from([header for header, _ in HEADERS]), st.integers(0, 60), st.binary(max_size=3)).map(
        lambda edit: edit[0][: edit[1]] + edit[2] + edit[0][edit[1] + len(edit[2]) :]
    ),
    st.integers(1, 50),
)
@example(b"PROXY UNKNOWN\r", 1)
def test_anything(data, step):
    """A header, an error, or more to come; and the same whatever the pieces."""

    def outcome(size):
        try:
            return read(data, size)
        except ProxyHeaderError:
            return "refused"

    assert outcome(step) == outcome(len(data) or 1)
    try:
        header, size = read_datagram(data)
    except ProxyHeaderError:
        return
    assert read(data, step) == (header, data[size:])

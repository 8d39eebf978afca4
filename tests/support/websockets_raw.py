"""What the tests of WebSockets share: requests and frames as bytes, built by hand so that they may be wrong."""

from __future__ import annotations

import struct

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
#: The answer to it, from RFC 6455 section 1.3.
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
HEADERS = (
    (b"host", b"example.org"),
    (b"connection", b"keep-alive, Upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-key", KEY),
    (b"sec-websocket-version", b"13"),
)
DEFLATE = (b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits")

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x37\xfa\x21\x3d"


def request(*more, target=b"/", headers=HEADERS):
    """The bytes of a request that asks for a WebSocket."""
    lines = [b"%s: %s\r\n" % header for header in (*headers, *more)]
    return b"GET %s HTTP/1.1\r\n%s\r\n" % (target, b"".join(lines))


def frame(opcode, payload=b"", *, fin=True, rsv=0, mask=MASK, length=None, size=None):
    """One frame. `length`: the one that it claims; `size`: in how many bytes (0, 2, 8), the fewest if not given."""
    length = len(payload) if length is None else length
    size = size if size is not None else 0 if length < 126 else 2 if length < 0x1_0000 else 8
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    second = (0x80 if mask else 0) | {0: length, 2: 126, 8: 127}[size]
    head = bytes((first, second)) + {0: b"", 2: struct.pack("!H", length & 0xFFFF), 8: struct.pack("!Q", length)}[size]
    if not mask:
        return head + payload
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return head + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")


def text(string, **more):
    return frame(TEXT, string.encode(), **more)


def binary(data, **more):
    return frame(BINARY, data, **more)


def close(code=1000, reason=""):
    return frame(CLOSE, struct.pack("!H", code) + reason.encode())


class Deflater:
    """Compresses as a client does that has negotiated what the server answers by default."""

    def __init__(self):
        self.extension = PerMessageDeflate(False, False, 12, 12)

    def __call__(self, opcode, data, *, fin=True):
        compressed = self.extension.encode(Frame(Opcode(opcode), data, fin))
        return frame(opcode, bytes(compressed.data), fin=fin, rsv=4 if compressed.rsv1 else 0)


def parse(data, decode=None):
    """The frames in what a server sent, each (first byte, payload); they must be whole and not masked."""
    frames = []
    while data:
        first, length = data[0], data[1]
        start = 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        elif length == 127:
            length, start = int.from_bytes(data[2:10], "big"), 10
        assert length < 2**62 and not data[1] & 0x80
        assert len(data) >= start + length, (first, length, data[:50])
        frames.append((first, data[start : start + length]))
        data = data[start + length :]
    return frames


def closed(code, reason=None):
    """What a close frame of the server looks like in the list that `parse` gives; any reason if none is given."""
    return _Closed(code, reason)


class _Closed:
    def __init__(self, code, reason):
        self.code, self.reason = code, reason

    def __eq__(self, other):
        first, payload = other
        if first != 0x88 or payload[:2] != struct.pack("!H", self.code):
            return False
        return self.reason is None or payload[2:].decode() == self.reason

    def __hash__(self):
        return hash(self.code)

    def __repr__(self):
        return f"close({self.code}, {self.reason!r})"

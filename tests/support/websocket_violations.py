"""Frames that a WebSocket must not accept, and the code that it closes with."""

from __future__ import annotations

import struct

from support.websockets_raw import (
    CLOSE,
    CONT,
    PING,
    TEXT,
    binary,
    frame,
    text,
)

LIMIT = 1000


VIOLATIONS = {
    "not masked": (text("x", mask=b""), 1002),
    "not masked, not even whole": (text("x", mask=b"")[:2], 1002),
    "reserved bit 1": (text("x", rsv=4), 1002),
    "reserved bit 2": (text("x", rsv=2), 1002),
    "reserved bit 3": (text("x", rsv=1), 1002),
    "reserved bit of a ping": (frame(PING, rsv=4), 1002),
    **{f"opcode {opcode}": (frame(opcode, b"x"), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "ping of 126 bytes": (frame(PING, bytes(126))[:4], 1002),
    "ping of 2**40 bytes": (frame(PING, length=2**40), 1002),
    "close of 126 bytes": (frame(CLOSE, bytes(126)), 1002),
    "fragmented ping": (frame(PING, b"x", fin=False)[:2], 1002),
    "fragmented close": (frame(CLOSE, b"", fin=False), 1002),
    "length 125 in two bytes": (binary(bytes(125), size=2), 1002),
    "length 125 in eight bytes": (binary(bytes(125), size=8), 1002),
    "length 65,535 in eight bytes": (binary(b"", length=65_535, size=8), 1002),
    "length over 2**63": (binary(b"", length=2**63 + 5), 1002),
    "continuation of nothing": (frame(CONT, b"x"), 1002),
    "continuation of nothing, not final": (frame(CONT, b"x", fin=False), 1002),
    "message within a message": (text("x", fin=False) + text("y"), 1002),
    "fragment within a message": (text("x", fin=False) + binary(b"y", fin=False), 1002),
    "close frame of one byte": (frame(CLOSE, b"\x03"), 1002),
    **{
        f"close code {code}": (frame(CLOSE, struct.pack("!H", code)), 1002)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65_535)
    },
    "close reason not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "text not UTF-8": (frame(TEXT, b"abc\xff"), 1007),
    "text cut within a character": (frame(TEXT, b"abc\xc3"), 1007),
    "surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "overlong form": (frame(TEXT, b"\xc0\x80"), 1007),
    "not UTF-8 in the first fragment": (frame(TEXT, b"\xc0\xaf", fin=False), 1007),
    "not UTF-8 across fragments": (frame(TEXT, b"\xce\xba\xe1\xbd", fin=False) + frame(CONT, b"\xed", fin=False), 1007),
    "cut within a character after fragments": (frame(TEXT, b"x", fin=False) + frame(CONT, b"\xf0\x9f\x98"), 1007),
    "too long": (binary(b"", length=LIMIT + 1), 1009),
    "2**62 bytes": (binary(b"", length=2**62), 1009),
    "too long in fragments": (binary(bytes(600), fin=False) + frame(CONT, length=401)[:4], 1009),
}

"""Consistent Overhead Byte Stuffing (Cheshire and Baker, 1999): bytes without a zero among them, and back."""

from __future__ import annotations

#: Bytes of data in a block, at most.
BLOCK = 254


def cobs_encode(data: bytes) -> bytes:
    """Return the data without a zero byte, and without one behind it."""
    parts: list[bytes] = []
    pieces = data.split(b"\0")
    last = len(pieces) - 1
    for number, piece in enumerate(pieces):
        whole = len(piece) // BLOCK
        for begin in range(0, whole * BLOCK, BLOCK):
            parts += (b"\xff", piece[begin : begin + BLOCK])
        rest = piece[whole * BLOCK :]
        # A full block at the very end needs no empty one behind it.
        if rest or number < last or not whole:
            parts += (bytes((len(rest) + 1,)), rest)
    return b"".join(parts)


def cobs_decode(encoded: bytes) -> bytes | None:
    """Return the data; None if these bytes, which have no zero among them, are not the encoding of any."""
    parts: list[bytes] = []
    position, size = 0, len(encoded)
    while position < size:
        code = encoded[position]
        end = position + code
        if not code or end > size:
            return None
        parts.append(encoded[position + 1 : end])
        if code <= BLOCK and end < size:
            parts.append(b"\0")
        position = end
    return b"".join(parts) if size else None

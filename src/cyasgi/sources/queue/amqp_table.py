"""Headers as a field table of AMQP 0-9-1: whatever has arrived can be written, and floats keep all of their digits.

The library writes floats with 32 bits, cuts long names, and refuses some of what it has read itself.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

#: The longest name of a header, in bytes.
MOST_NAME = 255
#: Values that are nested deeper are left out: what others publish may be nested by the thousand.
MOST_DEPTH = 100
LEFT_OUT = "..."

_BYTE, _SHORT, _INT, _LONG = struct.Struct(">b"), struct.Struct(">h"), struct.Struct(">i"), struct.Struct(">q")
_INTEGERS = ((b"b", _BYTE, 2**7), (b"s", _SHORT, 2**15), (b"I", _INT, 2**31), (b"l", _LONG, 2**63))
_DOUBLE = struct.Struct(">d")
_TIME = struct.Struct(">Q")
_SIZE = struct.Struct(">I")
#: Digits behind the point, and all digits.
_DECIMAL = struct.Struct(">Bi")


def table(headers: Mapping[Any, Any], depth: int = MOST_DEPTH) -> bytes:
    """Return a field table."""
    return _sized(b"".join(_name(name) + _value(value, depth) for name, value in headers.items()))


def _name(name: Any) -> bytes:
    encoded = str(name).encode("utf-8", "backslashreplace")[:MOST_NAME]
    return bytes([len(encoded)]) + encoded


def _value(value: Any, depth: int) -> bytes:
    """Return a value behind the letter that stands for its type."""
    if value is None:
        return b"V"
    if isinstance(value, bool):
        return b"t\1" if value else b"t\0"
    if isinstance(value, int):
        for letter, packed, bound in _INTEGERS:
            if -bound <= value < bound:
                return letter + packed.pack(value)
    elif isinstance(value, float):
        return b"d" + _DOUBLE.pack(value)
    elif isinstance(value, (bytes, bytearray)):
        return b"x" + _sized(bytes(value))
    elif isinstance(value, datetime):
        return b"T" + _TIME.pack(max(0, int(value.timestamp())))
    elif isinstance(value, Decimal):
        sign, digits, exponent = value.as_tuple()
        mantissa = (-1 if sign else 1) * int("".join(map(str, digits)) or "0")
        if isinstance(exponent, int) and -255 <= exponent <= 0 and -(2**31) <= mantissa < 2**31:
            return b"D" + _DECIMAL.pack(-exponent, mantissa)
    elif isinstance(value, (Mapping, list, tuple)):
        if not depth:
            return _text(LEFT_OUT)
        if isinstance(value, Mapping):
            return b"F" + table(value, depth - 1)
        return b"A" + _sized(b"".join(_value(one, depth - 1) for one in value))
    return _text(str(value))


def _text(text: str) -> bytes:
    return b"S" + _sized(text.encode("utf-8", "backslashreplace"))


def _sized(content: bytes) -> bytes:
    return _SIZE.pack(len(content)) + content

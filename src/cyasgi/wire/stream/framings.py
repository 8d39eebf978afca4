"""The framings that come with cyasgi: lines, length prefixes, netstrings, COBS, and none at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from .cobs import cobs_decode, cobs_encode
from .framing import Framing, FramingError, check_data
from .resp import RESP

#: The framings by name, as people write them.
NAMES = ("lines", "lines:crlf", "length:N", "length:N:little", "netstring", "cobs", "resp", "raw")

CR, LF = 13, 10
ZEROS = re.compile(rb"\0*")
#: Sizes of length prefixes, in bytes.
LENGTHS = ("1", "2", "3", "4", "8")


class Lines(Framing):
    """A message is a line: LF or CRLF ends it, and LF is put behind what is sent."""

    __slots__ = ()
    name: ClassVar[str] = "lines"
    end: ClassVar[bytes] = b"\n"

    def whole(self, data: bytes) -> bytes | None:
        size = len(data) - 1
        if data.find(b"\n") != size or size > self.max_size:
            return None
        return data[:-2] if size and data[size - 1] == CR else data[:-1]

    def next_message(self) -> bytes | None:
        buffer, start = self.buffer, self.start
        end = buffer.find(b"\n", self.searched)
        if end < 0:
            end = self.searched = len(buffer)
            # The last byte may be the CR of the line end.
            if end - start > self.max_size + 1:
                raise FramingError(f"a line is longer than {self.max_size} bytes")
            return None
        following = end + 1
        if end > start and buffer[end - 1] == CR:
            end -= 1
        if end - start > self.max_size:
            raise FramingError(f"a line is longer than {self.max_size} bytes")
        line = buffer[start:end]
        # As `take` does.
        if following == len(buffer):
            self.buffer = b""
            following = 0
        self.start = self.searched = following
        return line if type(line) is bytes else bytes(line)

    def encode(self, data: Any) -> bytes:
        line: bytes = data if type(data) is bytes else check_data(data)
        # Asked for a byte: asked for bytes, CPython first makes an error and throws it away.
        if LF in line or (line and line[-1] == CR):
            raise ValueError("'data' of a 'stream.send' message must be one line, without the end of it")
        return line + self.end


class CRLFLines(Lines):
    """Lines as most protocols of the Internet have them: CRLF is put behind what is sent; LF alone is accepted."""

    __slots__ = ()
    name: ClassVar[str] = "lines:crlf"
    end: ClassVar[bytes] = b"\r\n"


class LengthPrefixed(Framing):
    """The length of a message comes before it, as an unsigned number of `width` bytes.

    Args:
        width: 1, 2, 3, 4 or 8.
        order: of the bytes of the length, ``"big"`` or ``"little"``.
    """

    __slots__ = ("order", "width")

    def __init__(self, max_size: int, width: int = 4, order: Any = "big") -> None:
        super().__init__(max_size)
        self.width = width
        self.order = order

    def next_message(self) -> bytes | None:
        width, start = self.width, self.start
        buffered = len(self.buffer) - start
        if buffered < width:
            return None
        size = int.from_bytes(self.buffer[start : start + width], self.order)
        if size > self.max_size:
            raise FramingError(f"a message has {size} bytes; at most {self.max_size} are accepted")
        if buffered < width + size:
            return None
        self.start += width
        return self.take(size)

    def encode(self, data: Any) -> bytes:
        body = check_data(data)
        if len(body) >> 8 * self.width:
            raise ValueError(
                f"'data' of a 'stream.send' message must be at most {(1 << 8 * self.width) - 1} bytes, got {len(body)}"
            )
        head: bytes = len(body).to_bytes(self.width, self.order)
        return head + body


class Netstring(Framing):
    """A message is a netstring, as in ``5:hello,`` (https://cr.yp.to/proto/netstrings.txt)."""

    __slots__ = ()
    name: ClassVar[str] = "netstring"

    def next_message(self) -> bytes | None:
        buffer, start = self.buffer, self.start
        digits = len(str(self.max_size))
        head = bytes(buffer[start : start + digits + 1])
        text, colon, _ = head.partition(b":")
        if (text and not text.isdigit()) or (not text and colon) or (len(text) > 1 and text[:1] == b"0"):
            raise FramingError("a netstring begins with its length in digits, without zeros before it, and a colon")
        if not colon:
            if len(text) > digits:
                raise FramingError(f"a netstring is longer than {self.max_size} bytes")
            return None
        size = int(text)
        if size > self.max_size:
            raise FramingError(f"a netstring has {size} bytes; at most {self.max_size} are accepted")
        begin = start + len(text) + 1
        if len(buffer) <= begin + size:
            return None
        if buffer[begin + size] != ord(","):
            raise FramingError("a netstring ends with a comma")
        self.start = begin
        return self.take(size, 1)

    def encode(self, data: Any) -> bytes:
        return b"%d:%b," % (len(check_data(data)), data)


class Cobs(Framing):
    """A message is encoded by Consistent Overhead Byte Stuffing, and a zero byte ends it.

    Zeros with nothing between them are skipped: senders put them where they begin again.
    """

    __slots__ = ()
    name: ClassVar[str] = "cobs"

    def next_message(self) -> bytes | None:
        found = ZEROS.match(self.buffer, self.start)
        assert found is not None
        if found.end() > self.start:
            self.start = found.end()
            self.searched = max(self.searched, self.start)
            if self.start == len(self.buffer):
                self.clear()
        end = self.buffer.find(b"\0", self.searched)
        # Each 254 bytes, or a part of them, cost one more.
        most = self.max_size + self.max_size // 254 + 1
        if (len(self.buffer) if end < 0 else end) - self.start > most:
            raise FramingError(f"a message is longer than {self.max_size} bytes")
        if end < 0:
            self.searched = len(self.buffer)
            return None
        data = cobs_decode(self.take(end - self.start, 1))
        if data is None:
            raise FramingError("a message is not encoded by COBS")
        if len(data) > self.max_size:
            raise FramingError(f"a message has {len(data)} bytes; at most {self.max_size} are accepted")
        return data

    def encode(self, data: Any) -> bytes:
        return cobs_encode(check_data(data)) + b"\0"


class Raw(Framing):
    """A message is whatever has come, of `max_size` bytes at most; what is sent goes out as it is."""

    __slots__ = ()
    name: ClassVar[str] = "raw"

    def next_message(self) -> bytes | None:
        size = len(self.buffer) - self.start
        return self.take(min(size, self.max_size)) if size else None

    def encode(self, data: Any) -> bytes:
        return check_data(data)


SIMPLE: dict[str, type[Framing]] = {one.name: one for one in (Lines, CRLFLines, Netstring, Cobs, RESP, Raw)}


def framing_named(name: str) -> Callable[[int], Framing] | None:
    """Return what makes the framing with this name, called with the longest message in bytes; None if there is none."""
    if name in SIMPLE:
        return SIMPLE[name]
    kind, _, rest = name.partition(":")
    width, colon, order = rest.partition(":")
    if kind != "length" or width not in LENGTHS or order not in ("", "big", "little") or bool(colon) != bool(order):
        return None
    return partial(LengthPrefixed, width=int(width), order=order or "big")

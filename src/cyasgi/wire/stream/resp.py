"""RESP, the protocol of Redis (https://redis.io/docs/latest/develop/reference/protocol-spec/, version 2)."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from .framing import Framing, FramingError

#: Bytes of a number with its mark and its line end, at most.
NUMBER = 32
EMPTY_LINES = re.compile(rb"(?:\r?\n)*")
CR, LF = 13, 10


class RESP(Framing):
    """A message from the client is a command, a list of bytes; one to the client is a reply.

    Commands come as arrays of bulk strings, or inline, as words in a line. A reply is bytes (a bulk string), str (a
    simple string), int, None (null), an Exception (an error, as in ``ValueError("ERR no such command")``), or a list
    or tuple of these.

    Args:
        max_size: the longest command in bytes, its frame included.
    """

    __slots__ = ("_args", "_bulk", "_left")
    name: ClassVar[str] = "resp"

    def __init__(self, max_size: int) -> None:
        super().__init__(max_size)
        #: Arguments of a command that is not complete; None between commands.
        self._args: list[bytes] | None = None
        #: How many are still to come, and the length of the next one (-1: not known yet).
        self._left = 0
        self._bulk = -1

    def clear(self) -> bytes:
        taken = b""
        if self._args is not None:
            # As it has come, but for the line ends of numbers.
            taken = b"*%d\r\n" % (len(self._args) + self._left)
            taken += b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in self._args)
            if self._bulk >= 0:
                taken += b"$%d\r\n" % self._bulk
        self._args, self._left, self._bulk = None, 0, -1
        return (taken + super().clear())[: self.max_size]

    def next_message(self) -> list[bytes] | None:
        if self._args is None:
            self._skip_empty_lines()
            if self.start == len(self.buffer):
                return None
            if self.buffer[self.start] != ord("*"):
                return self._inline()
            count = self._number("*")
            if count is None:
                return None
            if count > self.max_size:
                raise FramingError(f"a command has {count} arguments, which is more than {self.max_size} bytes")
            self._args, self._left = [], max(count, 0)
        if not self._arguments(self._args):
            return None
        args, self._args, self.partial = self._args, None, 0
        return args

    def _arguments(self, args: list[bytes]) -> bool:
        """Take the next arguments of a command, and return whether it is complete."""
        while self._left:
            if self._bulk < 0:
                length = self._number("$")
                if length is None:
                    return False
                if length < 0:
                    raise FramingError("an argument of a command is null")
                self._bulk = length
                self._check(length + 2)
            buffer = self.buffer
            end = self.start + self._bulk
            if len(buffer) < end + 2:
                return False
            if buffer[end] != CR or buffer[end + 1] != LF:
                raise FramingError("an argument of a command does not end with CRLF")
            self.partial += self._bulk + 2
            args.append(self.take(self._bulk, 2))
            self._bulk = -1
            self._left -= 1
        return True

    def _skip_empty_lines(self) -> None:
        found = EMPTY_LINES.match(self.buffer, self.start)
        assert found is not None
        if found.end() > self.start:
            self.take(0, found.end() - self.start)

    def _number(self, mark: str) -> int | None:
        """Take a line with this mark and a number; return None if it is not complete."""
        buffer, start = self.buffer, self.start
        end = buffer.find(b"\n", start, start + NUMBER)
        if end < 0:
            if len(buffer) - start >= NUMBER:
                raise FramingError(f"a number behind {mark!r} is too long")
            return None
        size = end + 1 - start
        if end > start and buffer[end - 1] == CR:
            end -= 1
        digits = bytes(buffer[start + 1 : end])
        if buffer[start] != ord(mark) or not (digits.isdigit() or digits == b"-1"):
            raise FramingError(f"expected {mark!r} and a number, got {bytes(buffer[start:end])!r}")
        self.partial += size
        self._check(0)
        self.start += size
        return int(digits)

    def _check(self, more: int) -> None:
        if self.partial + more > self.max_size:
            raise FramingError(f"a command is longer than {self.max_size} bytes")

    def _inline(self) -> list[bytes] | None:
        buffer, start = self.buffer, self.start
        end = buffer.find(b"\n", max(self.searched, start))
        if (len(buffer) if end < 0 else end) - start > self.max_size:
            raise FramingError(f"a command is longer than {self.max_size} bytes")
        if end < 0:
            self.searched = len(buffer)
            return None
        return self.take(end - start, 1).split()

    def encode(self, data: Any) -> bytes:
        parts: list[bytes] = []
        _encode(data, parts)
        return b"".join(parts)


def _encode(value: Any, parts: list[bytes]) -> None:
    if isinstance(value, bytes):
        parts.append(b"$%d\r\n%b\r\n" % (len(value), value))
    elif isinstance(value, str):
        parts.append(b"+%b\r\n" % _line(value))
    elif isinstance(value, int):
        parts.append(b":%d\r\n" % value)
    elif value is None:
        parts.append(b"$-1\r\n")
    elif isinstance(value, Exception):
        parts.append(b"-%b\r\n" % _line(str(value)))
    elif isinstance(value, (list, tuple)):
        parts.append(b"*%d\r\n" % len(value))
        for one in value:
            _encode(one, parts)
    else:
        raise TypeError(
            f"'data' of a 'stream.send' message must be a reply: bytes, str, int, None, an Exception, or a list of "
            f"these, got {value!r}"
        )


def _line(text: str) -> bytes:
    return text.replace("\r", " ").replace("\n", " ").encode()

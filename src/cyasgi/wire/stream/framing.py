"""What a framing is: how messages are told apart in the bytes of one connection."""

from __future__ import annotations

from typing import Any, ClassVar

#: Bytes that have been taken from a buffer before it is compacted.
COMPACT = 65_536


class FramingError(ValueError):
    """What the client has sent is no message, or one that is too long. Nothing that comes after it can be read."""


class Framing:
    """Messages from bytes, and bytes from messages, for one connection. A subclass defines `next_message` and
    `encode`.

    The base class keeps the bytes that have come: from `start` to the end of `buffer`. A subclass that takes a message
    out of it in parts counts those in `partial`.

    Args:
        max_size: the longest message in bytes, without its frame. A subclass must raise `FramingError` for a longer one
            as soon as it is known to be, and before it is held in memory: that bounds what a client can make it hold.
    """

    __slots__ = ("buffer", "max_size", "partial", "searched", "start")

    #: What the scope says in ``framing``; that of the class if empty.
    name: ClassVar[str] = ""

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.buffer: bytes | bytearray = b""
        self.start = 0
        #: Bytes of a message that is not complete that have been taken from the buffer already.
        self.partial = 0
        #: Up to where the buffer was searched for the end of a message.
        self.searched = 0

    def receive_data(self, data: bytes) -> None:
        """Take in what has come."""
        buffer = self.buffer
        start = self.start
        if start == len(buffer):
            self.buffer = data
            self.start = self.searched = 0
            return
        if type(buffer) is bytes:
            buffer = self.buffer = bytearray(memoryview(buffer)[start:])
            self.searched -= start
            self.start = 0
        elif start >= COMPACT and start >= len(buffer) - start:
            # Not before as much was taken as has to be moved.
            del buffer[:start]  # type: ignore[union-attr]
            self.searched -= start
            self.start = 0
        buffer += data

    def whole(self, data: bytes) -> Any:
        """Return the message that these bytes are, where nothing is buffered; None if they may be anything else.

        A shortcut: what this leaves goes the long way. It never raises.
        """
        return None

    def next_message(self) -> Any:
        """Return the next message, without its frame; None if it is not complete.

        Raises:
            FramingError: what has come is no message, or one that is too long.
        """
        raise NotImplementedError

    def encode(self, data: Any) -> bytes:
        """Return a message with its frame.

        Raises:
            TypeError, ValueError: it cannot be framed; the message says what is accepted.
        """
        raise NotImplementedError

    def take(self, size: int, behind: int = 0) -> bytes:
        """Return the next `size` bytes of the buffer, and skip the `behind` ones that follow them."""
        start = self.start
        end = start + size
        buffer = self.buffer
        self.start = self.searched = end + behind
        if end + behind == len(buffer):
            self.buffer = b""
            self.start = self.searched = 0
            if not start and not behind:
                return bytes(buffer)
        data = buffer[start:end]
        return data if type(data) is bytes else bytes(data)

    @property
    def buffered(self) -> int:
        """The bytes that have come and belong to no message that was returned."""
        return len(self.buffer) - self.start + self.partial

    def clear(self) -> bytes:
        """Forget what is buffered, and return it, at most `max_size` bytes."""
        rest = bytes(memoryview(self.buffer)[self.start : self.start + self.max_size])
        self.buffer = b""
        self.start = self.searched = self.partial = 0
        return rest


def check_data(data: Any) -> bytes:
    """Return the data of a message if it is bytes.

    Raises:
        TypeError: it is anything else.
    """
    if not isinstance(data, bytes):
        raise TypeError(f"'data' of a 'stream.send' message must be bytes, got {type(data).__name__}")
    return data

"""The pure twin of the usual course of frames, as the base class of `Frames`."""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING, Any

from websockets.frames import Frame, Opcode

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

from .constants import (
    CLOSE,
    COMPRESSED,
    FRAMES_A_CALL,
    FRAMES_OPEN,
    PONG,
    WHOLE,
    WHOLE_BINARY,
    WHOLE_PING,
    WHOLE_TEXT,
)

if TYPE_CHECKING:
    import codecs

    from websockets.extensions import Extension
    from websockets.server import ServerProtocol


class FastFrames:
    """The fields of `Frames`, and how messages usually come and go. `Frames` has the rest."""

    __slots__ = (
        "_buffer",
        "_compressed",
        "_decoder",
        "_extensions",
        "_first",
        "_held",
        "_hold_pongs",
        "_lacking",
        "_max_size",
        "_most",
        "_parts",
        "_pongs",
        "_protocol",
        "_room",
        "_start",
        "clean",
        "close_code",
        "close_reason",
        "ended",
        "pending",
        "state",
        "unfinished",
    )
    _protocol: ServerProtocol
    _extensions: list[Extension]
    #: First bytes of the frames that may come.
    _first: frozenset[int]
    _max_size: int | None
    _most: float
    _buffer: bytes | bytearray
    #: Where in the buffer the next frame begins.
    _start: int
    #: The incomplete fragmented message: text as far as it is decoded, or bytes; None if there is none.
    _parts: list[str] | bytearray | None
    _decoder: codecs.IncrementalDecoder | None
    _compressed: bool
    #: Bytes that its fragments lack to have `FRAGMENT` each.
    _lacking: int
    #: Bytes that the incomplete message may still get.
    _room: float
    _hold_pongs: bool
    #: The latest ping that was not answered, while pongs are held back.
    _held: bytes | None
    _pongs: list[bytes]
    #: Open; closing once a close frame was sent; closed when what comes is ignored.
    state: int
    ended: bool
    #: Whether close frames went both ways.
    clean: bool
    #: Whether `data_to_send` has something to return.
    pending: bool
    #: Whether `next_message` returned None although there may be another message: after a turn of the event loop.
    unfinished: bool
    #: What the close frame said that ended the connection: the client's, or ours if it broke the protocol.
    close_code: int
    close_reason: str

    if TYPE_CHECKING:

        def _long_length(self, first: int, size: int) -> int: ...
        def _decode(self, first: int, data: bytes) -> str | bytes | None: ...
        def _may_fit(self, first: int, length: int) -> bool: ...
        def _too_big(self) -> None: ...
        def _refuse_head(self, first: int, length: int) -> None: ...
        def _closed(self, payload: bytes) -> None: ...
        def _parse_by_library(self, frame: bytes | bytearray) -> None: ...
        def _fragment(self, first: int, data: bytes) -> str | bytes | None: ...

    # From the client.

    def receive_data(self, data: bytes) -> None:
        """Take in received bytes."""
        if type(data) is not bytes:
            # The buffer is one of bytes or a bytearray, exactly.
            data = bytes(data)
        if self._start == len(self._buffer):
            self._buffer = data
            self._start = 0
            return
        if type(self._buffer) is bytes:
            self._buffer = bytearray(memoryview(self._buffer)[self._start :])
        else:
            del self._buffer[: self._start]  # type: ignore[union-attr]
        self._start = 0
        self._buffer += data

    @property
    def buffered(self) -> int:
        """Received bytes that were not parsed."""
        return len(self._buffer) - self._start

    def next_message(self, allowance: int = FRAMES_A_CALL) -> str | bytes | None:
        """Return the next message; None if there is none yet (see `unfinished`), or the connection was closed.

        Args:
            allowance: frames that are parsed while they complete no message, at most.
        """
        self.unfinished = False
        for _ in range(allowance):
            buffer, start = self._buffer, self._start
            available = len(buffer) - start
            if available < 2:
                return None
            first, length = buffer[start], buffer[start + 1] - 0x80
            if first not in self._first or length < 0:
                self._refuse_head(first, length)
                return None
            payload = start + 6
            if length > 125:
                size = 2 if length == 126 else 8
                length = self._long_length(first, size)
                if length < 0:
                    return None
                payload += size
            if length > self._room and not first & 0x08 and not self._may_fit(first, length):
                self._too_big()
                return None
            end = payload + length
            if end > len(buffer):
                return None
            if end == len(buffer):
                self._buffer, self._start = b"", 0
            else:
                self._start = end
            if first in WHOLE and self._parts is None and self.state == FRAMES_OPEN:
                data = apply_mask(buffer[payload:end], buffer[payload - 4 : payload])
                return data if first == WHOLE_BINARY else self._decode(first, data)
            if first == WHOLE_PING:
                self._answer(apply_mask(buffer[payload:end], buffer[payload - 4 : payload]))
                continue
            if first == CLOSE:
                self._closed(apply_mask(buffer[payload:end], buffer[payload - 4 : payload]))
                return None
            if self.state != FRAMES_OPEN:
                # Data frames are dropped, also those of a message that has begun.
                continue
            if first == PONG:
                self._parse_by_library(buffer if end - start == len(buffer) else buffer[start:end])
                continue
            message = self._fragment(first, apply_mask(buffer[payload:end], buffer[payload - 4 : payload]))
            if message is not None:
                return message
        self.unfinished = True
        return None

    def _answer(self, ping: bytes) -> None:
        if self._hold_pongs:
            self._held = ping
        else:
            self.pending = True
            self._pongs.append(bytes((PONG, len(ping))) + ping)

    # To the client.

    def encode(self, data: Any) -> bytes:
        """Return the frame of a message, a str or bytes, to be sent after what `data_to_send` returns."""
        if isinstance(data, str):
            first, payload = WHOLE_TEXT, data.encode()
        else:
            first, payload = WHOLE_BINARY, data
        if self._extensions:
            frame = Frame(Opcode(first & 0x0F), payload)
            for extension in self._extensions:
                frame = extension.encode(frame)
            payload = bytes(frame.data)
            if frame.rsv1:
                first |= COMPRESSED
        length = len(payload)
        if length < 126:
            return bytes((first, length)) + payload
        if length < 0x1_0000:
            return pack("!BBH", first, 126, length) + payload
        return pack("!BBQ", first, 127, length) + payload

"""Frames of a WebSocket in, messages out; messages in, frames out. Sans-I/O (RFC 6455 section 5, RFC 7692).

The `websockets` library does compression, close frames, and all that a server sends when it fails a connection. This
module bounds the work: it parses one frame at a time, when the next message is asked for, so that a chunk of 64 KiB
cannot become 64 MiB of messages at once; and it rejects a frame at its head, before waiting for the payload. Frames of
messages and pings bypass the library's parser, which costs three times as much as all that is done here, and which
compares the compressed length of a fragment with the limit of the message.
"""

from __future__ import annotations

import codecs
import logging
import sys

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions import Extension
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from .constants import (
    COMPRESSED,
    FRAMES_A_CALL as FRAMES_A_CALL,
    FRAMES_CLOSED as CLOSED,
    FRAMES_CLOSING as CLOSING,
    FRAMES_OPEN as OPEN,
)
from .fast_path import FastFrames

#: Passed to the library, which logs frames at DEBUG and the end of each connection at INFO.
logger = logging.getLogger("cyasgi.wire.websocket_frames")

#: Fragments that a message may have, whatever is in them, and one more for each `FRAGMENT` bytes of it.
MAX_FRAGMENTS = 16_384
FRAGMENT = 64
#: Bytes that compression may add to a payload, beside a small fraction of it.
INFLATION = 1024

#: First bytes of frames: FIN, the reserved bits, the opcode. Control frames are never fragmented (section 5.5).
PLAIN_FIRST = frozenset({0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A})
#: With permessage-deflate the first frame of a message may have RSV1 set (RFC 7692 section 6).
DEFLATE_FIRST = PLAIN_FIRST | {0x41, 0x42, 0xC1, 0xC2}

new_decoder = codecs.getincrementaldecoder("utf-8")


class Frames(FastFrames):
    """The frames of one open WebSocket, seen from the server.

    You must pass what comes to `receive_data`, call `next_message` until it returns None, and send what `data_to_send`
    returns after each call of anything. When `ended` is true, the TCP connection is to be closed once that was sent.

    Args:
        extensions: as the handshake negotiated them.
        max_message_size: the longest message accepted, in bytes after decompression; None for no limit.
    """

    __slots__ = ()

    def __init__(self, extensions: list[Extension], max_message_size: int | None) -> None:
        self._protocol = ServerProtocol(state=State.OPEN, max_size=max_message_size, logger=logger)
        self._protocol.extensions = extensions
        self._first = DEFLATE_FIRST if extensions else PLAIN_FIRST
        self._extensions = extensions
        self._max_size = max_message_size
        # No frame is longer than this, and the compiled twin counts in C.
        self._most = float("inf") if max_message_size is None else min(max_message_size, sys.maxsize)
        self._buffer = b""
        self._start = 0
        self._parts = None
        self._decoder = None
        self._compressed = False
        self._lacking = 0
        self._room = self._most
        self._hold_pongs = False
        self._held = None
        self._pongs = []
        self.state = OPEN
        self.ended = False
        self.clean = False
        self.pending = False
        self.unfinished = False
        self.close_code = 1006
        self.close_reason = ""

    # What is unusual in what the client sends.

    def _long_length(self, first: int, size: int) -> int:
        """Return the length of a payload, given in so many bytes; -1 if it is not complete, or not allowed."""
        if first & 8:
            self.fail(CloseCode.PROTOCOL_ERROR, "control frame too long")
            return -1
        start = self._start + 2
        written = self._buffer[start : start + size]
        if len(written) < size:
            return -1
        length = int.from_bytes(written, "big")
        if length < (126 if size == 2 else 0x1_0000) or length >> 63:
            self.fail(CloseCode.PROTOCOL_ERROR, "payload length not in its shortest form")
            return -1
        return length

    def _decode(self, first: int, data: bytes) -> str | bytes | None:
        """Return a message in one frame that is text, or compressed, or both."""
        if first & COMPRESSED:
            inflated = self._inflate(Frame(Opcode(first & 0x0F), data, rsv1=True))
            if inflated is None:
                return None
            data = inflated
        if not first & 1:
            return data
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            self._bad_text(error)
            return None

    def _inflate(self, frame: Frame) -> bytes | None:
        """Return the decompressed payload of a data frame; None if the connection was failed for it."""
        # One byte more than allowed: at exactly the limit the library takes the rest of the input for more output.
        limit = None if self._max_size is None else int(self._room) + 1
        try:
            for extension in self._extensions:
                frame = extension.decode(frame, max_size=limit)
        except PayloadTooBig:
            self._too_big()
            return None
        except ProtocolError as error:
            self.fail(CloseCode.PROTOCOL_ERROR, str(error))
            return None
        if len(frame.data) > self._room:
            self._too_big()
            return None
        return bytes(frame.data)

    def _may_fit(self, first: int, length: int) -> bool:
        """Return whether a payload longer than the room for it may fit nevertheless, since it is compressed.

        Incompressible data grow by a small fraction, and by some bytes for each flush.
        """
        if not (first & COMPRESSED or (self._compressed and not first & 0x0F)):
            return False
        return length <= self._room + self._room // 32 + INFLATION

    def _too_big(self) -> None:
        self.fail(CloseCode.MESSAGE_TOO_BIG, f"message over {self._max_size} bytes")

    def _parse_by_library(self, frame: bytes | bytearray) -> None:
        """Let the library parse one complete frame of the rarer kinds."""
        protocol = self._protocol
        self.pending = True
        protocol.receive_data(frame)
        protocol.events_received()
        if protocol.parser_exc is not None:
            self._failed()

    def _fragment(self, first: int, data: bytes) -> str | bytes | None:
        """Add a frame to a fragmented message; return the message if that is complete (section 5.4)."""
        opcode, fin = Opcode(first & 0x0F), bool(first & 0x80)
        if opcode is Opcode.CONT and self._parts is None:
            self.fail(CloseCode.PROTOCOL_ERROR, "unexpected continuation frame")
            return None
        if opcode is not Opcode.CONT:
            if self._parts is not None:
                self.fail(CloseCode.PROTOCOL_ERROR, "expected a continuation frame")
                return None
            self._parts = [] if opcode is Opcode.TEXT else bytearray()
            self._decoder = new_decoder() if opcode is Opcode.TEXT else None
            self._compressed = bool(first & COMPRESSED)
            self._lacking = 0
        if self._compressed:
            inflated = self._inflate(Frame(opcode, data, fin, rsv1=bool(first & COMPRESSED)))
            if inflated is None:
                return None
            data = inflated
        self._lacking += FRAGMENT - len(data)
        self._room -= len(data)
        if self._lacking > MAX_FRAGMENTS * FRAGMENT:
            self.fail(CloseCode.POLICY_VIOLATION, f"more than {MAX_FRAGMENTS} small fragments")
            return None
        parts = self._parts
        if self._decoder is not None:
            try:
                text = self._decoder.decode(data, fin)
            except UnicodeDecodeError as error:
                self._bad_text(error)
                return None
            if text:
                parts.append(text)  # type: ignore[union-attr, arg-type]
        else:
            parts += data  # type: ignore[operator]
        if not fin:
            return None
        self._parts = self._decoder = None
        self._compressed = False
        self._room = self._most
        return "".join(parts) if isinstance(parts, list) else bytes(parts)  # type: ignore[arg-type]

    # What ends the connection.

    def _refuse_head(self, first: int, length: int) -> None:
        if first & 0x0F not in (0, 1, 2, 8, 9, 10):
            reason = "invalid opcode"
        elif length < 0:
            reason = "frame not masked"
        elif first & 8 and not first & 0x80:
            reason = "fragmented control frame"
        else:
            reason = "reserved bits must be 0"
        self.fail(CloseCode.PROTOCOL_ERROR, reason)

    def _bad_text(self, error: UnicodeDecodeError) -> None:
        self.fail(CloseCode.INVALID_DATA, f"text is not UTF-8: {error.reason}")

    def fail(self, code: int, reason: str) -> None:
        """Fail the connection (section 7.1.7): send a close frame if none was sent, and read nothing any more."""
        self.pending = True
        self._protocol.fail(code, reason)
        self._failed()

    def _closed(self, payload: bytes) -> None:
        """Take a close frame: the client closes, maybe within a message (section 5.4), or answers our close frame."""
        try:
            close = Close.parse(payload)
        except ProtocolError as error:
            self.fail(CloseCode.PROTOCOL_ERROR, str(error))
        except UnicodeDecodeError as error:
            self.fail(CloseCode.INVALID_DATA, f"the reason of a close frame is not UTF-8: {error.reason}")
        else:
            if self.state == OPEN:
                self.pending = True
                if payload:
                    self._protocol.send_close(close.code, close.reason)
                else:
                    self._protocol.send_close()
            self.clean = True
            self._end(close.code, close.reason)

    def _failed(self) -> None:
        sent = self._protocol.close_sent
        if self.state == OPEN and sent is not None:
            self._end(sent.code, sent.reason)
        else:
            self._end(1006, "")

    def receive_eof(self) -> None:
        """End: the client will send no more, or the connection is lost."""
        self._end(1006, "")

    def _end(self, code: int, reason: str) -> None:
        if self.state != CLOSED:
            self.state = CLOSED
            self.ended = True
            self.close_code, self.close_reason = int(code), reason
            self._buffer, self._start = b"", 0
            self._parts = self._decoder = self._held = None

    # To the client.

    def ping(self) -> None:
        """Ping the client."""
        self.pending = True
        self._protocol.send_ping(b"")

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""
        self.pending = True
        self._protocol.send_close(code, reason)
        self.state = CLOSING
        self._parts = self._decoder = None

    def hold_pongs(self) -> None:
        """Answer no pings from now on, but remember the latest: the client takes nothing (section 5.5.3)."""
        self._hold_pongs = True

    def release_pongs(self) -> None:
        """Answer the latest ping that was held back, and those to come."""
        self._hold_pongs = False
        ping, self._held = self._held, None
        if ping is not None:
            self._answer(ping)

    def data_to_send(self) -> bytes:
        """Return the pings, pongs and close frames that are to be sent."""
        self.pending = False
        pongs, self._pongs = self._pongs, []
        # The library adds an empty one if the connection is to be closed; here `ended` says so.
        return b"".join((*pongs, *self._protocol.data_to_send()))

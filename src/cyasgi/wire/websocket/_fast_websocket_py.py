"""The pure twin of the usual course of a WebSocket's messages, as the base class of `WebSocket`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .constants import CLOSED, OPEN, READING, RESPONDING

if TYPE_CHECKING:
    from ..http.response import Fields
    from ._fast_frames_py import FastFrames
    from .handshake import Handshake

Message = dict[str, Any]


class FastWebSocket:
    """The fields of a `WebSocket`, and how messages usually come and go. `WebSocket` has the rest."""

    __slots__ = (
        "_fields",
        "_frames",
        "_handshake",
        "_out",
        "_response",
        "_to_come",
        "ended",
        "phase",
        "sent",
        "status",
    )
    _handshake: Handshake
    _fields: bytes
    _frames: FastFrames
    _out: list[bytes]
    #: Status and headers of a response whose body has not begun.
    _response: tuple[int, Fields] | None
    #: Bytes of its body that are still to come; None: it ends when the connection is closed.
    _to_come: int | None
    #: Of `.constants`.
    phase: int
    ended: bool
    #: The status of the answer to the request; 0 before there is one.
    status: int
    #: Bytes of messages, each with the head of its frame, or of the body of a response that refuses.
    sent: int

    if TYPE_CHECKING:

        def _end(self) -> None: ...
        def _send_other(self, message: Any) -> bytes: ...

    # From the client.

    def receive_data(self, data: bytes) -> None:
        """Take in received bytes."""
        if self.phase not in (RESPONDING, CLOSED):
            self._frames.receive_data(data)

    def next_message(self) -> Message | None:
        """Return the next ``websocket.receive`` message; None if there is none yet, or none will come (see `ended`)."""
        if self.phase not in READING:
            return None
        frames = self._frames
        data = frames.next_message()
        if data is not None:
            return {"type": "websocket.receive", "bytes" if isinstance(data, bytes) else "text": data}
        if frames.ended:
            self._end()
        return None

    # From the application.

    def send(self, message: Any) -> bytes:
        """Take a message of the application; return the bytes to send to the client for it.

        Raises:
            TypeError, ValueError: the message is malformed; the error says what is accepted.
            RuntimeError: it may not be sent now.
            WebSocketClosed: the WebSocket is closed, or the client has gone.
        """
        kind = message["type"] if isinstance(message, dict) and "type" in message else None
        if kind == "websocket.send" and self.phase == OPEN:
            data = self._frames.encode(_payload(message))
            self.sent += len(data)
            return data
        return self._send_other(message)


def _payload(message: Message) -> str | bytes:
    text, data = message.get("text"), message.get("bytes")
    if data is None:
        if type(text) is str:
            return text
        if isinstance(text, str):
            # A subclass, such as safe markup, may define another `__str__`.
            return str.__str__(text)
    elif text is None and isinstance(data, (bytes, bytearray, memoryview)):
        return data if type(data) is bytes else bytes(data)
    raise TypeError(
        "a 'websocket.send' message must have either 'text', a str, or 'bytes', got"
        f" {type(text).__name__} and {type(data).__name__}"
    )

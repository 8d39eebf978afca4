"""ASGI for a WebSocket: messages to bytes and back, from the request for it to its end. Sans-I/O.

The messages are those of the ASGI specification, "WebSocket" and its extension "Websocket Denial Response". Where that
leaves a choice:

* ``websocket.disconnect`` comes exactly once. Its ``code`` and ``reason`` are those of the client's close frame, 1005
  if that held none; those of our close frame if we ended the connection for a violation (1002, 1007, 1008, 1009) or
  because the server stops (1012); 1006 if the connection was lost, was never accepted, or the client did not answer
  our close frame.
* ``websocket.close`` before ``websocket.accept`` refuses with 403.
* A message sent after the end raises `WebSocketClosed`, an OSError (specification 2.4).
* A subprotocol that the client did not offer, and headers that the handshake sets itself, are errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from websockets.frames import Close

from ..http.response import (
    STATUS_LINES,
    Fields,
    encode_fields,
)
from ..messages import check_type
from .constants import (
    CLOSED as CLOSED,
    CLOSING as CLOSING,
    CONNECTING as CONNECTING,
    FRAMES_CLOSED,
    OPEN as OPEN,
    PHASES,
    RESPONDING as RESPONDING,
)
from .fast_path import FastWebSocket
from .frames import Frames
from .handshake import (
    Handshake,
    common_fields,
    error_status,
)

#: The longest message accepted by default, in bytes.
MAX_MESSAGE_SIZE = 1_048_576
#: The longest reason of a close frame, in bytes of UTF-8 (RFC 6455 section 5.5).
MAX_REASON = 123

Message = dict[str, Any]


class WebSocketClosed(OSError):
    """Raised by ``send`` when the WebSocket is closed, or the client has gone."""


class WebSocket(FastWebSocket):
    """One WebSocket, seen from the server.

    You must pass what comes to `receive_data`, call `next_message` until it returns None, and pass what the application
    sends to `send`. Each of them may leave something to `data_to_send`. When `ended` is true, the TCP connection is to
    be closed once that has been sent.

    Args:
        headers: the request's, with names in lower case; what HTTP demands of the request was checked before.
        max_message_size: the longest message accepted, in bytes after decompression; None for no limit.
        compression: whether permessage-deflate is accepted from clients that offer it.
        fields: header lines of every response, each with CRLF before it.
    """

    __slots__ = ()
    _frames: Frames

    def __init__(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        max_message_size: int | None = MAX_MESSAGE_SIZE,
        compression: bool = True,
        fields: bytes = b"",
    ) -> None:
        self._handshake = Handshake(headers, compression=compression, fields=fields)
        self._fields = fields
        self._frames = Frames(self._handshake.extensions, max_message_size)
        self._out = []
        self._response = None
        self._to_come = None
        self.phase = CONNECTING
        self.ended = False
        self.status = 0
        self.sent = 0
        if self._handshake.refusal is not None:
            self._refuse(self._handshake.refusal)

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols that the client offers."""
        return self._handshake.subprotocols

    # From the client.

    @property
    def buffered(self) -> int:
        """Received bytes that were not parsed."""
        return self._frames.buffered

    @property
    def unfinished(self) -> bool:
        """Whether `next_message` is to be called again although it returned None, after a turn of the event loop."""
        return self._frames.unfinished

    def receive_eof(self) -> None:
        """End the WebSocket: the client will send no more, or the connection is lost."""
        self._frames.receive_eof()
        self._end()

    def _end(self) -> None:
        self.phase = CLOSED
        self.ended = True

    @property
    def clean(self) -> bool:
        """Whether close frames went both ways: the client will send no more."""
        return self._frames.clean

    @property
    def answering(self) -> bool:
        """Whether a part of a response has been sent, and the rest of it has not."""
        return self.phase == RESPONDING and self._response is None

    @property
    def ends_by_closing(self) -> bool:
        """Whether nothing but the end of the connection will tell the client that it has all of the response."""
        return self.answering and self._to_come is None

    def disconnect(self) -> Message:
        """Return the ``websocket.disconnect`` message, once the connection has ended."""
        return {
            "type": "websocket.disconnect",
            "code": self._frames.close_code,
            "reason": self._frames.close_reason,
        }

    # From the application.

    def _send_other(self, message: Any) -> bytes:
        """Take a message that is not a ``websocket.send`` to an open WebSocket."""
        kind = check_type(message, KINDS, "a WebSocket scope")
        if self.phase >= CLOSING:
            raise WebSocketClosed(f"{kind!r} was sent when the WebSocket was {PHASES[self.phase]}")
        accepted = KINDS[kind]
        if self.phase not in accepted:
            raise RuntimeError(f"{kind!r} was sent when the WebSocket was {PHASES[self.phase]}")
        if kind == "websocket.send":
            # A mapping that is not a dict.
            return self.send(dict(message))
        if kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._close(message)
        elif kind == "websocket.http.response.start":
            self._start_response(message)
        else:
            self._continue_response(message)
        return self.data_to_send()

    def _accept(self, message: Message) -> None:
        subprotocol = message.get("subprotocol")
        if subprotocol is not None and not isinstance(subprotocol, str):
            raise TypeError(f"'subprotocol' of a 'websocket.accept' message must be a str or None, got {subprotocol!r}")
        self._out.append(self._handshake.accept(subprotocol, _headers(message)))
        self.status = 101
        self.phase = OPEN

    def _close(self, message: Message) -> None:
        code, reason = message.get("code"), message.get("reason")
        if code is None:
            code = 1000
        if reason is None:
            reason = ""
        _check_close(code, reason)
        if self.phase == CONNECTING:
            self._refuse(error_status(403, "the WebSocket was refused", self._fields))
        else:
            self.close(code, reason)

    def _refuse(self, response: bytes) -> None:
        self._answer(response)
        self._frames.receive_eof()
        self._end()

    def _answer(self, response: bytes) -> None:
        """Send a complete response of the server's own."""
        self._out.append(response)
        self.status = int(response[9:12])
        self.sent = len(response.partition(b"\r\n\r\n")[2])

    def _start_response(self, message: Message) -> None:
        kind = "websocket.http.response.start"
        status = message.get("status")
        if not isinstance(status, int) or isinstance(status, bool):
            raise TypeError(f"'status' of a {kind!r} message must be an int, got {status!r}")
        if status not in STATUS_LINES or status < 200:
            raise ValueError(f"'status' of a {kind!r} message must be from 200 to 599, got {status}")
        self._response = status, encode_fields(_headers(message))
        self.phase = RESPONDING

    def _continue_response(self, message: Message) -> None:
        kind = "websocket.http.response.body"
        body = message.get("body", b"")
        if not isinstance(body, bytes):
            raise TypeError(f"'body' of a {kind!r} message must be bytes, got {type(body).__name__}")
        more = bool(message.get("more_body", False))
        if self._response is not None:
            self._begin_body(*self._response, len(body), more)
        if self._to_come is not None:
            if len(body) > self._to_come:
                raise ValueError(
                    f"the response's body is longer than its content-length, by {len(body) - self._to_come}"
                )
            self._to_come -= len(body)
        self._out.append(body)
        self.sent += len(body)
        if not more:
            self._frames.receive_eof()
            self._end()

    def _begin_body(self, status: int, given: Fields, length: int, more: bool) -> None:
        if status in (204, 304):
            self._to_come = 0
        elif given.length is not None or not more:
            self._to_come = length if given.length is None else given.length
        # Otherwise the body goes on until the connection is closed (RFC 9112 section 6.3, item 8).
        if self._to_come is not None and length > self._to_come:
            raise ValueError(f"the response's body is longer than its content-length, by {length - self._to_come}")
        self.status = status
        self._out += STATUS_LINES[status], common_fields(self._fields, given), given.lines
        if self._to_come is not None and status not in (204, 304):
            self._out.append(b"\r\ncontent-length: %d" % self._to_come)
        self._out.append(b"\r\nconnection: close\r\n\r\n")
        self._response = None

    # From the server.

    def close(self, code: Any, reason: Any = "") -> None:
        """Begin the closing handshake of an open WebSocket.

        Raises:
            TypeError, ValueError: the code may not be sent (RFC 6455 section 7.4), or the reason is longer than 123
                bytes.
        """
        _check_close(code, reason)
        reason = str.__str__(reason)
        try:
            Close(code, "").check()
        except Exception:
            accepted = "1000 to 1003, 1007 to 1014 and 3000 to 4999"
            raise ValueError(f"the close code {code} may not be sent: accepted are {accepted}") from None
        if len(reason.encode()) > MAX_REASON:
            raise ValueError(
                f"the reason of a close may have {MAX_REASON} bytes, got {len(reason.encode())}: {reason!r}"
            )
        self._frames.close(code, reason)
        self.phase = CLOSING

    def stop(
        self, code: int, reason: str = "", *, status: int = 500, text: str = "internal error", more: bytes = b""
    ) -> bool:
        """End the WebSocket for the server's own reasons.

        An open one is ended by a close frame with this code, one that waits to be accepted by a response with this
        status, text and `more` header lines.

        Returns:
            Whether there was anything to end.
        """
        if self.phase == OPEN:
            self.close(code, reason)
            # For `disconnect`, if that is called before the client has answered.
            self._frames.close_code, self._frames.close_reason = code, reason
        elif self.phase == CONNECTING:
            self._refuse(error_status(status, text, self._fields, more))
        elif self.phase == RESPONDING:
            if self._response is not None:
                self._answer(error_status(status, text, self._fields, more))
            self.receive_eof()
        else:
            return False
        return True

    def ping(self) -> None:
        """Ping the client, if the WebSocket is open."""
        if self.phase == OPEN:
            self._frames.ping()

    def hold_pongs(self) -> None:
        """Answer no pings from now on; `release_pongs` answers the latest one."""
        self._frames.hold_pongs()

    def release_pongs(self) -> None:
        """Answer the latest ping that was held back, and those to come."""
        if self._frames.state != FRAMES_CLOSED:
            self._frames.release_pongs()

    def data_to_send(self) -> bytes:
        """Return what is to be sent."""
        frames = self._frames
        if not self._out:
            return frames.data_to_send() if frames.pending else b""
        out, self._out = self._out, []
        return b"".join((*out, frames.data_to_send()))


#: The messages of an application, each with the phases in which it may be sent.
KINDS: dict[str, tuple[int, ...]] = {
    "websocket.accept": (CONNECTING,),
    "websocket.send": (OPEN,),
    "websocket.close": (CONNECTING, OPEN),
    "websocket.http.response.start": (CONNECTING,),
    "websocket.http.response.body": (RESPONDING,),
}


def _headers(message: Message) -> Any:
    headers = message.get("headers")
    return () if headers is None else headers


def _check_close(code: Any, reason: Any) -> None:
    if not isinstance(code, int) or isinstance(code, bool):
        raise TypeError(f"a close code must be an int, got {code!r}")
    if not isinstance(reason, str):
        raise TypeError(f"the reason of a close must be a str, got {reason!r}")

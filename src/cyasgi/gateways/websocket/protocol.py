"""The asyncio protocol of a WebSocket, from the request that asks for it to the end of its application.

What waits for the application is bounded: its queue holds one message, behind it wait at most `max_websocket_queue`
messages or `QUEUED_BYTES`, and behind those the bytes as they came, of which no more are read.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from typing import TYPE_CHECKING, Any

from ..._common.cells import WEBSOCKETS
from ..._common.guarding import INTERRUPTS
from ...core import Pass
from ...core.describe import describe
from ...core.full import TableFull
from ...instances.limits import LimitExceeded
from ...wire.address import client_text
from ...wire.http.request_id import id_line
from ...wire.websocket.connection import (
    CLOSED,
    CLOSING,
    CONNECTING,
    OPEN,
    RESPONDING,
    Message,
    WebSocket,
    WebSocketClosed,
)
from ..http.port import HTTPServerPort
from ..net.causes import caused_by
from ..net.queue_room import drop_own, when_room
from ..pushing import PushedSizes
from .bounds import QUEUED_BYTES
from .connection import (
    BUSY,
    LINGER,
    UNANSWERED,
    WebSocketConnection,
)

if TYPE_CHECKING:
    from ...wire.http.request import Request
    from ...wire.http.scope import Scope

logger = logging.getLogger("cyasgi.gateways.websocket")

#: What the types of the messages of a WebSocket begin with, unlike those that are pushed from outside.
OWN = "websocket."
#: Bytes that a client may send before its WebSocket is accepted.
EARLY_BYTES = 65_536


class WebSocketProtocol(WebSocketConnection):
    """A WebSocket; the id of its instance in the server's table.

    Args:
        server: whose connection it is.
        scope: the ``websocket`` scope.
        request: the request that asks for it.
        rest: the bytes that came behind that.
    """

    __slots__ = ("__weakref__", "_pushed")

    def __init__(self, server: HTTPServerPort, scope: Scope, request: Request, rest: bytes) -> None:
        super().__init__(server, request)
        self._scope = scope
        self._rest = rest
        self._instance = None
        self._backlog = deque()
        self._backlog_bytes = 0
        self._pushed: PushedSizes | None = None
        self._limit = server.max_websocket_queue
        self._waits_for_room = False
        self._disconnected = False
        self._sends = 0

    def __repr__(self) -> str:
        return f"<websocket {id(self):#x}>"

    # Beginning.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        server, scope, self._scope = self.server, self._scope, None
        assert scope is not None
        scope.connection = self
        if server.log is not None:
            self.begin_logging(client_text(scope["client"]))
        server.connection_upgraded(self)
        server.websockets += 1
        if server.cells is not None:
            server.cells[WEBSOCKETS] += 1
        if not transport.is_reading():  # type: ignore[attr-defined]
            transport.resume_reading()  # type: ignore[attr-defined]
        self.deadline = server.deadlines.at(server.websocket_handshake_timeout, self.overdue)
        websocket = self.websocket = WebSocket(
            self.request.headers,
            max_message_size=server.max_websocket_message_size,
            compression=server.websocket_compression,
            fields=server.common_fields + self._id_line(),
        )
        if websocket.phase == CONNECTING:
            self._begin(scope)
        self.flush()
        if websocket.ended:
            self.finish()
        elif self._rest:
            self.data_received(self._rest)
        self._rest = b""

    def _id_line(self) -> bytes:
        name = self.server.request_id_header
        return b"" if name is None else id_line(self.request.headers, name.lower().encode())

    def _begin(self, scope: Scope) -> None:
        """Make the instance, or refuse the WebSocket."""
        server, websocket = self.server, self.websocket
        limit = server.max_applications
        try:
            if limit is not None and server.count_instances() >= limit and server.refuse_request(scope):
                raise TableFull(limit)
            instance = server.get_or_create_application_instance(self, scope)
        except TableFull:
            server.refused += 1
            websocket.stop(1013, status=503, text=BUSY, more=server.retry_after)
        except LimitExceeded as error:
            server.refused += 1
            # RFC 6585 section 4.
            more = b"retry-after: %d\r\n" % math.ceil(error.retry_after or 1)
            websocket.stop(1013, status=429, text="too many requests", more=more)
        except INTERRUPTS:
            raise
        except BaseException:
            logger.exception("a WebSocket could not be begun")
            websocket.stop(1011)
        else:
            # With an eager task factory it may have ended already.
            if not instance.ended:
                self._instance = instance
                instance.connect(server.direct, pulls=False)
                instance.put_nowait({"type": "websocket.connect"})

    # What the application receives.

    def _settle(self) -> None:
        websocket, backlog = self.websocket, self._backlog
        self.flush()
        if websocket.ended:
            self.finish()
        elif websocket.unfinished:
            self._pump_later()
        elif websocket.buffered and (websocket.phase == CONNECTING or (backlog and self._full())):
            if websocket.phase != CONNECTING or websocket.buffered > EARLY_BYTES:
                self.pause_reading()
        elif self.reading_paused:
            self.resume_reading()

    def _pump_later(self) -> None:
        """Go on after a turn of the loop, so that others get theirs."""
        self.pause_reading()
        self.loop.call_soon(self.pump, context=self.server.outside)

    def _full(self) -> bool:
        """Return whether no more messages may wait behind the queue."""
        # The place in the queue itself is one of those that `max_websocket_queue` allows.
        waiting = len(self._backlog) + 1
        return (waiting >= self._limit or self._backlog_bytes >= QUEUED_BYTES) and self.websocket.phase == OPEN

    def _put_behind(self, message: Message) -> None:
        self._backlog.append(message)
        self._backlog_bytes += _size(message)
        if not self._waits_for_room:
            self._waits_for_room = True
            when_room(self._instance, self.server.outside, self._room)

    def _next_behind(self) -> Message:
        message = self._backlog.popleft()
        self._backlog_bytes -= _size(message)
        return message

    def _room(self) -> None:
        """Refill the queue, of which the application has taken a message; or it has ended."""
        self._waits_for_room = False
        instance, backlog = self._instance, self._backlog
        if instance is None or instance.ended:
            return
        self._refill()
        if instance.ended or self._waits_for_room:
            # It has ended in a step made there, or this goes on after a turn of the loop.
            return
        if backlog:
            self._waits_for_room = True
            when_room(instance, self.server.outside, self._room)
        elif self.lost:
            self.server.connection_closed(self)
        if self.reading_paused and not self.lost:
            self.pump()

    def push(self, message: Message, size: int) -> bool:
        """Have the application receive a message from outside, behind what waits; return whether there was room."""
        instance = self._instance
        if instance is None or instance.ended:
            return False
        waiting = len(self._backlog)
        if not waiting and not instance.full():
            instance.put_nowait(message)
            return True
        if self._pushed is None:
            self._pushed = PushedSizes()
        if waiting >= self.server.max_pushed or not self._pushed.add(size, waiting, self.server.max_pushed_bytes):
            return False
        self._put_behind(message)
        return True

    def eof_received(self) -> bool:
        """Take a client that closes its half for one that has gone: nothing in RFC 6455 makes sense of it."""
        self.websocket.receive_eof()
        self.tell_disconnect()
        if not self.lost:
            self.end_within(LINGER)
        return False

    # What the application sends.

    async def _send_later(self, message: Any) -> None:
        if self.paused:
            await self._drain()
        else:
            await Pass()
        self._send(message)
        if self.paused:
            await self._drain()

    async def _drain(self) -> None:
        while self.paused:
            await self.writable()

    def _send(self, message: Any) -> None:
        websocket = self.websocket
        if self.transport.is_closing():
            # It was lost, and `connection_lost` is called soon: a sender that never waits would not let that happen.
            websocket.receive_eof()
        phase = websocket.phase
        data = websocket.send(message)
        if data:
            self.transport.write(data)
        if websocket.phase != phase:
            self._changed(websocket.phase)

    def _changed(self, phase: int) -> None:
        """Go on in a new phase: the application has accepted, closed or answered."""
        if phase == OPEN:
            self.deadline.move(None)
            self.expect_life()
            if self.websocket.buffered or self.reading_paused:
                self.pump()
        elif phase == RESPONDING:
            self.deadline.move(self.server.request_timeout)
        elif phase == CLOSING:
            self.expect_close()
        elif phase == CLOSED:
            self.finish()

    # The end.

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self._backlog:
            # Otherwise an instance that waits for the next of them would seem to be idle to a server that stops.
            self.server.connection_closed(self)

    def tell_disconnect(self) -> None:
        instance = self._instance
        if self._disconnected:
            return
        self._disconnected = True
        if instance is None or instance.ended:
            return
        message = self.websocket.disconnect()
        if not self._backlog and not instance.full():
            instance.put_nowait(message)
        else:
            self._put_behind(message)

    def last_message(self) -> Any:
        """Return what is received after the application has ended."""
        return self.websocket.disconnect()

    def application_ended(self, instance: Any) -> None:
        """End the WebSocket with its application; called from within the application's last step."""
        self._instance = None
        left = [message for message in self._backlog if not message["type"].startswith(OWN)]
        self.drop_backlog()
        error = instance.error
        if error is not None and self._disconnected and caused_by(error, WebSocketClosed):
            # It was told that the client has gone, if only by `send`.
            instance.take_error()
            error = None
        drop_own(instance, OWN)
        for message in left:
            instance.put_nowait(message)
        if error is None and not instance.qsize():
            instance.forget()
        outcome = instance.outcome
        if outcome == "cancelled":
            self.stop(1001, "going away", 503)
        elif outcome == "failed":
            self.stop(1011, "internal error")
        else:
            if self.websocket.phase in UNANSWERED:
                logger.error("an application returned without having answered a WebSocket: %s", describe(instance))
            self.stop(1000)

    def drop_backlog(self) -> None:
        self._backlog.clear()
        self._backlog_bytes = 0
        if self.lost:
            self.server.connection_closed(self)


def _size(message: Message) -> int:
    if message["type"] != "websocket.receive":
        return 0
    data = message.get("bytes")
    return len(message.get("text", "")) if data is None else len(data)

"""The asyncio protocol of a WebSocket, from the request that asks for it to the end of its connection.

What waits is bounded in each direction. The application's queue holds one message; behind it wait at most
`max_websocket_queue` messages or `QUEUED_BYTES`, and behind those the bytes as they came, of which no more are read. An
application that sends faster than the client takes waits in ``send``. A client that takes nothing for
`websocket_ping_timeout` seconds, or from which nothing comes for as long after a ping, is given up. What is still to be
taken at the end, and a response that refuses, is given the time that a response of HTTP is given: `write_timeout`
seconds at a time in which the client takes as much as `min_rate` demands.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from typing import TYPE_CHECKING, Any

from ..._common.guarding import INTERRUPTS
from ...core import SENT, Pass
from ...core.describe import describe
from ...instances.limits import LimitExceeded
from ...wire.address import format_address
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
from ..access_log import CLIENT_GONE
from ..http.port import HTTPServerPort
from ..net.causes import caused_by
from ..net.queue_room import when_room
from ..net.transports import reset_on_close, send_progress

if TYPE_CHECKING:
    from ...wire.http.request import Request
    from ...wire.http.scope import Scope

logger = logging.getLogger("cyasgi.gateways.websocket")

#: How a run has ended, if it did not return.
FAILED, CANCELLED = 2, 3

BUSY = "the server is busy"
#: What our own answers say.
TEXTS = {500: "internal error", 503: BUSY, 504: "the application did not answer in time"}

#: What the client still waits for an answer in.
UNANSWERED = (CONNECTING, RESPONDING)

#: Bytes of messages that wait for the application before no more are read.
QUEUED_BYTES = 65_536
#: Bytes that a client may send before its WebSocket is accepted.
EARLY_BYTES = 65_536
#: `send` lets the loop turn once in so many messages: to a client that takes them as fast, it need never wait.
BREATH = 64
#: Seconds for which a connection that we ended is still read, so that the client gets to see why.
LINGER = 2.0


class WebSocketProtocol(asyncio.Protocol):
    """A WebSocket; the id of its instance in the server's table.

    Args:
        server: whose connection it is.
        scope: the ``websocket`` scope.
        request: the request that asks for it.
        rest: the bytes that came behind that.
    """

    __slots__ = (
        "__weakref__",
        "_alive",
        "_backlog",
        "_backlog_bytes",
        "_began",
        "_client",
        "_disconnected",
        "_finished",
        "_hooked",
        "_instance",
        "_limit",
        "_loop",
        "_lost",
        "_overdue",
        "_reading_paused",
        "_rest",
        "_scope",
        "_sends",
        "_stalled",
        "_taken_bytes",
        "_waiters",
        "_writing_paused",
        "heard",
        "request",
        "server",
        "transport",
        "websocket",
    )
    transport: Any
    websocket: WebSocket

    def __init__(self, server: HTTPServerPort, scope: Scope, request: Request, rest: bytes) -> None:
        self.server = server
        self.request = request
        self._scope: Scope | None = scope
        self._rest = rest
        self._loop = asyncio.get_running_loop()
        self._instance: Any = None
        #: Messages that wait for room in the instance's queue, and the bytes in them.
        self._backlog: deque[Message] = deque()
        self._backlog_bytes = 0
        self._limit = server.max_websocket_queue
        #: Whether we are told when the application takes a message.
        self._hooked = False
        #: Whether ``websocket.disconnect`` was put into the queue.
        self._disconnected = False
        self._finished = False
        self._lost = False
        self._sends = 0
        self._reading_paused = False
        self._writing_paused = False
        self._waiters: deque[asyncio.Future[None]] = deque()
        #: For the access log: when it began, and with whom; empty for no line.
        self._began = 0.0
        self._client = ""
        #: Whether anything came since the last ping.
        self.heard = False
        #: How much the client had taken when that was last checked (`send_progress`).
        self._taken_bytes = 0.0
        #: Deadlines: of the handshakes and the end, of the next ping or its answer, of a client that takes nothing.
        self._overdue: Any = None
        self._alive: Any = None
        self._stalled: Any = None

    def __repr__(self) -> str:
        return f"<websocket {id(self):#x}>"

    # Beginning.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        server, scope, self._scope = self.server, self._scope, None
        assert scope is not None
        scope.connection = self
        if server.log is not None:
            self._began = self._loop.time()
            client = scope["client"]
            self._client = "-" if client is None else format_address(client)
        # Counted it was when it began as an HTTP connection.
        server.connection_upgraded(self)
        server.websockets += 1
        if not transport.is_reading():  # type: ignore[attr-defined]
            transport.resume_reading()  # type: ignore[attr-defined]
        self._overdue = server.deadlines.at(server.websocket_handshake_timeout, self._late)
        websocket = self.websocket = WebSocket(
            self.request.headers,
            max_message_size=server.max_websocket_message_size,
            compression=server.websocket_compression,
            fields=server.common_fields,
        )
        if websocket.phase == CONNECTING:
            self._begin(scope)
        self._flush()
        if websocket.ended:
            self._finish()
        elif self._rest:
            self.data_received(self._rest)
        self._rest = b""

    def _begin(self, scope: Scope) -> None:
        server, websocket = self.server, self.websocket
        limit = server.max_applications
        try:
            if limit is not None and server.count_instances() >= limit and server.refuse_request(scope):
                server.refused += 1
                websocket.stop(1013, status=503, text=BUSY, more=server.retry_after)
                return
            instance = server.get_or_create_application_instance(self, scope)
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
            # With an eager task factory all may be over by now.
            if not instance.ended:
                self._instance = instance
                instance.put_nowait({"type": "websocket.connect"})

    # Reading.

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self.websocket.receive_data(data)
        self._pump()

    def _pump(self) -> None:
        """Gives the application what has come, as far as there is room for it."""
        websocket = self.websocket
        backlog = self._backlog
        while not (backlog and self._full()):
            message = websocket.next_message()
            if message is None:
                break
            if not backlog and not self._instance.full():
                self._instance.put_nowait(message)
            else:
                self._put_behind(message)
        self._flush()
        if websocket.ended:
            self._finish()
        elif websocket.unfinished:
            self._pause_reading()
            self._loop.call_soon(self._pump, context=self.server.outside)
        elif websocket.buffered and (websocket.phase == CONNECTING or (backlog and self._full())):
            if websocket.phase != CONNECTING or websocket.buffered > EARLY_BYTES:
                self._pause_reading()
        elif self._reading_paused:
            self._resume_reading()

    def _full(self) -> bool:
        # The place in the queue itself is one of those that were asked for.
        waiting = len(self._backlog) + 1
        return (waiting >= self._limit or self._backlog_bytes >= QUEUED_BYTES) and self.websocket.phase == OPEN

    def _put_behind(self, message: Message) -> None:
        self._backlog.append(message)
        self._backlog_bytes += _size(message)
        if not self._hooked:
            self._hooked = True
            when_room(self._instance, self.server.outside, self._taken)

    def _taken(self) -> None:
        """The application has taken a message, or has ended."""
        self._hooked = False
        instance, backlog = self._instance, self._backlog
        if instance is None or instance.ended:
            return
        while backlog and not instance.full():
            message = backlog.popleft()
            self._backlog_bytes -= _size(message)
            instance.put_nowait(message)
        if backlog:
            self._hooked = True
            when_room(instance, self.server.outside, self._taken)
        elif self._lost:
            self.server.connection_closed(self)
        if self._reading_paused and not self._lost:
            self._pump()

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            # The event loop keeps the context that it is called in for as long as it reads.
            self.server.outside.copy().run(self.transport.resume_reading)

    def eof_received(self) -> bool:
        """A client that closes its half has gone: nothing in RFC 6455 makes sense of it."""
        self.websocket.receive_eof()
        self._disconnect()
        if not self._lost:
            self._end_within(LINGER)
        return False

    # Writing.

    def application_send(self, scope: Any, message: Any) -> Any:
        """Takes a message of the application, and gives an awaitable: done when the client takes more.

        Raises:
            TypeError, ValueError, RuntimeError, WebSocketClosed: as `cyasgi.wire.websocket.WebSocket.send` says.
        """
        self._sends += 1
        if self._writing_paused or not self._sends % BREATH:
            return self._send_later(message)
        self._send(message)
        # Writing may have paused it.
        return self._writable() if self._writing_paused else SENT  # type: ignore[redundant-expr]

    async def _send_later(self, message: Any) -> None:
        if self._writing_paused:
            await self._writable()
        else:
            await Pass()
        self._send(message)
        if self._writing_paused:
            await self._writable()

    def _send(self, message: Any) -> None:
        websocket = self.websocket
        if self.transport.is_closing():
            # It was lost and we shall be told soon; a sender that never waits would not let that happen.
            websocket.receive_eof()
        phase = websocket.phase
        data = websocket.send(message)
        if data:
            self.transport.write(data)
        if websocket.phase != phase:
            self._changed(websocket.phase)

    def _changed(self, phase: int) -> None:
        """The application has accepted, closed or answered."""
        server = self.server
        if phase == OPEN:
            self._overdue.move(None)
            if server.websocket_ping_interval is not None:
                self._alive = server.deadlines.at(server.websocket_ping_interval, self._ping)
            if self.websocket.buffered or self._reading_paused:
                self._pump()
        elif phase == RESPONDING:
            self._overdue.move(server.request_timeout)
        elif phase == CLOSING:
            self._closing()
        elif phase == CLOSED:
            self._finish()

    def _flush(self) -> None:
        data = self.websocket.data_to_send()
        if data and not self._lost:
            self.transport.write(data)

    async def _writable(self) -> None:
        """Returns when writing was resumed, or the connection closed."""
        while self._writing_paused:
            # A future for each: cancelling one who waits must not reach the others.
            future = self._loop.create_future()
            self._waiters.append(future)
            await future

    def _wake(self) -> None:
        while self._waiters:
            future = self._waiters.popleft()
            if not future.done():
                future.set_result(None)

    def pause_writing(self) -> None:
        self._writing_paused = True
        self.websocket.hold_pongs()
        if self.websocket.phase not in (OPEN, RESPONDING):
            # `_late` looks after that.
            return
        taken = send_progress(self.transport)
        self._taken_bytes = -math.inf if taken is None else taken
        timeout = self._pace()[0]
        if timeout is not None:
            self._stalled = self.server.deadlines.at(timeout, self._look)

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._drop_stalled()
        self.websocket.release_pongs()
        self._flush()
        self._wake()

    def _drop_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _pace(self) -> tuple[float | None, float]:
        """Seconds between two looks at a client that falls behind, and bytes that it must have taken between them."""
        server = self.server
        if self.websocket.phase == OPEN:
            return server.websocket_ping_timeout, 1
        return server.write_timeout, server.min_rate * server.write_timeout

    def _look(self) -> None:
        """Nothing more could be sent for a while."""
        timeout, least = self._pace()
        if self._takes(least):
            self._stalled.move(timeout)
        else:
            self.abort()

    def _takes(self, least: float) -> bool:
        """Whether there is something to be sent, and the client has taken so much of it since the last look."""
        taken = send_progress(self.transport)
        if taken is None or taken - self._taken_bytes < least:
            return False
        self._taken_bytes = taken
        return True

    # Signs of life.

    def _ping(self) -> None:
        if self.websocket.phase != OPEN:
            return
        self.heard = False
        if not self._writing_paused:
            self.websocket.ping()
            self._flush()
        timeout = self.server.websocket_ping_timeout
        if timeout is None:
            self._alive.move(self.server.websocket_ping_interval)
        else:
            self._alive.callback = self._answered
            self._alive.move(timeout)

    def _answered(self) -> None:
        if self.heard or self._reading_paused or self._writing_paused:
            # What we do not read, or cannot send, is no fault of the client's; see `_look`.
            self._alive.callback = self._ping
            self._alive.move(self.server.websocket_ping_interval or 0)
        elif self.websocket.stop(1011, "keepalive ping timeout"):
            self.websocket.receive_eof()
            self._flush()
            self._finish()

    # The end.

    def _late(self) -> None:
        """A deadline was met: of the handshake, of the closing handshake, or of the last bytes."""
        phase = self.websocket.phase
        if phase in UNANSWERED:
            if phase == CONNECTING:
                seconds = self.server.websocket_handshake_timeout
                logger.warning("a WebSocket was not accepted within %s seconds", seconds)
            self._stop(1011, status=504)
            return
        timeout, least = self._pace()
        if self._takes(least):
            # What we have sent last is not all there yet.
            self._overdue.move(timeout)
        else:
            self.abort()

    def _end_within(self, seconds: float) -> None:
        """Nothing more will be sent. A client that has more to take than that allows is given the time for it."""
        self._drop_stalled()
        self._taken_bytes = -math.inf
        self._overdue.move(seconds)

    def _closing(self) -> None:
        """We have sent a close frame; now the client is to answer."""
        self._end_within(self.server.websocket_close_timeout)
        # Whatever waits is dropped, so that the answer behind it is seen.
        self._pump()

    def begin_shutdown(self) -> None:
        """The server stops (RFC 6455 section 7.4.1, and IANA's registry for 1012). A response is finished."""
        if self.websocket.phase != RESPONDING:
            self._stop(1012, "service restart", 503)

    def _stop(self, code: int, reason: str = "", status: int = 500) -> None:
        if self.websocket.answering:
            # What the client has got must not seem to be the whole response.
            self.abort()
            return
        text = TEXTS[status]
        if not self.websocket.stop(code, reason, status=status, text=text):
            return
        self._flush()
        self._disconnect()
        if self.websocket.phase == CLOSING:
            self._closing()
        else:
            self._finish()

    def _finish(self) -> None:
        """Closes the connection, once, in a way that lets the client read what was written.

        Bytes that come to a closed socket make the system reset the connection, and the client's system then throws
        away what it has not read yet.
        """
        self._disconnect()
        if self._finished or self._lost or self.transport.is_closing():
            return
        self._finished = True
        self._end_within(LINGER)
        if self.websocket.clean or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self._resume_reading()
            try:
                self.transport.write_eof()
            except OSError:
                # asyncio's raises where the client has gone unseen.
                self.transport.abort()

    def abort(self) -> None:
        if self.websocket.ends_by_closing and not self._lost:
            reset_on_close(self.transport)
        self.websocket.receive_eof()
        self._disconnect()
        if self._lost:
            self._drop_backlog()
        else:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._writing_paused = False
        for deadline in (self._overdue, self._alive, self._stalled):
            if deadline is not None:
                deadline.cancel()
        self._overdue = self._alive = self._stalled = None
        self.websocket.receive_eof()
        if self._client:
            self._log()
        self._disconnect()
        self._wake()
        if not self._backlog:
            # Else an instance that waits for the next of them would seem to be idle to a server that stops.
            self.server.connection_closed(self)

    def _log(self) -> None:
        log, request, websocket = self.server.log, self.request, self.websocket
        if log is not None:
            status, took = websocket.status or CLIENT_GONE, self._loop.time() - self._began
            log.add(self._client, request.method, request.target, "1.1", status, websocket.sent, took)

    def _disconnect(self) -> None:
        """Tells the application, once, behind all that it was sent."""
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
        """What is received after the application has ended."""
        return self.websocket.disconnect()

    def application_ended(self, instance: Any) -> None:
        """Called by the server, from within the last step of the application."""
        self._instance = None
        self._drop_backlog()
        if instance._error is not None and self._disconnected and caused_by(instance._error, WebSocketClosed):
            # It was told that the client has gone, if only by `send`.
            instance._error = None
        if instance._error is None:
            instance._forget()
        else:
            instance._leftover()
        outcome = instance._outcome
        if outcome == CANCELLED:
            self._stop(1001, "going away", 503)
        elif outcome == FAILED:
            self._stop(1011, "internal error")
        else:
            if self.websocket.phase in UNANSWERED:
                logger.error("an application returned without having answered a WebSocket: %s", describe(instance))
            self._stop(1000)

    def _drop_backlog(self) -> None:
        self._backlog.clear()
        self._backlog_bytes = 0
        if self._lost:
            self.server.connection_closed(self)


def _size(message: Message) -> int:
    data = message.get("bytes")
    return len(message.get("text", "")) if data is None else len(data)

"""The connection under a WebSocket: writing, signs of life, deadlines, and how it is closed without losing data.

An application that sends faster than the client takes waits in ``send``. A client that takes nothing for
`websocket_ping_timeout` seconds, or from which nothing comes for as long after a ping, is cut off. What is still to be
taken at the end, and a response that refuses, is given the time that a response of HTTP is given: every `write_timeout`
seconds the client must have taken `write_timeout` × `min_rate` bytes.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from typing import TYPE_CHECKING

from ...wire.websocket.connection import (
    CLOSING,
    CONNECTING,
    OPEN,
    RESPONDING,
)
from ..access_log import CLIENT_GONE
from ..http.port import HTTPServerPort
from ..net.flow_control import FlowControl
from ..net.transports import reset_on_close, send_progress
from .fast_path import FastConnection

if TYPE_CHECKING:
    from ...wire.http.request import Request

logger = logging.getLogger("cyasgi.gateways.websocket")

BUSY = "the server is busy"
#: The texts of the server's own answers.
TEXTS = {500: "internal error", 503: BUSY, 504: "the application did not answer in time"}

#: The phases in which the client still waits for an answer.
UNANSWERED = (CONNECTING, RESPONDING)

#: Seconds for which a connection that the server ended is still read, so that the client gets to see why.
LINGER = 2.0


class WebSocketConnection(FlowControl, FastConnection, asyncio.Protocol):
    """The connection of a WebSocket; `WebSocketProtocol` connects it with an application.

    Args:
        server: whose connection it is.
        request: the request that asks for the WebSocket.
    """

    __slots__ = ()

    def __init__(self, server: HTTPServerPort, request: Request) -> None:
        self.paused = False
        self.waiters = deque()
        self.server = server
        self.request = request
        self.loop = asyncio.get_running_loop()
        #: Whether the connection is closed, or will be once what was written has been sent.
        self.finished = False
        self.lost = False
        self.reading_paused = False
        #: For the access log: when it began, and with whom; empty for no line.
        self._began = 0.0
        self._client = ""
        #: Whether anything was received since the last ping.
        self.heard = False
        #: How much the client had taken when that was last checked (`send_progress`).
        self._taken = 0.0
        #: Deadlines: of the handshakes and of the end; of the next ping, or its answer; of a stalled client.
        self.deadline = self.ping_deadline = self.stall_deadline = None

    # What the application's side does.

    def tell_disconnect(self) -> None:
        """Tell the application, once, that the WebSocket is closed, after all that it was sent."""
        raise NotImplementedError

    def drop_backlog(self) -> None:
        """Drop the messages that wait for the application."""
        raise NotImplementedError

    # Logging.

    def begin_logging(self, client: str) -> None:
        """Note when and with whom the WebSocket began."""
        self._began = self.loop.time()
        self._client = client

    def _log(self) -> None:
        log, request, websocket = self.server.log, self.request, self.websocket
        if log is not None:
            status, took = websocket.status or CLIENT_GONE, self.loop.time() - self._began
            size, headers = websocket.sent, request.headers
            log.add(self._client, request.method, request.target, "1.1", status, size, took, headers, b"")

    # Reading and writing.

    def pause_reading(self) -> None:
        if not self.reading_paused:
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.reading_paused:
            self.reading_paused = False
            # The event loop keeps the context that it is called in for as long as it reads.
            self.server.outside.copy().run(self.transport.resume_reading)

    def flush(self) -> None:
        """Write what the WebSocket has to send by itself: pings, pongs, close frames, answers."""
        data = self.websocket.data_to_send()
        if data and not self.lost:
            self.transport.write(data)

    def pause_writing(self) -> None:
        self.paused = True
        self.websocket.hold_pongs()
        if self.websocket.phase not in (OPEN, RESPONDING):
            # `deadline` limits that.
            return
        taken = send_progress(self.transport)
        self._taken = -math.inf if taken is None else taken
        timeout = self._pace()[0]
        if timeout is not None:
            self.stall_deadline = self.server.deadlines.at(timeout, self._check_stalled)

    def resume_writing(self) -> None:
        self.paused = False
        self._drop_stall_deadline()
        self.websocket.release_pongs()
        self.flush()
        self.wake()

    def _drop_stall_deadline(self) -> None:
        if self.stall_deadline is not None:
            self.stall_deadline.cancel()
            self.stall_deadline = None

    def _pace(self) -> tuple[float | None, float]:
        """Return the seconds between two checks of a client that falls behind, and the bytes it must take in them."""
        server = self.server
        if self.websocket.phase == OPEN:
            return server.websocket_ping_timeout, 1
        return server.write_timeout, server.min_rate * server.write_timeout

    def _check_stalled(self) -> None:
        """Cut the connection if the client has taken too little since the last check."""
        timeout, least = self._pace()
        if self._has_taken(least):
            self.stall_deadline.move(timeout)
        else:
            self.abort()

    def _has_taken(self, least: float) -> bool:
        """Return whether the client has taken so many bytes since the last check, and still has some to take."""
        taken = send_progress(self.transport)
        if taken is None or taken - self._taken < least:
            return False
        self._taken = taken
        return True

    # Signs of life.

    def expect_life(self) -> None:
        """Ping the client from now on."""
        if self.server.websocket_ping_interval is not None:
            self.ping_deadline = self.server.deadlines.at(self.server.websocket_ping_interval, self._ping)

    def _ping(self) -> None:
        if self.websocket.phase != OPEN:
            return
        self.heard = False
        if not self.paused:
            self.websocket.ping()
            self.flush()
        timeout = self.server.websocket_ping_timeout
        if timeout is None:
            self.ping_deadline.move(self.server.websocket_ping_interval)
        else:
            self.ping_deadline.callback = self._check_heard
            self.ping_deadline.move(timeout)

    def _check_heard(self) -> None:
        """Close the WebSocket if nothing was received since the last ping."""
        if self.heard or self.reading_paused or self.paused:
            # What the server does not read, or cannot send, is no fault of the client's; see `_check_stalled`.
            self.ping_deadline.callback = self._ping
            self.ping_deadline.move(self.server.websocket_ping_interval or 0)
        elif self.websocket.stop(1011, "keepalive ping timeout"):
            self.websocket.receive_eof()
            self.flush()
            self.finish()

    # The end.

    def overdue(self) -> None:
        """Act on `deadline`: of the handshake, of the closing handshake, or of the last bytes."""
        phase = self.websocket.phase
        if phase in UNANSWERED:
            if phase == CONNECTING:
                seconds = self.server.websocket_handshake_timeout
                logger.warning("a WebSocket was not accepted within %s seconds", seconds)
            self.stop(1011, status=504)
            return
        timeout, least = self._pace()
        if self._has_taken(least):
            # What was sent last has not all been taken yet.
            self.deadline.move(timeout)
        else:
            self.abort()

    def end_within(self, seconds: float) -> None:
        """Send nothing more, and limit the time in which the connection must have been closed."""
        self._drop_stall_deadline()
        # A client that still has more to take than that allows is given the time for it.
        self._taken = -math.inf
        self.deadline.move(seconds)

    def expect_close(self) -> None:
        """Wait for the client's answer to a close frame that was sent."""
        self.end_within(self.server.websocket_close_timeout)
        # Whatever waits is dropped, so that the answer behind it is seen.
        self.pump()

    def begin_shutdown(self) -> None:
        """Close the WebSocket as the server stops (RFC 6455 section 7.4.1; IANA's registry for 1012).

        A response that was begun is completed.
        """
        if self.websocket.phase != RESPONDING:
            self.stop(1012, "service restart", 503)

    def wind_down(self) -> bool:
        """Close the WebSocket as `begin_shutdown` does, but not before it is open; return whether it is not yet."""
        if self.websocket.phase == CONNECTING:
            return True
        self.begin_shutdown()
        return False

    def stop(self, code: int, reason: str = "", status: int = 500) -> None:
        """End the WebSocket in the application's stead, by a close frame or by a response with this status."""
        if self.websocket.answering:
            # What the client has got must not seem to be the whole response.
            self.abort()
            return
        text = TEXTS[status]
        if not self.websocket.stop(code, reason, status=status, text=text):
            return
        self.flush()
        self.tell_disconnect()
        if self.websocket.phase == CLOSING:
            self.expect_close()
        else:
            self.finish()

    def finish(self) -> None:
        """Close the connection, once, in a way that lets the client read what was written.

        Bytes that come to a closed socket make the system reset the connection, and the client's system then throws
        away what it has not read yet.
        """
        self.tell_disconnect()
        if self.finished or self.lost or self.transport.is_closing():
            return
        self.finished = True
        self.end_within(LINGER)
        if self.websocket.clean or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.resume_reading()
            try:
                self.transport.write_eof()
            except OSError:
                # asyncio's transport raises if the client has gone unnoticed.
                self.transport.abort()

    def abort(self) -> None:
        """Cut the connection."""
        if self.websocket.ends_by_closing and not self.lost:
            reset_on_close(self.transport)
        self.websocket.receive_eof()
        self.tell_disconnect()
        if self.lost:
            self.drop_backlog()
        else:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.paused = False
        for deadline in (self.deadline, self.ping_deadline, self.stall_deadline):
            if deadline is not None:
                deadline.cancel()
        self.deadline = self.ping_deadline = self.stall_deadline = None
        self.websocket.receive_eof()
        if self._client:
            self._log()
        self.tell_disconnect()
        self.wake()

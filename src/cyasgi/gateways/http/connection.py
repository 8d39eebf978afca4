"""The connection under HTTP requests: its beginning and end, its deadlines, and how it is closed without losing data.

How a connection is closed matters: bytes that come to a closed socket make the system reset the connection, and the
client's system then throws away what it has not read yet. So after a refusal the connection lingers: the server's half
is closed, and what still comes is read and dropped, within bounds.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import Any

from ..._common.cells import REQUEST_TIME, RESPONSES, observe
from ...wire.address import client_text
from ...wire.http.request import HeadParser
from ...wire.http.request_id import id_line, identify
from ...wire.http.scope import error_response
from ..access_log import CLIENT_GONE
from ..net.flow_control import FlowControl
from ..net.tls_extension import tls_extension
from ..net.transports import (
    asgi_address,
    may_say_goodbye,
    reset_on_close,
    send_progress,
)
from .fast_path import FastConnection
from .last_request import LastRequest
from .phases import STREAMING
from .port import HTTPServerPort

#: Seconds for which a closed connection is still read while nothing comes, so that the client gets to see why.
LINGER = 2.0
#: Seconds and bytes for which it is read while the client still sends: one that writes its whole request before it
#: reads would otherwise lose the answer that refuses it.
LINGER_TIME, LINGER_BYTES = 30.0, 268_435_456
#: Seconds without a byte of the response after which a client that has closed its half is taken for one that has gone.
HALF_CLOSED = 2.0


class HTTPConnection(FlowControl, FastConnection, asyncio.Protocol):
    """A connection, whatever comes on it; `HTTPProtocol` reads the requests."""

    __slots__ = ()

    def __init__(self, server: HTTPServerPort, strict: bool = True) -> None:
        self.paused = False
        self.waiters = deque()
        self.server = server
        self.loop = asyncio.get_running_loop()
        self.parser = HeadParser(server.head_limits, strict)
        #: The request at work.
        self.exchange = None
        #: What is still to come of the body of the request at work, or of the one before if that was not read.
        self.body = None
        #: Whether no request is taken after the one at work.
        self.last = False
        #: Received bytes that were not parsed yet.
        self.buffer = bytearray()
        #: Bytes of the buffer that were searched for the end of a head; while lingering, what `received` was last.
        self.seen = 0
        #: Bytes of an incomplete head that count among the server's `partial_heads`.
        self.partial = 0
        #: Bytes of the body that were received; while lingering, bytes that were dropped.
        self.received = 0
        #: Whether what comes of the body is dropped.
        self.discarding = False
        #: Whether the connection is closed, or being closed, and what still comes is dropped.
        self.lingering = False
        #: Whether the client will send nothing more.
        self.eof = False
        self.reading_paused = False
        #: Deadlines: of the response, the body, a stalled client, and a response to a client that has closed its half.
        #: That of the body is relative to now while reading is paused.
        self.due_request = self.due_body = self.due_write = self.due_silence = math.inf
        self._linger_until = 0.0
        #: How far the response was when `due_silence` was set.
        self._reported_progress = -1
        #: How much the client had taken when that was last checked (`send_progress`).
        self._taken = 0.0
        #: When the request at work began, for the access log and for `cells`.
        self._began = 0.0

    def eof_received(self) -> bool:
        raise NotImplementedError

    def idle(self) -> None:
        """Go on with the next request, or wait for one: the last one and its response are complete."""
        raise NotImplementedError

    # Beginning and end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        server = self.server
        self.keep_alive_timeout = server.keep_alive_timeout
        self.request_timeout = server.request_timeout
        self.amends = bool(server.root_path)
        name = server.request_id_header
        self.request_id_name = None if name is None else name.lower().encode()
        self.id_line = None
        self.deadline = server.deadlines.at(server.first_byte_timeout, self._overdue)
        server.connection_opened(self)
        tls = transport.get_extra_info("ssl_object")
        client = asgi_address(transport.get_extra_info("peername"))
        self.template = {
            "type": "http",
            "http_version": "1.1",
            "server": asgi_address(transport.get_extra_info("sockname")),
            "client": client,
            "scheme": "http" if tls is None else "https",
            "method": "GET",
            "root_path": server.root_path,
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "headers": None,
            "asgi": None,
            "extensions": None,
        }
        self.tls = None if tls is None else tls_extension(tls)
        self._client = client_text(client)
        if server.state is not None:
            self.template["state"] = {}
        if server.stopping:
            self.close()
        elif server.connections_left() < 0:
            server.refused += 1
            if server.cells is not None:
                server.cells[RESPONSES + 4] += 1
            self.transport.write(error_response(503, "too many connections", server.common_fields, server.retry_after))
            self.close()

    def amend(self, template: dict[str, Any]) -> None:
        """Change what the scopes of equal heads have in common, once that was read from the head."""
        self.server.add_root_path(template)

    def connection_lost(self, exc: Exception | None) -> None:
        self.deadline.cancel()
        self.server.connection_closed(self)
        self.last = True
        self.paused = False
        self.buffer.clear()
        self.forget_partial_head()
        exchange, self.exchange = self.exchange, None
        # Senders before receivers: Starlette's receiver cancels its sender.
        self.wake()
        if exchange is not None:
            exchange.disconnect()
            exchange.protocol = None
            if self.server.cancel_on_disconnect and exchange.instance is not None:
                self.server.delete_application_instance(exchange)
            if self.server.log is not None or self.server.cells is not None:
                self.note_end(exchange.status or CLIENT_GONE, exchange.sent, exchange.header_lines())
        self.body = None

    def forget_partial_head(self) -> None:
        """Count no bytes of an incomplete head for this connection any more."""
        self.server.partial_heads -= self.partial
        self.partial = 0

    def hand_over(self) -> None:
        """Leave the transport to another protocol."""
        self.deadline.cancel()
        self.server.connection_closed(self)
        self.buffer.clear()
        self.lingering = True

    def identify(self) -> None:
        """Give the request that was parsed last an id, if it has none."""
        assert self.request_id_name is not None
        identify(self.parser.headers, self.request_id_name)
        self.id_line = id_line(self.parser.headers, self.request_id_name)

    def note_begin(self) -> None:
        """Note when a request began."""
        self._began = time.monotonic()

    def note_end(self, status: int, size: int, lines: bytes = b"") -> None:
        """Count and log the request that was parsed last, with this status and size of the response, and its header
        lines."""
        log, cells, parser = self.server.log, self.server.cells, self.parser
        began, self._began = self._began, 0.0
        # Zero for what is answered although no head was read.
        took = time.monotonic() - began if began else 0.0
        if cells is not None:
            cells[RESPONSES + status // 100 - 1] += 1
            if began:
                observe(cells, REQUEST_TIME, int(took * 1e9))
        if log is not None:
            log.add(
                self._client, parser.method, parser.target, parser.version, status, size, took, parser.headers, lines
            )

    # Closing

    def begin_shutdown(self) -> None:
        """Take no further request; close the connection if none is at work."""
        self.last = True
        if self.exchange is None and not self.lingering:
            if send_progress(self.transport) is None:
                self.close()
            else:
                # A further request that comes now must not make the client lose the response before it.
                self.linger()

    def wind_down(self) -> bool:
        """Make the request at work the last one, or the next one if none is; return whether it is still to come."""
        if self.lingering or self.transport.is_closing():
            return False
        if self.exchange is not None:
            self.last = True
            return False
        if self.transport.get_protocol() is self:
            self.transport.set_protocol(LastRequest(self))
        return True

    def close(self) -> None:
        """Close the connection when what was written has been sent."""
        self.bound_closing()
        if not self.transport.is_closing():
            self.transport.close()

    def bound_closing(self) -> None:
        """Limit the time in which the connection must have been closed."""
        self.last = True
        self.lingering = True
        self.received = self.seen = 0
        self._linger_until = self.loop.time() + LINGER_TIME
        self.due_write = self.due_silence = math.inf
        # A client that still has more to take than that is given the time for it.
        self._taken = -math.inf
        self.deadline.move(LINGER)

    def abort(self) -> None:
        """Cut the connection: what was written is incomplete and must not seem complete."""
        self.last = True
        self.lingering = True
        if self.exchange is not None and self.exchange.ends_by_closing:
            reset_on_close(self.transport)
        self.transport.abort()

    def answer(self, status: int, text: str, fields: bytes = b"", *, read: bool = False) -> None:
        """Answer in the application's stead and close; cut the connection if a response has begun.

        Args:
            read: whether the head of the request was read, although there is no exchange.
        """
        exchange = self.exchange
        common = self.server.common_fields
        if (read or exchange is not None) and self.id_line is not None:
            common += self.id_line
        self.last = True
        if exchange is not None:
            begun = exchange.phase >= STREAMING
            exchange.disconnect()
            exchange.protocol = None
            if begun:
                self.note_end(exchange.status, exchange.sent, exchange.header_lines())
                self.abort()
            self.exchange = None
            if begun:
                return
        elif not read:
            # The log is not to name the request before this one.
            self.parser.method = ""
        if self.server.log is not None or self.server.cells is not None:
            self.note_end(status, len(text) + 1)
        self.transport.write(error_response(status, text, common, fields))
        self.linger(sends_on=True)

    def linger(self, sends_on: bool = False) -> None:
        """Close the connection in a way that lets the client read what was written.

        Args:
            sends_on: whether the client may still be sending, although no body is expected.
        """
        sends_on = sends_on or self.body is not None or self.reading_paused
        self.body = None
        self.buffer.clear()
        self.forget_partial_head()
        if self.transport.is_closing():
            self.bound_closing()
            return
        if self.tls is not None and sends_on and not self.eof:
            # asyncio drops what the client has not taken if more comes after TLS's goodbye: so that waits until nothing
            # comes (`_overdue`).
            self.resume_reading()
            self.bound_closing()
            return
        if self.eof or not self.transport.can_write_eof():
            self.close()
            return
        self.resume_reading()
        self.bound_closing()
        try:
            self.transport.write_eof()
        except OSError:
            # asyncio's transport raises if the client has gone unnoticed.
            self.abort()

    def drop(self, data: bytes) -> None:
        """Drop what comes while the connection lingers."""
        self.received += len(data)
        if self.received > LINGER_BYTES:
            self.abort()

    # Reading and writing

    def pause_reading(self) -> None:
        if not self.reading_paused and not self.lingering:
            self.reading_paused = True
            self.transport.pause_reading()
            if self.body is not None:
                # The time that the application takes is not the client's.
                self.due_body -= self.server.deadlines.now
                self.rearm()

    def resume_reading(self) -> None:
        if self.reading_paused:
            self.reading_paused = False
            if self.body is not None:
                self.due_body += self.server.deadlines.now
                self.rearm()
            # The event loop keeps the context that it is called in for as long as it reads.
            self.server.outside.copy().run(self.transport.resume_reading)

    def pause_writing(self) -> None:
        self.paused = True
        taken = send_progress(self.transport)
        self._taken = -math.inf if taken is None else taken
        self.due_write = self.server.deadlines.now + self.server.write_timeout
        self.rearm()

    def resume_writing(self) -> None:
        self.paused = False
        self.due_write = math.inf
        self.wake()
        if self.eof:
            self.expect_progress()
        if self.exchange is not None or self.body is not None:
            self.rearm()
        elif not self.lingering:
            self.idle()

    def expect_progress(self) -> None:
        """Expect the response to go on now that the client will send nothing more.

        RFC 9112 section 9.6: it may have closed its half and wait for the answer. Most that do so have gone, but that
        shows only when something is sent: then the connection is lost. So the application is told that the client has
        gone once it has sent nothing for a while, and what it sends nevertheless is written.
        """
        exchange = self.exchange
        if exchange is not None and not exchange.disconnected:
            self._reported_progress = exchange.progress
            self.due_silence = self.server.deadlines.now + HALF_CLOSED
            self.rearm()

    # Deadlines

    def rearm(self) -> None:
        """Set the connection's deadline to the earliest of those that hold now."""
        due = min(self.due_request, self.due_write, self.due_silence)
        if self.body is not None and not self.reading_paused:
            due = min(due, self._body_due())
        deadline = self.deadline
        deadline.due = due
        if due < deadline.listed:
            deadline.relist()

    def _body_due(self) -> float:
        """Return when the body must be complete: each byte of it buys the time that it takes at `min_rate`."""
        return self.due_body + self.received / self.server.min_rate

    def _overdue(self) -> None:
        """Act on the deadline, or wait for the next one that holds."""
        server = self.server
        now = server.deadlines.now
        exchange = self.exchange
        if self.lingering and self.received > self.seen and self.loop.time() < self._linger_until:
            # The client still sends.
            self.seen = self.received
            self.deadline.move(LINGER)
        elif self.lingering or self.due_write <= now:
            if self.lingering and may_say_goodbye(self.transport):
                self.close()
            else:
                self._check_stalled()
        elif exchange is not None and self.due_request <= now:
            server.timeouts += 1
            self.answer(503, "the request took too long")
            if exchange.instance is not None:
                server.delete_application_instance(exchange)
        elif exchange is not None and self.due_silence <= now:
            self.due_silence = math.inf
            if self.paused or self._reported_progress != exchange.progress:
                self.expect_progress()
            else:
                exchange.disconnect()
                self.rearm()
        elif self.body is not None and not self.reading_paused and self._body_due() <= now:
            server.timeouts += 1
            if self.discarding:
                self.abort()
            else:
                self.answer(408, "the body did not come in time")
        elif exchange is not None or self.body is not None or self.paused:
            self.rearm()
        elif self.buffer:
            server.timeouts += 1
            self.answer(408, "the request did not come in time")
        else:
            self.close()

    def _check_stalled(self) -> None:
        """Cut the connection if the client has taken less than `min_rate` demands since the last check."""
        server = self.server
        taken = send_progress(self.transport)
        if taken is not None and taken - self._taken >= server.min_rate * server.write_timeout:
            # One long message, which the client takes slowly.
            self._taken = taken
            self.due_write = server.deadlines.now + server.write_timeout
            if self.lingering:
                self.deadline.move(server.write_timeout)
            else:
                self.rearm()
            return
        if not self.lingering:
            server.timeouts += 1
        self.abort()

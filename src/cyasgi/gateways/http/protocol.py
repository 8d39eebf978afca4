"""Bytes of an HTTP connection in: heads and bodies of requests, one request at work at a time."""

from __future__ import annotations

import logging
import math

from ...instances.limits import LimitExceeded
from ...wire.http.body import ChunkedBody, LengthBody
from ...wire.http.request import (
    END,
    split_list,
)
from ...wire.http.scope import (
    HTTPError,
    Scope,
    websocket_scope,
)
from .connection import HTTPConnection
from .exchange import Exchange
from .phases import DISCARDED

logger = logging.getLogger("cyasgi.gateways.http")

#: Bytes that wait behind the request at work (pipelined ones) before reading is paused.
PIPELINED = 65_536
#: Bytes of an incomplete head up to which it is read to its end even if there are too many others.
SMALL_HEAD = 4096
#: RFC 9110 section 15.5.22.
UPGRADE_REQUIRED = b"upgrade: websocket\r\nconnection: upgrade\r\n"


class HTTPProtocol(HTTPConnection):
    """The asyncio protocol of a connection. At most one request is at work; what follows it waits unparsed."""

    __slots__ = ()
    exchange_class = Exchange

    # Bytes in

    def _read(self, data: bytes) -> None:
        if self.lingering:
            self.drop(data)
            return
        if self.body is not None:
            self._read_body(data)
            return
        if not self.buffer and self.exchange is None:
            self.seen = 0
        self.buffer += data
        if self.exchange is None and not self.paused:
            self.next()
        elif len(self.buffer) >= PIPELINED:
            self.pause_reading()

    def eof_received(self) -> bool:
        exchange = self.exchange
        if self.lingering or (exchange is None and END not in self.buffer):
            return False
        self.eof = True
        if not self.buffer:
            self.last = True
        # With TLS there are no halves.
        half = self.body is None and self.tls is None
        if exchange is None:
            if not self.paused:
                self._next_later()
        elif half:
            self.expect_progress()
        else:
            exchange.disconnect()
        if half:
            return True
        if exchange is not None:
            # What is sent from now on goes nowhere, whether or not the connection is lost before that.
            exchange.protocol = None
        self.bound_closing()
        return False

    # Heads

    def next(self) -> None:
        """Begin the next request, if it is complete."""
        if self.exchange is not None or self.body is not None or self.lingering or self.paused:
            return
        if self.last:
            self.close()
            return
        try:
            head = self.parser.take(self.buffer, self.seen)
        except HTTPError as error:
            self.refuse(error)
            return
        if head is None:
            self._wait_for_head()
            return
        self.seen = 0
        if self.partial:
            self.forget_partial_head()
        self.begin_request(head)
        if self.eof:
            self.expect_progress()

    def _wait_for_head(self) -> None:
        """Wait for the rest of a head, or for its beginning."""
        if self.eof:
            self.close()
            return
        # Empty lines, which are ignored, begin no request: they must not put off the end of the connection.
        if not self.seen and self.buffer and self.buffer != b"\r":
            self.deadline.move(self.server.header_timeout)
        size = self.seen = len(self.buffer)
        server = self.server
        server.partial_heads += size - self.partial
        self.partial = size
        if server.partial_heads > server.max_partial_heads and size > SMALL_HEAD:
            server.refused += 1
            self.answer(503, "the server is busy", server.retry_after)
            return
        self.resume_reading()

    def _next_later(self) -> None:
        # Not within the step of an application, whose context is not the next request's.
        self.loop.call_soon(self.next, context=self.server.outside)

    def refuse(self, error: HTTPError, *, read: bool = False) -> None:
        """Reject a malformed request."""
        self.server.refused_request(error)
        self.answer(error.status, str(error), read=read)

    # Requests

    def _refuse_instance(self, error: BaseException) -> None:
        """Answer a request for which the server made no instance, or for which an override raised."""
        if isinstance(error, LimitExceeded):
            self.server.refused += 1
            # RFC 6585 section 4.
            self.answer(429, "too many requests", b"retry-after: %d\r\n" % math.ceil(error.retry_after or 1))
        else:
            logger.error("a request could not be begun", exc_info=error)
            self.answer(500, "internal error")

    def _keep(self, rest: bytes) -> None:
        """Keep what came behind a request without a body, unparsed."""
        if rest:
            self._read(rest)
        elif len(self.buffer) >= PIPELINED:
            self.pause_reading()

    def upgrade(self, scope: Scope, rest: bytes) -> bool:
        """Hand the connection over, if it is to become a WebSocket (RFC 6455 section 4.2.1).

        Returns:
            Whether the request was dealt with.
        """
        parser, server = self.parser, self.server
        make = server.websocket_protocol_class
        if make is None or parser.upgrade != b"websocket" or parser.method != "GET" or self.body is not None:
            if server.websockets_only:
                self.answer(426, "this server accepts only WebSockets", UPGRADE_REQUIRED, read=True)
            return server.websockets_only
        found = websocket_scope(scope, split_list(parser.headers, b"sec-websocket-protocol"))
        transport, request, rest = self.transport, parser.request(), rest or bytes(self.buffer)
        self.hand_over()
        protocol = make(server, found, request, rest)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return True

    # Bodies

    def _open_body(self, rest: bytes) -> bool:
        """Expect the body of the request, if it has one.

        Args:
            rest: what came behind the head.

        Returns:
            Whether that is the whole body and nothing more, which then needs no deadline.

        Raises:
            HTTPError: the body is too long.
        """
        parser, server = self.parser, self.server
        if not parser.length and not parser.chunked:
            return False
        limit = self._limit_body = server.max_body_size
        if limit is not None and parser.length > limit:
            raise HTTPError(413, f"the body is longer than {limit} bytes")
        if len(rest) == parser.length and not (parser.chunked or parser.upgrade or server.websockets_only):
            return True
        self.body = ChunkedBody() if parser.chunked else LengthBody(parser.length)
        self.received = 0
        self.discarding = False
        return False

    def _begin_body(self, exchange: Exchange, rest: bytes) -> None:
        # First, since it makes the deadline of a body that was paused an absolute one again.
        self.resume_reading()
        self.due_body = self.server.deadlines.now + self.server.body_timeout
        self.rearm()
        if self.buffer:
            rest = bytes(self.buffer)
            self.buffer.clear()
        if rest:
            self._read_body(rest)
        elif self.parser.expects_continue:
            exchange.expect_continue()
        if self.eof and self.body is not None:
            self.abort()

    def _read_body(self, data: bytes) -> None:
        body = self.body
        assert body is not None
        try:
            data = body.feed(data)
            self.received += len(data)
            if self._limit_body is not None and self.received > self._limit_body:
                raise HTTPError(413, f"the body is longer than {self._limit_body} bytes")
        except HTTPError as error:
            if self.discarding:
                # The request was answered: another response would be taken for the next request's.
                self.server.refused_request(error)
                self.linger()
            else:
                self.refuse(error)
            return
        done = body.done
        if done:
            self.body = None
            self.due_body = math.inf
            self.buffer += body.rest
        exchange = self.exchange
        if self.discarding:
            if done:
                self.idle()
            elif self.received > DISCARDED:
                self.linger()
            return
        if exchange is not None and (data or done):
            exchange.feed(data, not done)
        if done:
            self.rearm()
            if len(self.buffer) >= PIPELINED:
                self.pause_reading()

    def can_discard(self, more: bool) -> bool:
        """Return whether the connection can go on after the response although the request's body is not complete.

        Args:
            more: whether the response is not complete yet.
        """
        body = self.body
        assert body is not None
        if self.exchange is not None and self.exchange.waits_for_continue:
            return False
        if more or isinstance(body, ChunkedBody):
            return True
        return body.remaining <= DISCARDED

    # The end of a response

    def idle(self) -> None:
        self.discarding = False
        self.due_silence = math.inf
        if self.paused:
            # Not before the client has taken the response.
            self.rearm()
            return
        deadline = self.deadline
        server = self.server
        if self.buffer:
            deadline.move(server.header_timeout)
            self._next_later()
            return
        if self.eof:
            self.close()
            return
        deadline.due = due = server.deadlines.now + self.keep_alive_timeout
        if due < deadline.listed:
            deadline.relist()
        if self.reading_paused:
            self.resume_reading()

"""The asyncio protocol of an HTTP connection: requests in, one at a time; their responses out."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import math
import socket
import struct
import sys
from collections import deque
from ssl import DER_cert_to_PEM_cert
from typing import TYPE_CHECKING, Any

from ..._common.guarding import INTERRUPTS
from ...instances.limits import LimitExceeded
from ...wire.address import format_address, from_socket_address
from ...wire.distinguished_name import subject_name
from ...wire.http.body import ChunkedBody, LengthBody
from ...wire.http.request import (
    END,
    HeadParser,
    decode_path,
    split_list,
)
from ...wire.http.scope import (
    HTTPError,
    Scope,
    error_response,
    websocket_scope,
)
from ..access_log import CLIENT_GONE
from ..net.sockets import unsent
from .exchange import STREAMING, Exchange

if TYPE_CHECKING:
    from .server import HTTPServer

logger = logging.getLogger("cyasgi.gateways.http")

#: Bytes that wait behind the request at work (pipelined ones) before reading is paused.
PIPELINED = 65_536
#: Bytes of a head that has come in part, up to which it is heard to its end even if too many others have.
SMALL_HEAD = 4096
#: Bytes of a body that nobody wants, read for the sake of the connection.
DISCARDED = 65_536
PERCENT = ord("%")
#: Seconds for which a connection that was refused something is still read, so that the client gets to see why.
LINGER = 2.0
#: Seconds and bytes for which that goes on while a client still sends: one that writes its whole request before it
#: reads would lose the answer that refuses it.
LINGER_TIME, LINGER_BYTES = 30.0, 268_435_456
#: Seconds without a byte of the response after which a client that has closed its half is taken for one that has gone.
HALF_CLOSED = 2.0
#: RFC 9110 section 15.5.22.
UPGRADE_REQUIRED = b"upgrade: websocket\r\nconnection: upgrade\r\n"


class HTTPProtocol(asyncio.Protocol):
    """A connection. There is one request at work at most; what follows it waits unparsed."""

    __slots__ = (
        "_began",
        "_buffer",
        "_client",
        "_discarding",
        "_due_body",
        "_due_request",
        "_due_silence",
        "_due_write",
        "_eof",
        "_keep_alive",
        "_limit_body",
        "_linger_until",
        "_lingering",
        "_partial",
        "_progress",
        "_reading_paused",
        "_received",
        "_request_timeout",
        "_root_path",
        "_seen",
        "_template",
        "_tls",
        "_unwritten",
        "_waiters",
        "body",
        "deadline",
        "exchange",
        "last",
        "loop",
        "parser",
        "paused",
        "server",
        "transport",
    )
    transport: Any
    deadline: Any
    _client: str
    _keep_alive: float
    _request_timeout: float | None
    _root_path: str
    _template: dict[str, Any]
    _tls: dict[str, Any] | None

    def __init__(self, server: HTTPServer, strict: bool = True) -> None:
        self.server = server
        self.loop = asyncio.get_running_loop()
        self.parser = HeadParser(server.head_limits, strict)
        self.exchange: Exchange | None = None
        #: What is still to come of the body of the request at work, or was not read of the one before.
        self.body: LengthBody | ChunkedBody | None = None
        #: No request is taken after the one at work.
        self.last = False
        #: The transport takes no more for now.
        self.paused = False
        self._buffer = bytearray()
        self._seen = 0
        #: Bytes of it that count among the server's `partial_heads`.
        self._partial = 0
        self._received = 0
        self._discarding = False
        self._lingering = False
        self._linger_until = 0.0
        #: The client will send nothing more.
        self._eof = False
        self._reading_paused = False
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._limit_body: int | None = None
        self._due_request = self._due_body = self._due_write = self._due_silence = math.inf
        #: How far the response was when that deadline was set.
        self._progress = -1
        #: What the transport had to write when its client was last seen to fall behind, in bytes.
        self._unwritten = 0.0
        #: When the request at work began, for the access log.
        self._began = 0.0

    # Beginning and end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        server = self.server
        self._keep_alive = server.keep_alive_timeout
        self._request_timeout = server.request_timeout
        self._root_path = server.root_path
        self.deadline = server.deadlines.at(server.first_byte_timeout, self._overdue)
        server.connection_opened(self)
        tls = transport.get_extra_info("ssl_object")
        self._template = {
            "type": "http",
            "http_version": "1.1",
            "server": _address(transport.get_extra_info("sockname")),
            "client": _address(transport.get_extra_info("peername")),
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
        self._tls = None if tls is None else tls_extension(tls)
        client = self._template["client"]
        self._client = "-" if client is None else format_address(client)
        if server.state is not None:
            self._template["state"] = {}
        if server.stopping:
            self.close()
        elif server.connections_left() < 0:
            server.refused += 1
            self.transport.write(error_response(503, "too many connections", server.common_fields, server.retry_after))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.deadline.cancel()
        self.server.connection_closed(self)
        self.last = True
        self.paused = False
        self._buffer.clear()
        self._no_partial_head()
        exchange, self.exchange = self.exchange, None
        # Before who receives: Starlette's receiver cancels its sender.
        self._wake()
        if exchange is not None:
            exchange.disconnect()
            exchange.protocol = None
            if self.server.log is not None:
                self._log(exchange.status or CLIENT_GONE, exchange.sent)
        self.body = None

    def eof_received(self) -> bool:
        exchange = self.exchange
        if self._lingering or (exchange is None and END not in self._buffer):
            return False
        self._eof = True
        if not self._buffer:
            self.last = True
        # With TLS there are no halves.
        half = self.body is None and self._template["scheme"] == "http"
        if exchange is None:
            if not self.paused:
                self._next_later()
        elif half:
            self._expect_progress()
        else:
            exchange.disconnect()
        if half:
            return True
        if exchange is not None:
            # What is sent from now on goes nowhere, whether the connection is lost before that or after.
            exchange.protocol = None
        self._see_off()
        return False

    def _expect_progress(self) -> None:
        """The client will send nothing more.

        RFC 9112 section 9.6: it may have closed its half and wait for the answer. Most that do so have gone, but that
        cannot be told before something is sent: then the connection is lost. So the application is told that the
        client has gone when it has not sent anything for a while, and what it sends nevertheless is written.
        """
        exchange = self.exchange
        if exchange is not None and not exchange.disconnected:
            self._progress = exchange.progress
            self._due_silence = self.server.deadlines.now + HALF_CLOSED
            self._rearm()

    def begin_shutdown(self) -> None:
        """No further request is taken; a connection without one is closed."""
        self.last = True
        if self.exchange is None and not self._lingering:
            if unsent(self.transport):
                # Another request that comes now must not make the client lose the response before it.
                self._linger()
            else:
                self.close()

    def close(self) -> None:
        """Closes the connection when what was written has left."""
        self._see_off()
        if not self.transport.is_closing():
            self.transport.close()

    def _see_off(self) -> None:
        """The connection is closed, or being closed, in order: that must not take for ever."""
        self.last = True
        self._lingering = True
        self._received = self._seen = 0
        self._linger_until = self.loop.time() + LINGER_TIME
        self._due_write = self._due_silence = math.inf
        # A client that has more to take than that is given the time for it.
        self._unwritten = math.inf
        self.deadline.move(LINGER)

    def abort(self) -> None:
        """Closes the connection at once: what was written is not complete, and must not seem so."""
        self.last = True
        self._lingering = True
        if self.exchange is not None and self.exchange.ends_by_closing:
            reset_on_close(self.transport)
        self.transport.abort()

    def answer(self, status: int, text: str, fields: bytes = b"") -> None:
        """Answers in the application's stead and closes; where a response has begun, the connection is cut."""
        exchange = self.exchange
        self.last = True
        if exchange is not None:
            begun = exchange.phase >= STREAMING
            exchange.disconnect()
            exchange.protocol = None
            if begun:
                self._log(exchange.status, exchange.sent)
                self.abort()
            self.exchange = None
            if begun:
                return
        else:
            # Not the request before this one, for the log.
            self.parser.method = ""
        if self.server.log is not None:
            self._log(status, len(text) + 1)
        self.transport.write(error_response(status, text, self.server.common_fields, fields))
        self._linger()

    def _linger(self) -> None:
        """Closes the connection in a way that lets the client read what was written.

        Bytes that come to a closed socket make the system reset the connection, and the client's system then throws
        away what it has not read yet.
        """
        self.body = None
        self._buffer.clear()
        self._no_partial_head()
        if self.transport.is_closing():
            self._see_off()
            return
        if self._eof or not self.transport.can_write_eof():
            self.close()
            return
        self.resume_reading()
        self._see_off()
        try:
            self.transport.write_eof()
        except OSError:
            # asyncio's raises where the client has gone unseen.
            self.abort()

    # Reading

    def data_received(self, data: bytes) -> None:
        if self.exchange is None and self.body is None and not self._buffer and not self.last and not self.paused:
            end = data.find(END) + 4
            if end > 3 and data[0] > 32:
                if end == len(data):
                    self._begin(data)
                else:
                    self._begin(data[:end], data[end:])
                return
        self._read(data)

    def _read(self, data: bytes) -> None:
        if self._lingering:
            self._received += len(data)
            if self._received > LINGER_BYTES:
                self.abort()
            return
        if self.body is not None:
            self._read_body(data)
            return
        if not self._buffer and self.exchange is None:
            self._seen = 0
        self._buffer += data
        if self.exchange is None and not self.paused:
            self.next()
        elif len(self._buffer) >= PIPELINED:
            self.pause_reading()

    def next(self) -> None:
        """Begins the next request, if it is there."""
        if self.exchange is not None or self.body is not None or self._lingering or self.paused:
            return
        if self.last:
            self.close()
            return
        buffer = self._buffer
        try:
            head = self.parser.take(buffer, self._seen)
        except HTTPError as error:
            self.refuse(error)
            return
        if head is None:
            self._wait_for_head()
            return
        self._seen = 0
        if self._partial:
            self._no_partial_head()
        self._begin(head)
        if self._eof:
            self._expect_progress()

    def _wait_for_head(self) -> None:
        """There is no whole request: nothing, or a part of one."""
        if self._eof:
            self.close()
            return
        # Empty lines, which are ignored, begin no request: they must not put the end of the connection off.
        if not self._seen and self._buffer and self._buffer != b"\r":
            self.deadline.move(self.server.header_timeout)
        size = self._seen = len(self._buffer)
        server = self.server
        server.partial_heads += size - self._partial
        self._partial = size
        if server.partial_heads > server.max_partial_heads and size > SMALL_HEAD:
            server.refused += 1
            self.answer(503, "the server is busy", server.retry_after)
            return
        self.resume_reading()

    def _no_partial_head(self) -> None:
        self.server.partial_heads -= self._partial
        self._partial = 0

    def _next_later(self) -> None:
        # Not from within the step of an application, whose context the next request has nothing to do with.
        self.loop.call_soon(self.next, context=self.server.outside)

    def refuse(self, error: HTTPError) -> None:
        """Answers a request that is none."""
        self.server.refused_request(error)
        self.answer(error.status, str(error))

    def _begin(self, head: bytes, rest: bytes = b"") -> None:
        """Begins a request; what came behind its head is in the buffer, or `rest`."""
        parser = self.parser
        server = self.server
        if server.log is not None:
            self._began = self.loop.time()
        try:
            another = parser.parse(head)
            if parser.length or parser.chunked:
                self._open_body()
        except HTTPError as error:
            self.refuse(error)
            return
        template = self._template
        if another:
            self._describe(template)
        scope = Scope(template)
        scope["headers"] = parser.headers
        # What an application writes into these is no other's business.
        scope["asgi"] = server.asgi.copy()
        extensions: dict[str, Any] = {"http.response.trailers": {}, "http.response.pathsend": {}}
        scope["extensions"] = extensions
        if self._tls is not None:
            extensions["tls"] = copy.deepcopy(self._tls)
        if server.state is not None:
            scope["state"] = server.state.copy()
        if (parser.upgrade or server.websockets_only) and self._upgrade(scope, rest):
            return
        exchange = Exchange(self, parser.version, parser.method == "HEAD", parser.keep_alive, self.body is None)
        scope.connection = exchange
        self.exchange = exchange
        limit = server.max_applications
        try:
            if limit is not None and server._cyasgi_table.size() >= limit and server.refuse_request(scope):
                server.refused += 1
                self.answer(503, "the server is busy", server.retry_after)
                return
            instance = server.get_or_create_application_instance(exchange, scope)
            # With an eager task factory all may be over by now.
            if not instance.ended:
                exchange.begin(instance, server.direct)
        except INTERRUPTS:
            raise
        except BaseException as error:
            self._not_begun(error)
            return
        self.deadline.due = math.inf
        server.requests += 1
        if self._request_timeout is not None:
            self._due_request = server.deadlines.now + self._request_timeout
            self._rearm()
        if self.body is not None:
            self._begin_body(exchange, rest)
        elif rest or self._buffer:
            self._keep(rest)

    def _not_begun(self, error: BaseException) -> None:
        """The server refused to make an instance, or what makes one is overridden and raised."""
        if isinstance(error, LimitExceeded):
            self.server.refused += 1
            # RFC 6585 section 4.
            self.answer(429, "too many requests", b"retry-after: %d\r\n" % math.ceil(error.retry_after or 1))
        else:
            logger.error("a request could not be begun", exc_info=error)
            self.answer(500, "internal error")

    def _keep(self, rest: bytes) -> None:
        """What came behind a request without a body waits, unparsed."""
        if rest:
            self._read(rest)
        elif len(self._buffer) >= PIPELINED:
            self.pause_reading()

    def _describe(self, template: dict[str, Any]) -> None:
        """Writes down what all scopes of this head have in common."""
        parser = self.parser
        path = parser.path
        template["method"] = parser.method
        template["path"] = decode_path(path) if PERCENT in path else path.decode("ascii", "replace")
        template["raw_path"] = path
        template["query_string"] = parser.query
        template["http_version"] = parser.version
        if self._root_path:
            self.server.add_root_path(template)

    def _begin_body(self, exchange: Exchange, rest: bytes) -> None:
        # First, since it makes the deadline of a body that was paused an absolute one again.
        self.resume_reading()
        self._due_body = self.server.deadlines.now + self.server.body_timeout
        self._rearm()
        if self._buffer:
            rest = bytes(self._buffer)
            self._buffer.clear()
        if rest:
            self._read_body(rest)
        elif self.parser.expects_continue:
            exchange.expect_continue()
        if self._eof and self.body is not None:
            self.abort()

    def _open_body(self) -> None:
        parser = self.parser
        limit = self._limit_body = self.server.max_body_size
        if limit is not None and parser.length > limit:
            raise HTTPError(413, f"the body is longer than {limit} bytes")
        self.body = ChunkedBody() if parser.chunked else LengthBody(parser.length)
        self._received = 0
        self._discarding = False

    def _read_body(self, data: bytes) -> None:
        body = self.body
        assert body is not None
        try:
            data = body.feed(data)
            self._received += len(data)
            if self._limit_body is not None and self._received > self._limit_body:
                raise HTTPError(413, f"the body is longer than {self._limit_body} bytes")
        except HTTPError as error:
            if self._discarding:
                # The request was answered: another response would be taken for the next one's.
                self.server.refused_request(error)
                self._linger()
            else:
                self.refuse(error)
            return
        done = body.done
        if done:
            self.body = None
            self._due_body = math.inf
            self._buffer += body.rest
        exchange = self.exchange
        if self._discarding:
            if done:
                self._idle()
            elif self._received > DISCARDED:
                self._linger()
            return
        if exchange is not None and (data or done):
            exchange.feed(data, not done)
        if done:
            self._rearm()
            if len(self._buffer) >= PIPELINED:
                self.pause_reading()

    def can_discard(self, more: bool) -> bool:
        """Whether the connection can go on when the response is complete and the body of the request is not."""
        body = self.body
        assert body is not None
        if self.exchange is not None and self.exchange.waits_for_continue:
            return False
        if more or isinstance(body, ChunkedBody):
            return True
        return body.remaining <= DISCARDED

    def pause_reading(self) -> None:
        if not self._reading_paused and not self._lingering:
            self._reading_paused = True
            self.transport.pause_reading()
            if self.body is not None:
                # The application takes its time: that is not the client's.
                self._due_body -= self.server.deadlines.now
                self._rearm()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if self.body is not None:
                self._due_body += self.server.deadlines.now
                self._rearm()
            # The event loop keeps the context that it is called in for as long as it reads.
            self.server.outside.copy().run(self.transport.resume_reading)

    # The end of a response

    def response_complete(self, exchange: Exchange) -> None:
        """Called by the exchange when all of its response is written."""
        self.exchange = None
        if self.server.log is not None:
            self._log(exchange.status, exchange.sent)
        self._due_request = math.inf
        if not exchange.keep_alive or self.last:
            if self.body is None and not self._buffer:
                self.close()
            else:
                self._linger()
        elif self.body is None:
            if self._buffer or self.paused or self._eof or self._reading_paused:
                self._idle()
            else:
                # As _idle() does, for one call less.
                deadline = self.deadline
                deadline.due = due = self.server.deadlines.now + self._keep_alive
                if due < deadline.listed:
                    deadline.relist()
        elif isinstance(self.body, LengthBody) and self.body.remaining > DISCARDED:
            self._linger()
        else:
            self._discarding = True
            self._received = 0
            self.resume_reading()
            self._due_body = self.server.deadlines.now + self.server.body_timeout
            self._rearm()

    def _log(self, status: int, size: int) -> None:
        log, parser = self.server.log, self.parser
        if log is not None:
            took = self.loop.time() - self._began if self._began else 0.0
            log.add(self._client, parser.method, parser.target, parser.version, status, size, took)
            self._began = 0.0

    def _idle(self) -> None:
        """Request and response are complete."""
        self._discarding = False
        self._due_silence = math.inf
        if self.paused:
            # Not before the client has taken the response.
            self._rearm()
            return
        deadline = self.deadline
        server = self.server
        if self._buffer:
            deadline.move(server.header_timeout)
            self._next_later()
            return
        if self._eof:
            self.close()
            return
        deadline.due = due = server.deadlines.now + self._keep_alive
        if due < deadline.listed:
            deadline.relist()
        if self._reading_paused:
            self.resume_reading()

    # Deadlines

    def _rearm(self) -> None:
        due = min(self._due_request, self._due_write, self._due_silence)
        if self.body is not None and not self._reading_paused:
            due = min(due, self._body_due())
        deadline = self.deadline
        deadline.due = due
        if due < deadline.listed:
            deadline.relist()

    def _body_due(self) -> float:
        """When the body must have come: every byte of it buys the time that it takes at the least rate."""
        return self._due_body + self._received / self.server.min_rate

    def _overdue(self) -> None:
        server = self.server
        now = server.deadlines.now
        if self._lingering and self._received > self._seen and self.loop.time() < self._linger_until:
            # It still sends.
            self._seen = self._received
            self.deadline.move(LINGER)
            return
        if self._lingering or self._due_write <= now:
            left = unsent(self.transport)
            if left and self._unwritten - left >= server.min_rate * server.write_timeout:
                # One long message, which the client takes slowly.
                self._unwritten = left
                self._due_write = now + server.write_timeout
                if self._lingering:
                    self.deadline.move(server.write_timeout)
                else:
                    self._rearm()
                return
            if not self._lingering:
                server.timeouts += 1
            self.abort()
        elif self.exchange is not None and self._due_request <= now:
            exchange = self.exchange
            server.timeouts += 1
            self.answer(503, "the request took too long")
            if exchange.instance is not None:
                self.server.delete_application_instance(exchange)
        elif self.exchange is not None and self._due_silence <= now:
            self._due_silence = math.inf
            if self.paused or self._progress != self.exchange.progress:
                self._expect_progress()
            else:
                self.exchange.disconnect()
                self._rearm()
        elif self.body is not None and not self._reading_paused and self._body_due() <= now:
            self.server.timeouts += 1
            if self._discarding:
                self.abort()
            else:
                self.answer(408, "the body did not come in time")
        elif self.exchange is not None or self.body is not None or self.paused:
            self._rearm()
        elif self._buffer:
            self.server.timeouts += 1
            self.answer(408, "the request did not come in time")
        else:
            self.close()

    # Writing

    def pause_writing(self) -> None:
        self.paused = True
        self._unwritten = unsent(self.transport)
        self._due_write = self.server.deadlines.now + self.server.write_timeout
        self._rearm()

    def resume_writing(self) -> None:
        self.paused = False
        self._due_write = math.inf
        self._wake()
        if self._eof:
            self._expect_progress()
        if self.exchange is not None or self.body is not None:
            self._rearm()
        elif not self._lingering:
            self._idle()

    async def writable(self) -> None:
        """Returns when writing was resumed, or the connection closed. Look again then: others may have been faster."""
        # A future for each: cancelling one who waits must not reach the others.
        future = self.loop.create_future()
        self._waiters.append(future)
        await future

    def _wake(self) -> None:
        while self._waiters:
            future = self._waiters.popleft()
            if not future.done():
                future.set_result(None)

    # Upgrading

    def _upgrade(self, scope: Scope, rest: bytes) -> bool:
        """Hands the connection over, if it is to become a WebSocket (RFC 6455 section 4.2.1)."""
        parser = self.parser
        make = self.server.websocket_protocol_class
        if make is None or parser.upgrade != b"websocket" or parser.method != "GET" or self.body is not None:
            if self.server.websockets_only:
                self.answer(426, "this server serves WebSockets alone", UPGRADE_REQUIRED)
            return self.server.websockets_only
        found = websocket_scope(scope, split_list(parser.headers, b"sec-websocket-protocol"))
        server, transport, request, rest = self.server, self.transport, parser.request(), rest or bytes(self._buffer)
        self._hand_over()
        protocol = make(server, found, request, rest)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return True

    def _hand_over(self) -> None:
        """The transport is another protocol's from now on."""
        self.deadline.cancel()
        self.server.connection_closed(self)
        self._buffer.clear()
        self._lingering = True


def reset_on_close(transport: Any) -> None:
    """Has the system reset a TCP connection when it is closed, so that its end is no orderly one."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def tls_extension(tls: Any) -> dict[str, Any]:
    """What ASGI's extension ``tls`` tells of a connection."""
    certificate = tls.getpeercert(binary_form=True)
    version = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}.get(tls.version())
    cipher = tls.cipher()
    number = None
    if cipher is not None:
        found = [one["id"] & 0xFFFF for one in tls.context.get_ciphers() if one["name"] == cipher[0]]
        number = found[0] if found else None
    return {
        "server_cert": None,
        "client_cert_chain": [] if certificate is None else [DER_cert_to_PEM_cert(certificate)],
        "client_cert_name": None if certificate is None else subject_name(certificate),
        "client_cert_error": None,
        "tls_version": version,
        "cipher_suite": number,
    }


def _address(address: Any) -> tuple[str, int | None] | None:
    """A socket's address as ASGI has it: (path, None) for Unix sockets, None for one that has no name."""
    if isinstance(address, tuple) and len(address) >= 2:
        return address if len(address) == 2 else from_socket_address(address)
    if isinstance(address, bytes):
        address = address.decode("utf-8", "surrogateescape")
    return (address, None) if address else None

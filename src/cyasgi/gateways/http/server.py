"""HTTP: requests in, one application instance for each, responses out, over TCP, TLS and Unix sockets."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from importlib import import_module
from typing import Any, ClassVar

from ..._settings import Boolean, Integer
from ...core import Setting
from ...core.settings import ROOT_PATH
from ...wire.http.request import HeadLimits, encode_path
from ...wire.http.scope import (
    ASGI,
    HTTPError,
    Scope,
)
from ...wire.proxy.header import ProxyHeader
from ..access_formats import AccessLogFormat
from ..access_log import make_access_log
from ..connections import SECONDS, SECONDS_OR_NONE, ConnectionGateway
from ..net.proxies import USUAL, ForwardedHeaders, Names
from ..net.sockets import (
    HTTP_SCHEMES,
    Bind,
    Listener as Listener,
    ListenError as ListenError,
)
from .bounds import AccessLogBound, RequestIdHeader, ResponseHeaders, ServerHeader
from .port import RequestLog
from .protocol import HTTPProtocol
from .proxied import ProxiedProtocol

logger = logging.getLogger("cyasgi.gateways.http")


class _WebSocketProtocolClass:
    """Imports the protocol when it is first asked for, the one place where HTTP reaches for WebSockets.

    The library `websockets` is needed only then.
    """

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        try:
            return import_module("..websocket.protocol", __package__).WebSocketProtocol
        except ModuleNotFoundError as error:
            if error.name != "websockets":
                raise
            return None


class HTTPServer(ConnectionGateway):
    """Serve an ASGI application over HTTP/1.1 and HTTP/1.0, on TCP, TLS and Unix sockets.

    Each request is an application instance of its own. At `max_applications` a new request is answered 503; override
    `refuse_request` for any other rule.

    Args:
        application: the ASGI application, for scopes of the types ``http`` and ``lifespan``.
        max_applications: most requests at a time. None: no limit.
        binds: what to listen on, each (host, port), a string as ``"127.0.0.1:8000"``, ``"[::1]:8000"``, ``":8000"``
            (all interfaces) or ``"unix:/run/app.sock"``, a bound socket, ``"fd://3"`` for an inherited one, or a
            `Listener` of any of these, which may have TLS and strictness of its own. Port 0: a free one.
        ssl: an `ssl.SSLContext` for all listeners that have none of their own; None for no TLS.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value; the message says which and what is accepted.
    """

    #: Messages waiting for one instance, at most; what comes then waits in the socket, with reading paused.
    max_queue_size = Setting[int](1, Integer(1))

    #: Bytes of the request target, at most; a longer one is answered 414.
    max_target_size = Setting[int](8190, Integer(1))
    #: Bytes of all header lines of a request, at most; more are answered 431.
    max_header_size = Setting[int](65_536, Integer(1))
    #: Headers of a request, at most; more are answered 431.
    max_header_count = Setting[int](100, Integer(1))
    #: Bytes of incomplete heads on all connections together, at most; beyond, those over 4 KiB are answered 503.
    max_partial_heads = Setting[int](16_777_216, Integer(1))
    #: Bytes of the body of a request, at most; a longer one is answered 413. None: no limit.
    max_body_size = Setting[int | None](None, Integer(0, none="no limit"))

    #: Seconds from the first byte of a request to the end of its headers.
    header_timeout = Setting[float](10.0, SECONDS)
    #: Seconds from the end of the headers to the end of the body, and one more for each `min_rate` bytes of it. Time in
    #: which the application does not take what has arrived does not count.
    body_timeout = Setting[float](60.0, SECONDS)
    #: Seconds from the end of the headers to the end of the response; then the request is answered 503, and its
    #: application is cancelled. None: no limit.
    request_timeout = Setting[float | None](None, SECONDS_OR_NONE)
    #: Seconds for which a connection is kept open for another request.
    keep_alive_timeout = Setting[float](5.0, SECONDS)

    #: Write a line for each response, and for each WebSocket when it ends: to standard output (True), or to an object
    #: with ``write(str)``.
    access_log = Setting[Any](False, AccessLogBound())
    #: The format of these lines: "json", or Apache's directives, as in ``%h %t "%r" %>s %B %D``; None for the Common
    #: Log Format, followed by the duration.
    access_log_format = Setting[str | None](None, AccessLogFormat())
    #: Reject RFC violations even where parsing is unambiguous, see `cyasgi.wire.http.request.HeadParser`.
    strict = Setting[bool](True, Boolean())
    #: The path that the application is mounted at (ASGI's ``root_path``); it is put before the path of every request.
    root_path = Setting[str]("", ROOT_PATH)
    #: Whether `forwarded_headers` of requests are read, where they come from `forwarded_allow_ips`: then the client,
    #: the scheme, the server and the root path of scopes are what these say.
    proxy_headers = Setting[bool](False, Boolean())
    #: The headers that these proxies set, or remove: ``x-forwarded-for``, ``-proto``, ``-host``, ``-port`` and
    #: ``-prefix``, or ``forwarded`` (RFC 7239). One that a proxy lets through says what the client wants it to say.
    forwarded_headers = Setting[Names](USUAL, ForwardedHeaders())
    #: The value of the Server header; None for none.
    server_header = Setting[str | None]("cyasgi", ServerHeader())
    #: Whether responses have a Date header (RFC 9110 section 6.6.1).
    date_header = Setting[bool](True, Boolean())
    #: Further headers of every response, pairs of bytes. A Date or Server among them takes the place of the usual one.
    headers = Setting[tuple[tuple[bytes, bytes], ...]]((), ResponseHeaders())
    #: The header that has the id of a request, as in ``x-request-id``, which one without it is given; None: no ids.
    request_id_header = Setting[str | None](None, RequestIdHeader())
    #: Whether an application whose client has gone before the response was complete is cancelled; otherwise it receives
    #: ``http.disconnect``, and goes on.
    cancel_on_disconnect = Setting[bool](False, Boolean())

    #: Bytes of a message to a WebSocket after decompression, at most; a longer one closes it with 1009. None: no limit.
    max_websocket_message_size = Setting[int | None](1_048_576, Integer(1, none="no limit"))
    #: Messages that wait for the application of one WebSocket, at most, or 64 KiB of them: then no more are read.
    max_websocket_queue = Setting[int](32, Integer(1))
    #: Seconds for the application to accept or refuse a WebSocket; then it is answered 504.
    websocket_handshake_timeout = Setting[float](10.0, SECONDS)
    #: Seconds for the client to answer a close frame before the connection is cut.
    websocket_close_timeout = Setting[float](10.0, SECONDS)
    #: Seconds between pings; None for none.
    websocket_ping_interval = Setting[float | None](20.0, SECONDS_OR_NONE)
    #: Seconds after a ping within which something must come, and within which the client must take something of what is
    #: sent; otherwise the connection is cut. None: no limit.
    websocket_ping_timeout = Setting[float | None](20.0, SECONDS_OR_NONE)
    #: Whether messages are compressed (permessage-deflate) for clients that ask for it.
    websocket_compression = Setting[bool](True, Boolean())

    #: The protocol that WebSockets are handed to; None: they are requests like any others. By default
    #: `cyasgi.gateways.websocket.protocol.WebSocketProtocol` where the library `websockets` is installed.
    websocket_protocol_class: Any = _WebSocketProtocolClass()
    #: What is copied into every scope as ``scope["asgi"]``.
    asgi: dict[str, str] = ASGI
    #: Whether requests that do not ask for a WebSocket are answered 426.
    websockets_only: ClassVar[bool] = False

    schemes: ClassVar[tuple[str, str]] = HTTP_SCHEMES
    logger: ClassVar[logging.Logger] = logger
    #: Addresses listened on when `binds` is not given.
    default_binds: ClassVar[tuple[tuple[str, int], ...]] = (("127.0.0.1", 8000),)

    #: Header lines of an answer that says to come back later.
    retry_after: ClassVar[bytes] = b"retry-after: 1\r\n"

    def __init__(
        self,
        application: Any,
        max_applications: int | None = 1000,
        *,
        binds: Bind | Iterable[Bind] | None = None,
        ssl: Any = None,
    ) -> None:
        super().__init__(application, max_applications, binds, ssl)
        #: The access log in use, if there is one.
        self.log: RequestLog | None = None
        #: Header lines of every response as of now, each with CRLF before it.
        self.common_fields = b""
        self.head_limits = HeadLimits()
        self.requests = self.websockets = self.bad_requests = 0
        #: Bytes of incomplete heads, on all connections together.
        self.partial_heads = 0
        self._second = 0

    # What subclasses override.

    def refuse_request(self, scope: Scope) -> bool:
        """Return whether a request is answered 503 when there are `max_applications`; otherwise it evicts another one.

        Called for each request and WebSocket then. `StatelessServer` says which instance is evicted.
        """
        return True

    # Starting and stopping.

    def _prepare(self) -> None:
        if self.websocket_protocol_class is None:
            logger.info("WebSockets are not served: that needs the library websockets, pip install 'cyasgi[websocket]'")
        self.head_limits = HeadLimits(self.max_target_size, self.max_header_size, self.max_header_count)
        stream = sys.stdout if self.access_log is True else self.access_log
        self.log = make_access_log(stream, self.access_log_format, self.request_id_header) if stream else None

    def make_protocol(self, listener: Listener) -> Callable[..., asyncio.Protocol]:
        strict = self.strict if listener.strict is None else listener.strict

        def protocol(header: ProxyHeader | None = None) -> HTTPProtocol:
            if header is None and not self.proxy_headers:
                return HTTPProtocol(self, strict)
            return ProxiedProtocol(self, strict, header)

        return protocol

    async def hand_over(self) -> None:
        await super().hand_over()
        await self._wind_down(min(self.shutdown_timeout, self.keep_alive_timeout))

    async def _after_run(self) -> None:
        try:
            await super()._after_run()
        finally:
            if self.log is not None:
                self.log.flush()

    # For the connections.

    def connection_upgraded(self, connection: Any) -> None:
        """Take on a connection that was handed over by another protocol, and was counted with that."""
        self.connections.add(connection)

    def refused_request(self, error: HTTPError) -> None:
        """Count a malformed request."""
        self.bad_requests += 1

    def add_root_path(self, scope: dict[str, Any]) -> None:
        """Put the root path before the path of a scope."""
        # The connection's, which the scope has: the setting may have changed since.
        root_path = scope["root_path"]
        scope["path"] = root_path + scope["path"]
        scope["raw_path"] = encode_path(root_path) + scope["raw_path"]

    def common_fields_without(self, date: int, server: int) -> bytes:
        """Return `common_fields` for a response that has a Date, or a Server, of its own."""
        lines = (date, self._date_field), (server, self._server_field), (False, self._further_fields)
        return b"".join(line for given, line in lines if not given)

    def _tick(self) -> None:
        """Keep the date, and write the access log; called at each tick of `deadlines`."""
        super()._tick()
        second = int(time.time())
        if self.log is not None:
            self.log.tick(second)
        if second != self._second:
            self._second = second
            fields = {b"date": b"", b"server": b""}
            if self.date_header:
                fields[b"date"] = b"\r\ndate: " + formatdate(second, usegmt=True).encode()
            if self.server_header is not None:
                fields[b"server"] = b"\r\nserver: " + self.server_header.encode()
            further = []
            for name, value in self.headers:
                line = b"\r\n%b: %b" % (name.lower(), value)
                if name.lower() in fields:
                    fields[name.lower()] = line
                else:
                    further.append(line)
            self._date_field, self._server_field = fields.values()
            self._further_fields = b"".join(further)
            self.common_fields = self._date_field + self._server_field + self._further_fields

    def stats(self) -> dict[str, int]:
        """Return the snapshot of `StatelessServer.stats`, with the counts of connections and requests.

        * ``connections``: now open
        * ``connections_total``, ``requests``, ``websockets``: begun since the server was made
        * ``refused``: requests and connections refused for want of room
        * ``bad_requests``: malformed requests
        * ``timeouts``: requests and clients that took too long
        * ``proxy_refused``: connections closed for want of a header of the PROXY protocol from a trusted proxy
        """
        return {
            **super().stats(),
            "connections": len(self.connections),
            "connections_total": self.connections_total,
            "requests": self.requests,
            "websockets": self.websockets,
            "refused": self.refused,
            "bad_requests": self.bad_requests,
            "timeouts": self.timeouts,
            "proxy_refused": self.proxy_refused,
        }

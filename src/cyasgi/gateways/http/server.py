"""HTTP: requests in, one application instance for each, responses out, over TCP, TLS and Unix sockets."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Iterable
from email.utils import formatdate
from importlib import import_module
from typing import Any, ClassVar

from ..._settings import (
    Boolean,
    Choice,
    Integer,
    Number,
    Permissions,
)
from ...core import Setting
from ...core.context import outside
from ...core.settings import ROOT_PATH, STARTUP_TIMEOUT as STARTUP_TIMEOUT_BOUND
from ...instances.connected import ConnectedManager
from ...server import StatelessServer
from ...wire.http.request import HeadLimits, encode_path
from ...wire.http.scope import (
    ASGI,
    HTTPError,
    Scope,
)
from ...wire.proxy.header import ProxyHeader
from ..access_formats import AccessLogFormat
from ..access_log import make_access_log
from ..base import Gateway
from ..lifespan import (
    MODES,
    STARTUP_TIMEOUT,
    Lifespan,
)
from ..net.accepting import Accepting, PlainListening
from ..net.capacity import ConnectionCapacity
from ..net.deadlines import Deadlines
from ..net.proxies import LOCAL, USUAL, ForwardedHeaders, Names, TrustedProxies, trusted_proxies
from ..net.sockets import (
    Bind,
    Listener as Listener,
    ListenError as ListenError,
    Listening,
    check_listeners,
    open_listener,
)
from ..net.tls import TLSListening
from .bounds import AccessLogBound, RequestIdHeader, ResponseHeaders, ServerHeader
from .last_request import wind_down
from .port import RequestLog
from .protocol import HTTPProtocol
from .proxied import ProxiedProtocol

logger = logging.getLogger("cyasgi.gateways.http")

#: Passes of the event loop that it takes to accept a connection and to abort it.
LAST_PASSES = 5
#: The largest backlog of a socket that the system takes: a C int.
LARGEST_BACKLOG = 2_147_483_647

SECONDS = Number("number of seconds")
SECONDS_OR_NONE = Number("number of seconds", none="no limit")


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


class HTTPServer(Gateway):
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
    #: Connections at a time, at most; further ones are answered 503 and closed. Fewer if the limit of open files is
    #: lower.
    max_connections = Setting[int](10_000, Integer(1))

    #: Seconds from the beginning of a connection to its first byte; with TLS, to the first byte of the handshake, and
    #: from its end to the first byte of a request.
    first_byte_timeout = Setting[float](10.0, SECONDS)
    #: Seconds for the TLS handshake, from the client's first byte.
    tls_handshake_timeout = Setting[float](10.0, SECONDS)
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
    #: Stall timeout: every `write_timeout` seconds a slow client must drain the buffer or read at least `write_timeout`
    #: × `min_rate` bytes.
    write_timeout = Setting[float](60.0, SECONDS)
    #: Bytes a second that a client must send, or take, on average; slower ones are cut off.
    min_rate = Setting[int](1024, Integer(1))

    #: Write a line for each response, and for each WebSocket when it ends: to standard output (True), or to an object
    #: with ``write(str)``.
    access_log = Setting[Any](False, AccessLogBound())
    #: The format of these lines: "json", or Apache's directives, as in ``%h %t "%r" %>s %B %D``; None for the Common
    #: Log Format, followed by the duration.
    access_log_format = Setting[str | None](None, AccessLogFormat())
    #: Reject RFC violations even where parsing is unambiguous, see `cyasgi.wire.http.request.HeadParser`.
    strict = Setting[bool](True, Boolean())
    #: Whether the application takes part in the lifespan protocol: "on", "off", or "auto" to find out.
    lifespan = Setting[str]("auto", Choice(MODES))
    #: Seconds that the application may take to start; None for no limit.
    startup_timeout = Setting[float | None](STARTUP_TIMEOUT, STARTUP_TIMEOUT_BOUND)
    #: The path that the application is mounted at (ASGI's ``root_path``); it is put before the path of every request.
    root_path = Setting[str]("", ROOT_PATH)
    #: Whether `forwarded_headers` of requests are read, where they come from `forwarded_allow_ips`: then the client,
    #: the scheme, the server and the root path of scopes are what these say.
    proxy_headers = Setting[bool](False, Boolean())
    #: The proxies that are believed: addresses, networks, ``unix`` for clients of Unix sockets, ``unix:PATH`` for those
    #: of one, ``"*"`` for everybody; in a tuple, or in a string with commas between them.
    forwarded_allow_ips = Setting[Names](LOCAL, TrustedProxies())
    #: The headers that these proxies set, or remove: ``x-forwarded-for``, ``-proto``, ``-host``, ``-port`` and
    #: ``-prefix``, or ``forwarded`` (RFC 7239). One that a proxy lets through says what the client wants it to say.
    forwarded_headers = Setting[Names](USUAL, ForwardedHeaders())
    #: Whether connections begin with a header of the PROXY protocol, version 1 or 2; those of anybody but
    #: `forwarded_allow_ips`, and those without a header within `first_byte_timeout`, are closed.
    proxy_protocol = Setting[bool](False, Boolean())
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
    #: Connections that the system keeps for a listener until they are accepted.
    backlog = Setting[int](2048, Integer(1, LARGEST_BACKLOG))
    #: Permissions of Unix sockets, whatever the umask. Whoever may write to one may connect: by default everybody whom
    #: the directory lets through, such as a proxy of another user.
    unix_permissions = Setting[int](0o666, Permissions())

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
        self.__dict__["_cyasgi"] = manager = ConnectedManager(StatelessServer)
        self.__dict__["_cyasgi_table"] = manager.table
        super().__init__(application, max_applications)
        self.binds: list[Listener] = check_listeners(self.default_binds if binds is None else binds, ssl)
        #: All open connections.
        self.connections: set[Any] = set()
        self.deadlines = Deadlines(self._tick)
        #: The access log in use, if there is one.
        self.log: RequestLog | None = None
        #: What the application's lifespan wrote into its state; every scope gets a shallow copy. None, if the server
        #: runs no lifespan, for no such key; whoever runs the lifespan in the server's stead sets this.
        self.state: dict[str, Any] | None = None
        #: Whether all listeners are open.
        self.serving = False
        #: Whether no new connection is served.
        self.stopping = False
        #: Whether `application_send` is not overridden, so that messages need not pass through it.
        self.direct = True
        self._look_for_overrides()
        #: A context that belongs to no application, for whatever is not begun by one.
        self.outside = outside()
        #: Header lines of every response as of now, each with CRLF before it.
        self.common_fields = b""
        self.head_limits = HeadLimits()
        #: Return how many instances there are.
        self.count_instances = manager.table.size
        self.requests = self.websockets = self.refused = self.timeouts = self.bad_requests = self.connections_total = 0
        self.proxy_refused = 0
        #: Bytes of incomplete heads, on all connections together.
        self.partial_heads = 0
        self._sockets: list[Listening] = []
        self._second = 0
        self._capacity = ConnectionCapacity()
        self._accepting: list[asyncio.AbstractServer | Accepting] = []
        #: Whether the event loop accepts connections by itself.
        self._loop_accepts = False
        self._all_closed: asyncio.Future[None] | None = None

    # What subclasses override.

    def refuse_request(self, scope: Scope) -> bool:
        """Return whether a request is answered 503 when there are `max_applications`; otherwise it evicts another one.

        Called for each request and WebSocket then. `StatelessServer` says which instance is evicted.
        """
        return True

    # Starting and stopping.

    def _open_sockets(self, bind: Listener) -> list[Listening]:
        return open_listener(bind, self.unix_permissions)

    def _adopt(self, bind: Listener, sock: socket.socket) -> Listening:
        return Listening(bind, sock, owned=False)

    def _socket_address(self, sock: Listening) -> tuple[str, int | None]:
        return sock.address

    async def handle(self) -> None:
        """Start the application, listen until cancelled, and close the connections."""
        self.bind()
        self.stopping = False
        self._look_for_overrides()
        self.outside = outside()
        if self.websocket_protocol_class is None:
            logger.info("WebSockets are not served: that needs the library websockets, pip install 'cyasgi[websocket]'")
        self.head_limits = HeadLimits(self.max_target_size, self.max_header_size, self.max_header_count)
        stream = sys.stdout if self.access_log is True else self.access_log
        self.log = make_access_log(stream, self.access_log_format, self.request_id_header) if stream else None
        await self._lifespan.startup(self.startup_timeout)
        loop = asyncio.get_running_loop()
        servers = self._accepting = []
        try:
            self._loop_accepts = False
            self._capacity.begin(self.connections, self.max_connections)
            for listening in self._sockets:
                listening.listen(self.backlog)
                servers.append(await self._listen(loop, listening.sock, listening.listener))
                logger.log(self._listening_level, "listening on %s", listening)
            self.serving = True
            self.announce_started()
            await loop.create_future()
        finally:
            self.serving = False
            self.stopping = True
            self._capacity.end_accepting()
            for server in servers:
                server.close()
            self._capacity.end()
            await self._close_connections()

    async def _listen(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, listener: Listener
    ) -> asyncio.AbstractServer | Accepting:
        strict = self.strict if listener.strict is None else listener.strict
        proxied = self.proxy_protocol if listener.proxy_protocol is None else listener.proxy_protocol
        trusted = trusted_proxies(self.forwarded_allow_ips) if proxied else None

        def protocol(header: ProxyHeader | None = None) -> HTTPProtocol:
            if header is None and not self.proxy_headers:
                return HTTPProtocol(self, strict)
            return ProxiedProtocol(self, strict, header)

        try:
            if listener.ssl is not None:
                return TLSListening(self, sock, listener, protocol, trusted)
            if trusted is not None or isinstance(loop, asyncio.SelectorEventLoop):
                return PlainListening(self, sock, protocol, trusted)
        except NotImplementedError:
            if trusted is not None:
                raise ListenError(f"the PROXY protocol needs an event loop that can watch sockets: {loop!r}") from None
        self._loop_accepts = True
        # The event loop closes the socket, but leaves the path; asyncio's accepts no second one on a path.
        if sock.family == getattr(socket, "AF_UNIX", None):
            kept: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
            return await loop.create_unix_server(protocol, sock=sock, ssl=listener.ssl, backlog=self.backlog, **kept)
        return await loop.create_server(protocol, sock=sock, ssl=listener.ssl, backlog=self.backlog)

    async def hand_over(self) -> None:
        await super().hand_over()
        self.serving = False
        self._capacity.end_accepting()
        await wind_down(self._accepting, self.connections, min(self.shutdown_timeout, self.keep_alive_timeout))

    async def _close_connections(self) -> None:
        """Let the requests in progress finish, within `shutdown_timeout`, and close all connections."""
        run = self._cyasgi.server_run
        graceful = run is not None and run.graceful
        for connection in list(self.connections):
            connection.begin_shutdown()
        try:
            if graceful and self.connections:
                self._all_closed = asyncio.get_running_loop().create_future()
                await asyncio.wait({self._all_closed}, timeout=self.shutdown_timeout)
        finally:
            self._all_closed = None
            left = list(self.connections)
            if graceful and left:
                connections = "1 connection was" if len(left) == 1 else f"{len(left)} connections were"
                logger.warning("%s cut with work in hand when the server stopped", connections)
            for connection in left:
                connection.abort()
            if left:
                # Their instances have had their time too.
                for entry in self._cyasgi.table.entries():
                    self._cyasgi.dismiss(self, entry)

    def _before_run(self) -> None:
        self._lifespan = Lifespan(self.application, self.lifespan)
        if self.lifespan != "off":
            self.state = self._lifespan.state

    async def _after_run(self) -> None:
        """Stop the application and close what is left.

        Raises:
            LifespanError: the application failed to stop.
        """
        try:
            await self._lifespan.shutdown(self.shutdown_timeout)
        finally:
            self.close()
            for _ in range(LAST_PASSES):
                # Connections that were being accepted when the listeners were closed.
                for connection in list(self.connections):
                    connection.abort()
                await asyncio.sleep(0)
            self.deadlines.close()
            if self.log is not None:
                self.log.flush()

    def _look_for_overrides(self) -> None:
        self._cyasgi.note_overrides(self)
        self.direct = (
            type(self).application_send is HTTPServer.application_send and "application_send" not in self.__dict__
        )

    # For the connections.

    def connection_opened(self, connection: Any) -> None:
        """Count a connection that begins."""
        self.connections.add(connection)
        self.connections_total += 1

    def connection_closed(self, connection: Any) -> None:
        """Forget a connection that has ended, or has been handed to another protocol."""
        self.connections.discard(connection)
        if self._all_closed is not None and not self.connections and not self._all_closed.done():
            self._all_closed.set_result(None)

    def connection_upgraded(self, connection: Any) -> None:
        """Take on a connection that was handed over by another protocol, and was counted with that."""
        self.connections.add(connection)

    def connections_left(self) -> float:
        """Return how many more connections may be open; below 0 if there are too many."""
        return min(self.max_connections - len(self.connections), self._capacity.left())

    def cannot_accept(self, error: OSError) -> None:
        """Log that the system has nothing left for another connection, in one line a second at most."""
        self._capacity.lacking(error)

    def refused_request(self, error: HTTPError) -> None:
        """Count a malformed request."""
        self.bad_requests += 1

    def application_send(self, scope: Any, message: Any) -> Any:
        """Send a message of the application of this scope.

        Returns:
            An awaitable, done when the client takes more.

        Raises:
            TypeError, ValueError: the message is malformed.
            RuntimeError: another type of message is expected.
            OSError: the client has gone.
        """
        return scope.connection.application_send(scope, message)

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
        if self._loop_accepts:
            self._capacity.look_for_lack()
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

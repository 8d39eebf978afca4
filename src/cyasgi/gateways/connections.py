"""What servers of connections have in common: accepting, counting and closing them, and the application's lifespan."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar

from .._settings import Boolean, Choice, Integer, Number, Permissions
from ..core import Setting
from ..core.context import outside
from ..core.settings import STARTUP_TIMEOUT as STARTUP_TIMEOUT_BOUND
from ..instances.connected import ConnectedManager
from ..server import StatelessServer
from .base import Gateway
from .lifespan import MODES, STARTUP_TIMEOUT, Lifespan
from .net.accepting import Accepting, PlainListening
from .net.capacity import ConnectionCapacity
from .net.deadlines import Deadlines
from .net.proxies import LOCAL, Names, TrustedProxies, trusted_proxies
from .net.sockets import Listener, ListenError, Listening, check_listeners, open_listener
from .net.tls import TLSListening

#: Passes of the event loop that it takes to accept a connection and to abort it, or to begin it.
LAST_PASSES = 5
#: Seconds between two looks at connections that wind down.
SWEEP = 0.02
#: The largest backlog of a socket that the system takes: a C int.
LARGEST_BACKLOG = 2_147_483_647

SECONDS = Number("number of seconds")
SECONDS_OR_NONE = Number("number of seconds", none="no limit")


class ConnectionGateway(Gateway):
    """A gateway of connections, on TCP, TLS and Unix sockets.

    A subclass defines `make_protocol`; its connections tell the server when they begin and end, by `connection_opened`
    and `connection_closed`, and have `begin_shutdown`, `wind_down` and `abort`.
    """

    #: Connections at a time, at most; further ones are refused and closed. Fewer if the limit of open files is lower.
    max_connections = Setting[int](10_000, Integer(1))
    #: Seconds from the beginning of a connection to its first byte; with TLS, to the first byte of the handshake, and
    #: from its end to the first byte of what comes by it. None: no limit.
    first_byte_timeout = Setting[float | None](10.0, SECONDS_OR_NONE)
    #: Seconds for the TLS handshake, from the client's first byte.
    tls_handshake_timeout = Setting[float](10.0, SECONDS)
    #: Stall timeout: every `write_timeout` seconds a slow client must drain the buffer or read at least `write_timeout`
    #: × `min_rate` bytes.
    write_timeout = Setting[float](60.0, SECONDS)
    #: Bytes a second that a client must send, or take, on average; slower ones are cut off.
    min_rate = Setting[int](1024, Integer(1))
    #: Whether the application takes part in the lifespan protocol: "on", "off", or "auto" to find out.
    lifespan = Setting[str]("auto", Choice(MODES))
    #: Seconds that the application may take to start; None for no limit.
    startup_timeout = Setting[float | None](STARTUP_TIMEOUT, STARTUP_TIMEOUT_BOUND)
    #: The proxies that are believed: addresses, networks, ``unix`` for clients of Unix sockets, ``unix:PATH`` for those
    #: of one, ``"*"`` for everybody; in a tuple, or in a string with commas between them.
    forwarded_allow_ips = Setting[Names](LOCAL, TrustedProxies())
    #: Whether connections begin with a header of the PROXY protocol, version 1 or 2; those of anybody but
    #: `forwarded_allow_ips`, and those without a header within `first_byte_timeout`, are closed.
    proxy_protocol = Setting[bool](False, Boolean())
    #: Connections that the system keeps for a listener until they are accepted.
    backlog = Setting[int](2048, Integer(1, LARGEST_BACKLOG))
    #: Permissions of Unix sockets, whatever the umask. Whoever may write to one may connect: by default everybody whom
    #: the directory lets through, such as a proxy of another user.
    unix_permissions = Setting[int](0o666, Permissions())

    #: What logs call listeners without TLS, and with it.
    schemes: ClassVar[tuple[str, str]]
    #: Addresses listened on when `binds` is not given.
    default_binds: ClassVar[tuple[tuple[str, int], ...]]
    #: Where it is logged what is listened on.
    logger: ClassVar[logging.Logger]

    def __init__(self, application: Any, max_applications: int | None, binds: Any, ssl: Any) -> None:
        self.__dict__["_cyasgi"] = manager = ConnectedManager(StatelessServer)
        self.__dict__["_cyasgi_table"] = manager.table
        super().__init__(application, max_applications)
        self.binds: list[Listener] = check_listeners(self.default_binds if binds is None else binds, ssl)
        #: All open connections.
        self.connections: set[Any] = set()
        self.deadlines = Deadlines(self._tick)
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
        #: Return how many instances there are.
        self.count_instances = manager.table.size
        self.refused = self.timeouts = self.connections_total = 0
        self.proxy_refused = 0
        self._sockets: list[Listening] = []
        self._capacity = ConnectionCapacity()
        self._accepting: list[asyncio.AbstractServer | Accepting] = []
        #: Whether the event loop accepts connections by itself.
        self._loop_accepts = False
        self._all_closed: asyncio.Future[None] | None = None

    # What subclasses define.

    def make_protocol(self, listener: Listener) -> Callable[..., asyncio.Protocol]:
        """Return what makes the protocol of a connection, called with a PROXY header if there is one."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """Prepare what connections need, before the application starts."""

    # Starting and stopping.

    def _open_sockets(self, bind: Listener) -> list[Listening]:
        return open_listener(bind, self.unix_permissions, schemes=self.schemes)

    def _adopt(self, bind: Listener, sock: Any) -> Listening:
        return Listening(bind, sock, owned=False, schemes=self.schemes)

    def _socket_address(self, sock: Listening) -> tuple[str, int | None]:
        return sock.address

    async def handle(self) -> None:
        """Start the application, listen until cancelled, and close the connections."""
        self.bind()
        self.stopping = False
        self._look_for_overrides()
        self.outside = outside()
        self._prepare()
        await self._lifespan.startup(self.startup_timeout)
        loop = asyncio.get_running_loop()
        servers = self._accepting = []
        try:
            self._loop_accepts = False
            self._capacity.begin(self.connections, self.max_connections)
            for listening in self._sockets:
                listening.listen(self.backlog)
                servers.append(await self._listen(loop, listening))
                self.logger.log(self._listening_level, "listening on %s", listening)
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
        self, loop: asyncio.AbstractEventLoop, listening: Listening
    ) -> asyncio.AbstractServer | Accepting:
        sock, listener = listening.sock, listening.listener
        proxied = self.proxy_protocol if listener.proxy_protocol is None else listener.proxy_protocol
        trusted = trusted_proxies(self.forwarded_allow_ips) if proxied else None
        protocol = self.make_protocol(listener)
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
        if listening.is_unix:
            kept: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
            return await loop.create_unix_server(protocol, sock=sock, ssl=listener.ssl, backlog=self.backlog, **kept)
        return await loop.create_server(protocol, sock=sock, ssl=listener.ssl, backlog=self.backlog)

    async def _wind_down(self, seconds: float) -> None:
        """Accept no more connections, and have each one that there is take no more than is on its way.

        Returns when `wind_down` of no connection says that something is to come, or after so many seconds.
        """
        self.serving = False
        self._capacity.end_accepting()
        accepting = [one for one in self._accepting if isinstance(one, Accepting)]
        for one in self._accepting:
            if isinstance(one, Accepting):
                one.stop_accepting()
            else:
                one.close()
        for _ in range(LAST_PASSES):
            # Connections that the event loop has accepted by now begin.
            await asyncio.sleep(0)
        until = time.monotonic() + seconds
        for _ in range(math.ceil(seconds / SWEEP)):
            to_come = [connection.wind_down() for connection in list(self.connections)]
            if not any(to_come) and not any(one.beginning for one in accepting):
                break
            if time.monotonic() > until:
                break
            await asyncio.sleep(SWEEP)

    async def _close_connections(self) -> None:
        """Let the work in progress finish, within `shutdown_timeout`, and close all connections."""
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
                self.logger.warning("%s cut with work in hand when the server stopped", connections)
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

    def _look_for_overrides(self) -> None:
        self._cyasgi.note_overrides(self)
        own = type(self).application_send is ConnectionGateway.application_send
        self.direct = own and "application_send" not in self.__dict__

    def _tick(self) -> None:
        """Look for what happens in time; called at each tick of `deadlines`."""
        if self._loop_accepts:
            self._capacity.look_for_lack()

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

    def connections_left(self) -> float:
        """Return how many more connections may be open; below 0 if there are too many."""
        return min(self.max_connections - len(self.connections), self._capacity.left())

    def cannot_accept(self, error: OSError) -> None:
        """Log that the system has nothing left for another connection, in one line a second at most."""
        self._capacity.lacking(error)

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

"""UDP: datagrams in, one application instance for each client, datagrams out.

The scope and the messages are described in `cyasgi.wire.datagram`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Hashable, Iterable
from typing import Any, ClassVar

from ..._settings import Integer
from ...core import SENT, Setting
from ...server import StatelessServer
from ...wire.address import (
    check_address,
    format_address,
    from_socket_address,
    to_socket_address,
)
from ...wire.datagram import MAX_DATA, parse_send
from ..base import Gateway
from ..net.sockets import (
    ListenError as ListenError,
    check_binds,
    open_datagram_sockets,
)
from .endpoint import AnyEndpoint, Endpoint
from .scope import DatagramScope as DatagramScope
from .traffic import COUNTERS as COUNTERS, Traffic

logger = logging.getLogger("cyasgi.gateways.datagram")


def _size_changed(server: Any) -> None:
    """Apply a change of `max_datagram_size` to the sockets that are open already."""
    for endpoint in server.__dict__.get("endpoints", ()):
        endpoint.set_limit(server.max_datagram_size)


class DatagramServer(Gateway):
    """Serve an ASGI application over UDP, IPv4 and IPv6.

    Each client address has an application instance of its own; override `scope_id` for any other rule. Datagrams wait
    in the instance's queue; when it is full the newest is dropped and counted. An application that sends faster than
    the network takes waits in ``send``.

    A server bound to every interface (``":9999"``) answers from whatever address the system chooses, as UDP does;
    clients that accept answers only from the address they asked (``dig`` does) need a server bound to that address.

    Args:
        application: the ASGI application, for scopes of the type ``datagram`` (see `cyasgi.wire.datagram`).
        max_applications: most instances at a time; a further client pushes out an instance. None: no limit.
        binds: addresses to listen on, each (host, port) or a string as ``"127.0.0.1:9999"``, ``"[::1]:9999"``,
            ``"localhost:9999"`` (every address that the name has) or ``":9999"`` (every interface). Port 0: a free one.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value; the message says which and what is accepted.
    """

    #: Datagrams waiting for one instance, at most.
    max_queue_size = 1024

    #: The longest payload passed on, in bytes (1 to 65,535); longer datagrams are dropped and counted.
    max_datagram_size = Setting[int](65_535, Integer(1, 65_535), _size_changed)

    #: Addresses listened on when `binds` is not given.
    default_binds: ClassVar[tuple[tuple[str, int], ...]] = (("127.0.0.1", 9999),)

    def __init__(
        self,
        application: Any,
        max_applications: int | None = 1000,
        *,
        binds: str | tuple[str, int] | Iterable[str | tuple[str, int]] | None = None,
    ) -> None:
        super().__init__(application, max_applications)
        self.binds: list[tuple[str, int]] = check_binds(self.default_binds if binds is None else binds)
        #: One for each socket while the server runs.
        self.endpoints: list[Endpoint] = []
        self._sockets: list[socket.socket] = []
        self._traffic = Traffic(self.endpoints)

    # What subclasses override.

    def scope_id(self, data: bytes, client: tuple[str, int]) -> Hashable:
        """Return the id of the instance that is to receive this datagram; None drops the datagram.

        By default that is `client`, or (`client`, address of the server) if the server listens on several addresses of
        one family: an answer must come from the address that was asked. An override may give datagrams of many clients,
        or of several listeners, to one instance: each message names the client that it came from and the server's
        address, and the answer has to name them too. If it raises, the datagram is dropped and counted, and the error
        is logged.
        """
        return client

    # Starting and stopping.

    def _open_sockets(self, bind: tuple[str, int]) -> list[socket.socket]:
        return open_datagram_sockets(*bind)

    def _socket_address(self, sock: socket.socket) -> tuple[str, int]:
        return from_socket_address(sock.getsockname())

    def close(self) -> None:
        self._traffic.settle()
        endpoints = self.endpoints.copy()
        self.endpoints.clear()
        for endpoint in endpoints:
            endpoint.abort()
            del endpoint.spare  # it refers to the endpoint in turn
        super().close()

    async def handle(self) -> None:
        """Listen until cancelled.

        Raises:
            OSError: a socket was lost.
        """
        self.bind()
        loop = asyncio.get_running_loop()
        lost_socket = self._traffic.lost_socket = loop.create_future()
        try:
            for sock in self._sockets:
                _, endpoint = await loop.create_datagram_endpoint(self._endpoint_factory(sock), sock=sock)
                logger.info("listening on udp %s", format_address(endpoint.server_address))
            self.announce_started()
            await lost_socket
        finally:
            for endpoint in self.endpoints:
                endpoint.stop_reading()
            if self._traffic.creations:
                await asyncio.wait(self._traffic.creations, timeout=self.shutdown_timeout)

    async def _after_run(self) -> None:
        endpoints = self.endpoints
        for endpoint in endpoints:
            endpoint.close()
        waiting = [endpoint.gone for endpoint in endpoints if endpoint.open]
        try:
            if waiting:
                # What the system has not taken yet is sent, within `shutdown_timeout`.
                await asyncio.wait(waiting, timeout=self.shutdown_timeout)
                left = sum(endpoint.open for endpoint in endpoints)
                if left:
                    sockets = "1 socket was" if left == 1 else f"{left} sockets were"
                    logger.warning("%s closed with datagrams that the system had not taken yet", sockets)
        finally:
            self.close()

    def _endpoint_factory(self, sock: socket.socket) -> Callable[[], Endpoint]:
        own_id = self._overrides("scope_id", DatagramServer)
        own_create = self._overrides("get_or_create_application_instance", StatelessServer)
        by_listener = not own_id and sum(other.family == sock.family for other in self._sockets) > 1
        plain = sock.family == socket.AF_INET and not (own_id or own_create or by_listener)

        def make() -> Endpoint:
            if plain:
                endpoint = Endpoint(self, self._traffic, sock)
            else:
                endpoint = AnyEndpoint(self, self._traffic, sock, by_listener, own_create)
            self.endpoints.append(endpoint)
            return endpoint

        return make

    def _overrides(self, name: str, base: type) -> bool:
        return name in vars(self) or getattr(type(self), name) is not getattr(base, name)

    # Sending.

    def application_send(self, scope: Any, message: Any) -> Any:
        """Send the datagram of a ``datagram.send`` message.

        Returns:
            An awaitable, done when the system has taken the datagram.

        Raises:
            TypeError, ValueError: the message is malformed; see `cyasgi.wire.datagram.parse_send`.
        """
        # The usual message goes straight out; `_send` takes all others.
        if (
            type(message) is dict
            and len(message) == 2
            and message.get("type") == "datagram.send"
            and type(data := message.get("data")) is bytes
            and 0 < len(data) <= MAX_DATA
            and type(scope) is DatagramScope
            and not (endpoint := scope.endpoint).paused
        ):
            endpoint.sent += 1
            endpoint.transport.sendto(data, scope.address)
            return SENT
        return self._send(scope, message)

    async def _send(self, scope: Any, message: Any) -> None:
        data, client, server = parse_send(message)
        endpoint, address = self._route(scope, client, server)
        while endpoint.paused and endpoint.open:
            await endpoint.writable()
        endpoint.send(data, address)

    def _route(
        self, scope: Any, client: tuple[str, int] | None, server: tuple[str, int] | None
    ) -> tuple[Endpoint, tuple[Any, ...]]:
        """Return the endpoint and the socket address to send a message by."""
        ours = type(scope) is DatagramScope
        if server is None and ours:
            endpoint = scope.endpoint
        else:
            server = server or check_address(scope["server"], "'server' of the scope")
            for endpoint in self.endpoints:
                if endpoint.server_address == server:
                    break
            else:
                raise ValueError(f"this server has no socket on {format_address(server)}")
        if client is None and ours and scope.endpoint.family == endpoint.family:
            return endpoint, scope.address
        client = client or check_address(scope["client"], "'client' of the scope")
        return endpoint, to_socket_address(client, endpoint.family)

    def stats(self) -> dict[str, int]:
        """Return the snapshot of `StatelessServer.stats`, with the counts of datagrams since the server was made.

        * ``datagrams_received``: all that came, also those that were then dropped
        * ``datagrams_sent``: handed to the system
        * ``dropped_queue_full``: the instance had `max_queue_size` waiting
        * ``dropped_oversized``: longer than `max_datagram_size`
        * ``dropped_refused``: `scope_id` returned None or raised, or no instance could be made
        * ``dropped_limited``: a limit of `ManagedServer` was reached
        * ``dropped_own``: the sender's address was that of a UDP socket of this process; answers would go in circles
        * ``dropped_stopping``: came after the server was told to stop
        * ``socket_errors``: refused or reported by the system, or sent when the socket was closed

        All losses but those that `scope_id` asks for are logged, in one line a second at most.
        """
        return {**super().stats(), **self._traffic.count()}

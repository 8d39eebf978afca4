"""UDP: datagrams in, one application instance for each client, datagrams out.

The scope and the messages are described in `cyasgi.wire.datagram`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Hashable, Iterable
from functools import partial
from typing import Any, ClassVar

from ..._settings import Boolean, Integer
from ...core import Setting
from ...server import StatelessServer
from ...serving.listeners import listening
from ...wire.address import (
    check_address,
    format_address,
    from_socket_address,
    to_socket_address,
)
from ...wire.datagram import parse_send
from ..base import Gateway
from ..net.datagram_sockets import (
    LARGEST_BUFFER,
    Groups,
    Interface,
    SocketOptions,
    ask_for_destinations,
    check_datagram_binds,
    lost_groups,
    open_datagram_sockets,
)
from ..net.own_addresses import ANY
from ..net.proxies import LOCAL, Names, TrustedProxies, trusted_proxies
from ..net.sockets import ListenError as ListenError
from . import batches
from .batches import (
    BatchTransport,
    DatagramScope as DatagramScope,
    application_send,
    source_of,
)
from .endpoint import Endpoint
from .proxied import ProxiedEndpoint
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

    An answer leaves from the address that was asked. On Linux that is so for a server bound to every interface
    (``":9999"``) too; elsewhere such a server answers from whatever address the system chooses, so that clients that
    insist on the address they asked (``dig`` does) need a server bound to that address.

    Args:
        application: the ASGI application, for scopes of the type ``datagram`` (see `cyasgi.wire.datagram`).
        max_applications: most instances at a time; a further client pushes out an instance. None: no limit.
        binds: addresses to listen on, each (host, port) or a string as ``"127.0.0.1:9999"``, ``"[::1]:9999"``,
            ``"localhost:9999"`` (every address that the name has) or ``":9999"`` (every interface). Port 0: a free one.
            Also a bound UDP `socket.socket`, or ``"fd://3"`` for a descriptor that the process has inherited: the
            server duplicates it, and the original stays its owner's.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value; the message says which and what is accepted.
    """

    #: Datagrams waiting for one instance, at most.
    max_queue_size = 1024

    #: The longest payload passed on, in bytes (1 to 65,535); longer datagrams are dropped and counted.
    max_datagram_size = Setting[int](65_535, Integer(1, 65_535), _size_changed)

    #: The receive buffer of each socket, in bytes, which holds what the server has not read yet; None for the system's
    #: default. The system may give less: that is logged. Like the following ones it counts when sockets are opened.
    receive_buffer = Setting[int | None](None, Integer(1, LARGEST_BUFFER, none="the system's default"))

    #: Whether other sockets, of this process or of others of this user, may be bound to the same addresses: the system
    #: then spreads clients over them (SO_REUSEPORT).
    reuse_port = Setting[bool](False, Boolean())

    #: Whether datagrams may be sent to broadcast addresses.
    allow_broadcast = Setting[bool](False, Boolean())

    #: Multicast groups to join, as ``("239.1.2.3", "ff02::fb")``. Their datagrams reach a socket that is bound to every
    #: interface, or to the group itself.
    multicast_groups = Setting[tuple[str, ...] | list[str]]((), Groups())

    #: The interface on which groups are joined, and by which datagrams to groups leave; None for the system's choice.
    multicast_interface = Setting[str | None](None, Interface())

    #: Whether each datagram begins with a header of the PROXY protocol, version 2, and comes from one of
    #: `forwarded_allow_ips`; others are dropped and counted. Clients are those that the header names.
    proxy_protocol = Setting[bool](False, Boolean())

    #: The proxies that are believed: addresses, networks, ``"*"`` for everybody; in a tuple, or in a string with commas
    #: between them.
    forwarded_allow_ips = Setting[Names](LOCAL, TrustedProxies())

    #: Addresses listened on when `binds` is not given.
    default_binds: ClassVar[tuple[tuple[str, int], ...]] = (("127.0.0.1", 9999),)

    def __init__(
        self,
        application: Any,
        max_applications: int | None = 1000,
        *,
        binds: str | tuple[str, int] | socket.socket | Iterable[str | tuple[str, int] | socket.socket] | None = None,
    ) -> None:
        super().__init__(application, max_applications)
        self.binds: list[Any] = check_datagram_binds(self.default_binds if binds is None else binds)
        #: One for each socket while the server runs.
        self.endpoints: list[Endpoint] = []
        self._sockets: list[socket.socket] = []
        self._traffic = Traffic(self.endpoints)

    # What subclasses override.

    def scope_id(self, data: bytes, client: tuple[str, int]) -> Hashable:
        """Return the id of the instance that is to receive this datagram; None drops the datagram.

        By default that is `client`, or (`client`, address of the server) if the server has several addresses of one
        family, several in `binds` or, on Linux, every interface: an answer must come from the address that was asked.
        An override may give datagrams of many clients, or of several listeners, to one instance: each message names the
        client that it came from and the server's address, and the answer has to name them too. If it raises, the
        datagram is dropped and counted, and the error is logged.
        """
        return client

    # Starting and stopping.

    def bind(self) -> list[Any]:
        was_open = bool(self._sockets)
        addresses = super().bind()
        if not was_open and (lost := lost_groups(self._sockets, self.multicast_groups)):
            self.close()
            raise ListenError(
                f"no socket can receive from the multicast group {lost[0]}: it takes one that is bound to every "
                "interface, or to the group"
            )
        return addresses

    @property
    def socket_options(self) -> SocketOptions:
        """The options that sockets are opened with, as the attributes are now."""
        return SocketOptions(
            receive_buffer=self.receive_buffer,
            reuse_port=self.reuse_port,
            broadcast=self.allow_broadcast,
            multicast_groups=tuple(self.multicast_groups),
            multicast_interface=self.multicast_interface,
        )

    def _open_sockets(self, bind: Any) -> list[socket.socket]:
        return open_datagram_sockets(bind, self.socket_options)

    def _adopt(self, bind: Any, sock: socket.socket) -> socket.socket:
        return sock

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
                endpoint = self._make_endpoint(sock)
                if batches.IN_BATCHES:
                    await listening(self._open_batches)(loop, endpoint)
                else:
                    await loop.create_datagram_endpoint(lambda opened=endpoint: opened, sock=sock)  # type: ignore[misc]
                logger.log(self._listening_level, "listening on udp %s", format_address(endpoint.server_address))
            self.announce_started()
            await lost_socket
        finally:
            for endpoint in self.endpoints:
                if self.inherited:
                    endpoint.hand_over()
                else:
                    endpoint.stop_reading()
            if self._traffic.creations:
                await asyncio.wait(self._traffic.creations, timeout=self.shutdown_timeout)

    async def hand_over(self) -> None:
        await super().hand_over()
        for endpoint in self.endpoints:
            endpoint.hand_over()

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

    async def _open_batches(self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint) -> BatchTransport:
        asks = ask_for_destinations(endpoint.sock)
        transport = BatchTransport(loop, endpoint, self._traffic.buffers, asks)
        endpoint.connection_made(transport)
        return transport

    def _make_endpoint(self, sock: socket.socket) -> Endpoint:
        make = partial(ProxiedEndpoint, trusted=trusted_proxies(self.forwarded_allow_ips))
        endpoint = (make if self.proxy_protocol else Endpoint)(
            self,
            self._traffic,
            sock,
            own_id=self._overrides("scope_id", DatagramServer),
            own_create=self._overrides("get_or_create_application_instance", StatelessServer),
            # Several sockets of one address are one listener, which worker processes share.
            by_listener=len({other.getsockname() for other in self._sockets if other.family == sock.family}) > 1,
        )
        self.endpoints.append(endpoint)
        return endpoint

    def _overrides(self, name: str, base: type) -> bool:
        return name in vars(self) or getattr(type(self), name) is not getattr(base, name)

    # Sending.

    # A function of what is compiled, if anything is.
    application_send = application_send

    async def _send(self, scope: Any, message: Any) -> None:
        data, client, server = parse_send(message)
        endpoint, address, source = self._route(scope, client, server)
        while endpoint.paused and endpoint.open:
            await endpoint.writable()
        endpoint.send(data, address, source)

    def _route(
        self, scope: Any, client: tuple[str, int] | None, server: tuple[str, int] | None
    ) -> tuple[Endpoint, tuple[Any, ...], bytes | None]:
        """Return the endpoint and the socket address to send a message by, and where it is to leave from."""
        ours = type(scope) is DatagramScope
        source: bytes | None = None
        if server is None and ours:
            endpoint, source = scope.endpoint, scope.source
        else:
            server = server or check_address(scope["server"], "'server' of the scope")
            endpoint, source = self._listening_on(server)
        if client is None and ours and scope.endpoint.family == endpoint.family:
            return endpoint, scope.address, source
        client = client or check_address(scope["client"], "'client' of the scope")
        return endpoint, endpoint.socket_address(client), source

    def _listening_on(self, server: tuple[str, int]) -> tuple[Endpoint, bytes | None]:
        """Return the endpoint for this address of the server, and what datagrams have to leave from for that."""
        for endpoint in self.endpoints:
            if endpoint.server_address == server:
                return endpoint, None
        for endpoint in self.endpoints:
            host, port = endpoint.server_address
            if port == server[1] and host in ANY and batches.IN_BATCHES:
                try:
                    return endpoint, source_of(to_socket_address(server, endpoint.family), endpoint.family)
                except ValueError:
                    continue
        raise ValueError(f"this server has no socket on {format_address(server)}")

    def stats(self) -> dict[str, int]:
        """Return the snapshot of `StatelessServer.stats`, with the counts of datagrams since the server was made.

        * ``datagrams_received``: all that came, also those that were then dropped
        * ``datagrams_sent``: handed to the system
        * ``dropped_queue_full``: the instance had `max_queue_size` waiting
        * ``dropped_oversized``: longer than `max_datagram_size`
        * ``dropped_refused``: `scope_id` returned None or raised, or no instance could be made
        * ``dropped_limited``: a limit of `ManagedServer` was reached
        * ``dropped_table_full``: of a new client at `max_applications`, under the eviction policy "refuse"
        * ``dropped_own``: the sender's address was that of a UDP socket of this process; answers would go in circles
        * ``dropped_proxy``: no header of the PROXY protocol, or not from a trusted proxy
        * ``dropped_stopping``: came after the server was told to stop
        * ``dropped_by_system``: on Linux, dropped before the server could read them, mostly since the receive buffer of
          the socket was full
        * ``socket_errors``: refused or reported by the system, or sent when the socket was closed

        All losses but those that `scope_id` asks for are logged, in one line a second at most.
        """
        return {**super().stats(), **self._traffic.count()}

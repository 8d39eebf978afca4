"""Sockets whose datagrams come by a proxy, with a header of the PROXY protocol, version 2, at the head of each."""

from __future__ import annotations

from typing import Any

from ...wire.address import from_socket_address
from ...wire.proxy.header import MAX_V2, ProxyHeaderError, read_datagram
from ...wire.proxy.trust import Trusted
from ..net.own_addresses import OWN_PORTS
from .batches import Asked, DatagramScope
from .endpoint import Endpoint

#: Clients of which it is remembered where their last datagram came from.
MAX_ROUTES = 65_536
#: No payload is longer.
LARGEST_PAYLOAD = 65_535


class ProxiedEndpoint(Endpoint):
    """A socket of the server behind proxies.

    What is for a client is sent, without a header, to the proxy's socket that its last datagram came from.
    """

    __slots__ = ("longest", "routes", "trusted", "unproxied")
    trusted: Trusted

    def __init__(self, *arguments: Any, trusted: Trusted, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.trusted = trusted
        self.unproxied = 0
        #: The proxy's socket address for each client, the one that was heard of last at the end.
        self.routes: dict[tuple[str, int], Any] = {}
        self.plain = False
        self.custom = True
        #: Bytes of a payload, at most; `limit` is that of a datagram.
        self.longest = 0
        self.set_limit(self.server.max_datagram_size)

    def set_limit(self, limit: int) -> None:
        self.longest = limit
        super().set_limit(min(limit + MAX_V2, LARGEST_PAYLOAD))

    def receive(self, data: bytes, addr: Any, asked: Asked | None, client: tuple[str, int] | None = None) -> Any:
        self.received += 1
        if (len(data) > self.limit or not addr or addr[1] in OWN_PORTS) and self.drops(addr, len(data)):
            return None
        try:
            if not self.trusted.has_host(addr[0]):
                raise ProxyHeaderError("not from a trusted proxy")
            header, size = read_datagram(data)
        except ProxyHeaderError:
            self.unproxied += 1
            self.traffic.lost()
            return None
        if len(data) - size > self.longest:
            self.oversized += 1
            self.traffic.lost()
            return None
        host, port = header.client or ("", None)
        # Else the proxy speaks for itself, or for somebody who has no such address.
        client = from_socket_address(addr) if port is None else (host, port)
        routes = self.routes
        moved = routes.pop(client, None) != addr
        routes[client] = addr
        if len(routes) > MAX_ROUTES:
            del routes[next(iter(routes))]
        instance = super().receive(data[size:], addr, asked, client)
        if moved and instance is not None:
            self.follow(instance, client, addr)
        return instance

    def follow(self, instance: Any, client: tuple[str, int], addr: Any) -> None:
        scope = instance.scope
        if type(scope) is DatagramScope and scope.endpoint is self and scope.get("client") == client:
            scope.address = addr

    def socket_address(self, client: tuple[str, int]) -> tuple[Any, ...]:
        address: tuple[Any, ...] | None = self.routes.get(client)
        if address is None:
            raise ValueError(f"{client!r} is nobody for whom a proxy has sent a datagram lately")
        return address

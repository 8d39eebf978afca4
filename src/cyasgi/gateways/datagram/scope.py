"""The scope of a datagram instance, which knows the way back to its client."""

from __future__ import annotations

from typing import Any, Protocol

from ...wire.datagram import scope_fields


class AnsweringEndpoint(Protocol):
    """The endpoint that datagrams of a scope came in by, as whatever answers them knows it."""

    server_address: tuple[str, int]
    family: int
    #: Whether a sender has to wait, or to look twice.
    paused: bool
    transport: Any
    #: Datagrams that were sent.
    sent: int


class DatagramScope(dict[str, Any]):
    """A scope that remembers its endpoint and its client's socket address, whatever the application writes into it."""

    __slots__ = ("address", "endpoint")
    #: The client's address as sockets have it.
    address: tuple[Any, ...]

    def __init__(self, endpoint: AnsweringEndpoint) -> None:
        super().__init__(scope_fields(endpoint.server_address, None))
        self.endpoint = endpoint

    def fill_in(self, client: tuple[str, int], address: tuple[Any, ...]) -> None:
        """Set the client, once the scope is used."""
        self["client"] = client
        self.address = address

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, deep copy or pickle is a plain dict: a socket has no place in it.
        return dict, (dict(self),)

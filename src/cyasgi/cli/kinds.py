"""Kinds of servers, and options that set an attribute of some of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from .._settings import Bound

#: The server for each kind of listener.
SERVERS = {
    "http": ("cyasgi.gateways.http", "HTTPServer"),
    "websocket": ("cyasgi.gateways.websocket", "WebSocketServer"),
    "udp": ("cyasgi.gateways.datagram", "DatagramServer"),
    "tcp": ("cyasgi.gateways.stream", "StreamServer"),
}
ALL = tuple(SERVERS)
WEB = ("http", "websocket")
UDP = ("udp",)
TCP = ("tcp",)
#: Those that have connections.
CONNECTIONS = (*WEB, *TCP)


#: Leaves an attribute at the server's own value.
OWN = object()


class Limit(NamedTuple):
    """An option that sets an attribute of some kinds of servers, with that attribute's default."""

    #: The documented name, and after it uvicorn's.
    names: tuple[str, ...]
    attribute: str
    metavar: str
    text: str
    kinds: tuple[str, ...] = WEB
    #: What is accepted; None for what the servers' attribute accepts.
    bound: Bound | None = None


class Switch(NamedTuple):
    """An option that is on or off, and sets an attribute of some kinds of servers."""

    #: The names that turn it on and off.
    names: tuple[str, str]
    attribute: str
    text: str
    #: The attribute's value when the option is on and off.
    values: tuple[Any, Any] = (True, False)
    kinds: tuple[str, ...] = WEB
    #: The name of its value in `Options`, where another option sets the same attribute of other kinds of servers.
    key: str | None = None

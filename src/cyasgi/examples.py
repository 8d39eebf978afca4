"""Small ASGI applications to start with: ``cyasgi serve --udp 127.0.0.1:9999 cyasgi.examples:echo``."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def _datagrams_only(scope: Scope) -> None:
    # What the ASGI specification asks of an application that is given a scope it does not know.
    if scope["type"] != "datagram":
        raise ValueError(f"this application serves datagrams alone, not {scope['type']!r}")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends back what it receives (RFC 862)."""
    _datagrams_only(scope)
    while True:
        message = await receive()
        await send({"type": "datagram.send", "data": message["data"]})


async def counter(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the number of datagrams received from this client so far: it has an instance of its own."""
    _datagrams_only(scope)
    count = 0
    while True:
        await receive()
        count += 1
        await send({"type": "datagram.send", "data": b"%d\n" % count})


async def daytime(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers every datagram with the time in UTC (RFC 867)."""
    _datagrams_only(scope)
    while True:
        await receive()
        await send({"type": "datagram.send", "data": time.strftime("%Y-%m-%dT%H:%M:%SZ\r\n", time.gmtime()).encode()})


async def discard(scope: Scope, receive: Receive, send: Send) -> None:
    """Receives and says nothing (RFC 863)."""
    _datagrams_only(scope)
    while True:
        await receive()

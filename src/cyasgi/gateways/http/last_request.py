"""The end of connections whose server has handed over its sockets: each takes one more request, as the last one."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from typing import Any, Protocol

from ..net.accepting import Accepting

#: Passes of the event loop that it takes to begin a connection.
LAST_PASSES = 5
#: Seconds between two looks at connections.
SWEEP = 0.02


class Connection(Protocol):
    """An `HTTPConnection`, as this knows it."""

    transport: Any
    exchange: Any
    last: bool
    lingering: bool

    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class LastRequest(asyncio.Protocol):
    """Stands between a transport and its connection until a request begins, which it makes the last one.

    So connections that go on need not look for the end of their server at each request.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def data_received(self, data: bytes) -> None:
        connection = self._connection
        connection.data_received(data)
        if connection.exchange is not None or connection.lingering:
            if connection.exchange is not None:
                connection.last = True
            if connection.transport.get_protocol() is self:
                connection.transport.set_protocol(connection)

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()


async def wind_down(listening: Iterable[Any], connections: set[Any], seconds: float) -> None:
    """Accept no more connections, and have each one that there is take no more than one further request.

    A connection that is idle is not closed at once, since a request may be on its way. Returns when no connection waits
    for its last request, or after so many seconds.

    Args:
        listening: `Accepting` objects, and servers of the event loop.
        connections: those of the server, as they are at any time.
    """
    accepting = [one for one in listening if isinstance(one, Accepting)]
    for one in listening:
        if isinstance(one, Accepting):
            one.stop_accepting()
        else:
            one.close()
    for _ in range(LAST_PASSES):
        # Connections that the event loop has accepted by now begin.
        await asyncio.sleep(0)
    until = time.monotonic() + seconds
    for _ in range(math.ceil(seconds / SWEEP)):
        to_come = [connection.wind_down() for connection in list(connections)]
        if not any(to_come) and not any(one.beginning for one in accepting):
            break
        if time.monotonic() > until:
            break
        await asyncio.sleep(SWEEP)

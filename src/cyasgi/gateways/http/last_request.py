"""The end of connections whose server has handed over its sockets: each takes one more request, as the last one."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol


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

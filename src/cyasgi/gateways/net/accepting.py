"""Accepting connections without the event loop's own code, which fails where file descriptors run out.

When no descriptor is left for a connection, asyncio's loop logs that 2,048 times and tries again as often, each second,
and serves nobody meanwhile. Here accepting pauses for a moment, and one line a second at most is logged.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from contextvars import Context
from typing import Protocol

from .deadlines import Deadlines

logger = logging.getLogger("cyasgi.gateways.accepting")

#: Connections accepted in one pass of the loop.
ACCEPTED = 100
#: Seconds until the system is asked again after it could not give a connection.
PAUSE = 1.0

#: Errors of a connection that has gone by now (Linux's accept(2), "Error handling"): other connections may be fine.
GONE = {
    number
    for name in (
        "ECONNABORTED",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENETDOWN",
        "ENETUNREACH",
        "ENONET",
        "ENOPROTOOPT",
        "EOPNOTSUPP",
        "EPERM",
        "EPROTO",
        "ETIMEDOUT",
    )
    if (number := getattr(errno, name, None)) is not None
}


class ConnectionServer(Protocol):
    """A server, as whatever accepts its connections knows it."""

    deadlines: Deadlines
    #: A context that belongs to no application, for what none has started.
    outside: Context
    #: Connections and requests refused for want of room.
    refused: int

    @property
    def first_byte_timeout(self) -> float: ...
    @property
    def tls_handshake_timeout(self) -> float: ...

    def connections_left(self) -> float:
        """Return how many more connections may be open; below 0 if there are too many."""

    def cannot_accept(self, error: OSError) -> None:
        """Log that the system has nothing left for another connection."""


class Accepting:
    """Accepts the connections of one socket until `close`. Subclasses define what becomes of them.

    Raises:
        NotImplementedError: the event loop cannot watch sockets (asyncio's for Windows).
    """

    def __init__(self, server: ConnectionServer, sock: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._server = server
        self._sock = sock
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(sock, self._accept)

    @property
    def closed(self) -> bool:
        return self._sock.fileno() < 0

    def close(self) -> None:
        """Stop listening and close the socket."""
        if self.closed:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def begin(self, sock: socket.socket) -> None:
        """Take on a connection that was accepted."""
        raise NotImplementedError

    def _accept(self) -> None:
        for _ in range(ACCEPTED):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in GONE:
                    continue
                self._suspend(error)
                return
            sock.setblocking(False)
            self.begin(sock)

    def _suspend(self, error: OSError) -> None:
        """Accept nothing for a moment: the system has nothing left for another connection."""
        self._server.cannot_accept(error)
        self._loop.remove_reader(self._sock)
        self._pause = self._loop.call_later(PAUSE, self._resume, context=self._server.outside)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock, self._accept)


class PlainListening(Accepting):
    """Accepts connections without TLS."""

    def __init__(self, server: ConnectionServer, sock: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        super().__init__(server, sock, protocol)
        #: Kept here because the loop refers to its tasks only weakly.
        self._beginning: set[asyncio.Task[None]] = set()

    def begin(self, sock: socket.socket) -> None:
        task = self._loop.create_task(self._connect(sock), context=self._server.outside.copy())
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _connect(self, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, sock)
        except OSError as error:
            sock.close()
            logger.debug("a connection was lost as it began: %r", error)
        except Exception:
            sock.close()
            logger.exception("a connection could not be begun")

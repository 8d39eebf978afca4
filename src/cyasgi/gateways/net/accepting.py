"""Accepting connections by ourselves, where the event loop cannot be left to it.

asyncio's loop, when no file descriptor is left for a connection, logs that 2,048 times and tries again as often, each
second, and serves nobody meanwhile. Here accepting rests for a moment, which is told in one line a second at most.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..http.server import HTTPServer

logger = logging.getLogger(__name__)

#: Connections accepted in one go.
ACCEPTED = 100
#: Seconds until the system is asked again after it could not give a connection.
PAUSE = 1.0

#: Errors that are those of a connection that is gone by now (Linux's accept(2), "Error handling"): others may be fine.
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


class Accepting:
    """Accepts the connections of one socket until `close`. Subclasses say what becomes of them.

    Raises:
        NotImplementedError: the event loop cannot watch sockets (asyncio's for Windows).
    """

    def __init__(self, server: HTTPServer, sock: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
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
        """Stop listening, and close the socket."""
        if self.closed:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def begin(self, sock: socket.socket) -> None:
        """A connection was accepted."""
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
                self._rest(error)
                return
            sock.setblocking(False)
            self.begin(sock)

    def _rest(self, error: OSError) -> None:
        """The system has nothing left for another connection."""
        self._server.cannot_accept(error)
        self._loop.remove_reader(self._sock)
        self._pause = self._loop.call_later(PAUSE, self._go_on, context=self._server.outside)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock, self._accept)


class PlainListening(Accepting):
    """Accepts connections without TLS."""

    def __init__(self, server: HTTPServer, sock: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        super().__init__(server, sock, protocol)
        #: A loop refers to its tasks weakly.
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

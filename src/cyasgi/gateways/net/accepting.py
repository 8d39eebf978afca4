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
from functools import partial

from ...wire.proxy.header import ProxyHeader
from ...wire.proxy.trust import Trusted
from .port import ConnectionServer as ConnectionServer
from .proxy_heads import ProxyHeads

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


class Accepting:
    """Accepts the connections of one socket until `close`. Subclasses define what becomes of them.

    Args:
        server: whose limits and timeouts apply.
        sock: the socket, which `close` closes.
        protocol: makes the protocol of a connection; called with the header of the PROXY protocol if there is one.
        trusted: the proxies whose connections begin with such a header, all others being refused; None for none.

    Raises:
        NotImplementedError: the event loop cannot watch sockets (asyncio's for Windows).
    """

    def __init__(
        self,
        server: ConnectionServer,
        sock: socket.socket,
        protocol: Callable[..., asyncio.Protocol],
        trusted: Trusted | None = None,
    ) -> None:
        self._server = server
        self._sock = sock
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._heads = None if trusted is None else ProxyHeads(server, sock, trusted, self._begin_proxied)
        self._loop.add_reader(sock, self._accept)

    @property
    def closed(self) -> bool:
        return self._sock.fileno() < 0

    @property
    def beginning(self) -> bool:
        """Whether connections have been accepted that have no protocol yet."""
        return self._heads is not None and self._heads.pending

    def stop_accepting(self) -> None:
        """Accept no more connections: those that have been accepted go on."""
        if self._pause is not None:
            self._pause.cancel()
        if not self.closed:
            self._loop.remove_reader(self._sock)

    def close(self) -> None:
        """Stop listening and close the socket."""
        if not self.closed:
            self.stop_accepting()
            self._sock.close()
            if self._heads is not None:
                self._heads.close()

    def begin(self, sock: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Take on a connection that was accepted."""
        raise NotImplementedError

    def _begin_proxied(self, sock: socket.socket, header: ProxyHeader) -> None:
        self.begin(sock, partial(self._protocol, header))

    def _accept(self) -> None:
        for _ in range(ACCEPTED):
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in GONE:
                    continue
                self._suspend(error)
                return
            sock.setblocking(False)
            if self._heads is None:
                self.begin(sock, self._protocol)
            else:
                self._heads.read(sock, address)

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

    def __init__(
        self,
        server: ConnectionServer,
        sock: socket.socket,
        protocol: Callable[..., asyncio.Protocol],
        trusted: Trusted | None = None,
    ) -> None:
        super().__init__(server, sock, protocol, trusted)
        #: Kept here because the loop refers to its tasks only weakly.
        self._beginning: set[asyncio.Task[None]] = set()

    @property
    def beginning(self) -> bool:
        return bool(self._beginning) or super().beginning

    def begin(self, sock: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        task = self._loop.create_task(self._connect(sock, protocol), context=self._server.outside.copy())
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _connect(self, sock: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        try:
            await self._loop.connect_accepted_socket(protocol, sock)
        except OSError as error:
            sock.close()
            logger.debug("a connection was lost as it began: %r", error)
        except Exception:
            sock.close()
            logger.exception("a connection could not be begun")

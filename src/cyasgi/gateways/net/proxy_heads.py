"""The PROXY protocol on a listener: connections wait here until the proxy has said for whom they come.

The header is read from the bare socket, and no further than it goes, so that what follows, be it TLS or not, is left to
whoever reads next. Connections of anybody but a trusted proxy, and those without a header, are closed at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from ...wire.address import client_text
from ...wire.proxy.header import (
    MAX_V2,
    ProxyHeader,
    ProxyHeaderError,
    ProxyHeaderReader,
)
from ...wire.proxy.trust import Trusted
from .port import ConnectionServer
from .rate_limited_log import RateLimitedLog
from .transports import asgi_address

logger = logging.getLogger("cyasgi.gateways.proxy")

#: Connections that may wait for their header even where the server has no room for as many.
AT_ONCE = 64


class Pending:
    """A connection whose header has not come."""

    __slots__ = ("deadline", "peer", "reader", "sock")

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.sock = sock
        self.peer = peer
        self.reader = ProxyHeaderReader()
        self.deadline: Any = None


class ProxyHeads:
    """Reads the headers of the connections of one listening socket until `close`.

    Args:
        server: whose `first_byte_timeout` is the time for a header to come.
        sock: the listening socket.
        trusted: those whose headers count.
        begin: takes on a connection whose header was read.
    """

    def __init__(
        self,
        server: ConnectionServer,
        sock: socket.socket,
        trusted: Trusted,
        begin: Callable[[socket.socket, ProxyHeader], None],
    ) -> None:
        self._server = server
        self._trusted = trusted
        self._begin = begin
        self._loop = asyncio.get_running_loop()
        #: The path of a Unix socket.
        self._path = asgi_address(sock.getsockname()) if sock.family == getattr(socket, "AF_UNIX", None) else None
        self._pending: dict[Pending, None] = {}
        #: How many were refused since that was last logged, and the last of them.
        self._refused = 0
        self._last = "", ""
        self._log = RateLimitedLog(self._log_refused)

    @property
    def pending(self) -> bool:
        """Whether there are connections whose header has not come."""
        return bool(self._pending)

    def close(self) -> None:
        """Close the connections whose header has not come."""
        for pending in tuple(self._pending):
            self._drop(pending)
        self._log.close()

    def read(self, sock: socket.socket, address: Any) -> None:
        """Read the header of a connection that was accepted from this address."""
        peer = asgi_address(address)
        if not self._is_trusted(peer):
            sock.close()
            self._refuse(client_text(peer), "it is not among forwarded_allow_ips")
            return
        pending = Pending(sock, client_text(peer))
        if len(self._pending) >= max(self._server.connections_left(), AT_ONCE):
            self._server.refused += 1
            self._drop(next(iter(self._pending)))
        self._pending[pending] = None
        pending.deadline = self._server.deadlines.at(self._server.first_byte_timeout, partial(self._overdue, pending))
        self._loop.add_reader(sock, self._readable, pending)

    def _is_trusted(self, peer: tuple[str, int | None] | None) -> bool:
        if self._path is not None:
            return self._trusted.has_unix(self._path[0])
        return self._trusted.has_host("" if peer is None else peer[0])

    def _readable(self, pending: Pending) -> None:
        reader = pending.reader
        try:
            data = pending.sock.recv(MAX_V2, socket.MSG_PEEK)
            if data:
                size = reader.feed(data)
                if len(pending.sock.recv(size)) != size:
                    raise ConnectionError("what was there could not be read")
        except (BlockingIOError, InterruptedError):
            return
        except ProxyHeaderError as error:
            self._drop(pending)
            self._refuse(pending.peer, str(error))
            return
        except OSError as error:
            self._drop(pending)
            logger.debug("a connection was lost before its PROXY header came: %r", error)
            return
        if reader.header is not None:
            self._drop(pending, close=False)
            self._begin(pending.sock, reader.header)
        elif not data:
            self._drop(pending)
            # Whoever closes without a word has looked whether the port is open.
            if reader.size:
                self._refuse(pending.peer, "the PROXY header is incomplete")

    def _overdue(self, pending: Pending) -> None:
        self._drop(pending)
        self._refuse(pending.peer, f"no PROXY header came within {self._server.first_byte_timeout} seconds")

    def _drop(self, pending: Pending, close: bool = True) -> None:
        del self._pending[pending]
        self._loop.remove_reader(pending.sock)
        pending.deadline.cancel()
        if close:
            pending.sock.close()

    def _refuse(self, peer: str, why: str) -> None:
        self._server.proxy_refused += 1
        self._refused += 1
        self._last = peer, why
        self._log.notice()

    def _log_refused(self) -> bool:
        count, self._refused = self._refused, 0
        if count:
            connections = "1 connection was" if count == 1 else f"{count:,} connections were"
            logger.warning("%s refused, for want of a PROXY header; the last one, of %s: %s", connections, *self._last)
        return count > 0

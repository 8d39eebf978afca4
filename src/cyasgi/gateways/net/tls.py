"""Listening with TLS: connections that have not completed their handshake cost little, and for a bounded time.

An event loop that listens with TLS begins the handshake of each connection at once, whatever it costs (with asyncio
300 KiB of memory each), without a limit, and abandons unfinished handshakes when it stops listening. Here a connection
first waits for the client's first byte, as a bare socket; then at most `AT_ONCE` are in their handshake. The others
wait for their turn, the newest first, and while any wait, one that has taken `SLOW` seconds gives way. So a client that
opens thousands of connections and completes no handshake mostly harms its own connections.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from ...wire.proxy.trust import Trusted
from .accepting import Accepting
from .port import ConnectionServer
from .sockets import Listener

logger = logging.getLogger("cyasgi.gateways.tls")

#: Handshakes at a time, for each listening socket.
AT_ONCE = 64
#: Seconds after which a handshake gives way to others that wait.
SLOW = 1.0
#: Timeouts of the event loop for the TLS handshake and shutdown, in seconds: never in practice. The deadlines here
#: leave out the time for which the loop was blocked, and the protocols' spare a client that still takes something.
NEVER = 3600.0


class Pending:
    """A connection whose handshake is not complete."""

    __slots__ = ("begun", "deadline", "due", "given_up", "protocol", "sock", "task")

    def __init__(self, sock: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        self.sock = sock
        self.protocol = protocol
        self.deadline: Any = None
        #: When its handshake must be over, by the clock of the deadlines.
        self.due = 0.0
        #: Whether the event loop owns the socket.
        self.begun = False
        self.given_up = False
        self.task: asyncio.Task[None] | None = None


class TLSListening(Accepting):
    """Accepts the connections of one socket until `close`, and makes protocols for those whose handshake succeeds.

    Args:
        server: whose `first_byte_timeout` and `tls_handshake_timeout` apply.
        sock: the socket, which `close` closes.
        listener: the one that the socket was opened for; it has TLS.
        protocol, trusted: as `Accepting` has them.

    Raises:
        NotImplementedError: the event loop cannot watch sockets (asyncio's for Windows).
    """

    def __init__(
        self,
        server: ConnectionServer,
        sock: socket.socket,
        listener: Listener,
        protocol: Callable[..., asyncio.Protocol],
        trusted: Trusted | None = None,
    ) -> None:
        super().__init__(server, sock, protocol, trusted)
        self._context = listener.ssl
        #: Connections that have sent no byte, those that wait for their turn, and those in their handshake.
        self._silent: dict[Pending, None] = {}
        self._waiting: dict[Pending, None] = {}
        self._active: dict[Pending, None] = {}
        #: How many of those in their handshake were given up and have not ended yet.
        self._ending = 0

    @property
    def beginning(self) -> bool:
        return bool(self._silent or self._waiting or self._active) or super().beginning

    def close(self) -> None:
        """Stop listening, and close connections whose handshake is not complete."""
        if self.closed:
            return
        super().close()
        for pending in (*self._silent, *self._waiting):
            self._drop(pending)
        for pending in self._active:
            self._give_up(pending)

    def begin(self, sock: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        pending = Pending(sock, protocol)
        if len(self._silent) + len(self._waiting) >= max(self._server.connections_left(), AT_ONCE):
            self._server.refused += 1
            self._drop(next(iter(self._silent or self._waiting)))
        self._silent[pending] = None
        pending.deadline = self._server.deadlines.at(self._server.first_byte_timeout, partial(self._drop, pending))
        self._loop.add_reader(sock, self._first_byte, pending)

    def _drop(self, pending: Pending) -> None:
        """Close a connection that is not in its handshake."""
        if self._silent.pop(pending, pending) is None:
            self._loop.remove_reader(pending.sock)
        self._waiting.pop(pending, None)
        pending.deadline.cancel()
        pending.sock.close()

    def _first_byte(self, pending: Pending) -> None:
        """Let a connection wait for its turn: its first byte has arrived."""
        self._loop.remove_reader(pending.sock)
        del self._silent[pending]
        pending.deadline.move(self._server.tls_handshake_timeout)
        self._waiting[pending] = None
        self._next()

    def _next(self) -> None:
        while self._waiting and len(self._active) < AT_ONCE and not self.closed:
            pending, _ = self._waiting.popitem()
            self._active[pending] = None
            deadline = pending.deadline
            deadline.callback = partial(self._check_slow, pending)
            pending.due = self._server.deadlines.now + self._server.tls_handshake_timeout
            self._go_on_within(pending, self._server.tls_handshake_timeout)
            task = self._loop.create_task(self._shake_hands(pending), context=self._server.outside.copy())
            pending.task = task
            task.add_done_callback(partial(self._done, pending), context=self._server.outside)

    def _check_slow(self, pending: Pending) -> None:
        left = pending.due - self._server.deadlines.now
        if left > 0 and len(self._waiting) <= self._ending:
            self._go_on_within(pending, left)
        else:
            self._give_up(pending)

    @staticmethod
    def _go_on_within(pending: Pending, left: float) -> None:
        pending.deadline.move(min(left, SLOW))

    def _give_up(self, pending: Pending) -> None:
        if pending.task is not None and not pending.given_up:
            pending.given_up = True
            self._ending += 1
            pending.task.cancel()

    async def _shake_hands(self, pending: Pending) -> None:
        pending.begun = True
        try:
            await self._loop.connect_accepted_socket(
                pending.protocol,
                pending.sock,
                ssl=self._context,
                ssl_handshake_timeout=NEVER,
                ssl_shutdown_timeout=NEVER,
            )
        except (OSError, asyncio.CancelledError) as error:
            # The client has failed or is too slow, or the server stops.
            logger.debug("a TLS handshake failed: %r", error)
        except Exception:
            logger.exception("a TLS connection could not be begun")

    def _done(self, pending: Pending, _: asyncio.Task[None]) -> None:
        if not pending.begun:
            # The server has stopped before the first step of the task.
            pending.sock.close()
        self._ending -= pending.given_up
        pending.task = None
        pending.deadline.cancel()
        del self._active[pending]
        self._next()

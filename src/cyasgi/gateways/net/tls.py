"""Listening with TLS: what a connection costs before its handshake is over is bounded, and is given back in time.

An event loop that is asked to listen with TLS begins the handshake of each connection at once, whatever it costs (with
asyncio 300 KiB of memory each), knows no limit to how many are in it, and leaves them behind when it stops to listen.
Here a connection first waits for the client's first byte, as nothing but a socket; then at most `AT_ONCE` are in their
handshake. Those beyond wait for their turn, the newest first, and one that has taken `SLOW` seconds then gives way. So
who opens thousands of connections and completes no handshake harms those most that he has opened himself.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from .accepting import Accepting, ConnectionServer
from .sockets import Listener

logger = logging.getLogger("cyasgi.gateways.tls")

#: Handshakes at a time, for each listening socket.
AT_ONCE = 64
#: Seconds after which a handshake gives way to others that wait.
SLOW = 1.0
#: Seconds after which the event loop gives a connection up that is in its handshake, or is to be closed: the deadlines
#: here leave out the time that the loop was blocked, and the protocols' let a client go on that still takes something.
NEVER = 3600.0


class Pending:
    """A connection without, or in, its handshake."""

    __slots__ = ("begun", "deadline", "due", "given_up", "sock", "task")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.deadline: Any = None
        #: When its handshake must be over, by the clock of the deadlines.
        self.due = 0.0
        #: Whether the socket is the event loop's.
        self.begun = False
        self.given_up = False
        self.task: asyncio.Task[None] | None = None


class TLSListening(Accepting):
    """Accepts the connections of one socket, and makes protocols for those whose handshake succeeds, until `close`.

    Args:
        server: whose `first_byte_timeout` and `tls_handshake_timeout` hold.
        sock: the socket, which is closed in the end.
        listener: what holds for it; it has TLS.
        protocol: makes the protocol of a connection.

    Raises:
        NotImplementedError: the event loop cannot watch sockets (asyncio's for Windows).
    """

    def __init__(
        self,
        server: ConnectionServer,
        sock: socket.socket,
        listener: Listener,
        protocol: Callable[[], asyncio.Protocol],
    ) -> None:
        super().__init__(server, sock, protocol)
        self._context = listener.ssl
        #: Those of which no byte has come; those that wait for their turn; and those at it: each in its order.
        self._silent: dict[Pending, None] = {}
        self._waiting: dict[Pending, None] = {}
        self._active: dict[Pending, None] = {}
        #: How many of those at it were given up, and have not ended yet.
        self._ending = 0

    def close(self) -> None:
        """Stops listening, and ends what has not become a connection."""
        if self.closed:
            return
        super().close()
        for pending in (*self._silent, *self._waiting):
            self._drop(pending)
        for pending in self._active:
            self._give_up(pending)

    def begin(self, sock: socket.socket) -> None:
        pending = Pending(sock)
        if len(self._silent) + len(self._waiting) >= max(self._server.connections_left(), AT_ONCE):
            self._server.refused += 1
            self._drop(next(iter(self._silent or self._waiting)))
        self._silent[pending] = None
        pending.deadline = self._server.deadlines.at(self._server.first_byte_timeout, partial(self._drop, pending))
        self._loop.add_reader(sock, self._begins, pending)

    def _drop(self, pending: Pending) -> None:
        """Ends one that is not at its handshake."""
        if self._silent.pop(pending, pending) is None:
            self._loop.remove_reader(pending.sock)
        self._waiting.pop(pending, None)
        pending.deadline.cancel()
        pending.sock.close()

    def _begins(self, pending: Pending) -> None:
        """The first byte is there."""
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
            deadline.callback = partial(self._slow, pending)
            pending.due = self._server.deadlines.now + self._server.tls_handshake_timeout
            self._go_on_within(pending, self._server.tls_handshake_timeout)
            task = self._loop.create_task(self._shake_hands(pending), context=self._server.outside.copy())
            pending.task = task
            task.add_done_callback(partial(self._done, pending), context=self._server.outside)

    def _slow(self, pending: Pending) -> None:
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
                self._protocol,
                pending.sock,
                ssl=self._context,
                ssl_handshake_timeout=NEVER,
                ssl_shutdown_timeout=NEVER,
            )
        except (OSError, asyncio.CancelledError) as error:
            # Whoever is on the other side has failed, or is too slow, or the server stops.
            logger.debug("a TLS handshake failed: %r", error)
        except Exception:
            logger.exception("a TLS connection could not be begun")

    def _done(self, pending: Pending, _: asyncio.Task[None]) -> None:
        if not pending.begun:
            # The server has stopped before its first step.
            pending.sock.close()
        self._ending -= pending.given_up
        pending.task = None
        pending.deadline.cancel()
        del self._active[pending]
        self._next()

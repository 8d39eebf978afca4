"""One connection of a stream: bytes in, up to whole messages; bytes out; its deadlines and its end.

A connection is closed in a way that lets the client read what was written: bytes that come to a closed socket make the
system reset the connection, and the client's system then throws away what it has not read yet. So the server's half is
closed first, and what still comes is read and dropped, within bounds.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Any

from ...wire.stream import check_message
from ..net.flow_control import FlowControl
from ..net.transports import asgi_address, has_gone, may_say_goodbye, reset_on_close, send_progress
from .inbound import Inbound
from .port import StreamServerPort

if TYPE_CHECKING:
    from ...wire.proxy.header import ProxyHeader

#: Seconds for which a closed connection is still read while nothing comes, so that the client gets to see the end.
LINGER = 2.0
#: Seconds and bytes for which it is read while the client still sends.
LINGER_TIME, LINGER_BYTES = 30.0, 67_108_864
#: Seconds that an application has for a last message once the server has ended the input of a connection.
FAREWELL = 10.0
#: Seconds between two looks whether a client that has closed its half is still there.
CHECK = 30.0

NOBODY: Any = ()


class StreamConnection(FlowControl, Inbound, asyncio.Protocol):
    """A connection, as a protocol of asyncio.

    Args:
        server: whose connection it is.
        header: what came of the PROXY protocol before everything else; it has been found to come from a trusted proxy.
    """

    __slots__ = (
        "__weakref__",
        "_dropped",
        "_dropped_before",
        "_due_end",
        "_due_write",
        "_header",
        "_linger_until",
        "_taken",
        "address",
        "client",
        "detail",
        "eof",
        "lost",
        "tls",
        "waiters",
    )

    def __init__(self, server: StreamServerPort, header: ProxyHeader | None = None) -> None:
        self.server = server
        self.traffic = server.traffic
        self._header = None if header is None or header.direct else header
        self.transport = None
        self.framing = server.make_framing(server.max_message_size)
        #: The session that it belongs to; None before its first message, if that chooses it.
        self.session = None
        #: Addresses as ASGI has them, and the `ssl.SSLObject`, if there is one.
        self.client: tuple[str, int | None] | None = None
        self.address: tuple[str, int | None] | None = None
        self.tls: Any = None
        #: The next message, if it was unpacked before the application asks for it, and how many bytes it was.
        self.ahead = None
        self.held = 0
        #: Whether there may be anything in the framing.
        self.buffering = False
        self._waits_since = 0
        #: Why nothing more comes, as `reason` and `detail` of ``stream.disconnect`` have it; empty while something may.
        self.end = self.detail = ""
        #: Whether the client has sent more than was received: it may be sending still.
        self.pressing = False
        #: Whether the client has closed its half; the connection is lost; the server has closed its half.
        self.eof = self.lost = self.closing = False
        #: Whether a sender has to wait, or to look twice: the transport takes no more, or the connection is closed.
        self.paused = False
        #: Made when somebody waits: a deque is large.
        self.waiters: deque[asyncio.Future[None]] = NOBODY
        self.reading_paused = False
        #: Bytes that count among the server's `waiting_bytes`.
        self.counted = 0
        self.heard = False
        #: Seconds for which the client may send nothing now; None for any number.
        self.quiet = None
        #: Deadlines: of a silent client, of the rest of a message (relative to now while reading is paused), of a
        #: stalled client, and of the end of the connection.
        self._due_quiet = self.due_message = self._due_write = self._due_end = math.inf
        #: How much the client had taken when that was last checked (`send_progress`).
        self._taken = 0.0
        #: Bytes that have come and were dropped since its input has ended, and how many they were at the last look.
        self._dropped = self._dropped_before = 0
        self._linger_until = 0.0

    def __repr__(self) -> str:
        return f"<stream {id(self):#x}>"

    # Beginning.

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        server = self.server
        self.tls = transport.get_extra_info("ssl_object")
        if self._header is not None:
            self.client, self.address, _ = self._header
        else:
            self.client = asgi_address(transport.get_extra_info("peername"))
            self.address = asgi_address(transport.get_extra_info("sockname"))
        self.quiet = server.first_byte_timeout
        # First of all, since it starts the clock of the deadlines.
        self.deadline = server.deadlines.at(self.quiet, self._overdue)
        if self.quiet is not None:
            self._due_quiet = server.deadlines.now + self.quiet
        server.connection_opened(self)
        if server.stopping:
            self.abort()
        elif server.connections_left() < 0:
            self.refuse("connections")
        elif not server.by_first_message:
            server.begin(self, None)

    # Bytes in: the rest is in `inbound.py`.

    def eof_received(self) -> bool:
        self.eof = True
        if self.closing:
            return False
        self.end_input("eof")
        session = self.session
        if session is None:
            self.finish()
        elif session.lasting:
            # It comes back by another connection, which what is sent from now on has to wait for.
            self.finish()
            session.gone(self)
        else:
            session.look()
        # With TLS there are no halves.
        if self.tls is not None or self.closing:
            return False
        self._watch()
        return True

    def _watch(self) -> None:
        """Look after a while whether the client, who sends no more, is still there."""
        self._due_quiet = self.server.deadlines.now + CHECK
        self.rearm()

    def end_input(self, end: str, detail: str = "") -> None:
        """Read nothing more; what has come is still received. The first reason counts."""
        if self.end:
            return
        self.end, self.detail = end, detail
        self._due_quiet = self.due_message = math.inf
        if not self.lost:
            self.resume_reading()
            self.rearm()

    def await_farewell(self) -> None:
        """Limit the time that the application has for a last message, of which it is told now."""
        if not self.closing:
            self._due_end = self.server.deadlines.now + FAREWELL
            self.rearm()

    def drop(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self.abort()

    # Bytes out.

    def send_other(self, message: Any) -> bool:
        """Close the connection if the message says so; return whether there is data in it.

        Raises:
            TypeError, ValueError: the message is malformed.
        """
        if check_message(message) == "stream.send":
            return True
        self.end_input("closed")
        self.finish()
        return False

    def pause_writing(self) -> None:
        self.paused = True
        if self.waiters is NOBODY:
            self.waiters = deque()
        taken = send_progress(self.transport)
        self._taken = -math.inf if taken is None else taken
        self._due_write = self.server.deadlines.now + self.server.write_timeout
        self.rearm()

    def resume_writing(self) -> None:
        self.paused = self.closing
        self._due_write = math.inf
        self.wake()

    # The end.

    def finish(self) -> None:
        """Close the connection when the client has taken what was written."""
        if self.closing:
            return
        self.closing = self.paused = True
        if not self.end:
            self.end = "closed"
        self.wake()
        transport = self.transport
        self._linger()
        self._linger_until = self.server.deadlines.now + LINGER_TIME
        self._dropped_before = self._dropped
        if self._due_write == math.inf:
            # A client that still has more to take than that allows is given the time for it.
            self._taken = -math.inf
        if self.lost or transport.is_closing():
            return
        if self.tls is not None and not self.eof and (self.reading_paused or self.pressing):
            # The client may still be sending. asyncio drops what it has not taken, if more comes after TLS's goodbye:
            # so that waits until nothing comes (`_overdue`).
            self.resume_reading()
            return
        if self.eof or not transport.can_write_eof():
            transport.close()
            return
        self.resume_reading()
        try:
            transport.write_eof()
        except OSError:
            # asyncio's transport raises if the client has gone unnoticed.
            transport.abort()

    def refuse(self, reason: str) -> None:
        """Close a connection for which there is no room at once: nothing was written that its client could lose.

        Args:
            reason: one of `REFUSALS`.
        """
        self.server.count_refused(reason)
        self.closing = self.paused = True
        self.end = self.end or "closed"
        # With TLS the client has a word to say in that.
        self._linger()
        self.transport.close()

    def _linger(self) -> None:
        """Set the deadline of a connection that the server closes."""
        self._due_quiet = self.due_message = math.inf
        self._due_end = self.server.deadlines.now + LINGER
        self.rearm()

    def abort(self) -> None:
        """Cut the connection: what was written may be lost, and must not seem complete."""
        self.closing = self.paused = True
        if not self.end:
            self.end = "lost"
        if not self.lost:
            reset_on_close(self.transport)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = self.closing = self.paused = True
        self.deadline.cancel()
        self.server.connection_closed(self)
        if not self.end:
            self.end, self.detail = "lost", "" if exc is None else str(exc)
        self.wake()
        session = self.session
        if session is None:
            self.forget()
        else:
            session.gone(self)

    def begin_shutdown(self) -> None:
        """Have the application take its leave, as the server stops."""
        if self.end == "eof" and self.session is not None and not self.closing:
            # The application may still be sending, though the client sends no more.
            self.end = ""
            self.session.tell_again(self)
        self.end_input("stopping", "the server stops")
        if self.session is not None:
            self.session.look()
        else:
            self.finish()

    def wind_down(self) -> bool:
        """Go on until the server stops: nothing that is on its way is worth waiting for."""
        return False

    # Deadlines.

    def rearm(self) -> None:
        """Set the connection's deadline to the earliest of those that hold now."""
        due = min(self._due_write, self._due_end)
        if not self.reading_paused:
            due = min(due, self._due_quiet, self.due_message)
        deadline = self.deadline
        deadline.due = due
        if due < deadline.listed:
            deadline.relist()

    def _overdue(self) -> None:
        """Act on the deadline, or wait for the next one that holds."""
        now = self.server.deadlines.now
        if self.closing and self._dropped > self._dropped_before and now < self._linger_until:
            # The client still sends.
            self._dropped_before = self._dropped
            self._due_end = now + LINGER
            self.rearm()
        elif self._due_write <= now or self._due_end <= now:
            if self.closing and may_say_goodbye(self.transport):
                self._linger()
                self.transport.close()
            else:
                self._check_stalled()
        elif self.reading_paused or (self._due_quiet > now and self.due_message > now):
            self.rearm()
        elif not self.eof:
            self.server.timeouts += 1
            begun = self.due_message <= now and self.framing.buffered
            what = "the rest of a message" if begun else "a message" if self.heard else "a byte"
            self.end_input("timeout", f"{what} did not come in time")
            if self.session is not None:
                self.session.look()
            else:
                self.finish()
        elif has_gone(self.transport):
            self.abort()
        else:
            self._watch()

    def _check_stalled(self) -> None:
        """Cut the connection if the client has taken less than `min_rate` demands since the last check."""
        server = self.server
        taken = send_progress(self.transport)
        if taken is not None and server.deadlines.now < self._due_write < math.inf:
            # It was closed while it had too much to take: it has all of its time for that.
            self._due_end = self._due_write
            self.rearm()
            return
        if taken is not None and taken - self._taken >= server.min_rate * server.write_timeout:
            # Much is to be taken, and the client takes it slowly.
            self._taken = taken
            due = server.deadlines.now + server.write_timeout
            if self._due_write != math.inf:
                self._due_write = due
            if self._due_end != math.inf:
                self._due_end = due
            self.rearm()
            return
        if not self.closing and self._due_write != math.inf:
            server.timeouts += 1
        self.abort()

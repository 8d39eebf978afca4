"""Streams: connections in, one application instance for each, messages in and out, over TCP, TLS and Unix sockets.

The scope and the messages are described in `cyasgi.wire.stream`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any, ClassVar

from ..._common.cells import SAMPLED_ONE_IN, STREAMS
from ..._common.guarding import INTERRUPTS
from ..._settings import Integer
from ...core import Setting
from ...core.full import TableFull
from ...instances.limits import LimitExceeded
from ...wire.http import Scope
from ...wire.stream import Framing, scope_fields
from ..connections import SECONDS, SECONDS_OR_NONE, ConnectionGateway
from ..net.rate_limited_log import RateLimitedLog
from ..net.sockets import Bind, Listener as Listener, ListenError as ListenError, Listening
from ..net.tls_extension import tls_extension
from .connection import StreamConnection
from .fast_path import Traffic
from .framing import FramingBound, framing_factory
from .session import Session

logger = logging.getLogger("cyasgi.gateways.stream")

#: How the system looks whether a silent client is still there: seconds until it asks, seconds between questions, and
#: how many of them may stay unanswered.
KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}


#: Why a connection is refused.
REFUSALS = ("connections", "instances", "client", "reconnected", "scope_id")


class StreamServer(ConnectionGateway):
    """Serve an ASGI application over byte streams, on TCP, TLS and Unix sockets.

    Each connection is an application instance of its own; override `scope_id` for any other rule, such as a session
    token in the first message, by which a client that comes back finds its instance again.

    Args:
        application: the ASGI application, for scopes of the types ``stream`` (see `cyasgi.wire.stream`) and
            ``lifespan``.
        max_applications: most instances at a time; further connections are closed (see `eviction_policy`). None: no
            limit.
        binds: what to listen on, each (host, port), a string as ``"127.0.0.1:7000"``, ``"[::1]:7000"``, ``":7000"``
            (all interfaces) or ``"unix:/run/app.sock"``, a bound socket, ``"fd://3"`` for an inherited one, or a
            `Listener` of any of these, which may have TLS of its own. Port 0: a free one.
        ssl: an `ssl.SSLContext` for all listeners that have none of their own; None for no TLS.
        framing: as the attribute of this name; None for the attribute's value.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value; the message says which and what is accepted.
    """

    #: How messages are told apart: "lines", "lines:crlf", "length:N" (N bytes of length before each message),
    #: "length:N:little", "netstring", "cobs", "resp" (the protocol of Redis) or "raw" (as they come); a subclass of
    #: `cyasgi.wire.stream.Framing`, or its path, "module:Class". It counts from the next start on.
    framing = Setting[Any]("lines", FramingBound())
    #: Whether the application takes part in the lifespan protocol: "on", "off", or "auto" to find out. Off, since many
    #: an application for streams goes on receiving whatever it is given, and would never have started.
    lifespan = "off"
    #: No live instance makes room for a new connection, which is closed: instances are connections.
    eviction_policy = "refuse"
    #: Bytes of a message without its frame, at most; a longer one ends the connection.
    max_message_size = Setting[int](65_536, Integer(1))
    #: Bytes that have come and wait, for an application or for the rest of their message, on all connections together,
    #: at most. Beyond, connections with a whole message are not read, and those with more than 4 KiB of an incomplete
    #: one are closed.
    max_waiting_bytes = Setting[int](67_108_864, Integer(1))
    #: Seconds from the beginning of a connection to its first byte, see `ConnectionGateway`.
    first_byte_timeout = 60.0
    #: Seconds for which a client may send nothing after its first byte. None: no limit. Whether a silent client is
    #: still there, TCP finds out within two minutes.
    silence_timeout = Setting[float | None](None, SECONDS_OR_NONE)
    #: Seconds from the first byte of a message to its last one. None: no limit.
    message_timeout = Setting[float | None](30.0, SECONDS_OR_NONE)
    #: Seconds for which an instance waits for its client to come back, where `scope_id` is overridden.
    reconnect_timeout = Setting[float](60.0, SECONDS)

    schemes: ClassVar[tuple[str, str]] = ("tcp", "tls")
    logger: ClassVar[logging.Logger] = logger
    default_binds: ClassVar[tuple[tuple[str, int], ...]] = (("127.0.0.1", 7000),)

    def __init__(
        self,
        application: Any,
        max_applications: int | None = 1000,
        *,
        binds: Bind | Iterable[Bind] | None = None,
        ssl: Any = None,
        framing: Any = None,
    ) -> None:
        super().__init__(application, max_applications, binds, ssl)
        if framing is not None:
            self.framing = framing
        #: Whether an instance is chosen by the first message of a connection: `scope_id` is overridden.
        self.by_first_message = False
        self.make_framing: Callable[[int], Framing]
        self.framing_name = ""
        #: Sessions whose client may come back.
        self.away: set[Any] = set()
        #: Bytes that have come and wait, on all connections together.
        self.waiting_bytes = 0
        self.streams = self.bad_messages = self.overloaded = 0
        self._refusals = dict.fromkeys(REFUSALS, 0)
        self._until_sample = SAMPLED_ONE_IN
        self.traffic = Traffic()
        self._last_failure: Exception | None = None
        self._failures = RateLimitedLog(self._log_failures)

    # What subclasses override.

    def scope_id(self, connection: StreamConnection, first_message: Any) -> Hashable:
        """Return the id of the instance of a connection; None closes it.

        By default that is the connection itself, and this is called as it begins, with None. An override is called with
        the first message of the connection, as the framing has unpacked it, and may look at ``connection.client``. If
        there is an instance of the id, the connection becomes its own: it receives ``stream.connect`` and this message,
        and a connection that it had before is closed. An id is all that it takes to come back: it must be as hard to
        guess as a password. If it raises, the connection is closed, and the error is logged.
        """
        return connection

    # Starting and stopping.

    def resolve_framing(self) -> None:
        """Find out what `framing` stands for. `handle` does this too; call it before to see errors early.

        Raises:
            ValueError: it cannot be imported, or is no framing.
        """
        self.make_framing, self.framing_name = framing_factory(self.framing)

    def _prepare(self) -> None:
        self.resolve_framing()
        self.by_first_message = type(self).scope_id is not StreamServer.scope_id or "scope_id" in self.__dict__

    def _open_sockets(self, bind: Listener) -> list[Listening]:
        opened = super()._open_sockets(bind)
        for one in opened:
            keep_alive(one.sock)
        return opened

    def make_protocol(self, listener: Listener) -> Callable[..., asyncio.Protocol]:
        return partial(StreamConnection, self)

    def _before_run(self) -> None:
        super()._before_run()
        self.traffic.cells = self.cells

    async def _close_connections(self) -> None:
        for session in list(self.away):
            session.give_up()
        await super()._close_connections()

    async def hand_over(self) -> None:
        await super().hand_over()
        await self._wind_down(self.shutdown_timeout)

    async def _after_run(self) -> None:
        try:
            await super()._after_run()
        finally:
            self._failures.close()
            self.traffic.cells = None

    # For the connections.

    def count_refused(self, reason: str) -> None:
        """Count a connection that is closed for want of room, or by `scope_id`."""
        self.refused += 1
        self._refusals[reason] += 1

    def is_sampled(self) -> bool:
        """Return whether it is this message's turn to be observed: that of one in `SAMPLED_ONE_IN`."""
        self._until_sample = (self._until_sample or SAMPLED_ONE_IN) - 1
        return not self._until_sample

    def begin(self, connection: StreamConnection, first_message: Any) -> None:
        """Give a connection its session: a new one, or one that has waited for the client to come back."""
        session = Session(self, self.by_first_message)
        scope = Scope(
            scope_fields(
                connection.address,
                connection.client,
                self.framing_name,
                None if connection.tls is None else tls_extension(connection.tls),
            )
        )
        if self.state is not None:
            scope["state"] = self.state.copy()
        scope.connection = session
        try:
            scope_id = self.scope_id(connection, first_message)
            if scope_id is None:
                connection.refuse("scope_id")
                return
            instance = self.get_or_create_application_instance(scope_id, scope)
            found = session if instance.scope is scope else instance.scope.connection
            if not isinstance(found, Session):
                raise TypeError(f"scope_id {scope_id!r} belongs to {instance!r}, which is no instance of a stream")
        except TableFull:
            connection.refuse("instances")
        except LimitExceeded:
            connection.refuse("client")
        except INTERRUPTS:
            raise
        except BaseException:
            logger.exception("a connection could not be begun")
            connection.finish()
        else:
            # With an eager task factory it may have ended already.
            if instance.ended:
                connection.finish()
                return
            if found is session:
                session.begin(instance)
            if found.attach(connection):
                self.streams += 1
                if self.cells is not None:
                    self.cells[STREAMS] += 1
            else:
                connection.refuse("reconnected")

    def end_instance(self, instance: Any) -> None:
        """Cancel and remove an instance, unless it was removed before: its id may belong to another one by now."""
        if self._cyasgi_table.entry(instance.scope_id) is instance:
            self.delete_application_instance(instance.scope_id)

    def framing_failed(self, error: Exception) -> None:
        """Log that a framing has raised what it must not, in one line a second at most."""
        self._last_failure = error
        self._failures.notice()

    def _log_failures(self) -> bool:
        error, self._last_failure = self._last_failure, None
        if error is not None:
            logger.error("the framing %r has failed: %r", self.framing_name, error, exc_info=error)
        return error is not None

    def stats(self) -> dict[str, int]:
        """Return the snapshot of `StatelessServer.stats`, with these counters added.

        * ``connections``: now open
        * ``connections_total``, ``streams``: begun since the server was made, without and with an instance
        * ``messages_received``, ``messages_sent``: by applications
        * ``bytes_received``, ``bytes_sent``: on all connections, frames included
        * ``waiting_bytes``: that have come and wait now
        * ``refused``: connections closed for want of room, or by `scope_id`; and by reason ``refused_connections``
          (`max_connections`, or no descriptor), ``refused_instances`` (`max_applications`), ``refused_client`` (a limit
          of `ManagedServer`), ``refused_reconnected`` (too many connections of one session) and ``refused_scope_id``
        * ``bad_messages``: connections ended by what is no message, or one that is too long
        * ``overloaded``: connections ended since too many bytes were waiting
        * ``timeouts``: clients that took too long
        * ``proxy_refused``: connections closed for want of a header of the PROXY protocol from a trusted proxy
        """
        return {
            **super().stats(),
            "connections": len(self.connections),
            "connections_total": self.connections_total,
            "streams": self.streams,
            "messages_received": self.traffic.received,
            "messages_sent": self.traffic.sent,
            "bytes_received": self.traffic.bytes_received,
            "bytes_sent": self.traffic.bytes_sent,
            "waiting_bytes": self.waiting_bytes,
            "refused": self.refused,
            **{f"refused_{reason}": count for reason, count in self._refusals.items()},
            "bad_messages": self.bad_messages,
            "overloaded": self.overloaded,
            "timeouts": self.timeouts,
            "proxy_refused": self.proxy_refused,
        }


def keep_alive(sock: socket.socket) -> None:
    """Have the system look whether clients of this listening socket that are silent are still there."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):
        # Connections inherit it; a system that refuses that only looks more seldom.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE.items():
            option = getattr(socket, name, None)
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

"""RabbitMQ: where a queue is, and how a session with it begins.

A queue NAME is an exchange NAME of the type x-consistent-hash, which spreads messages by their routing key, the
scope_id, over the quorum queues NAME.0, NAME.1, ... Others publish to that exchange. Dead letters are in the quorum
queue NAME.dead.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from .amqp_tls import CERTFILE, FILES, check_files, client_context, tls_failure
from .engine import EngineError, QueueShape, Session

if TYPE_CHECKING:
    from .amqp_session import AMQPSession

#: Seconds between two signs of life that are agreed upon, unless the URL has another ``heartbeat``. A broker takes away
#: what a worker holds that has been silent for twice as long.
HEARTBEAT = 10
#: Queues that are made at a time.
AT_A_TIME = 8


class AMQPEngine:
    """A virtual host of RabbitMQ.

    Args:
        url: as in ``amqp://user:password@127.0.0.1:5672/vhost``; ``amqps`` for TLS. Options come after a question mark:
            ``heartbeat=10``, and with TLS ``cafile=...``, ``certfile=...``, ``keyfile=...``, read for each connection.

    Raises:
        ValueError: it is no such URL.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
            options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
            self.heartbeat = int(options.pop("heartbeat", str(HEARTBEAT)))
            self._files = self._taken_files(parts.scheme, options)
        except ValueError as error:
            raise ValueError(f"{self._shown(parts.scheme, parts.hostname, None, parts.path)}: {error}") from None
        if parts.scheme not in ("amqp", "amqps") or not parts.hostname or not 1 <= self.heartbeat <= 600:
            raise ValueError(
                f"{self._shown(parts.scheme, parts.hostname, port, parts.path)}: accepted is a URL as in "
                "amqp://user:password@127.0.0.1:5672/vhost, with a heartbeat from 1 to 600 seconds"
            )
        self._url = urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode({"heartbeat": self.heartbeat}), ""))
        self._encrypted = parts.scheme == "amqps"
        #: Whether what arrives is to be tried before the library reads it.
        self._careful = False
        self._description = self._shown(parts.scheme, parts.hostname, port, parts.path)

    @staticmethod
    def _taken_files(scheme: str, options: dict[str, str]) -> dict[str, str]:
        """Return the options that name files; raise ValueError for any other, and for those that need others."""
        accepted = FILES if scheme == "amqps" else ()
        for name in options:
            if name not in accepted:
                others = (
                    f", {', '.join(FILES[:-1])} and {FILES[-1]}" if accepted else f"; {', '.join(FILES)} with amqps"
                )
                raise ValueError(f"unknown option {name!r}: accepted are heartbeat{others}")
        check_files(options)
        return options

    @staticmethod
    def _shown(scheme: str, host: str | None, port: int | None, path: str) -> str:
        name = f"[{host}]" if host and ":" in host else host or ""
        return f"{scheme}://{name}{'' if port is None else f':{port}'}{path}"

    def describe(self) -> str:
        return self._description

    async def connect(self, shape: QueueShape) -> Session:
        try:
            import aiormq
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("cyasgi"):
                raise
            raise EngineError(f"amqp:// needs {error.name}: pip install 'cyasgi[amqp]'") from None
        from .amqp_calls import close_quietly
        from .amqp_session import AMQPSession

        try:
            context = await asyncio.to_thread(client_context, self._files) if self._encrypted else None
        except EngineError as error:
            raise EngineError(f"{self._description}: {error}") from None
        connection = aiormq.Connection(self._url, context=context, transport_factory=self._transport())
        try:
            await self._open(connection)
            session = AMQPSession(connection, shape, self.heartbeat, self._description, self._unreadable)
            await self._prepare(session, shape)
        except EngineError as error:
            await close_quietly(connection)
            raise EngineError(f"{self._description}: {error}") from error
        except BaseException:
            await close_quietly(connection)
            raise
        return session

    def _transport(self) -> Any:
        """Return what makes connections; None for what the library has."""
        if not self._careful:
            return None
        from .amqp_careful import CarefulTransport

        return CarefulTransport(self._encrypted)

    def _unreadable(self) -> None:
        """Note that a connection has ended because of something in it that the library could not read."""
        self._careful = True

    async def _open(self, connection: Any) -> None:
        from aiormq.exceptions import AMQPConnectionError, InvalidFrameError

        from .amqp_calls import answered

        try:
            await answered(connection.connect())
        except EngineError as error:
            if isinstance(error.__cause__, InvalidFrameError) and "Connection.OpenOk" in str(error):
                # What the broker has said the library keeps to itself.
                raise EngineError(
                    f"the broker refuses the virtual host {connection.vhost!r}: it is not there, or not for this user"
                ) from error
            if (failure := tls_failure(error)) is not None:
                raise EngineError(failure) from error
            if CERTFILE in self._files and isinstance(error.__cause__, AMQPConnectionError):
                # What it says of a certificate may be lost when it closes the connection.
                raise EngineError(f"{error} (it may not accept the {CERTFILE})") from error
            raise

    async def _prepare(self, session: AMQPSession, shape: QueueShape) -> None:
        """Make the queue, if there is none, or find it to be as it has to be."""
        name, count = shape.name, shape.partitions
        # The first partition is made last: where it is, all are.
        if await session.exists(f"{name}.0") and (
            not await session.exists(f"{name}.{count - 1}") or await session.exists(f"{name}.{count}")
        ):
            raise EngineError(
                f"the queue {name!r} has another number of partitions than {count}, or its last one was deleted"
            )
        await session.declare_exchange()
        await session.declare_dead_letters()
        for first in range(count - 1, -1, -AT_A_TIME):
            numbers = [number for number in range(first, first - AT_A_TIME, -1) if number > 0]
            await asyncio.gather(*[session.declare_partition(number) for number in numbers])
        await session.declare_partition(0)
        await session.register()

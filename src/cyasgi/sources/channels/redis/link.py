"""The connections to one Redis: one for commands, and one on which it tells of keys that have changed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
)

from ..errors import LayerError
from ..lines import clock

logger = logging.getLogger("cyasgi.sources.channels")

#: What a connection that has failed raises; another attempt may mend it.
FAILURES = (RedisError, OSError, EOFError, asyncio.IncompleteReadError)
#: Seconds that Redis may take to accept a connection, and to answer, where the layer's configuration does not say.
ANSWER_TIMEOUT = 5.0
#: Seconds that Redis may take to answer TLS's goodbye (RFC 8446, section 6.1).
CLOSE_TIMEOUT = 1.0
#: What Redis answers, at the beginning, to who has not given the right password.
_NO_ACCESS = ("NOAUTH", "WRONGPASS", "NOPERM")

Command = tuple[Any, ...]


def is_final(error: BaseException) -> bool:
    """Return whether another attempt would fail as well: Redis refuses us."""
    if isinstance(error, (AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError)):
        return True
    return isinstance(error, ResponseError) and (
        str(error).startswith(_NO_ACCESS) or "unknown command" in str(error).lower()
    )


def describe(error: BaseException) -> str:
    """Return what was wrong, in one line."""
    text = " ".join(str(error).split())
    return text.rstrip(".") or type(error).__name__


async def _send(connection: Any, *commands: Command) -> None:
    packed = connection.pack_commands(commands)
    try:
        await connection.send_packed_command(packed, check_health=False)
    except (RuntimeError, AttributeError) as error:
        # The connection is lost: what uvloop raises then, and what asyncio does from Python 3.12 on (gh-136234).
        raise ConnectionError(describe(error)) from error


class ReceiveTimeout(float):
    """A `socket_timeout` that is meant for consumers' own `receive()`, which has Redis wait, and not for a link."""


class Link:
    """Two connections to one Redis, which are opened and fail together."""

    def __init__(self, create_pool: Callable[[], Any], on_change: Callable[[list[Any] | None], object]) -> None:
        self._pools = (create_pool(), create_pool())
        for pool in self._pools:
            options = pool.connection_kwargs
            # In RESP2, changes are told on a connection of their own. Some of what redis-py does takes RESP3.
            options.update(protocol=2, retry=Retry(NoBackoff(), 0), retry_on_error=[])
            for name in [name for name in options if name.startswith("maint_notifications")]:
                del options[name]
            options.setdefault("socket_connect_timeout", ANSWER_TIMEOUT)
            #: Seconds for an answer. redis-py would start a task for each command to bound it.
            given = options.get("socket_timeout")
            self._timeout = ANSWER_TIMEOUT if not given or isinstance(given, ReceiveTimeout) else given
            options["socket_timeout"] = None
        self._on_change = on_change
        self._commands: Any = None
        self._changes: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._scripts: dict[str, str] = {}
        #: Whether Redis tells of changes; some servers and proxies cannot.
        self.tells = False
        #: What has ended the connection for changes.
        self.error: BaseException | None = None
        #: When `ping` has sent what is not answered yet, in seconds of the monotonic clock.
        self._asked_at: float | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            one of FAILURES.
        """
        try:
            async with asyncio.timeout(2 * self._timeout) as bound:
                await self._open()
        except TimeoutError:
            if bound.expired():
                raise TimeoutError(f"no answer within {2 * self._timeout:g} s") from None
            raise

    async def _open(self) -> None:
        self._commands = await self._pools[0].get_connection()
        # A connection that works, whatever else it may do.
        await self.call(("PING",))
        self._changes = await self._pools[1].get_connection()
        try:
            await self._changes.send_command("CLIENT", "ID")
            number = await self._changes.read_response()
            await self._changes.send_command("SUBSCRIBE", "__redis__:invalidate")
            await self._changes.read_response()
            await self.call(("CLIENT", "TRACKING", "ON", "REDIRECT", number, "OPTIN", "NOLOOP"))
        except ResponseError as error:
            logger.warning("Redis does not tell of changes (%s): it is asked 100 times a second", describe(error))
            return
        self.tells = True
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def close(self) -> None:
        """Close the connections, whatever state they are in."""
        # What goes wrong with a connection that is closed concerns nobody.
        with contextlib.suppress(*FAILURES):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                # Before the reader is cancelled: with it, redis-py would leave its connection alone with TLS's goodbye.
                await asyncio.gather(*(pool.disconnect() for pool in self._pools), return_exceptions=True)
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        for pool in self._pools:
            # The pool of a master that is found by Sentinels has clients for these.
            for sentinel in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
                with contextlib.suppress(*FAILURES):
                    await sentinel.aclose()

    async def _read(self) -> None:
        try:
            while True:
                answer = await self._changes.read_response()
                self._asked_at = None
                if isinstance(answer, list) and answer and answer[0] == b"message":
                    self._on_change(answer[2])
        except Exception as error:
            self.error = error
            self._on_change([])

    async def ping(self) -> None:
        """Look whether the connection for changes is alive; called now and then.

        Raises:
            TimeoutError: it has not answered in time; or one of FAILURES.
        """
        if self.error is not None:
            raise self.error
        if not self.tells:
            return
        if self._asked_at is None:
            self._asked_at = clock()
            await _send(self._changes, ("PING",))
        elif clock() - self._asked_at >= self._timeout:
            # If this process stood still, the answer has come and was not read yet.
            await self.call(("PING",))
            await asyncio.sleep(0)
            if self._asked_at is not None:
                raise TimeoutError("Redis does not answer on the connection for changes")

    async def call(self, *commands: Command) -> list[Any]:
        """Send commands together and return their answers.

        Raises:
            one of FAILURES: the first error among the answers, or of the connection.
        """
        connection = self._commands
        answers: list[Any] = []
        failed: ResponseError | None = None
        try:
            async with asyncio.timeout(self._timeout):
                await _send(connection, *commands)
                for _ in commands:
                    try:
                        answers.append(await connection.read_response())
                    except ResponseError as error:
                        # The answers to the others are still to be read.
                        failed = failed or error
        except TimeoutError:
            raise TimeoutError(f"no answer within {self._timeout:g} s") from None
        if failed is not None:
            raise failed
        return answers

    async def run(
        self,
        script: str,
        keys: Iterable[Any],
        arguments: Iterable[Any],
        *,
        before: Iterable[Command] = (),
        watch: bool = False,
    ) -> Any:
        """Run a script and return its answer.

        Args:
            before: commands that are sent before it.
            watch: whether Redis is to tell once when a key changes that the script has read.
        """
        names = list(keys)
        digest = self._scripts.get(script)
        tracking = [("CLIENT", "CACHING", "YES")] if watch and self.tells else []
        if digest is not None:
            try:
                return (await self.call(*before, *tracking, ("EVALSHA", digest, len(names), *names, *arguments)))[-1]
            except NoScriptError:
                # Redis was started anew, or told to forget scripts; the commands before it were done.
                before = ()
        answer = (await self.call(*before, *tracking, ("EVAL", script, len(names), *names, *arguments)))[-1]
        self._scripts[script] = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        return answer


def refuse(where: str, error: BaseException) -> LayerError:
    """Return the error, in one line, for a Redis that cannot be used."""
    return LayerError(f"cannot use Redis at {where}: {describe(error)}")

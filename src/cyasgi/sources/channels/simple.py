"""Channel layers of any kind: one message at a time for each channel, and only if an instance can take it."""

from __future__ import annotations

import asyncio
import logging
import reprlib
from typing import Any, Protocol

from ..backoff import Backoff
from .dispatcher import Dispatcher
from .errors import LayerError, Refused, is_of_message, unreadable
from .lines import Item, Line, clock

logger = logging.getLogger("cyasgi.sources.channels")

#: Seconds between two looks at what nobody announces.
BEAT = 1.0
#: TypeErrors and ValueErrors in a row, unless they surely come of a message, from which a layer is thought to be used
#: wrongly.
WRONG_USE = 5


class SimpleServer(Protocol):
    """What the engine knows of the server."""

    @property
    def reconnect(self) -> bool: ...


def checked(message: Any) -> Any:
    """Return the message, if an application can be given it.

    Raises:
        Refused: it cannot.
    """
    if not isinstance(message, dict):
        raise Refused(f"it is no map, but {_shown(message)}")
    if not message.get("type"):
        raise Refused(f"it has no type: {_shown(message)}")
    return message


def _shown(message: Any) -> str:
    try:
        text = repr(message)
    except Exception:
        # It is nested too deeply, or has an object in it that fails.
        text = reprlib.repr(message)
    return text if len(text) <= 200 else text[:200] + "..."


class SimpleEngine:
    """Brings messages by `receive()` of a layer."""

    def __init__(self, server: SimpleServer, layer: Any, dispatcher: Dispatcher) -> None:
        self._server = server
        self._layer = layer
        self._dispatcher = dispatcher
        self._rooms: dict[Line, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: asyncio.Future[None] | None = None
        self._counts = {"put_back": 0, "taken_over": 0, "reconnects": 0}

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._failed = loop.create_future()
        self._rooms = {line: asyncio.Event() for line in self._dispatcher.lines.values()}
        self._tasks = [loop.create_task(self._watched(self._listen(line))) for line in self._rooms]
        self._tasks.append(loop.create_task(self._watched(self._beat())))

    async def started(self) -> None:
        """Return: a layer is not asked before a message is wanted of it."""

    async def ended(self) -> None:
        assert self._failed is not None
        await asyncio.shield(self._failed)

    def changed(self, line: Line) -> None:
        if self._dispatcher.room(line):
            self._rooms[line].set()

    def stop_fetching(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def close(self, seconds: float) -> None:
        """Give back, by `send()`, what was received and no application has taken."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        lines = [line for line in self._dispatcher.lines.values() if line.waiting]
        try:
            async with asyncio.timeout(seconds):
                for line in lines:
                    while line.waiting:
                        await self._layer.send(line.channel, line.waiting[0].content)
                        line.pop()
                        self._counts["put_back"] += 1
        except Exception as error:
            # The layer is full, or gone.
            count = sum(len(line.waiting) for line in lines)
            logger.error("%d messages are lost: the layer does not take them back: %r", count, error)
            for line in lines:
                line.drop_all()

    def stats(self) -> dict[str, int]:
        return dict(self._counts)

    async def _watched(self, coroutine: Any) -> None:
        assert self._failed is not None
        try:
            await coroutine
        except Exception as error:
            if not self._failed.done():
                self._failed.set_exception(error)
                # Nobody may be waiting any more.
                self._failed.exception()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            self._dispatcher.prune()

    async def _listen(self, line: Line) -> None:
        backoff = Backoff()
        # A message that cannot be read costs those behind it little; a layer that does not get past one, no more CPU.
        pauses = Backoff(most=BEAT)
        in_a_row = 0
        origin = SimpleOrigin(line)
        room = self._rooms[line]
        while True:
            while not self._dispatcher.room(line):
                room.clear()
                await room.wait()
            began = clock()
            try:
                message = await self._layer.receive(line.channel)
            except AssertionError:
                # The layer is used wrongly, which does not mend itself.
                raise
            except Exception as error:
                of_message = is_of_message(error)
                if of_message or isinstance(error, (TypeError, ValueError)):
                    # The message is gone. A layer that is used wrongly raises TypeError or ValueError as well: at once,
                    # each time.
                    if clock() - began >= BEAT:
                        pauses.succeeded()
                        in_a_row = 0
                    in_a_row = 0 if of_message else in_a_row + 1
                    if in_a_row == WRONG_USE:
                        raise
                    self._dispatcher.refuse(line, unreadable(error))
                    await asyncio.sleep(pauses.failed())
                    continue
                if not self._server.reconnect:
                    raise LayerError(f"the channel layer failed: {error!r}") from error
                delay = backoff.failed()
                self._counts["reconnects"] += 1
                logger.warning("the channel layer failed: %r; trying again in %.1f s", error, delay)
                await asyncio.sleep(delay)
                continue
            backoff.succeeded()
            pauses.succeeded()
            in_a_row = 0
            self._dispatcher.offer(line, [Item(origin, message)])


class SimpleOrigin:
    """Where the messages of one line have come from: a layer that has forgotten them."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def usable(self, item: Item) -> bool:
        return True

    def open(self, item: Item) -> Any:
        return checked(item.content)

    def take(self, item: Item) -> None:
        """Do nothing: the layer has forgotten the message."""

    def finish(self, item: Item) -> None:
        """Do nothing, for the same reason."""

    def restore(self, item: Item) -> None:
        self._line.prepend(item)

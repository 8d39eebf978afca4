"""Scripts for queues, which are played on a queue of asyncio's kind and on an instance, loop passes counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from support.instances import SCOPE
from support.loops import passes


async def never_reads(scope: Any, receive: Any, send: Any) -> None:
    """An application that leaves its queue alone."""
    await asyncio.get_running_loop().create_future()


def server_of(cy: Any, application: Any = never_reads, **attributes: Any) -> Any:
    return type("Server", (cy.StatelessServer,), attributes)(application)


class Log(list):
    """What happened, each entry with the loop pass in which it did."""

    def __init__(self) -> None:
        super().__init__()
        self.tick = 0
        self.tasks: list[asyncio.Task[Any]] = []
        self.ticker = asyncio.get_running_loop().call_soon(self.turn)

    def turn(self) -> None:
        self.tick += 1
        self.ticker = asyncio.get_running_loop().call_soon(self.turn)

    def note(self, *what: Any) -> None:
        self.append((self.tick, *what))

    def start(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self.tasks.append(task)
        return task

    def events(self) -> list[Any]:
        """Without the passes; what has one part only is given bare."""
        return [entry[1] if len(entry) == 2 else entry[1:] for entry in self]


async def getter(queue: Any, log: Log, name: Any) -> None:
    try:
        log.note(name, await queue.get())
    except asyncio.CancelledError:
        log.note(name, "cancelled")


async def putter(queue: Any, log: Log, name: Any, message: Any) -> None:
    try:
        await queue.put(message)
        log.note(name, "done")
    except asyncio.CancelledError:
        log.note(name, "cancelled")


async def joiner(queue: Any, log: Log, name: Any) -> None:
    try:
        await queue.join()
        log.note(name, "joined")
    except asyncio.CancelledError:
        log.note(name, "cancelled")


def drained(queue: Any) -> list[Any]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


Scenario = Callable[[Any, Log], Awaitable[None]]


async def breathe(cy: Any) -> None:
    """Puts until a put() has let the loop turn, which it does now and then: the next ones do not."""
    queue = server_of(cy).get_or_create_application_instance("breathes", SCOPE)
    for _ in range(200):
        turned: list[bool] = []
        turn = asyncio.get_running_loop().call_soon(turned.append, True)
        await queue.put(None)
        turn.cancel()
        queue.get_nowait()
        if turned:
            return
    raise AssertionError("no put() has let the loop turn")


def agree(cy: Any, run: Any, scenario: Scenario, maxsize: int = 0, model: type = asyncio.Queue) -> list[Any]:
    """Plays the scenario on both queues, passes counted; gives the events for a look at what they are."""

    async def play(queue: Any) -> Log:
        log = Log()
        try:
            await scenario(queue, log)
            await passes(4)
        finally:
            log.ticker.cancel()
        log.note("left", queue.qsize(), queue.empty(), queue.full(), queue.maxsize)
        return log

    async def main() -> list[Any]:
        server = server_of(cy, max_queue_size=maxsize)
        instance = server.get_or_create_application_instance("id", SCOPE)
        await breathe(cy)
        await passes(3)
        expected = await play(model(maxsize))
        got = await play(instance)
        assert got == expected
        return expected.events()

    return run(main())

"""What one side does for one question: opened once, then prepared, timed and finished once a round, and closed.

Only `work` is timed. Whatever a round leaves behind is cancelled and awaited in `finish`, outside the time.
"""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.sides import stateless_server

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Any, Receive, Send], Awaitable[None]]

#: Far more than one datagram or one channel message needs, so that no side gains from an empty one.
MESSAGE = {"type": "benchmark.message", "data": b"x" * 64}
#: Loop passes after which whatever was put, cancelled or created has been seen by its task on every side.
SETTLE = 4


async def idle(scope: Any, receive: Receive, send: Send) -> None:
    """The smallest application that stays: it waits for messages and drops them."""
    while True:
        await receive()


async def echo(scope: Any, receive: Receive, send: Send) -> None:
    """Sends back whatever it receives."""
    while True:
        await send(await receive())


async def passes(count: int) -> None:
    """Lets the loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


@contextmanager
def collector_off() -> Iterator[None]:
    """Without garbage collections, for what is not timed."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Workload:
    """One side of one question at one size."""

    #: How often `work` does what is being measured; the time is divided by it.
    operations = 1
    #: The way in which it is to be done, where the question has several (`Timed.ways`); set before `open`.
    way = ""

    def __init__(self, side: str, size: int) -> None:
        self.side = side
        self.size = size

    async def open(self) -> None:
        """Makes what stands through all rounds."""

    async def prepare(self) -> None:
        """Makes what one round uses up."""

    async def work(self) -> None:
        """What is timed."""
        raise NotImplementedError

    async def finish(self) -> None:
        """Removes what one round left, and fails if the round did not do what it was timed for."""

    async def close(self) -> None:
        """Removes what stood through all rounds."""


def make_server(side: str, application: Application, limit: int, base: Any = None) -> Any:
    """A server of this side, or of this class, whose outbound messages go nowhere."""
    base = base or stateless_server(side)

    class Server(base):  # type: ignore[misc]
        async def application_send(self, scope: Any, message: Any) -> None:
            pass

    return Server(application, max_applications=limit)


@functools.lru_cache(maxsize=1)
def scopes(count: int) -> list[tuple[Hashable, dict[str, Any]]]:
    """Ids and scopes, made beforehand because they are the caller's. All sides have the same ones, lest a collection of
    garbage on one side look at those of the others too."""
    return [(f"client-{number}", {"type": "benchmark", "client": number}) for number in range(count)]


class ServerWorkload(Workload):
    """A workload on a StatelessServer, the reference's or cyasgi's."""

    application: Application = staticmethod(idle)
    limit = 2_000_000

    async def open(self) -> None:
        self.server = make_server(self.side, self.application, self.limit)

    async def populate(self, pairs: Iterable[tuple[Hashable, dict[str, Any]]]) -> list[Any]:
        """Creates an instance for each pair, lets them all start and gives back their queues; never timed."""
        with collector_off():
            create = self.server.get_or_create_application_instance
            queues = [create(scope_id, scope) for scope_id, scope in pairs]
            await passes(SETTLE)
        return queues

    async def close(self) -> None:
        await clear(self.server)


async def clear(server: Any) -> None:
    """Ends all instances of a server and waits for it."""
    with collector_off():
        for scope_id in list(server.application_instances):
            server.delete_application_instance(scope_id)
        await passes(2 * SETTLE)


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Ends a floor's bare tasks and waits for it."""
    with collector_off():
        for task in tasks:
            task.cancel()
        await passes(SETTLE)

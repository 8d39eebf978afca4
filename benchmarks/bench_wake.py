"""One message to each of many waiting instances: the way of a datagram once its instance is found."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.question import PURE_NO_SLOWER, Bar, Timed
from benchmarks.workload import MESSAGE, SETTLE, ServerWorkload, Workload, end, passes, scopes


class Wake(ServerWorkload):
    """Puts one message into each queue and lets every application take it and wait again."""

    def __init__(self, side: str, size: int) -> None:
        super().__init__(side, size)
        self.operations = size

    async def open(self) -> None:
        await super().open()
        self.queues = await self.populate(scopes(self.size))

    async def work(self) -> None:
        for queue in self.queues:
            queue.put_nowait(MESSAGE)
        await passes(SETTLE)

    async def finish(self) -> None:
        assert not any(queue.qsize() for queue in self.queues)


class WakeFutures(Workload):
    """Sets one bare future for each bare task, which then waits on a new one."""

    def __init__(self, side: str, size: int) -> None:
        super().__init__(side, size)
        self.operations = size

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self.futures: list[asyncio.Future[Any]] = [loop.create_future()] * self.size
        self.tasks = [loop.create_task(self.wait(number)) for number in range(self.size)]
        await passes(SETTLE)

    async def wait(self, number: int) -> None:
        create_future = asyncio.get_running_loop().create_future
        futures = self.futures
        while True:
            futures[number] = future = create_future()
            await future

    async def work(self) -> None:
        for future in self.futures:
            future.set_result(MESSAGE)
        await passes(SETTLE)

    async def close(self) -> None:
        await end(self.tasks)


QUESTION = Timed(
    name="wake",
    title="one message to an instance that waits",
    size_of="waiting instances",
    sizes={"quick": (1_000,), "usual": (1_000,), "full": (100, 1_000, 10_000, 100_000)},
    workload=Wake,
    floor=WakeFutures,
    floor_is="a bare future set, its bare task woken and waiting on a new one",
    bars=(Bar("reference", "cython", least=2.0, size=1_000), PURE_NO_SLOWER),
    note="The floor is asyncio's own way to wake a task. On its own loop the compiled core is below it, because it "
    "puts the wake-up into the loop's queue itself, without the frames of call_soon().",
)


def test_wake(benchmark: Any, case: Any) -> None:
    """Puts one message into each of many queues."""
    case(benchmark)

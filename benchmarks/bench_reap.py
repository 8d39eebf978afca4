"""Finding finished instances: the checker removes a thousand that have ended from among many that live."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from benchmarks.question import Bar, Timed
from benchmarks.workload import MESSAGE, SETTLE, Receive, Send, ServerWorkload, passes, scopes

FINISHED = 1_000


async def one_shot(scope: Any, receive: Receive, send: Send) -> None:
    """Ends with its first message."""
    await receive()


async def check_until(server: Any, live: int) -> None:
    """Runs the server's own checker until so many instances are left."""
    checker = asyncio.ensure_future(server.application_checker())
    while len(server.application_instances) > live:
        await asyncio.sleep(0.001)
        if checker.done():
            checker.result()
    checker.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await checker


class Reap(ServerWorkload):
    """Lets the checker find what has finished; its first sweep is due at once."""

    application = staticmethod(one_shot)
    operations = FINISHED

    async def open(self) -> None:
        await super().open()
        self.server.application_checker_interval = 0.001
        await self.populate(scopes(self.size))
        self.round = 0

    async def prepare(self) -> None:
        self.round += 1
        pairs = [((self.round, number), {"type": "benchmark"}) for number in range(FINISHED)]
        for queue in await self.populate(pairs):
            queue.put_nowait(MESSAGE)
        await passes(SETTLE)

    async def work(self) -> None:
        await check_until(self.server, self.size)

    async def finish(self) -> None:
        assert len(self.server.application_instances) == self.size


QUESTION = Timed(
    name="reap",
    title="finding and removing a finished instance, 1,000 at once",
    size_of="live instances",
    sizes={"quick": (1_000, 10_000), "usual": (1_000, 100_000), "full": (1_000, 10_000, 100_000, 1_000_000)},
    workload=Reap,
    bars=(
        Bar("cython", "cython", most=1.5, size=100_000, by_size=1_000),
        Bar("cython", "cython", most=1.5, size=1_000_000, by_size=1_000),
        Bar("pure", "pure", most=1.5, size=1_000_000, by_size=1_000),
        *(Bar("reference", "pure", least=1.0, size=size) for size in (10_000, 100_000, 1_000_000)),
    ),
    note="CPU time of the process, from the start of the checker until the last of them is gone.",
)


def test_reap(benchmark: Any, case: Any) -> None:
    """Lets the checker remove a thousand finished instances."""
    case(benchmark)

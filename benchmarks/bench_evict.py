"""Create at the limit: every new client costs the least recently used one its place."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from typing import Any

from benchmarks.bench_create import wait_for_ever
from benchmarks.question import PURE_NO_SLOWER, Bar, Timed
from benchmarks.workload import SETTLE, ServerWorkload, Workload, end, passes, scopes

#: New clients between two passes of the loop.
BATCH = 50
CREATIONS = 2_000
#: The reference looks at every live instance for each eviction: fewer are enough, and all that can be waited for.
CREATIONS_OF_REFERENCE = {1_000: 500, 10_000: 100, 100_000: 10}


class Evict(ServerWorkload):
    """Creates instances on a full table."""

    def __init__(self, side: str, size: int) -> None:
        super().__init__(side, size)
        self.limit = size
        if side == "reference":
            self.operations = CREATIONS_OF_REFERENCE[size]
        else:
            self.operations = CREATIONS
        self.numbers = itertools.count()

    async def open(self) -> None:
        await super().open()
        # One more than the limit, because that is how many the reference keeps.
        await self.populate(scopes(self.size + 1))

    async def prepare(self) -> None:
        fresh = [(f"new-{next(self.numbers)}", {"type": "benchmark"}) for _ in range(self.operations)]
        self.batches = [fresh[start : start + BATCH] for start in range(0, len(fresh), BATCH)]

    async def work(self) -> None:
        get_or_create = self.server.get_or_create_application_instance
        for batch in self.batches:
            for scope_id, scope in batch:
                get_or_create(scope_id, scope)
            await asyncio.sleep(0)
        await passes(SETTLE)

    async def finish(self) -> None:
        assert self.size <= len(self.server.application_instances) <= self.size + 1
        assert self.batches[-1][-1][0] in self.server.application_instances


class CancelOldest(Workload):
    """Makes a bare task and cancels the oldest of those kept in an OrderedDict."""

    operations = CREATIONS

    async def open(self) -> None:
        create_task = asyncio.get_running_loop().create_task
        self.numbers = itertools.count(self.size)
        self.tasks = OrderedDict((number, create_task(wait_for_ever())) for number in range(self.size))
        await passes(SETTLE)

    async def work(self) -> None:
        create_task = asyncio.get_running_loop().create_task
        tasks = self.tasks
        for _ in range(CREATIONS // BATCH):
            for number in itertools.islice(self.numbers, BATCH):
                tasks.popitem(last=False)[1].cancel()
                tasks[number] = create_task(wait_for_ever())
            await asyncio.sleep(0)
        await passes(SETTLE)

    async def close(self) -> None:
        await end(self.tasks.values())


QUESTION = Timed(
    name="evict",
    title="create at the limit, one eviction each",
    size_of="live instances",
    sizes={
        "quick": (1_000, 10_000),
        "usual": (1_000, 10_000, 100_000),
        "full": (1_000, 10_000, 100_000, 1_000_000),
    },
    only={1_000_000: ("pure", "cython", "floor")},
    workload=Evict,
    floor=CancelOldest,
    floor_is="a bare task created and the oldest one cancelled",
    bars=(
        Bar("reference", "cython", least=10.0, size=1_000),
        Bar("reference", "cython", least=100.0, size=10_000),
        Bar("reference", "cython", least=1_000.0, size=100_000),
        Bar("cython", "cython", most=1.5, size=100_000, by_size=1_000),
        Bar("cython", "cython", most=1.5, size=1_000_000, by_size=1_000),
        Bar("pure", "pure", most=1.5, size=1_000_000, by_size=1_000),
        PURE_NO_SLOWER,
    ),
    note=f"{BATCH} creations between two passes of the loop; the passes, and the ends of the evicted, are included.",
)


def test_evict(benchmark: Any, case: Any) -> None:
    """Creates instances on a full table."""
    case(benchmark)

"""An instance of a ManagedServer from its creation to its end: what managing adds to the plain server."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.bench_create import wait_for_ever
from benchmarks.bench_managed import LIMITED, MANAGED, ONLY, PLAIN, WAYS, clients, make
from benchmarks.question import Timed, added
from benchmarks.workload import SETTLE, ServerWorkload, Workload, passes


class Lives(ServerWorkload):
    """Creates instances, lets them start, deletes them and lets them end."""

    def __init__(self, side: str, size: int) -> None:
        super().__init__(side, size)
        self.operations = size
        self.pairs = clients(size)

    async def open(self) -> None:
        self.server = make(self.side, self.way, self.application, self.limit)

    async def work(self) -> None:
        server = self.server
        for scope_id, scope in self.pairs:
            server.get_or_create_application_instance(scope_id, scope)
        await passes(SETTLE)
        for scope_id, _ in self.pairs:
            server.delete_application_instance(scope_id)
        await passes(SETTLE)

    async def finish(self) -> None:
        assert not self.server.application_instances
        if self.way != PLAIN:
            assert not self.server.snapshot()
        if self.way == LIMITED:
            assert not self.server.stats()["limited_instances"]


class BareLives(Workload):
    """Makes bare tasks that wait on a bare future, lets them start, cancels them and lets them end."""

    def __init__(self, side: str, size: int) -> None:
        super().__init__(side, size)
        self.operations = size

    async def work(self) -> None:
        create_task = asyncio.get_running_loop().create_task
        tasks = [create_task(wait_for_ever()) for _ in range(self.size)]
        await passes(SETTLE)
        for task in tasks:
            task.cancel()
        await passes(SETTLE)


QUESTION = Timed(
    name="managed_life",
    title="a managed instance created, started, deleted and ended",
    size_of="in a row",
    sizes={"quick": (2_000,), "usual": (20_000,), "full": (1_000, 20_000, 100_000)},
    ways=WAYS,
    base=PLAIN,
    told=(added(MANAGED), added(LIMITED)),
    only_ways=ONLY,
    workload=Lives,
    floor=BareLives,
    floor_is="loop.create_task of a coroutine that waits on a future, cancelled",
    note="Each client at a host of its own, one instance each. Limits and hooks as in `managed`.",
)


def test_managed_life(benchmark: Any, case: Any) -> None:
    """Creates and ends managed instances."""
    case(benchmark)

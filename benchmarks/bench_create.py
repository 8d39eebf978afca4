"""Create and start: many new clients in a row, up to where each application waits for its first message."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.question import PURE_NO_SLOWER, Bar, Timed
from benchmarks.workload import SETTLE, ServerWorkload, Workload, clear, end, passes, scopes


class Create(ServerWorkload):
    """Creates instances that were not there and lets them all start."""

    def __init__(self, side: str, size: int) -> None:
        super().__init__(side, size)
        self.operations = size
        self.pairs = scopes(size)

    async def work(self) -> None:
        get_or_create = self.server.get_or_create_application_instance
        for scope_id, scope in self.pairs:
            get_or_create(scope_id, scope)
        await passes(SETTLE)

    async def finish(self) -> None:
        assert len(self.server.application_instances) == self.size
        await clear(self.server)


async def wait_for_ever() -> None:
    await asyncio.get_running_loop().create_future()


class BareTasks(Workload):
    """Bare tasks that wait on a bare future, kept in a list."""

    def __init__(self, side: str, size: int) -> None:
        super().__init__(side, size)
        self.operations = size

    async def prepare(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    async def work(self) -> None:
        create_task = asyncio.get_running_loop().create_task
        keep = self.tasks.append
        for _ in range(self.size):
            keep(create_task(wait_for_ever()))
        await passes(SETTLE)

    async def finish(self) -> None:
        await end(self.tasks)
        self.tasks.clear()


QUESTION = Timed(
    name="create",
    title="create and start an instance",
    size_of="in a row",
    sizes={"quick": (5_000,), "usual": (20_000,), "full": (1_000, 20_000, 100_000)},
    workload=Create,
    floor=BareTasks,
    floor_is="loop.create_task of a coroutine that waits on a future",
    bars=(
        Bar("reference", "cython", least=4.0, size=20_000),
        Bar("cython", "floor", most=1.3, size=20_000),
        PURE_NO_SLOWER,
    ),
    note="Starting is included: the time ends when every application waits in receive().",
)


def test_create(benchmark: Any, case: Any) -> None:
    """Creates instances in a row and lets them start."""
    case(benchmark)

"""Finding idle instances: the checker expires a thousand from among many that were just used."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from benchmarks.bench_reap import check_until
from benchmarks.question import Bar, Timed
from benchmarks.workload import ServerWorkload, scopes

EXPIRED = 1_000


class Expire(ServerWorkload):
    """Lets the checker find what has been idle too long; the others were used meanwhile, which the checker has seen."""

    operations = EXPIRED

    def __init__(self, side: str, size: int) -> None:
        super().__init__(side, size)
        # Long enough to use all the others in a quarter of it.
        self.timeout = 0.4 + size * 1e-5

    async def open(self) -> None:
        await super().open()
        self.server.application_checker_interval = 0.001
        self.server.idle_timeout = self.timeout
        self.pairs = scopes(self.size)
        await self.populate(self.pairs)
        self.round = 0

    async def prepare(self) -> None:
        self.round += 1
        await self.populate([((self.round, number), {"type": "benchmark"}) for number in range(EXPIRED)])
        used = monotonic()
        await asyncio.sleep(self.timeout / 2)
        get_or_create = self.server.get_or_create_application_instance
        for scope_id, scope in self.pairs:
            get_or_create(scope_id, scope)
        checker = asyncio.ensure_future(self.server.application_checker())
        await asyncio.sleep(self.timeout / 8)
        checker.cancel()
        await asyncio.wait([checker])
        assert len(self.server.application_instances) == self.size + EXPIRED
        await asyncio.sleep(used + self.timeout + 0.01 - monotonic())

    async def work(self) -> None:
        await check_until(self.server, self.size)

    async def finish(self) -> None:
        assert len(self.server.application_instances) == self.size


QUESTION = Timed(
    name="expire",
    title="finding and ending an idle instance, 1,000 at once",
    size_of="live instances",
    sizes={"quick": (), "usual": (1_000, 100_000), "full": (1_000, 10_000, 100_000, 1_000_000)},
    only=dict.fromkeys((1_000, 10_000, 100_000, 1_000_000), ("pure", "cython")),
    workload=Expire,
    bars=(
        Bar("cython", "cython", most=1.5, size=100_000, by_size=1_000),
        Bar("cython", "cython", most=1.5, size=1_000_000, by_size=1_000),
        Bar("pure", "pure", most=1.5, size=1_000_000, by_size=1_000),
    ),
    note="The reference never expires anything. Ending them is included, their tasks' last steps too.",
)


def test_expire(benchmark: Any, case: Any) -> None:
    """Lets the checker expire a thousand idle instances."""
    case(benchmark)

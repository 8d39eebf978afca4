"""get_or_create of a live id: what every message pays first."""

from __future__ import annotations

from typing import Any

from benchmarks.question import PURE_NO_SLOWER, Bar, Timed
from benchmarks.workload import ServerWorkload, Workload, scopes

LOOKUPS = 20_000


def one_in_the_middle(pairs: list[Any]) -> list[Any]:
    """The same id again and again, as from one busy client."""
    return [pairs[len(pairs) // 2]] * LOOKUPS


class Lookup(ServerWorkload):
    """Asks for ids that have a live instance."""

    operations = LOOKUPS
    choose = staticmethod(one_in_the_middle)

    async def open(self) -> None:
        await super().open()
        pairs = scopes(self.size)
        await self.populate(pairs)
        self.asked = self.choose(pairs)

    async def work(self) -> None:
        get_or_create = self.server.get_or_create_application_instance
        for scope_id, scope in self.asked:
            get_or_create(scope_id, scope)

    async def finish(self) -> None:
        assert len(self.server.application_instances) == self.size


class OneGet(Workload):
    """One `dict.get`, called from Python."""

    operations = LOOKUPS
    choose = staticmethod(one_in_the_middle)

    async def open(self) -> None:
        pairs = scopes(self.size)
        self.table = dict(pairs)
        self.asked = self.choose(pairs)

    async def work(self) -> None:
        get = self.table.get
        for scope_id, scope in self.asked:
            get(scope_id, scope)


QUESTION = Timed(
    name="lookup",
    title="get_or_create of one live id, again and again",
    size_of="live instances",
    sizes={
        "quick": (1, 10_000),
        "usual": (1, 1_000, 100_000),
        "full": (1, 100, 10_000, 100_000, 1_000_000),
    },
    unit="ns",
    workload=Lookup,
    floor=OneGet,
    floor_is="one dict.get called from Python",
    bars=(Bar("reference", "cython", least=4.0), PURE_NO_SLOWER),
)


def test_lookup(benchmark: Any, case: Any) -> None:
    """Looks up one live id again and again."""
    case(benchmark)

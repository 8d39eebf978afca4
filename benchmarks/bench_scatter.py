"""get_or_create of live ids in an arbitrary order: the same lookup when neither dict nor instance is in a cache."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.bench_lookup import LOOKUPS, Lookup, OneGet
from benchmarks.question import PURE_NO_SLOWER, Bar, Timed


def arbitrary(pairs: list[Any]) -> list[Any]:
    """The same arbitrary order for every side."""
    return random.Random(1).choices(pairs, k=LOOKUPS)


class Scatter(Lookup):
    """Asks for live ids in an arbitrary order."""

    choose = staticmethod(arbitrary)


class ScatterGet(OneGet):
    """One `dict.get` for each, in the same order."""

    choose = staticmethod(arbitrary)


QUESTION = Timed(
    name="scatter",
    title="get_or_create of live ids in an arbitrary order",
    size_of="live instances",
    sizes={"quick": (10_000,), "usual": (10_000, 100_000), "full": (100, 10_000, 100_000, 1_000_000)},
    unit="ns",
    workload=Scatter,
    floor=ScatterGet,
    floor_is="one dict.get called from Python",
    bars=(Bar("reference", "cython", least=4.0, size=100_000), PURE_NO_SLOWER),
    note="With many instances this is the time of the memory, not of the code.",
)


def test_scatter(benchmark: Any, case: Any) -> None:
    """Looks up live ids in an arbitrary order."""
    case(benchmark)

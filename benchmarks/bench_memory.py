"""Bytes per idle instance as Python counts them: what one more client costs, at most and afterwards."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from typing import Any

from benchmarks.probing import collect, population, run
from benchmarks.question import Bar, Figure, Probed


async def count(side: str, size: int) -> dict[str, float]:
    """Allocations of an idle population; ids and scopes are the caller's and were made before."""
    idle = population(side, size)
    await idle.open()
    await idle.prepare()
    collect()
    tracemalloc.start()
    await idle.work()
    peak = tracemalloc.get_traced_memory()[1]
    collect()
    live = tracemalloc.get_traced_memory()[0]
    await idle.finish()
    collect()
    left = tracemalloc.get_traced_memory()[0]
    return {"idle": live / size, "peak": peak / size, "left": left}


def probe(side: str, loop: str, size: int) -> Mapping[str, float]:
    return run(loop, count(side, size))


QUESTION = Probed(
    name="memory",
    title="memory of an idle instance, by tracemalloc",
    size_of="live instances",
    sizes={"quick": (10_000,), "usual": (100_000,), "full": (10_000, 100_000, 1_000_000)},
    probe=probe,
    figures={
        "idle": Figure("per idle instance", "B"),
        "peak": Figure("peak while creating, per instance", "B"),
        "left": Figure("left after all are gone", "KiB"),
    },
    rounds={"quick": 1, "usual": 1, "full": 1},
    floor_is="a bare task that waits on a bare future",
    bars=(
        Bar("cython", "reference", most=0.5, figure="idle"),
        Bar("cython", "floor", most=1.35, figure="idle"),
        Bar("pure", "reference", most=1.0, figure="idle"),
    ),
    note="Ids and scopes are the caller's and not counted. One run each: the same bytes every time.",
)


def test_memory(benchmark: Any, case: Any) -> None:
    """Counts the bytes of idle instances."""
    case(benchmark)

"""Bytes per idle instance as the machine counts them: resident memory, at most and afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.probing import collect, peak_resident, population, resident, run
from benchmarks.question import Bar, Figure, Probed


async def weigh(side: str, size: int) -> dict[str, float]:
    idle = population(side, size)
    await idle.open()
    await idle.prepare()
    collect()
    before = resident()
    await idle.work()
    collect()
    live = resident()
    peak = peak_resident()
    await idle.finish()
    collect()
    return {"idle": (live - before) / size, "peak": (peak - before) / size, "left": resident() - before}


def probe(side: str, loop: str, size: int) -> Mapping[str, float]:
    return run(loop, weigh(side, size))


QUESTION = Probed(
    name="resident",
    title="memory of an idle instance, resident",
    size_of="live instances",
    sizes={"quick": (), "usual": (100_000,), "full": (10_000, 100_000, 1_000_000)},
    probe=probe,
    figures={
        "idle": Figure("per idle instance", "B"),
        "peak": Figure("peak while creating, per instance", "B"),
        "left": Figure("left after all are gone", "MiB"),
    },
    floor_is="a bare task that waits on a bare future",
    bars=(Bar("cython", "reference", most=0.5, figure="idle"),),
    note="What is left afterwards is what the allocators keep for the next ones.",
)


def test_resident(benchmark: Any, case: Any) -> None:
    """Weighs the process with idle instances."""
    case(benchmark)

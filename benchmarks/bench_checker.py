"""The checker beside idle instances: what it costs to have clients that say nothing."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping
from time import perf_counter, process_time
from typing import Any

from benchmarks.bench_create import Create
from benchmarks.probing import run
from benchmarks.question import Bar, Figure, Probed
from benchmarks.sides import FLOOR
from benchmarks.workload import collector_off

#: How often the second half looks whether the loop still turns, in seconds.
TICK = 0.01
#: Seconds between two rounds of the checker, on every side.
INTERVAL = 0.1


async def share(seconds: float) -> float:
    """CPU time per second while this process has nothing to do."""
    await asyncio.sleep(0.25)
    begun, used = perf_counter(), process_time()
    await asyncio.sleep(seconds)
    return (process_time() - used) / (perf_counter() - begun)


async def wake_up() -> None:
    """As often as the checker, and for nothing."""
    while True:
        await asyncio.sleep(INTERVAL)


async def watch(side: str, size: int, seconds: float) -> dict[str, float]:
    """CPU time of an idle process, then the longest time for which its loop did nothing else."""
    checker: asyncio.Future[Any] | None = None
    if side != FLOOR:
        idle = Create(side, size)
        await idle.open()
        with collector_off():
            await idle.work()
        idle.server.application_checker_interval = INTERVAL
        checker = asyncio.ensure_future(idle.server.application_checker())
    gc.collect()
    figures = {"share": await share(seconds)}
    stall = 0.0
    until = perf_counter() + seconds
    while (now := perf_counter()) < until:
        await asyncio.sleep(TICK)
        stall = max(stall, perf_counter() - now - TICK)
    if checker is not None:
        if checker.done():
            checker.result()
        checker.cancel()
        await asyncio.wait([checker])
        await idle.finish()
    else:
        timer = asyncio.ensure_future(wake_up())
        figures["timer"] = await share(seconds)
        timer.cancel()
    return {**figures, "stall": stall}


def probe(side: str, loop: str, size: int, seconds: float) -> Mapping[str, float]:
    return run(loop, watch(side, size, seconds))


QUESTION = Probed(
    name="checker",
    title="the checker beside idle instances",
    size_of="idle instances",
    sizes={"quick": (1_000, 10_000), "usual": (1_000, 100_000), "full": (1_000, 10_000, 100_000, 1_000_000)},
    probe=probe,
    figures={
        "share": Figure("share of a core", "%"),
        "timer": Figure("share of a core, of a bare sleep() as often as the checker", "%"),
        "stall": Figure("longest stall of the loop", "ms"),
    },
    arguments={"quick": {"seconds": 0.4}, "usual": {"seconds": 1.0}, "full": {"seconds": 2.0}},
    floor_is="a loop with nothing in it",
    bars=(
        Bar("cython", most=0.001, figure="share", size=100_000),
        Bar("pure", most=0.001, figure="share", size=100_000),
        Bar("cython", most=0.001, figure="share", size=1_000_000),
    ),
    note=f"application_checker_interval is {INTERVAL} s on every side.",
)


def test_checker(benchmark: Any, case: Any) -> None:
    """Watches an idle server."""
    case(benchmark)

"""Pauses of the garbage collector with a million live instances, and what gc.freeze and thresholds change."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from benchmarks.bench_create import BareTasks
from benchmarks.probing import collect, population, run
from benchmarks.question import Figure, Probed
from benchmarks.workload import MESSAGE

#: What run() sets where the interpreter's own thresholds stand: cyasgi.serving.collector says why.
THRESHOLDS = (5_000, 10, 100)
#: Instances created between two calls of gc.freeze.
FREEZE_EVERY = 50_000
BATCH = 100


class Pauses:
    """What the collector did while it was watched."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.total = 0.0
        self.begun = self.started = perf_counter()

    def __call__(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self.started = perf_counter()
        else:
            pause = perf_counter() - self.started
            self.worst = max(self.worst, pause)
            self.total += pause

    @property
    def share(self) -> float:
        return self.total / (perf_counter() - self.begun)


@contextmanager
def watched() -> Iterator[Pauses]:
    pauses = Pauses()
    gc.callbacks.append(pauses)
    try:
        yield pauses
    finally:
        gc.callbacks.remove(pauses)


async def grow(idle: Any, between: Callable[[int], None] | None = None) -> None:
    """Creates a population batch by batch, the loop turning between them, as clients come."""
    create_task = asyncio.get_running_loop().create_task
    for start in range(0, idle.size, BATCH):
        if isinstance(idle, BareTasks):
            idle.tasks += [create_task(wait(idle)) for _ in range(BATCH)]
        else:
            for scope_id, scope in idle.pairs[start : start + BATCH]:
                idle.server.get_or_create_application_instance(scope_id, scope)
        await asyncio.sleep(0)
        if between is not None:
            between(start + BATCH)


async def wait(idle: BareTasks) -> None:
    await asyncio.get_running_loop().create_future()


async def serve(idle: Any, count: int) -> None:
    """Traffic: messages to arbitrary instances, and clients that come and go."""
    if isinstance(idle, BareTasks):
        loop = asyncio.get_running_loop()
        for _ in range(0, count, BATCH):
            tasks = [loop.create_task(wait(idle)) for _ in range(BATCH // 10)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.sleep(0)
        return
    server = idle.server
    chosen = random.Random(1).choices(idle.pairs, k=count)
    for start in range(0, count, BATCH):
        for scope_id, scope in chosen[start : start + BATCH]:
            server.get_or_create_application_instance(scope_id, scope).put_nowait(MESSAGE)
        for guest in range(BATCH // 10):
            server.get_or_create_application_instance(("guest", guest), {}).put_nowait(MESSAGE)
        await asyncio.sleep(0)
        for guest in range(BATCH // 10):
            server.delete_application_instance(("guest", guest))
        await asyncio.sleep(0)


def timed(function: Callable[[], Any]) -> float:
    started = perf_counter()
    function()
    return perf_counter() - started


async def pause(side: str, size: int, messages: int) -> dict[str, float]:
    """By default, then with rarer thresholds, then frozen as it grows; each on an empty table."""
    figures: dict[str, float] = {}
    idle = population(side, size)
    await idle.open()
    defaults = gc.get_threshold()

    def freeze(created: int) -> None:
        if created % FREEZE_EVERY == 0:
            gc.freeze()

    for way in ("default", "thresholds", "frozen"):
        await idle.prepare()
        collect()
        if way == "thresholds":
            gc.set_threshold(*THRESHOLDS)
        with watched() as pauses:
            await grow(idle, freeze if way == "frozen" else None)
        figures[f"growing.{way}"] = pauses.worst
        figures[f"share.{way}"] = pauses.share
        if way == "frozen":
            gc.freeze()
        with watched() as pauses:
            await serve(idle, messages)
        figures[f"serving.{way}"] = pauses.worst
        figures[f"full.{way}"] = timed(gc.collect)
        gc.set_threshold(*defaults)
        gc.unfreeze()
        await idle.finish()
    return figures


def probe(side: str, loop: str, size: int, messages: int) -> Mapping[str, float]:
    return run(loop, pause(side, size, messages))


WAYS = {"default": "by default", "thresholds": f"thresholds {THRESHOLDS}", "frozen": "gc.freeze every 50,000"}

QUESTION = Probed(
    name="pauses",
    title="pauses of the garbage collector",
    size_of="live instances",
    sizes={"quick": (), "usual": (100_000,), "full": (100_000, 1_000_000)},
    probe=probe,
    figures={
        f"{name}.{way}": Figure(f"{title}, {how}", unit)
        for way, how in WAYS.items()
        for name, title, unit in (
            ("growing", "worst pause while clients come", "ms"),
            ("share", "time spent collecting while clients come", "%"),
            ("serving", "worst pause while messages flow", "ms"),
            ("full", "one full collection", "ms"),
        )
    },
    loops=("asyncio",),
    arguments={"usual": {"messages": 50_000}, "full": {"messages": 200_000}},
    floor_is="bare tasks that wait on bare futures",
)


def test_pauses(benchmark: Any, case: Any) -> None:
    """Watches the collector while a population grows and works."""
    case(benchmark)

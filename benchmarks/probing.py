"""What several probes need: a loop of the asked kind, a population of any side, and the memory of this process."""

from __future__ import annotations

import asyncio
import gc
import resource
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.bench_create import BareTasks, Create
from benchmarks.sides import FLOOR, loop_factory
from benchmarks.workload import Workload

Answer = TypeVar("Answer")


def run(loop: str, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
    """Runs a coroutine to its end on a new loop of this kind."""
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        return runner.run(coroutine)


def population(side: str, size: int) -> Workload:
    """A workload whose `work` makes so many idle instances (or bare tasks) and whose `finish` ends them."""
    return BareTasks(side, size) if side == FLOOR else Create(side, size)


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_resident() -> int:
    """The most bytes of this process that were ever in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def collect() -> None:
    """Collects until nothing more comes of it."""
    while gc.collect():
        pass

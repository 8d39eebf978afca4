"""Instructions per operation, counted by valgrind: the same on every machine and in every run.

Each operation is run N times and 2 N times in an interpreter under callgrind; the difference divided by N leaves out
the interpreter's start and the making of what stands. The garbage collector is off.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks import bench_burst, bench_create, bench_drain, bench_evict, bench_lookup, bench_message, bench_wake
from benchmarks.fresh import ROOT, command
from benchmarks.question import Bar, Figure, Probed
from benchmarks.workload import Workload

#: Each operation with its question and the size of what stands while it is counted.
OPERATIONS = {
    "lookup": (bench_lookup, 1),
    "evict": (bench_evict, 1_000),
    "message": (bench_message, 100),
    "wake": (bench_wake, 100),
    "burst": (bench_burst, 100),
    "drain": (bench_drain, 1),
}


async def repeat(operation: str, side: str, rounds: int) -> None:
    """Runs an operation's workload so often, then leaves without tidying up."""
    if operation == "create":
        # What is created stays, so here it is the size that doubles.
        workload = bench_create.QUESTION.make(side, rounds)
        rounds = 1
    else:
        module, size = OPERATIONS[operation]
        workload = module.QUESTION.make(side, size)
    assert workload is not None
    gc.disable()
    await workload.open()
    for _ in range(rounds):
        await workload.prepare()
        await workload.work()
        if operation == "drain":
            await workload.finish()
    os._exit(0)


def leave(operation: str, side: str, rounds: int) -> None:
    asyncio.run(repeat(operation, side, rounds))


def count(operation: str, side: str, rounds: int) -> int:
    """All instructions of an interpreter that runs an operation's workload so often."""
    done = subprocess.run(
        [
            *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
            *command(leave, {"operation": operation, "side": side, "rounds": rounds}),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    counted = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
    if done.returncode or counted is None:
        raise RuntimeError(f"{operation} on {side} under valgrind: {done.stderr[-2_000:]}")
    return int(counted[1])


def per_operation(operation: str, side: str) -> float:
    """Instructions per operation, by the difference between N and 2 N."""
    if operation == "create":
        rounds, operations = 500, 500
    else:
        module, size = OPERATIONS[operation]
        workload: Workload | None = module.QUESTION.make(side, size)
        assert workload is not None
        rounds = max(1, 2_000 // workload.operations)
        operations = rounds * workload.operations
    return (count(operation, side, 2 * rounds) - count(operation, side, rounds)) / operations


def probe(side: str, loop: str, size: int) -> Mapping[str, float]:
    names = ["create", *OPERATIONS]
    # Counts, unlike times, do not mind company.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(names, pool.map(lambda name: per_operation(name, side), names), strict=True))


def hindrance() -> str:
    return "" if shutil.which("valgrind") else "valgrind is not installed"


QUESTION = Probed(
    name="instructions",
    title="instructions per operation, by valgrind",
    size_of="run",
    sizes={"quick": (), "usual": (), "full": (1,)},
    probe=probe,
    figures={
        "lookup": Figure("get_or_create of a live id", "instructions"),
        "create": Figure("create and start an instance", "instructions"),
        "evict": Figure("create at the limit (1,000 live)", "instructions"),
        "message": Figure("the whole way of a message", "instructions"),
        "wake": Figure("one message to an instance that waits", "instructions"),
        "burst": Figure("a message of ten put in one pass", "instructions"),
        "drain": Figure("a message put, received and sent on", "instructions"),
    },
    loops=("asyncio",),
    rounds={"quick": 1, "usual": 1, "full": 1},
    floor_is="as for each of these questions",
    bars=tuple(
        Bar("reference", "pure", least=1.0, figure=figure)
        for figure in ("lookup", "create", "evict", "message", "wake", "burst", "drain")
    ),
    hindrance=hindrance,
    note="asyncio only; the garbage collector is off.",
)


def test_instructions(benchmark: Any, case: Any) -> None:
    """Counts the instructions of every operation."""
    case(benchmark)

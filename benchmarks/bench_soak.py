"""Overload for some seconds: whether what waits, and with it memory, grows, and how long the loop is held at a time.

Three kinds: new ids at the limit whose predecessors are evicted with a message each, one-shot applications without a
limit, and applications that fail. The checker runs; what the hooks log is formatted and thrown away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.fresh import fresh
from benchmarks.probing import collect, resident, run
from benchmarks.question import Bar, Figure, Probed
from benchmarks.sides import SIDES
from benchmarks.workload import Receive, Send, idle, make_server

LIMIT = 100
#: Applications that end or fail are made without a limit, which the reference has as a very large one.
NO_LIMIT = 1_000_000
#: Bytes of each message.
SIZE = 1_200
#: Passes of the loop between two looks at the memory.
LOOK = 5


async def ends(scope: Any, receive: Receive, send: Send) -> None:
    await receive()


async def fails(scope: Any, receive: Receive, send: Send) -> None:
    await receive()
    raise ValueError("benchmark")


KINDS = {"evicted": (idle, LIMIT), "one_shot": (ends, NO_LIMIT), "failing": (fails, NO_LIMIT)}
TITLES = {"evicted": "evicted with a message each", "one_shot": "one-shot applications", "failing": "failing ones"}


class Discard(logging.Handler):
    """Formats what it is given, as a handler that writes does."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


async def soak(side: str, kind: str, size: int, seconds: float) -> dict[str, float]:
    """So many new ids a pass of the loop, each with a message. The ids are paced by nothing but the loop."""
    application, limit = KINDS[kind]
    server = make_server(side, application, limit)
    server.application_checker_interval = 0.1
    checker = asyncio.ensure_future(server.application_checker())
    get_or_create = server.get_or_create_application_instance
    collect()
    before = resident()
    memory: list[int] = []
    passes: list[float] = []
    made = 0
    begun = perf_counter()
    while (started := perf_counter()) < begun + seconds:
        for number in range(made, made + size):
            get_or_create(number, {"type": "benchmark"}).put_nowait({"type": "benchmark", "data": bytes(SIZE)})
        made += size
        await asyncio.sleep(0)
        passes.append(perf_counter() - started)
        if len(passes) % LOOK == 0:
            memory.append(resident() - before)
    checker.cancel()
    await asyncio.wait([checker])
    # The first third fills the allocator's arenas.
    early, late = memory[len(memory) // 3 : 2 * len(memory) // 3], memory[2 * len(memory) // 3 :]
    return {
        f"{kind}.held": max(late),
        f"{kind}.growth": (median(late) - median(early)) / (seconds / 3),
        f"{kind}.median": median(passes),
        f"{kind}.worst": max(passes),
        f"{kind}.rate": made / (perf_counter() - begun),
    }


def soaked(side: str, loop: str, kind: str, size: int, seconds: float) -> dict[str, float]:
    logging.getLogger().addHandler(Discard())
    return run(loop, soak(side, kind, size, seconds))


def probe(side: str, loop: str, size: int, seconds: float) -> Mapping[str, float]:
    """Each kind in an interpreter of its own: what one leaves in memory must not be charged to the next."""
    answer: dict[str, float] = {}
    for kind in KINDS:
        answer |= fresh(soaked, side=side, loop=loop, kind=kind, size=size, seconds=seconds)
    return answer


QUESTION = Probed(
    name="soak",
    title="overload for some seconds: memory and latency of the loop",
    size_of="new ids a pass",
    sizes={"quick": (500,), "usual": (500,), "full": (500,)},
    probe=probe,
    figures={
        f"{kind}.{name}": Figure(f"{title}: {what}", unit, more=more, judged=name != "growth")
        for kind, title in TITLES.items()
        for name, what, unit, more in (
            ("held", "memory held in the last third, at most", "MiB", False),
            ("growth", "growth of it in a second, from the second third to the last", "MiB", False),
            ("median", "half of the passes within", "ms", False),
            ("worst", "the longest pass", "ms", False),
            ("rate", "instances a second", "/s", True),
        )
    },
    sides=SIDES,
    loops=("asyncio",),
    rounds={"quick": 1, "usual": 3, "full": 3},
    arguments={"quick": {"seconds": 1.0}, "usual": {"seconds": 5.0}, "full": {"seconds": 20.0}},
    bars=tuple(
        Bar(side, figure=f"evicted.{figure}", most=most)
        for side in ("cython", "pure")
        for figure, most in (("held", 64 * 2**20), ("growth", 2 * 2**20))
    ),
    note=f"At most {LIMIT} instances where they are evicted, else no limit; messages of {SIZE:,} bytes. A pass makes"
    " the new ids and lets the loop turn once. What the hooks log is formatted and thrown away.",
)


def test_soak(benchmark: Any, case: Any) -> None:
    """Overloads a server for some seconds."""
    case(benchmark)

"""A flood of ids that come once each, at the limit: what it costs, and who of the established is left after it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import process_time
from typing import Any

from benchmarks.bench_evict import BATCH
from benchmarks.probing import collect, run
from benchmarks.question import Bar, Figure, Probed
from benchmarks.sides import SIDES
from benchmarks.workload import SETTLE, clear, idle, make_server, passes, scopes

#: Instances that were used twice before the flood: as many as may be protected at this limit.
ESTABLISHED = 1_000
LIMIT = 1_250


async def flood(side: str, size: int) -> dict[str, float]:
    """Both policies in turn, batch by batch, so that a slow spell of the machine hits both alike."""
    servers = {"lru": make_server(side, idle, LIMIT)}
    if side != "reference":
        servers["slru"] = make_server(side, idle, LIMIT)
        servers["slru"].eviction_policy = "slru"
    clients = scopes(ESTABLISHED)
    for server in servers.values():
        for _ in range(2):
            for scope_id, scope in clients:
                server.get_or_create_application_instance(scope_id, scope)
            await passes(SETTLE)
    collect()
    spent = dict.fromkeys(servers, 0.0)
    for start in range(0, size, BATCH):
        batch = [(f"once-{number}", {"type": "benchmark"}) for number in range(start, start + BATCH)]
        for policy, server in servers.items():
            get_or_create = server.get_or_create_application_instance
            started = process_time()
            for scope_id, scope in batch:
                get_or_create(scope_id, scope)
            await asyncio.sleep(0)
            spent[policy] += process_time() - started
    answer = {policy: seconds / size for policy, seconds in spent.items()}
    for policy, server in servers.items():
        answer[f"{policy}_left"] = sum(scope_id in server.application_instances for scope_id, _ in clients)
        await clear(server)
    if "slru" in answer:
        answer["ratio"] = answer["slru"] / answer["lru"]
    return answer


def probe(side: str, loop: str, size: int) -> Mapping[str, float]:
    return run(loop, flood(side, size))


QUESTION = Probed(
    name="flood",
    title=f"a flood of one-shot ids at the limit, {ESTABLISHED:,} established instances before it",
    size_of="one-shot ids",
    sizes={"quick": (5_000,), "usual": (100_000,), "full": (1_000_000,)},
    only={100_000: ("pure", "cython"), 1_000_000: ("pure", "cython")},
    probe=probe,
    figures={
        "lru": Figure("one newcomer, lru", "µs"),
        "slru": Figure("one newcomer, slru", "µs"),
        "ratio": Figure("slru / lru", "×"),
        "lru_left": Figure("established left, lru", "instances", more=True),
        "slru_left": Figure("established left, slru", "instances", more=True),
    },
    sides=SIDES,
    bars=tuple(
        bar
        for side in ("cython", "pure")
        for bar in (
            Bar(side, figure="slru_left", least=ESTABLISHED),
            Bar(side, figure="ratio", most=1.2),
        )
    ),
    note=f"At most {LIMIT:,} instances; {BATCH} ids between two passes of the loop, which are included.",
)


def test_flood(benchmark: Any, case: Any) -> None:
    """Floods a full table."""
    case(benchmark)

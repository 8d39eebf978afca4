"""A million live instances: created, fed one message each, expired."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any

from benchmarks.bench_create import Create
from benchmarks.bench_reap import check_until
from benchmarks.bench_wake import WakeFutures
from benchmarks.probing import collect, peak_resident, resident, run
from benchmarks.question import Bar, Figure, Probed
from benchmarks.sides import FLOOR
from benchmarks.workload import MESSAGE, SETTLE, passes


class Life(Create):
    """All instances of a server, from their creation to their end."""

    async def feed(self) -> None:
        get_or_create = self.server.get_or_create_application_instance
        for scope_id, scope in self.pairs:
            get_or_create(scope_id, scope).put_nowait(MESSAGE)
        await passes(SETTLE)

    async def expire(self) -> None:
        """By the server's own checker; the reference has no expiry, so its instances are deleted one by one."""
        if self.side == "reference":
            for scope_id, _ in self.pairs:
                self.server.delete_application_instance(scope_id)
        else:
            self.server.application_checker_interval = 0.001
            self.server.idle_timeout = 1e-6
            await check_until(self.server, 0)
        await passes(SETTLE)


class BareLife(WakeFutures):
    """Bare tasks, each waiting on a bare future."""

    async def open(self) -> None:
        pass

    async def work(self) -> None:
        await super().open()

    async def feed(self) -> None:
        await super().work()

    async def expire(self) -> None:
        for task in self.tasks:
            task.cancel()
        await passes(SETTLE)
        self.tasks.clear()
        self.futures.clear()


async def live(side: str, size: int) -> dict[str, float]:
    life = BareLife(side, size) if side == FLOOR else Life(side, size)
    await life.open()
    collect()
    empty = resident()
    started = perf_counter()
    await life.work()
    created = perf_counter()
    full = resident()
    await life.feed()
    fed = perf_counter()
    await life.expire()
    expired = perf_counter()
    collect()
    return {
        "create": created - started,
        "feed": fed - created,
        "expire": expired - fed,
        "full": full - empty,
        "peak": peak_resident() - empty,
        "left": resident() - empty,
    }


def probe(side: str, loop: str, size: int) -> Mapping[str, float]:
    return run(loop, live(side, size))


QUESTION = Probed(
    name="million",
    title="a whole life: create all, feed all once, expire all",
    size_of="live instances",
    sizes={"quick": (20_000,), "usual": (100_000,), "full": (1_000_000,)},
    probe=probe,
    figures={
        "create": Figure("create all", "s"),
        "feed": Figure("one message to each", "s"),
        "expire": Figure("expire all (reference: delete all)", "s"),
        "full": Figure("resident with all of them", "MiB"),
        "peak": Figure("resident at the most", "MiB"),
        "left": Figure("resident after all are gone", "MiB"),
    },
    told=("create", "feed", "expire", "full", "left"),
    floor_is="bare tasks that wait on bare futures, set once each, then cancelled",
    bars=(
        Bar("reference", "pure", least=1.0, figure="create"),
        *(Bar("reference", "cython", least=1.0, figure=figure) for figure in ("create", "feed", "expire")),
    ),
    note="The garbage collector is on throughout; whether a full collection falls into one part is chance.",
)


def test_million(benchmark: Any, case: Any) -> None:
    """Leads very many instances through their life."""
    case(benchmark)

"""The same random program on both twins, step by step: the same victims, the same order, the same counters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from support.loops import PATIENCE, passes
from support.property_model import Boom, effort, programs, weighted
from support.serving import quiet

pytestmark = pytest.mark.slow

#: Busy instances that making room looks past.
WINDOW = 32
IDS = st.sampled_from("abcdefgh")
#: In the epoch's first minute, or long after this test.
MOMENTS = st.one_of(st.integers(1, 60), st.integers(10**10, 10**10 + 60))
STEPS = weighted(
    (12, st.tuples(st.just("use"), IDS)),
    (4, st.tuples(st.just("tell"), IDS, st.sampled_from(["work", "finish", "fail", "idle"]))),
    (3, st.tuples(st.just("release"), IDS)),
    (4, st.tuples(st.just("create_from"), IDS, IDS)),
    (2, st.tuples(st.just("delete"), IDS)),
    (1, st.tuples(st.just("remove"), IDS)),
    (2, st.tuples(st.just("assign"), IDS, MOMENTS)),
    (2, st.tuples(st.just("write"), IDS, MOMENTS, st.booleans())),
    (1, st.tuples(st.just("end_foreign"), IDS)),
    (3, st.tuples(st.just("crowd"), st.sampled_from([WINDOW - 1, WINDOW, WINDOW + 1]))),
    (3, st.tuples(st.just("set_limit"), st.sampled_from([1, 3, 5, WINDOW, WINDOW + 1, WINDOW + 2, WINDOW + 3, None]))),
    (2, st.tuples(st.just("set_policy"), st.sampled_from(["lru", "slru"]))),
    (1, st.tuples(st.just("set_timeout"), st.sampled_from([None, 1000]))),
    (1, st.tuples(st.just("sweep"))),
)


class Side:
    """A server of one of the twins, and what happened on it."""

    def __init__(self, cy: Any, policy: str, overridden: bool) -> None:
        self.ended: list[str] = []
        self.deleted: list[str] = []
        self.gates: dict[str, asyncio.Future[None]] = {}
        deleted = self.deleted

        class Server(quiet(cy.StatelessServer)):
            application_checker_interval = 0.001
            eviction_policy = policy

        class Overridden(Server):
            def delete_application_instance(self, scope_id: str) -> Any:
                deleted.append(scope_id)
                return super().delete_application_instance(scope_id)

        self.server = (Overridden if overridden else Server)(self.application, 5)
        self.table = self.server.application_instances

    async def application(self, scope: str, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        try:
            while True:
                match await receive():
                    case "work":
                        self.gates[scope] = asyncio.get_running_loop().create_future()
                        await self.gates[scope]
                    case "finish":
                        return
                    case "fail":
                        raise Boom(scope)
                    case ("create", other):
                        self.server.get_or_create_application_instance(other, other)
        finally:
            self.ended.append(scope)

    # The steps; what cannot be done on one twin cannot on the other.

    def use(self, scope_id: str) -> None:
        self.server.get_or_create_application_instance(scope_id, scope_id)

    def tell(self, scope_id: str, message: Any) -> None:
        instance = self.table.get(scope_id)
        if instance is not None and not isinstance(instance, dict):
            instance.put_nowait(message)

    def release(self, scope_id: str) -> None:
        gate = self.gates.pop(scope_id, None)
        if gate is not None and not gate.done():
            gate.set_result(None)

    def create_from(self, scope_id: str, other: str) -> None:
        self.tell(scope_id, ("create", other))

    def delete(self, scope_id: str) -> None:
        self.server.delete_application_instance(scope_id)

    def remove(self, scope_id: str) -> None:
        instance = self.table.pop(scope_id, None)
        if instance is not None:
            instance["future"].cancel()

    def assign(self, scope_id: str, moment: float) -> None:
        if scope_id in self.table:
            self.table[scope_id]["last_used"] = moment

    def write(self, scope_id: str, moment: float, busy: bool) -> None:
        old = self.table.get(scope_id)
        future = asyncio.get_running_loop().create_future()
        queue = asyncio.Queue() if busy else None
        self.table[scope_id] = {"future": future, "input_queue": queue, "scope": scope_id, "last_used": moment}
        if old is not None:
            old["future"].cancel()

    def end_foreign(self, scope_id: str) -> None:
        entry = self.table.get(scope_id)
        if isinstance(entry, dict) and not entry["future"].done():
            entry["future"].set_result(None)

    def crowd(self, count: int) -> None:
        """So many instances at work that were used before all others."""
        limit = self.server.max_applications
        for number in range(count if limit is None else min(count, limit)):
            self.use(f"w{number}")
            self.tell(f"w{number}", "work")
            if f"w{number}" in self.table:
                self.assign(f"w{number}", 1 + number / 100)

    def set_limit(self, limit: int | None) -> None:
        self.server.max_applications = limit

    def set_policy(self, policy: str) -> None:
        self.server.eviction_policy = policy

    def set_timeout(self, seconds: float | None) -> None:
        self.server.idle_timeout = seconds

    async def sweep(self) -> None:
        await self.server._cyasgi.sweep(self.server)

    # What is compared

    def victims(self) -> list[Any]:
        """Who would make room now, whoever asks."""
        table = self.table
        asking = [None, *(table.entry(scope_id) for scope_id in [*table][:3] + [*table][WINDOW - 1 : WINDOW + 3])]
        return [getattr(table.victim(one), "scope_id", None) for one in asking]

    def state(self) -> dict[str, Any]:
        table = self.table
        return {
            "order": list(table),
            "reversed": list(reversed(table)),
            "assigned": {key: entry["last_used"] for key, entry in table.items() if is_assigned(entry["last_used"])},
            "queued": {key: entry.qsize() for key, entry in table.items() if not isinstance(entry, dict)},
            "protected": table.protected,
            "foreign": table.foreign,
            "finished": table.finished_count(),
            "stats": self.server.stats(),
            "ended": self.ended,
            "deleted": self.deleted,
            "failures": [str(failure) for failure in self.server.failures],
            "undelivered": [(messages, details["scope"]) for messages, details in self.server.undelivered],
            "victims": self.victims(),
        }


def is_assigned(moment: float) -> bool:
    return moment < 10**6 or moment >= 10**10


async def carry_out(twins: list[Any], policy: str, overridden: bool, program: list[tuple[Any, ...]]) -> None:
    """Runs the program on both sides in turn, and compares after every step."""
    sides = [Side(cy, policy, overridden) for cy in twins]
    for step in [*program, ("sweep",), ("sweep",)]:
        name, *parameters = step
        if name == "sweep":
            # A step of the expiry's time, and one of the coarsest clock.
            for side in sides:
                await side.sweep()
            await asyncio.sleep(0.012)
        for side in sides:
            done = getattr(side, name)(*parameters)
            if done is not None:
                await done
        await passes(6)
        one, other = (side.state() for side in sides)
        assert one == other, step
    for side in sides:
        for scope_id in list(side.table):
            side.delete(scope_id)
    await passes(6)


def crowded(before: int, between: int, policy: str) -> list[tuple[Any, ...]]:
    """A crowd at work, one that asks for a newcomer, some more at work, and an idle one, in this order of use."""
    more = [f"v{number}" for number in range(between)]
    return [
        ("set_limit", before + between + 2),
        ("crowd", before),
        ("use", "a"),
        ("assign", "a", 2),
        *(("use", scope_id) for scope_id in more),
        *(("tell", scope_id, "work") for scope_id in more),
        *(("assign", scope_id, 3 + number) for number, scope_id in enumerate(more)),
        ("use", "b"),
        ("set_policy", policy),
        ("create_from", "a", "c"),
    ]


@pytest.mark.parametrize("policy", ["lru", "slru"])
@pytest.mark.parametrize("between", [0, 1, WINDOW])
@pytest.mark.parametrize("before", [0, WINDOW - 1, WINDOW, WINDOW + 1])
def test_the_twins_agree_at_the_window(twins: list[Any], before: int, between: int, policy: str) -> None:
    """The same victim where the one that asks stands within or behind the instances that are looked at."""
    with asyncio.Runner() as runner:
        runner.run(carry_out(twins, policy, False, crowded(before, between, policy)))


@effort(80)
@given(policy=st.sampled_from(["lru", "slru"]), overridden=st.booleans(), program=programs(STEPS))
@example(
    "lru", False, [("use", "a"), ("tell", "a", "work"), ("assign", "a", 1), ("release", "a"), ("set_timeout", 1000)]
)
@example("lru", False, [("use", "a"), ("set_policy", "slru"), ("use", "b"), ("set_limit", 1), ("set_policy", "lru")])
def check_agreement(twins: list[Any], policy: str, overridden: bool, program: list[tuple[Any, ...]]) -> None:
    with asyncio.Runner() as runner:
        runner.run(asyncio.wait_for(carry_out(twins, policy, overridden, program), PATIENCE))


@pytest.mark.long
def test_the_twins_agree(twins: list[Any]) -> None:
    """Whatever is made, fed, deleted, assigned, written and set in whatever order, and whoever asks for a newcomer."""
    check_agreement(twins)

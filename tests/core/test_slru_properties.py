"""Random histories of both eviction policies against a plain model of the segments and their order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from support.instances import SCOPE, by_message, own_entry
from support.loops import PATIENCE
from support.property_model import effort, programs, weighted
from support.serving import quiet

pytestmark = pytest.mark.slow

IDS = st.sampled_from("abcdefgh")
#: In the epoch's first minute, or long after this test.
MOMENTS = st.one_of(st.integers(1, 60), st.integers(10**10, 10**10 + 60))
STEPS = weighted(
    (12, st.tuples(st.just("use"), IDS)),
    (2, st.tuples(st.just("busy"), IDS)),
    (1, st.tuples(st.just("finish"), IDS)),
    (1, st.tuples(st.just("delete"), IDS)),
    (1, st.tuples(st.just("remove"), IDS)),
    (2, st.tuples(st.just("assign"), IDS, MOMENTS)),
    (2, st.tuples(st.just("write"), IDS)),
    (1, st.tuples(st.just("set_limit"), st.sampled_from([1, 2, 4, 5, 6, None]))),
    (1, st.tuples(st.just("set_policy"), st.sampled_from(["lru", "slru", "slru"]))),
)


class Known:
    """What the model knows of one entry."""

    def __init__(self, handle: Any, protected: bool) -> None:
        self.handle = handle
        self.protected = protected
        self.assigned = False
        self.busy = False

    @property
    def last_used(self) -> float:
        return self.handle["last_used"]


class Model:
    """A server, and beside it the segments as lists: entries in the order of use, and by an assigned `last_used`."""

    def __init__(self, cy: Any, policy: str) -> None:
        self.server = quiet(cy.StatelessServer)(by_message, 5)
        self.server.eviction_policy = policy
        self.known: dict[str, Known] = {}
        #: Ids by segment (protected or not), in the order of use.
        self.natural: dict[bool, list[str]] = {True: [], False: []}
        self.finished: list[str] = []

    @property
    def segmented(self) -> bool:
        return self.server.eviction_policy == "slru"

    def order(self, protected: bool) -> list[str]:
        """An assigned one stands before the first of the others that was not used earlier."""
        assigned = [i for i, known in self.known.items() if known.protected == protected and known.assigned]
        assigned.sort(key=lambda scope_id: self.known[scope_id].last_used)
        merged: list[str] = []
        for scope_id in self.natural[protected]:
            while assigned and self.known[assigned[0]].last_used <= self.known[scope_id].last_used:
                merged.append(assigned.pop(0))
            merged.append(scope_id)
        return merged + assigned

    def take_out(self, scope_id: str) -> Known:
        known = self.known.pop(scope_id)
        if not known.assigned:
            self.natural[known.protected].remove(scope_id)
        return known

    def enter(self, scope_id: str, known: Known, protected: bool, assigned: bool = False) -> None:
        self.known[scope_id] = known
        known.protected = protected
        known.assigned = assigned
        if not assigned:
            self.natural[protected].append(scope_id)

    def demote(self) -> None:
        limit = self.server.max_applications
        while self.segmented and limit is not None and (order := self.order(True)) and len(order) > limit * 4 // 5:
            known = self.take_out(order[0])
            self.enter(order[0], known, False, known.assigned)

    def gone(self, scope_id: str) -> None:
        self.take_out(scope_id)
        if scope_id in self.finished:
            self.finished.remove(scope_id)

    def make_room(self) -> None:
        limit = self.server.max_applications
        while limit is not None and len(self.known) >= limit:
            segment = self.order(False) or self.order(True)
            idle = [scope_id for scope_id in segment if not self.known[scope_id].busy]
            self.gone((self.finished or idle or segment)[0])

    # What can happen

    def use(self, scope_id: str) -> None:
        known = self.known.get(scope_id)
        handle = self.server.get_or_create_application_instance(scope_id, SCOPE)
        if known is not None and scope_id not in self.finished:
            assert handle is known.handle["input_queue"]
            # A dict keeps standing where its own last_used says.
            self.enter(scope_id, self.take_out(scope_id), True, isinstance(known.handle, dict))
            self.demote()
            return
        if known is not None:
            self.gone(scope_id)
        self.make_room()
        self.enter(scope_id, Known(handle, True), not self.segmented)

    def busy(self, scope_id: str) -> None:
        known = self.known.get(scope_id)
        if known is not None and not isinstance(known.handle, dict) and scope_id not in self.finished:
            known.handle.put_nowait("busy")
            known.busy = True

    def finish(self, scope_id: str) -> None:
        known = self.known.get(scope_id)
        if known is None or known.busy or scope_id in self.finished:
            return
        known.handle.put_nowait("return")
        self.finished.append(scope_id)

    def delete(self, scope_id: str) -> None:
        self.server.delete_application_instance(scope_id)
        if scope_id in self.known:
            self.gone(scope_id)

    def remove(self, scope_id: str) -> None:
        known = self.known.get(scope_id)
        if known is not None:
            del self.server.application_instances[scope_id]
            known.handle["future"].cancel()
            self.gone(scope_id)

    def assign(self, scope_id: str, moment: int) -> None:
        known = self.known.get(scope_id)
        if known is None or any(other.last_used == moment for other in self.known.values()):
            return
        back = moment < known.last_used
        known.handle["last_used"] = moment
        self.enter(scope_id, self.take_out(scope_id), known.protected and not (back and self.segmented), True)

    def write(self, scope_id: str) -> None:
        old = self.known.get(scope_id)
        handle = own_entry()
        self.server.application_instances[scope_id] = handle
        if old is not None:
            old.handle["future"].cancel()
            self.gone(scope_id)
        known = Known(handle, True)
        known.busy = True
        self.enter(scope_id, known, not self.segmented, True)

    def set_limit(self, limit: int | None) -> None:
        self.server.max_applications = limit
        self.demote()

    def set_policy(self, policy: str) -> None:
        self.server.eviction_policy = policy
        if self.segmented:
            self.demote()
            return
        # From now on it is by the time of use; that there may be two of the same time is no subject here.
        order = [i for i in self.server.application_instances if not self.known[i].assigned]
        assert sorted(order) == sorted(self.natural[False] + self.natural[True])
        assert order == sorted(order, key=lambda scope_id: self.known[scope_id].last_used)
        self.natural = {True: order, False: []}
        for known in self.known.values():
            known.protected = True

    def check(self) -> None:
        table = self.server.application_instances
        assert list(table) == self.order(False) + self.order(True)
        assert list(reversed(table)) == (self.order(False) + self.order(True))[::-1]
        assert table.protected == len(self.order(True))
        assert all(table[scope_id] is known.handle for scope_id, known in self.known.items())


@effort(100)
@given(policy=st.sampled_from(["lru", "slru", "slru"]), program=programs(STEPS))
@example("slru", [("use", "a"), ("use", "a"), ("use", "b"), ("set_limit", 1), ("set_policy", "lru")])
def check_history(cy: Any, loop: asyncio.AbstractEventLoop, policy: str, program: list[tuple[Any, ...]]) -> None:
    async def main() -> None:
        model = Model(cy, policy)
        for name, *parameters in program:
            getattr(model, name)(*parameters)
            model.check()
            for _ in range(4):
                await asyncio.sleep(0)
            model.check()
        for scope_id in list(model.server.application_instances):
            model.server.delete_application_instance(scope_id)
        for _ in range(4):
            await asyncio.sleep(0)

    loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))


def test_the_segments_are_the_models(cy: Any) -> None:
    """Whatever is used, deleted, assigned, written and set in whatever order, under either policy."""
    loop = asyncio.new_event_loop()
    try:
        check_history(cy, loop)
    finally:
        loop.close()

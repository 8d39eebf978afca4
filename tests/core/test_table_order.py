"""The order of the table, which is that of use, and what an assigned `last_used` makes of it."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from support.instances import SCOPE, make
from support.loops import passes
from support.serving import reader


def room_for(limit: int, cls: type, reference: type) -> Any:
    """A server that keeps so many: the reference keeps one more than it is told to."""
    return cls(reader, max_applications=limit - 1 if cls is reference else limit)


def evictions(server: Any, count: int) -> list[Any]:
    """Makes so many fresh ids and tells who had to go for each."""
    table, gone = server.application_instances, []
    for number in range(count):
        before = set(table)
        make(server, ("fresh", number))
        gone.append(sorted(before - set(table), key=repr))
    return gone


def test_last_used_follows_the_uses_and_is_never_ahead_of_the_clock(cy, run):
    """However fast uses follow each other, faster than a float tells moments apart too."""

    async def main():
        server = cy.StatelessServer(reader)
        use = server.get_or_create_application_instance
        used = []
        for _ in range(20):
            for _ in range(5000):
                instance = use("a", SCOPE)
            used += [instance["last_used"], use("b", SCOPE)["last_used"]]
            assert used[-1] <= time.time()
        assert used == sorted(used)

    run(main())


def test_last_used_decides_the_order_of_eviction(impl, reference, run):
    """Assigned last_used values decide who goes first: the smallest, before all that were not assigned."""

    async def main():
        server = room_for(5, impl.StatelessServer, reference)
        for scope_id in "abcde":
            make(server, scope_id)
        await passes(3)
        for number, scope_id in enumerate("cbea"):
            server.application_instances[scope_id]["last_used"] = number
        assert evictions(server, 4) == [["c"], ["b"], ["e"], ["a"]]
        assert "d" in server.application_instances

    run(main())


def test_last_used_in_the_future_protects(impl, reference, run):
    """An instance whose last_used lies in the future, or is infinite, goes after all that are used meanwhile."""

    async def main():
        server = room_for(4, impl.StatelessServer, reference)
        table = server.application_instances
        for scope_id in "abcd":
            make(server, scope_id)
        await passes(3)
        table["a"]["last_used"] = time.time() + 1000
        table["b"]["last_used"] = float("inf")
        table["c"]["last_used"] = time.time() + 500
        for number in range(10):
            make(server, number)
            await passes(3)
            assert {"a", "b", "c", number} == set(table)
        table[9]["last_used"] = time.time() + 2000
        make(server, "x")
        assert set(table) == {"a", "b", 9, "x"}
        await passes(3)
        table["x"]["last_used"] = float("inf")
        make(server, "y")
        assert set(table) == {"b", 9, "x", "y"}

    run(main())


def test_last_used_minus_infinity_goes_first(impl, reference, run):
    """Minus infinity is older than every other time, zero and negative ones included."""

    async def main():
        server = room_for(3, impl.StatelessServer, reference)
        for scope_id, used in {"a": 0, "b": float("-inf"), "c": -5}.items():
            make(server, scope_id)
            server.application_instances[scope_id]["last_used"] = used
        await passes(3)
        assert evictions(server, 3) == [["b"], ["c"], ["a"]]

    run(main())


def test_a_table_of_infinite_last_used_has_room_all_the_same(impl, reference, run):
    """With every value infinite somebody goes, and only one."""

    async def main():
        server = room_for(3, impl.StatelessServer, reference)
        for scope_id in "abc":
            make(server, scope_id)
            server.application_instances[scope_id]["last_used"] = float("inf")
        await passes(3)
        make(server, "new")
        assert len(server.application_instances) == 3 and "new" in server.application_instances

    run(main())


@pytest.mark.parametrize("value", [0, "future", float("inf"), float("-inf")])
def test_a_use_overrules_what_was_assigned(impl, reference, run, value):
    """Looked up after last_used was assigned, an instance is the last used one at that moment, and ages from there."""

    async def main():
        server = room_for(3, impl.StatelessServer, reference)
        for scope_id in "abc":
            make(server, scope_id)
        await passes(3)
        assigned = time.time() + 1000 if value == "future" else value
        server.application_instances["a"]["last_used"] = assigned
        make(server, "a")
        make(server, "x")
        assert set(server.application_instances) == {"a", "c", "x"}
        await passes(3)
        make(server, "c")
        make(server, "y")
        assert set(server.application_instances) == {"c", "x", "y"}

    run(main())


def test_last_used_survives_being_taken_out_and_put_back(impl, reference, run):
    """An instance that is taken out of the table and written back keeps its last_used, and its place in the order."""

    async def main():
        server = room_for(3, impl.StatelessServer, reference)
        table = server.application_instances
        for scope_id in "abc":
            make(server, scope_id)
        await passes(3)
        entry = table.pop("c")
        entry["last_used"] = 1.0
        table["c"] = entry
        assert entry["last_used"] == 1.0
        entry = table.pop("a")
        used = entry["last_used"]
        table["a"] = entry
        assert entry["last_used"] == used
        make(server, "x")
        assert set(table) == {"a", "b", "x"}
        await passes(3)
        make(server, "y")
        assert set(table) == {"b", "x", "y"}

    run(main())


def test_order_is_by_use_not_by_the_clock(cy, run, monkeypatch):
    """A clock that stands still, or goes back an hour, changes nothing: the least recently used goes."""

    async def main():
        server = cy.StatelessServer(reader, max_applications=3)
        for scope_id in "abc":
            make(server, scope_id)
        await passes(3)
        before = time.time()
        monkeypatch.setattr(time, "time", lambda: before)
        make(server, "a")
        make(server, "b")
        make(server, "d")
        await passes(3)
        assert list(server.application_instances) == ["a", "b", "d"]
        monkeypatch.setattr(time, "time", lambda: before - 3600)
        make(server, "a")
        make(server, "e")
        await passes(3)
        assert list(server.application_instances) == ["d", "a", "e"]
        make(server, "d")
        make(server, "f")
        assert list(server.application_instances) == ["e", "d", "f"]

    run(main())


def test_the_reference_goes_by_the_clock(reference, run, monkeypatch):
    """What the rule above is for: when the clock goes back, the reference evicts the one that was used last."""

    async def main():
        server = reference(reader, max_applications=2)
        for scope_id in "abc":
            make(server, scope_id)
        before = time.time()
        monkeypatch.setattr(time, "time", lambda: before - 3600)
        make(server, "c")
        make(server, "d")
        assert set(server.application_instances) == {"a", "b", "d"}

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_use_goes_as_in_the_reference(cy, reference, run, monkeypatch, seed):
    """Random look-ups, assignments of last_used, removals and deletions evict whom the reference evicts."""

    async def play(cls):
        pick = random.Random(seed)
        server = room_for(10, cls, reference)
        table = server.application_instances
        tables, removed = [], []
        for step in range(300):
            scope_id = pick.randrange(30)
            match pick.randrange(10):
                case 0 if scope_id in table:
                    table[scope_id]["last_used"] = step
                case 1 if scope_id in table:
                    table[scope_id]["last_used"] = 1e12 + step
                case 2 if scope_id in table:
                    removed.append(table.pop(scope_id))
                case 3 if scope_id in table:
                    server.delete_application_instance(scope_id)
                case _:
                    make(server, scope_id)
                    # Until they wait in receive, fresh ones are not idle, and would be looked past.
                    await passes(3)
            tables.append(sorted(table))
        for entry in (*removed, *table.values()):
            entry["future"].cancel()
        await passes(3)
        return tables

    async def main():
        ticks = iter(range(10**6))
        start = time.time()
        with monkeypatch.context() as patch:
            # No two uses in one tick of the clock, which the reference cannot tell apart.
            patch.setattr(time, "time", lambda: start + 0.001 * next(ticks))
            expected = await play(reference)
        assert await play(cy.StatelessServer) == expected

    run(main())

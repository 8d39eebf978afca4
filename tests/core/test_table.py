"""``server.application_instances``: a mapping, oldest first, in which others may write their own entries."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

import pytest

from support.loops import passes

SCOPE = {"type": "test"}


def make(server: Any, scope_id: Any = "id", scope: Any = SCOPE) -> Any:
    return server.get_or_create_application_instance(scope_id, scope)


async def reader(scope: Any, receive: Any, send: Any) -> None:
    while True:
        await receive()


def room_for(limit: int, cls: type, reference: type) -> Any:
    """A server that keeps so many: the reference keeps one more than it is told to."""
    return cls(reader, max_applications=limit - 1 if cls is reference else limit)


def own_entry(**more: Any) -> dict[str, Any]:
    """An entry as subclasses write it, with the reference's four keys."""
    future = asyncio.get_running_loop().create_future()
    return {"input_queue": asyncio.Queue(), "future": future, "scope": SCOPE, "last_used": time.time(), **more}


# A mapping


@pytest.mark.slow
def test_it_is_a_mutable_mapping(cy, run):
    """The table is a MutableMapping from scope_id to entry, with all that such a mapping has."""

    async def main():
        server = cy.StatelessServer(reader)
        table = server.application_instances
        assert isinstance(table, MutableMapping) and isinstance(table, Mapping)
        assert len(table) == 0 and not table and list(table) == []
        a, b, c = (make(server, scope_id) for scope_id in "abc")
        assert len(table) == 3 and table
        assert "a" in table and "d" not in table
        assert table["a"] is a and table.get("a") is a
        assert table.get("d") is None and table.get("d", 5) == 5
        assert list(table) == list(table.keys()) == ["a", "b", "c"]
        assert all(left is right for left, right in zip(table.values(), (a, b, c), strict=True))
        assert [(scope_id, entry.scope_id) for scope_id, entry in table.items()] == [(i, i) for i in "abc"]
        assert dict(table) == {"a": a, "b": b, "c": c} and {**table} == dict(table)
        assert len(table.items()) == len(table.keys()) == len(table.values()) == 3
        assert ("a", a) in table.items() and b in table.values() and "c" in set(table.keys())
        with pytest.raises(KeyError, match="'d'"):
            table["d"]
        with pytest.raises(KeyError, match="'d'"):
            del table["d"]
        with pytest.raises(KeyError):
            table.pop("d")
        for unhashable in ([], {}):
            with pytest.raises(TypeError):
                unhashable in table  # noqa: B015
            with pytest.raises(TypeError):
                table[unhashable]
            with pytest.raises(TypeError):
                table[unhashable] = {}
        assert dict(table) == {"a": a, "b": b, "c": c}

    run(main())


def test_writing_methods(cy, run):
    """setdefault, update, pop, popitem and clear do what a MutableMapping's do."""

    async def main():
        server = cy.StatelessServer(reader)
        table = server.application_instances
        a, own = make(server, "a"), own_entry()
        assert table.setdefault("a", own) is a
        assert table.setdefault("own", own) is own and table["own"] is own
        more = {"x": own_entry(), "y": own_entry()}
        table.update(more)
        assert table["x"] is more["x"] and table["y"] is more["y"]
        assert table.pop("x") is more["x"] and table.pop("x", None) is None
        scope_id, entry = table.popitem()
        assert scope_id not in table and entry in (a, own, more["y"])
        assert len(table) == 2
        table.clear()
        assert len(table) == 0 and dict(table) == {}
        with pytest.raises(KeyError):
            table.popitem()
        assert make(server, "a") is not a and list(table) == ["a"]

    run(main())


def test_oldest_first_by_use(cy, run):
    """The table is ordered by use: what was looked up last by get_or_create comes last."""

    async def main():
        server = cy.StatelessServer(reader)
        table = server.application_instances
        for scope_id in "abcd":
            make(server, scope_id)
        make(server, "b")
        assert list(table) == ["a", "c", "d", "b"]
        make(server, "a")
        make(server, "b")
        assert list(table) == ["c", "d", "a", "b"] == [entry.scope_id for entry in table.values()]
        make(server, "b")
        assert list(table) == ["c", "d", "a", "b"]
        del table["d"]
        make(server, "d")
        assert list(table) == ["c", "a", "b", "d"]

    run(main())


def test_reading_is_no_use(impl, run):
    """Looking into the table, by whatever method, changes neither the order nor last_used."""

    async def main():
        server = impl.StatelessServer(reader)
        table = server.application_instances
        for scope_id in "abc":
            make(server, scope_id)
        used = {scope_id: entry["last_used"] for scope_id, entry in table.items()}
        await passes(3)
        assert table["a"] and "a" in table and table.get("b") and dict(table) and list(table.values())
        assert list(table) == ["a", "b", "c"]
        assert {scope_id: entry["last_used"] for scope_id, entry in table.items()} == used

    run(main())


@pytest.mark.parametrize("way", ["del", "pop", "popitem", "clear"])
def test_removing_only_removes(impl, run, way):
    """del, pop and their like take the entry out and cancel nothing: the application goes on with its queue."""

    async def main():
        seen = []

        async def application(scope, receive, send):
            while True:
                seen.append(await receive())

        server = impl.StatelessServer(application)
        table = server.application_instances
        queue = make(server)
        await passes(3)
        future = table["id"]["future"]
        match way:
            case "del":
                del table["id"]
            case "pop":
                assert table.pop("id")["future"] is future
            case "popitem":
                assert table.popitem()[1]["future"] is future
            case "clear":
                table.clear()
        assert "id" not in table and len(table) == 0
        queue.put_nowait("message")
        await passes(3)
        assert seen == ["message"] and not future.done()
        assert make(server) is not queue

    run(main())


def test_an_instance_may_be_put_back(impl, run):
    """An entry that was taken out may be written back under its id, and is handed out again."""

    async def main():
        server = impl.StatelessServer(reader)
        table = server.application_instances
        queue = make(server)
        await passes(3)
        entry = table.pop("id")
        table["id"] = entry
        assert table["id"] is entry and make(server) is queue
        server.delete_application_instance("id")
        await passes(1)
        assert entry["future"].cancelled() and len(table) == 0

    run(main())


CHANGES = {
    "create": lambda server: make(server, "new"),
    "write": lambda server: server.application_instances.update(new={}),
    "remove": lambda server: server.application_instances.pop("b"),
    "delete": lambda server: server.delete_application_instance("c"),
    "clear": lambda server: server.application_instances.clear(),
}


@pytest.mark.parametrize("view", ["__iter__", "keys", "values", "items"])
@pytest.mark.parametrize("change", CHANGES)
def test_changing_while_iterating(impl, run, change, view):
    """An entry more or less in the middle of an iteration makes the next step raise RuntimeError, as with dict."""

    async def main():
        server = impl.StatelessServer(reader)
        for scope_id in "abcd":
            make(server, scope_id)
        iterator = iter(getattr(server.application_instances, view)())
        next(iterator)
        CHANGES[change](server)
        with pytest.raises(RuntimeError):
            next(iterator)
        list(getattr(server.application_instances, view)())

    run(main())


def test_a_broadcast_over_the_table(impl, run):
    """Looking up each id while iterating is no change: each is visited once, as in the reference."""

    async def main():
        seen = []

        async def application(scope, receive, send):
            while True:
                seen.append((scope["id"], await receive()))

        server = impl.StatelessServer(application)
        for scope_id in range(5):
            make(server, scope_id, {"id": scope_id})
        await passes(3)
        visited = []
        for scope_id in server.application_instances:
            visited.append(scope_id)
            assert len(visited) <= 5
            make(server, scope_id).put_nowait("all")
        assert visited == [0, 1, 2, 3, 4]
        await passes(3)
        assert seen == [(scope_id, "all") for scope_id in range(5)]

    run(main())


def test_feeding_while_iterating(impl, run):
    """Feeding the entries while iterating over them is no change either."""

    async def main():
        seen = []

        async def application(scope, receive, send):
            while True:
                seen.append((scope["id"], await receive()))

        server = impl.StatelessServer(application)
        for scope_id in range(5):
            make(server, scope_id, {"id": scope_id})
        await passes(3)
        for entry in server.application_instances.values():
            entry["input_queue"].put_nowait("all")
            entry["last_used"] += 1
        await passes(3)
        assert seen == [(scope_id, "all") for scope_id in range(5)]

    run(main())


def test_an_iterator_over_what_did_not_change(impl, run):
    """Iterators are independent of each other, stay exhausted, and an unchanged table leaves them alone."""

    async def main():
        server = impl.StatelessServer(reader)
        for scope_id in "abc":
            make(server, scope_id)
        table = server.application_instances
        assert [(left, right) for left in table for right in table] == [(i, j) for i in "abc" for j in "abc"]
        iterator = iter(table)
        assert list(iterator) == ["a", "b", "c"] and list(iterator) == []
        table["a"] = table["a"]
        assert len(table) == 3

    run(main())


# The order of use


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

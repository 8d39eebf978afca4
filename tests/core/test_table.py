"""``server.application_instances``: a mapping, oldest first, in which others may write their own entries."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import pytest

from support.instances import make, own_entry
from support.loops import passes
from support.serving import reader


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

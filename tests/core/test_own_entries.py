"""Entries that others write into ``server.application_instances``: plain dicts with the reference's keys, or fewer."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from support.loops import passes

SCOPE = {"type": "test"}


def make(server: Any, scope_id: Any = "id", scope: Any = SCOPE) -> Any:
    return server.get_or_create_application_instance(scope_id, scope)


async def until(condition: Any) -> None:
    """Waits for what only time brings, for a bounded time."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came true")


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


@pytest.mark.slow
def test_own_entries_are_kept_as_they_are(impl, run):
    """A plain dict that a subclass writes is the entry: the same object, found, counted and listed like any other."""

    async def main():
        server = impl.StatelessServer(reader)
        table = server.application_instances
        make(server, "a")
        own = own_entry(mine=1)
        table["own"] = own
        make(server, "b")
        assert table["own"] is own and table.get("own") is own and "own" in table and len(table) == 3
        assert list(table) == ["a", "own", "b"] and list(table.values())[1] is own
        replaced = own_entry()
        table["own"] = replaced
        assert table["own"] is replaced and len(table) == 3

    run(main())


def test_own_entries_are_handed_out(impl, run):
    """get_or_create for the id of such an entry gives its input_queue and notes the use, as in the reference."""

    async def main():
        server = impl.StatelessServer(reader)
        own = own_entry(last_used=1.0)
        server.application_instances["own"] = own
        assert make(server, "own") is own["input_queue"]
        assert server.application_instances["own"] is own
        assert abs(own["last_used"] - time.time()) < 1

    run(main())


def test_own_entries_are_deleted(impl, run):
    """delete_application_instance takes such an entry out and cancels its future."""

    async def main():
        server = impl.StatelessServer(reader)
        for future in (asyncio.ensure_future(asyncio.Event().wait()), asyncio.get_running_loop().create_future()):
            server.application_instances["own"] = own_entry(future=future)
            server.delete_application_instance("own")
            assert "own" not in server.application_instances
            await passes(1)
            assert future.cancelled()

    run(main())


def test_own_entries_are_reaped_and_reported(impl, run):
    """The checker takes such an entry out when its future is done, and reports its exception with the very dict."""

    async def main():
        reported = []

        class Server(impl.StatelessServer):
            application_checker_interval = 0.001

            async def application_exception(self, exception, details):
                reported.append((exception, details))

        server = Server(reader)
        table = server.application_instances
        table["good"], table["bad"], table["live"] = good, bad, live = own_entry(), own_entry(), own_entry()
        checker = asyncio.create_task(server.application_checker())
        await asyncio.sleep(0.01)
        assert list(table) == ["good", "bad", "live"]
        good["future"].set_result(None)
        bad["future"].set_exception(error := ValueError("on purpose"))
        await until(lambda: list(table) == ["live"])
        await passes(3)
        assert len(reported) == 1 and reported[0][0] is error and reported[0][1] is bad
        assert not live["future"].done() and table["live"] is live
        checker.cancel()

    run(main())


def test_a_finished_own_entry_is_not_handed_out(cy, run):
    """get_or_create for the id of such an entry that is finished makes a fresh instance."""

    async def main():
        server = cy.StatelessServer(reader)
        own = own_entry()
        own["future"].set_result(None)
        server.application_instances["own"] = own
        fresh = make(server, "own")
        assert isinstance(fresh, cy.ApplicationInstance)
        assert server.application_instances["own"] is fresh

    run(main())


def test_own_entries_are_ordered_and_evicted_by_last_used(impl, reference, run):
    """Entries that were written go in the order of their last_used, whatever the order of writing."""

    async def main():
        server = room_for(4, impl.StatelessServer, reference)
        table = server.application_instances
        now = time.time()
        entries = {i: own_entry(last_used=now - age) for i, age in {"c": 100, "a": 300, "d": 50, "b": 200}.items()}
        table.update(entries)
        gone = []
        for number in range(4):
            before = set(table)
            # Always the same name, so that only what was written is left to choose from.
            make(server, "new")
            gone += before - set(table)
            assert len(table) == 4
            server.delete_application_instance("new")
            table[f"late {number}"] = own_entry()
        assert gone == ["a", "b", "c", "d"]
        assert all(entry["future"].cancelled() for entry in entries.values())

    run(main())


def test_last_used_of_own_entries_may_change_in_place(impl, reference, run):
    """A subclass that keeps such dicts notes their use in them: the next eviction goes by it."""

    async def main():
        server = room_for(3, impl.StatelessServer, reference)
        table = server.application_instances
        now = time.time()
        for number, scope_id in enumerate("abc"):
            table[scope_id] = own_entry(last_used=now - 100 + number)
        table["a"]["last_used"] = now - 10
        make(server, "new")
        assert set(table) == {"a", "c", "new"}
        server.delete_application_instance("new")
        table["late"] = own_entry()
        make(server, "new")
        assert set(table) == {"a", "late", "new"}

    run(main())


def test_last_used_of_own_entries_may_be_set_back_in_place(impl, reference, run):
    """Set back in place, last_used makes such an entry the next to go."""

    async def main():
        server = room_for(3, impl.StatelessServer, reference)
        table = server.application_instances
        now = time.time()
        for number, scope_id in enumerate("abc"):
            table[scope_id] = own_entry(last_used=now - 100 + number)
        table["c"]["last_used"] = now - 1000
        make(server, "new")
        assert set(table) == {"a", "b", "new"}

    run(main())


LACKING = {
    "empty": {},
    "future only": {"future": None},
    "no future": {"input_queue": None, "scope": {}, "last_used": 0.0},
    "no last_used": {"input_queue": None, "scope": {}, "future": "live"},
    "no queue": {"scope": {}, "future": "live", "last_used": 0.0},
    "odd last_used": {"input_queue": None, "scope": {}, "future": "live", "last_used": "yesterday"},
    "odd future": {"input_queue": None, "scope": {}, "future": 5, "last_used": 0.0},
}


@pytest.mark.parametrize("kind", LACKING)
def test_entries_that_lack_a_key_harm_nobody(cy, run, kind):
    """With such an entry in the table the checker lives, others are reaped and evicted, and it can be removed."""

    async def main():
        class Server(cy.StatelessServer):
            application_checker_interval = 0.001
            idle_timeout = 1000

        async def one_message(scope, receive, send):
            await receive()

        def lacking():
            entry = dict(LACKING[kind])
            if entry.get("future") == "live":
                entry["future"] = asyncio.get_running_loop().create_future()
            return entry

        server = Server(one_message, max_applications=4)
        table = server.application_instances
        table["odd"] = lacking()
        checker = asyncio.create_task(server.application_checker())
        for number in range(3):
            make(server, number).put_nowait("message")
        await until(lambda: not any(number in table for number in range(3)))
        assert not checker.done()
        table["odd"] = lacking()
        for number in range(8):
            make(server, number)
            await passes(3)
            assert len(table) <= 4 and number in table
        table["odd"] = lacking()
        server.delete_application_instance("odd")
        assert "odd" not in table
        table["odd"] = lacking()
        del table["odd"]
        await asyncio.sleep(0.01)
        assert not checker.done()
        checker.cancel()

    run(main())

"""Loops that do not exist yet, and loops that are closed: instances start, and end, as they should all the same."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any

import pytest

from support.loops import passes
from support.serving import collecting, eventually, in_time, quiet, serving_until

SCOPE = {"type": "test"}


def make(server: Any, scope_id: Any = "id", scope: Any = SCOPE) -> Any:
    return server.get_or_create_application_instance(scope_id, scope)


@pytest.mark.parametrize("way", ["arun", "run", "checker", "look-up"])
def test_created_without_a_loop(cy, run, way):
    """Created where no loop runs, an instance waits, fed or not, and starts when a loop of the server's does."""
    seen = []
    server = serving_until(cy.StatelessServer, collecting(seen), lambda: len(seen) == 22)
    instance = make(server)
    for number in range(21):
        instance.put_nowait(number)
    future = instance["future"]
    assert isinstance(future, concurrent.futures.Future) and not future.done()
    assert make(server) is instance and server.application_instances["id"] is instance
    assert instance.qsize() == 21

    async def main():
        match way:
            case "arun":
                await server.arun()
            case "checker":
                task = asyncio.create_task(server.application_checker())
                await in_time(lambda: len(seen) == 22)
                task.cancel()
            case "look-up":
                assert make(server) is instance
                await passes(3)
        if way != "arun":
            assert isinstance(instance["future"], asyncio.Task)

    if way == "run":
        server.run()
    else:
        run(main())
    assert seen == ["test", *range(21)]


def test_created_without_a_loop_and_never_fed(cy, run):
    """Not fed, such an instance starts too."""
    seen = []
    server = serving_until(cy.StatelessServer, collecting(seen), lambda: seen)
    make(server)
    run(server.arun())
    assert seen == ["test"]


def test_created_without_a_loop_then_called(cy, run):
    """Created without a loop, then awaited and called in one: the caller runs it."""
    seen = []

    async def application(scope, receive, send):
        seen.append((scope["type"], await receive()))

    instance = make(cy.StatelessServer(application))

    async def receive():
        return "mine"

    async def main():
        assert await instance is instance
        await passes(4)
        assert seen == []
        await instance["application"]({"type": "caller"}, receive, None)
        assert seen == [("caller", "mine")]

    run(main())


def test_without_a_loop_the_table_works_all_the_same(cy, run):
    """Limit, deletion and cancelling need no loop; what was deleted or cancelled does not start later."""
    seen, undelivered = [], []

    class Server(cy.StatelessServer):
        async def handle(self):
            await in_time(lambda: len(seen) >= 2)

        def application_undelivered(self, messages, details):
            undelivered.extend(messages)

    async def application(scope, receive, send):
        seen.append(await receive())

    server = Server(application, max_applications=3)
    for scope_id in ("evicted", "deleted", "cancelled", "kept"):
        make(server, scope_id).put_nowait(scope_id)
    assert list(server.application_instances) == ["deleted", "cancelled", "kept"]
    server.delete_application_instance("deleted")
    cancelled = server.application_instances["cancelled"]
    cancelled["future"].cancel()
    assert cancelled["future"].cancelled()
    assert make(server, "cancelled") is not cancelled
    make(server, "cancelled").put_nowait("anew")
    run(server.arun())
    assert sorted(seen) == ["anew", "kept"]
    assert sorted(undelivered) == ["cancelled", "deleted", "evicted"]


def test_a_record_of_a_closed_loop_counts_as_finished(cy, run):
    """After its loop was closed under it, an instance is not handed out again, is evicted first, and harms nobody."""
    seen = []

    async def application(scope, receive, send):
        seen.append((scope["type"], await receive()))
        await asyncio.get_running_loop().create_future()

    class Server(cy.StatelessServer):
        def application_undelivered(self, messages, details):
            pass

    server = Server(application, max_applications=3)

    async def first():
        for scope_id in ("id", "stale", "deleted"):
            make(server, scope_id, {"type": "old"}).put_nowait("a")
        await passes(3)

    loop = run.loop_factory()
    # That tasks are destroyed while they are pending is what such an end of a loop means.
    loop.set_exception_handler(lambda loop, context: None)
    loop.run_until_complete(first())
    loop.close()
    old = server.application_instances["id"]
    server.delete_application_instance("deleted")

    async def second():
        fresh = make(server, "id", {"type": "new"})
        assert fresh is not old
        fresh.put_nowait("b")
        make(server, "x")
        await passes(3)
        make(server, "y")
        await passes(3)
        assert list(server.application_instances) == ["id", "x", "y"]
        assert seen == [("old", "a"), ("old", "a"), ("old", "a"), ("new", "b")]

    run(second())


def test_two_runs_in_two_loops(cy, run):
    """A second run of one server, in another loop, starts fresh instances: every message is delivered."""
    seen = []

    class Server(cy.StatelessServer):
        async def handle(self):
            wanted = len(seen) + 4
            for number in range(3):
                make(self).put_nowait(number)
            await in_time(lambda: len(seen) == wanted)

    server = Server(collecting(seen))
    for _ in range(3):
        run(server.arun())
    assert seen == ["test", 0, 1, 2] * 3


@pytest.mark.parametrize("how", ["get_or_create", "run"])
def test_somebody_waits_in_a_loop_that_is_closed(cy, run, how):
    """Putters, joiners, getters and those who wait for an end, left in a loop that was closed over them, keep no other
    loop from the server."""
    received = []

    class Server(quiet(cy.StatelessServer)):
        max_queue_size = 1
        shutdown_timeout = 0.01

        async def handle(self):
            await eventually(lambda: "new" in received)

    async def application(scope, receive, send):
        if scope["type"] == "waits":
            await asyncio.get_running_loop().create_future()
        while True:
            received.append(await receive())

    server = Server(application)
    kept = []

    async def before():
        full = server.get_or_create_application_instance("full", {"type": "waits"})
        full.put_nowait("queued")
        empty = server.get_or_create_application_instance("empty", {"type": "waits"})
        held = await server.get_or_create_application_instance("held", {"type": "waits"})
        server.get_or_create_application_instance("closing", {"type": "waits"})
        await passes(5)
        deletion = server.delete_application_instance("closing")
        successor = server.get_or_create_application_instance("closing", {"type": "reads"})
        waiting = (full.put("waiting"), full.join(), empty.get(), held.get(), deletion, successor.join())
        kept.extend(asyncio.ensure_future(one) for one in waiting)
        await passes(1)

    loop = run.loop_factory()
    loop.run_until_complete(before())
    loop.close()

    async def after():
        for scope_id in ("full", "empty", "held", "closing"):
            server.get_or_create_application_instance(scope_id, {"type": "reads"}).put_nowait("new")
        await eventually(lambda: received.count("new") == 4)
        for scope_id in list(server.application_instances):
            await server.delete_application_instance(scope_id)

    if how == "get_or_create":
        run(after())
    else:
        server.get_or_create_application_instance("full", {"type": "reads"}).put_nowait("new")
        run(server.arun())
    for task in kept:
        task._log_destroy_pending = False
    told = [message for messages, _ in server.undelivered for message in messages]
    assert told.count("queued") == 1

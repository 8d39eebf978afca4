"""Loops that are not there yet, or no more; and the instance at work."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
from typing import Any

import pytest
from conftest import passes

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


# Loops


def waiting_server(cls: Any, application: Any, condition: Any) -> Any:
    class Server(cls):
        async def handle(self):
            await until(condition)

    return Server(application)


def collecting(seen: list) -> Any:
    async def application(scope, receive, send):
        seen.append(scope["type"])
        while True:
            seen.append(await receive())

    return application


@pytest.mark.parametrize("way", ["arun", "run", "checker", "look-up"])
def test_created_without_a_loop(cy, run, way):
    """Created where no loop runs, an instance waits, fed or not, and starts when a loop of the server's does."""
    seen = []
    server = waiting_server(cy.StatelessServer, collecting(seen), lambda: len(seen) == 22)
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
                await until(lambda: len(seen) == 22)
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
    server = waiting_server(cy.StatelessServer, collecting(seen), lambda: seen)
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
            await until(lambda: len(seen) >= 2)

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
            await until(lambda: len(seen) == wanted)

    server = Server(collecting(seen))
    for _ in range(3):
        run(server.arun())
    assert seen == ["test", 0, 1, 2] * 3


# The instance at work


def test_current_instance(cy, run):
    """Inside an application, its child tasks and application_send, current_instance() is the instance at work."""

    async def main():
        seen = []

        class Server(cy.StatelessServer):
            async def application_send(self, scope, message):
                seen.append((message, cy.current_instance()))

        async def child(send, message):
            await send(message)
            seen.append(("child", cy.current_instance()))
            await asyncio.create_task(grandchild())

        async def grandchild():
            await passes(1)
            seen.append(("grandchild", cy.current_instance()))

        async def application(scope, receive, send):
            seen.append(("begin", cy.current_instance()))
            await receive()
            await send("sent")
            await asyncio.gather(child(send, "sent by child"))
            seen.append(("end", cy.current_instance()))

        assert cy.current_instance() is None
        server = Server(application)
        for scope_id in "ab":
            del seen[:]
            instance = make(server, scope_id)
            instance.put_nowait("go")
            await passes(8)
            names = ["begin", "sent", "sent by child", "child", "grandchild", "end"]
            assert seen == [(name, instance) for name in names]
            assert cy.current_instance() is None

    run(main())


def test_current_instance_of_an_instance_that_another_made(cy, run):
    """An instance made by an application works under its own name, and its maker goes on under the maker's."""

    async def main():
        seen = {}

        async def application(scope, receive, send):
            if scope["id"] < 3:
                make(server, scope["id"] + 1, {"id": scope["id"] + 1}).put_nowait("go")
            await receive()
            seen[scope["id"]] = cy.current_instance()

        server = cy.StatelessServer(application)
        make(server, 0, {"id": 0}).put_nowait("go")
        await passes(8)
        assert seen == dict(server.application_instances) and len(seen) == 4
        assert cy.current_instance() is None

    run(main())


def test_current_instance_of_a_callers_run(cy, run):
    """In a caller's run it is the instance that was called; before and after, the caller's own, nested calls too."""

    async def main():
        seen = []

        async def inner(scope, receive, send):
            seen.append(cy.current_instance())
            await passes(1)
            seen.append(cy.current_instance())

        async def outer(scope, receive, send):
            seen.append(cy.current_instance())
            await second["application"](SCOPE, receive, send)
            seen.append(cy.current_instance())

        server = cy.StatelessServer(outer)
        first = await make(server, "first")
        server.application = inner
        second = await make(server, "second")
        await first["application"](SCOPE, None, None)
        assert seen == [first, second, second, first]
        assert cy.current_instance() is None
        with pytest.raises(TypeError):
            await second["application"]()
        assert cy.current_instance() is None

    run(main())


def test_current_instance_of_what_survives(cy, run):
    """A child task that outlives its application's run sees None."""

    async def main():
        seen, gate = [], asyncio.Event()
        children = []

        async def child():
            seen.append(cy.current_instance())
            await gate.wait()
            seen.append(cy.current_instance())

        async def application(scope, receive, send):
            children.append(asyncio.create_task(child()))
            await receive()

        server = cy.StatelessServer(application)
        instance = make(server)
        await passes(5)
        instance.put_nowait("end")
        await passes(5)
        assert instance["future"].done()
        gate.set()
        await children[0]
        assert seen == [instance, None]

    run(main())


def test_the_context_of_the_creator_is_the_applications(impl, run):
    """Context variables set before the creation are seen by the application, as a task sees them."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def main():
        seen = []

        async def application(scope, receive, send):
            seen.append(variable.get("unset"))
            await receive()
            variable.set("changed")

        variable.set("mine")
        server = impl.StatelessServer(application)
        make(server).put_nowait("go")
        variable.set("later")
        await passes(5)
        assert seen == ["mine"]
        assert variable.get() == "later"

    run(main())

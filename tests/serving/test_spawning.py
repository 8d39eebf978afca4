"""server.spawn(coroutine): a task that ends with the server, and whose failure ends the server."""

from __future__ import annotations

import asyncio
import logging

import pytest

from support.loops import passes
from support.serving import eventually, for_ever, handling, in_time, reader


async def nothing():
    pass


@pytest.mark.slow
def test_gives_the_task(cy, run):
    """spawn() gives the very Task, which may be awaited or cancelled like any other."""

    async def work():
        return asyncio.current_task()

    async def handle(server):
        task = server.spawn(work())
        assert isinstance(task, asyncio.Task)
        assert await task is task
        other = server.spawn(for_ever(server))
        await passes(2)
        other.cancel()
        await asyncio.wait([other])
        handled.append(other.cancelled())

    handled = []

    async def main():
        await handling(cy.StatelessServer, handle)(reader).arun()

    run(main())
    assert handled == [True]


@pytest.mark.parametrize("where", ["no loop", "a loop", "before", "after"])
def test_refused_outside_arun(cy, run, where):
    """Outside a running arun() spawn() is a RuntimeError that says so."""

    def refused(server):
        coroutine = nothing()
        with pytest.raises(RuntimeError, match="spawn"):
            server.spawn(coroutine)
        coroutine.close()

    server = handling(cy.StatelessServer, passes)(reader)

    async def main():
        if where in ("a loop", "before"):
            refused(server)
        if where != "a loop":
            await type(server).arun(server)
        if where == "after":
            refused(server)

    async def handle(server):
        await passes(2)

    type(server).handle = handle
    if where == "no loop":
        refused(server)
    else:
        run(main())


@pytest.mark.parametrize("value", [None, 1, nothing, "work"], ids=["None", "number", "function", "text"])
def test_refuses_what_is_no_coroutine(cy, run, value):
    """What is no coroutine is a TypeError that shows it, and the server goes on."""

    async def handle(server):
        with pytest.raises(TypeError) as caught:
            server.spawn(value)
        assert repr(value) in str(caught.value)
        await passes(3)
        handled.append(True)

    handled = []

    async def main():
        await handling(cy.StatelessServer, handle)(reader).arun()

    run(main())
    assert handled


def test_ends_with_the_server(cy, run):
    """When handle() has returned, what was spawned is cancelled, and its clean-up awaited."""
    order = []

    async def work():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await passes(3)
            order.append("cleaned up")

    async def handle(server):
        server.spawn(work())
        await passes(2)
        order.append("handled")

    async def main():
        before = asyncio.all_tasks()
        await handling(cy.StatelessServer, handle)(reader).arun()
        assert asyncio.all_tasks() == before

    run(main())
    assert order == ["handled", "cleaned up"]


def test_returning_ends_nothing(cy, run):
    """A spawned task that returns, or is cancelled, leaves handle() alone."""

    async def handle(server):
        server.spawn(nothing())
        cancelled = server.spawn(for_ever(server))
        await passes(2)
        cancelled.cancel()
        await passes(5)
        handled.append(True)

    handled = []

    async def main():
        await handling(cy.StatelessServer, handle)(reader).arun()

    run(main())
    assert handled


def test_failure_ends_handle(cy, run):
    """A spawned task that fails ends handle(), which may clean up, and arun() raises that very error."""
    error = LookupError("the listener has died")
    order = []

    async def work():
        await passes(3)
        raise error

    async def handle(server):
        server.spawn(work())
        try:
            await for_ever(server)
        finally:
            await passes(2)
            order.append("handle")

    async def main():
        server = handling(cy.StatelessServer, handle)(reader)
        with pytest.raises(LookupError) as caught:
            await asyncio.wait_for(server.arun(), 20)
        assert caught.value is error
        assert order == ["handle"]

    run(main())


def test_failure_drains_first(cy, run):
    """As with an error of handle() itself, what was accepted is worked off when a spawned task has failed."""
    order = []

    async def application(scope, receive, send):
        try:
            while True:
                message = await receive()
                await passes(10)
                order.append(message)
        finally:
            order.append("cancelled")

    async def work():
        await passes(5)
        raise LookupError

    async def handle(server):
        for number in range(20):
            server.get_or_create_application_instance("a", {}).put_nowait(number)
        server.spawn(work())
        await for_ever(server)

    async def main():
        server = handling(cy.StatelessServer, handle, shutdown_timeout=60.0)(application)
        with pytest.raises(LookupError):
            await asyncio.wait_for(server.arun(), 20)
        assert order == [*range(20), "cancelled"]
        assert server.undelivered == []
        assert len(server.application_instances) == 0

    run(main())


def test_failure_while_a_listener_serves(cy, run):
    """The failure ends the server too when handle() has returned and only a listener keeps it going."""
    gate = asyncio.Event()

    async def work():
        await gate.wait()
        raise LookupError

    async def handle(server):
        opened.append(await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0))
        server.spawn(work())

    opened = []

    async def main():
        task = asyncio.create_task(handling(cy.StatelessServer, handle)(reader).arun())
        await in_time(lambda: opened)
        await passes(10)
        assert not task.done()
        gate.set()
        await asyncio.wait([task], timeout=20)
        with pytest.raises(LookupError):
            task.result()
        assert not opened[0].is_serving()

    run(main())


def test_first_of_two_failures_counts(cy, run, caplog):
    """Of two failures the first is raised; the second is not lost in silence."""

    async def work(error):
        await passes(3)
        raise error

    async def handle(server):
        for error in (LookupError("the first"), ZeroDivisionError("the second")):
            server.spawn(work(error))
        await for_ever(server)

    async def main():
        with pytest.raises(LookupError):
            await handling(cy.StatelessServer, handle)(reader).arun()

    with caplog.at_level(logging.DEBUG):
        run(main())
    assert any("the second" in caplog.handler.format(record) for record in caplog.records)


def test_spawned_task_may_spawn(cy, run):
    """A spawned task, and an application, may spawn further ones; all end with the server."""

    async def application(scope, receive, send):
        await receive()
        tasks.append(server.spawn(for_ever(server)))
        await receive()

    async def work():
        tasks.append(server.spawn(for_ever(server)))
        await for_ever(server)

    async def handle(server):
        tasks.append(server.spawn(work()))
        server.get_or_create_application_instance("a", {}).put_nowait(1)
        await eventually(lambda: len(tasks) == 3)

    async def main():
        nonlocal server
        server = handling(cy.StatelessServer, handle)(application)
        await server.arun()
        assert all(task.cancelled() for task in tasks)

    server = None
    tasks = []
    run(main())


def test_belongs_to_no_instance(cy, run):
    """A task that an application spawns belongs to the server: it outlives the instance, and is not of it."""
    seen = []

    async def work():
        seen.append(cy.current_instance())
        await gate.wait()
        seen.append(cy.current_instance())

    async def application(scope, receive, send):
        await receive()
        server.spawn(work())
        await passes(3)

    async def handle(server):
        server.get_or_create_application_instance("a", {}).put_nowait(1)
        await in_time(lambda: "a" not in server.application_instances)
        gate.set()
        await eventually(lambda: len(seen) == 2)

    async def main():
        nonlocal server
        server = handling(cy.StatelessServer, handle)(application)
        await server.arun()

    server = None
    gate = asyncio.Event()
    run(main())
    assert seen == [None, None]


def test_usable_from_run(cy):
    """spawn() works under run() as under arun(), and its failure leaves run() as an error."""

    async def work():
        await passes(3)
        raise LookupError("spawned")

    async def handle(server):
        server.spawn(work())
        await for_ever(server)

    with pytest.raises(LookupError, match="spawned"):
        handling(cy.StatelessServer, handle)(reader).run()

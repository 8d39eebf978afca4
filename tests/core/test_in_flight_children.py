"""Messages in flight where an application has child tasks receive them."""

from __future__ import annotations

import asyncio
import sys

import pytest

from support.ends import make
from support.in_flight import telling
from support.loops import passes
from support.serving import eventually, in_time


def workers(count):
    """An application that has so many child tasks receive, each of which works for ever on what is no "next"."""

    async def work(receive):
        while True:
            message = await receive()
            if message == "end":
                return
            if message != "next":
                await asyncio.get_running_loop().create_future()

    async def application(scope, receive, send):
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(work(receive))

    return application


@pytest.mark.parametrize("at_once", [False, True])
def test_workers(cy, run, at_once):
    """Each child task has its message in flight until it calls `receive()` again."""

    async def main():
        server = telling(cy.StatelessServer)(workers(3))
        instance = make(server)
        if not at_once:
            await passes(5)
        for message in ("next", "one", "next", "two", "next", "next"):
            instance.put_nowait(message)
            if not at_once:
                await passes(3)
        await passes(10)
        assert sorted(instance.in_flight) == ["one", "two"]
        server.delete_application_instance("a")
        await eventually(lambda: server.told)
        ((what, reason, in_flight),) = server.told
        assert (what, reason, sorted(in_flight)) == ("ended", "deleted", ["one", "two"])
        assert server.stats()["interrupted"] == 2

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_workers(cy, run):
    """The same where child tasks make their first step within the application's own."""

    def factory(loop, coroutine, **options):
        # uvloop passes it on where Python's own factory does not take it.
        options.pop("eager_start", None)
        return asyncio.eager_task_factory(loop, coroutine, **options)

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        server = telling(cy.StatelessServer)(workers(3))
        instance = make(server)
        for message in ("one", "two", "next"):
            instance.put_nowait(message)
        await passes(10)
        assert sorted(instance.in_flight) == ["one", "two"]
        asyncio.get_running_loop().set_task_factory(None)
        server.delete_application_instance("a")
        await eventually(lambda: server.told)
        assert sorted(server.told[0][2]) == ["one", "two"]

    run(main())


def test_a_task_for_each_message(cy, run):
    """What a child task took that has ended is in flight until anybody calls `receive()`; a thousand of them leave
    nothing behind."""

    async def application(scope, receive, send):
        async def following():
            return await receive()

        while True:
            if await asyncio.create_task(following()) == "work":
                await asyncio.get_running_loop().create_future()

    async def main():
        server = telling(cy.StatelessServer)(application)
        instance = make(server)
        for _ in range(1000):
            instance.put_nowait("next")
        instance.put_nowait("work")
        await in_time(instance.empty)
        await passes(5)
        assert instance.in_flight == ("work",)
        assert len(instance._server._cyasgi.table["a"].in_flight) == 1
        server.delete_application_instance("a")
        await eventually(lambda: server.told)
        assert server.told == [("ended", "deleted", ("work",))]

    run(main())


def test_calls_handed_to_tasks(cy, run):
    """Calls that the application makes and has tasks await, as Channels' consumers do, are the application's own."""

    async def application(scope, receive, send):
        call = asyncio.ensure_future(receive())
        while True:
            await asyncio.wait([call])
            if call.result() == "work":
                await asyncio.get_running_loop().create_future()
            call = asyncio.ensure_future(receive())

    async def main():
        server = telling(cy.StatelessServer)(application)
        instance = make(server)
        for message in ("next", "next", "work"):
            instance.put_nowait(message)
        await passes(20)
        assert instance.in_flight == ("work",)
        server.delete_application_instance("a")
        await eventually(lambda: server.told)
        assert server.told == [("ended", "deleted", ("work",))]

    run(main())


def test_a_child_that_outlives_its_application(cy, run):
    """It receives nothing, what was queued neither: that is undelivered."""
    received = []

    async def outliving(receive):
        await passes(3)
        received.append(await receive())

    async def application(scope, receive, send):
        children.append(asyncio.create_task(outliving(receive)))
        calls.append(asyncio.create_task(taking(receive())))
        await receive()

    async def taking(call):
        await passes(3)
        received.append(await call)

    children, calls = [], []

    async def main():
        server = telling(cy.StatelessServer)(application)
        instance = make(server)
        for number in range(3):
            instance.put_nowait(number)
        await passes(10)
        server.delete_application_instance("a")
        await eventually(lambda: len(server.told) == 2)
        assert server.told == [("undelivered", [1, 2], ()), ("ended", "returned", ())]
        assert received == []
        for task in (*children, *calls):
            task.cancel()
        await asyncio.wait([*children, *calls])

    run(main())


def test_cancelled_child(cy, run):
    """A child task that is cancelled while it waits takes nothing; one with a message in hand leaves it in flight."""

    async def application(scope, receive, send):
        async def work():
            await receive()
            await asyncio.get_running_loop().create_future()

        children.extend(asyncio.create_task(work()) for _ in range(2))
        await asyncio.get_running_loop().create_future()

    children = []

    async def main():
        server = telling(cy.StatelessServer)(application)
        instance = make(server)
        instance.put_nowait("one")
        await passes(6)
        for child in children:
            child.cancel()
        await passes(3)
        assert instance.in_flight == ("one",)
        instance.put_nowait("two")
        server.delete_application_instance("a")
        await eventually(lambda: len(server.told) == 2)
        assert server.told == [("undelivered", ["two"], ("one",)), ("ended", "deleted", ("one",))]

    run(main())

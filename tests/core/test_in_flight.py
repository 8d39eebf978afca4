"""What an application has begun and not finished: messages that it took from `receive()` and has not come back from."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref

import pytest

from support.ends import make
from support.in_flight import obeying, telling
from support.loops import passes
from support.serving import checking, deaf, eventually, handling, in_time, quiet

# The value


@pytest.mark.parametrize("message", ["work", None, (), 0, ["work"], asyncio.CancelledError()], ids=repr)
def test_begun_and_settled(cy, run, message):
    """A message is in flight from its `receive()` to the next, whatever object it is; then there is none."""
    gate = None

    async def application(scope, receive, send):
        nonlocal gate
        while True:
            await receive()
            gate = asyncio.get_running_loop().create_future()
            await gate

    async def main():
        server = quiet(cy.StatelessServer)(application)
        instance = make(server)
        assert instance.in_flight == ()
        await passes(3)
        assert instance.idle and instance.in_flight == ()
        for _ in range(3):
            instance.put_nowait(message)
            instance.put_nowait("behind")
            assert instance.in_flight == ()
            await passes(2)
            assert [one is message for one in instance.in_flight] == [True]
            gate.set_result(None)
            await passes(2)
            assert instance.in_flight == ("behind",)
            gate.set_result(None)
            await passes(2)
            assert instance.idle and instance.in_flight == ()
        assert "in_flight" not in instance

    run(main())


def test_calling_settles(cy, run):
    """It is the call of `receive()` that says that the last message is finished, awaited or not yet."""

    async def application(scope, receive, send):
        await receive()
        call = receive()
        seen.append(cy.current_instance().in_flight)
        call.close()
        await asyncio.get_running_loop().create_future()

    seen = []

    async def main():
        instance = make(quiet(cy.StatelessServer)(application))
        instance.put_nowait("first")
        await passes(3)
        assert seen == [()]
        await instance._server.delete_application_instance("a")
        assert instance.in_flight == ()

    run(main())


@pytest.mark.parametrize("backlog", [0, 3])
def test_taken_by_others(cy, run, backlog):
    """What `get` and `get_nowait` of the queue take is the affair of who calls them."""

    async def main():
        server = quiet(cy.StatelessServer)(deaf)
        instance = make(server)
        for number in range(2 + backlog):
            instance.put_nowait(number)
        await passes(3)
        assert instance.get_nowait() == 0
        assert await instance.get() == 1
        assert instance.in_flight == ()
        server.delete_application_instance("a")
        await passes(5)
        assert instance.in_flight == ()
        assert server.stats()["interrupted"] == 0

    run(main())


def test_run_by_its_caller(cy, run):
    """An application that is run by its caller receives what the caller gives it: of that the server knows nothing."""

    async def main():
        server = telling(cy.StatelessServer)(obeying)
        instance = await make(server)
        given = asyncio.Queue()
        given.put_nowait("work")
        call = asyncio.create_task(instance["application"]("scope", given.get, None))
        await passes(5)
        assert given.empty() and instance.in_flight == ()
        server.delete_application_instance("a")
        with pytest.raises(cy.InstanceDeleted):
            await call
        await passes(5)
        assert server.told == [("ended", "deleted", ())]

    run(main())


def test_asgi_2(cy, run):
    """A double callable has messages in flight like any other."""

    class Application:
        def __init__(self, scope):
            pass

        async def __call__(self, receive, send):
            await obeying(None, receive, send)

    async def main():
        server = telling(cy.StatelessServer)(Application)
        make(server).put_nowait("work")
        await passes(4)
        server.delete_application_instance("a")
        await eventually(lambda: server.told)
        assert server.told == [("ended", "deleted", ("work",))]

    run(main())


# The end


@pytest.mark.parametrize("left", [[], ["behind", "further"]])
def test_failed(cy, run, left):
    """The details that `application_exception` gets tell which message the application failed with."""

    async def main():
        server = telling(cy.StatelessServer)(obeying)
        instance = make(server)
        for message in ("next", "fail", *left):
            instance.put_nowait(message)
        async with checking(server):
            await in_time(lambda: len(server.told) == 2 + bool(left))
        assert server.told == [
            ("exception", ("failed",), ("fail",)),
            *([("undelivered", left, ("fail",))] if left else []),
            ("ended", "failed", ("fail",)),
        ]
        assert instance["in_flight"] == ("fail",) == instance.get("in_flight")
        stats = server.stats()
        assert (stats["failed"], stats["interrupted"], stats["undelivered"]) == (1, 1, len(left))

    run(main())


@pytest.mark.parametrize("how", ["deleted", "evicted", "stopping", "by itself", "by its future"])
@pytest.mark.parametrize("left", [[], ["behind", "further"]])
def test_cancelled(cy, run, how, left):
    """Cancelled in the midst of a message, whoever does that, the hooks hear of it, and of what is left besides."""
    begun = "cancel" if how == "by itself" else "work"

    class Server(telling(cy.StatelessServer)):
        application_checker_interval = 0.001
        shutdown_timeout = 0.01

        async def handle(self):
            instance = make(self)
            for message in (begun, *left):
                instance.put_nowait(message)
            await passes(4)
            match how:
                case "deleted":
                    self.delete_application_instance("a")
                case "evicted":
                    self.max_applications = 1
                    make(self, "b")
                case "by its future":
                    instance["future"].cancel()
            if how != "stopping":
                await in_time(lambda: len(self.told) == 1 + bool(left))

    async def main():
        server = Server(obeying)
        await server.arun()
        if how == "evicted":
            assert server.told.pop() == ("ended", "stopping", ())
        assert server.told == [
            *([("undelivered", left, (begun,))] if left else []),
            ("ended", "cancelled" if how.startswith("by") else how, (begun,)),
        ]
        assert server.stats()["interrupted"] == 1

    run(main())


def test_returned(cy, run):
    """An application that returns has finished its last message, even if it was about to be cancelled."""

    async def polite(scope, receive, send):
        await receive()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()

    async def main():
        server = telling(cy.StatelessServer)(obeying)
        make(server).put_nowait("return")
        async with checking(server):
            await in_time(lambda: server.told)
            server.application = polite
            make(server, "b").put_nowait("work")
            await passes(4)
            server.delete_application_instance("b")
            await in_time(lambda: len(server.told) == 2)
        assert server.told == [("ended", "returned", ()), ("ended", "deleted", ())]
        assert server.stats()["interrupted"] == 0

    run(main())


def test_clean_up_that_receives(cy, run):
    """Who receives while cleaning up has the last of that in flight when it goes on to end cancelled."""

    async def application(scope, receive, send):
        await receive()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await receive()

    async def main():
        server = telling(cy.StatelessServer)(application)
        instance = make(server)
        for number in range(3):
            instance.put_nowait(number)
        await passes(4)
        server.delete_application_instance("a")
        await eventually(lambda: len(server.told) == 2)
        assert server.told == [("undelivered", [2], (1,)), ("ended", "deleted", (1,))]

    run(main())


def test_cancelled_with_the_message_on_its_way(cy, run):
    """A message that came to a waiting `receive()` in the pass of the cancellation was not begun: it is undelivered."""

    async def main():
        server = telling(cy.StatelessServer)(obeying)
        instance = make(server)
        await passes(3)
        server.delete_application_instance("a")
        instance.put_nowait("work")
        await eventually(lambda: len(server.told) == 2)
        assert server.told == [("undelivered", ["work"], ()), ("ended", "deleted", ())]

    run(main())


def test_cancelled_before_its_first_step(cy, run):
    """An application that has not begun has nothing in flight."""

    async def main():
        server = telling(cy.StatelessServer)(obeying)
        make(server).put_nowait("work")
        server.delete_application_instance("a")
        await eventually(lambda: len(server.told) == 2)
        assert server.told == [("undelivered", ["work"], ()), ("ended", "deleted", ())]

    run(main())


def test_over_the_end_of_a_loop(cy, run):
    """What was in flight in a loop that was closed over it is told when the server runs again."""

    async def first():
        make(server).put_nowait("work")
        await passes(4)

    server = telling(cy.StatelessServer)(obeying)
    loop = run.loop_factory()
    loop.run_until_complete(first())
    loop.close()

    async def main():
        async with checking(server):
            make(server)
            await eventually(lambda: server.told)
        assert server.told == [("ended", "cancelled", ("work",))]

    run(main())


def test_around_the_run(cy, run):
    """A task factory that puts something around what it makes tasks of hides nothing."""

    def factory(loop, coroutine, **keywords):
        async def around():
            return await coroutine

        return asyncio.Task(around(), loop=loop, **keywords)

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        server = telling(cy.StatelessServer)(obeying)
        instance = make(server)
        instance.put_nowait("next")
        instance.put_nowait("work")
        await passes(6)
        assert instance.in_flight == ("work",)
        server.delete_application_instance("a")
        await eventually(lambda: server.told)
        assert server.told == [("ended", "deleted", ("work",))]

    run(main())


# Lifetime


class Message:
    """A message that can be watched."""


@pytest.mark.parametrize("child", [False, True])
def test_lifetime(cy, run, child):
    """A message lives for as long as it is in flight, and no longer than its run where the run returned."""

    async def application(scope, receive, send):
        if child:
            await asyncio.create_task(work(receive))
        else:
            await work(receive)

    async def work(receive):
        while True:
            message = await receive()
            if message == "return":
                return
            del message
            await passes(3)

    async def main():
        server = quiet(cy.StatelessServer)(application)
        instance = make(server)
        await passes(3)
        gc.disable()
        try:
            message = Message()
            watched = weakref.ref(message)
            instance.put_nowait(message)
            del message
            await passes(3)
            assert instance.in_flight == (watched(),)
            await passes(6)
            assert instance.idle and watched() is None
            message = Message()
            watched = weakref.ref(message)
            instance.put_nowait(message)
            instance.put_nowait("return")
            del message
            await passes(20)
            assert instance.ended and watched() is None
        finally:
            gc.enable()

    run(main())


def test_stopping_drains_first(cy, run):
    """A server that stops lets applications come back from their messages: then none was in flight."""
    gate = None

    async def application(scope, receive, send):
        nonlocal gate
        while True:
            await receive()
            gate = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.01, gate.set_result, None)
            await gate

    async def handle(server):
        for _ in range(3):
            make(server).put_nowait("work")
        await passes(4)

    async def main():
        server = handling(cy.StatelessServer, handle, application_ended=lambda *told: ends.append(told[1:]))(
            application
        )
        await server.arun()
        ((details, reason),) = ends
        assert (details.in_flight, reason, server.stats()["interrupted"]) == ((), "stopping", 0)
        assert server.undelivered == []

    ends = []
    run(main())

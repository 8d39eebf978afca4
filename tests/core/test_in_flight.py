"""What an application has begun and not finished: messages that it took from `receive()` and has not come back from."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import weakref

import pytest

from support.loops import passes
from support.serving import checking, deaf, eventually, handling, in_time, quiet


def make(server, scope_id="a", scope="scope"):
    return server.get_or_create_application_instance(scope_id, scope)


def telling(cls):
    """A server that keeps what its hooks see of messages in flight."""

    class Server(quiet(cls)):
        def __init__(self, application, max_applications=1000):
            super().__init__(application, max_applications)
            self.told = []

        def application_undelivered(self, messages, details):
            self.told.append(("undelivered", messages, details.in_flight))

        def application_exception(self, exception, details):
            self.told.append(("exception", exception.args, details.in_flight))

        def application_ended(self, details, reason):
            self.told.append(("ended", reason, details.in_flight))

    return Server


async def obeying(scope, receive, send):
    """An application that does what its messages say, and works on what it does not know for ever."""
    while True:
        match message := await receive():
            case "next":
                continue
            case "return":
                return
            case "fail":
                raise LookupError("failed")
            case "cancel":
                raise asyncio.CancelledError
            case _:
                await asyncio.get_running_loop().create_future()
        del message


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


# Child tasks


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


# What is logged


IN_FLIGHT = ", and 1 in flight, begun and not finished"


def logged(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("messages", "lines"),
    [
        (
            ["work"],
            ["1 message in flight, begun and not finished, when the application of scope_id 'a' ended: deleted"],
        ),
        (
            ["work", 1, 2],
            ["2 undelivered messages were left in the queue of scope_id 'a'" + IN_FLIGHT],
        ),
        (["next", "next"], []),
        (["fail"], ["Exception inside application (scope_id 'a'): failed"]),
        (["return"], []),
    ],
)
def test_default_hooks(cy, run, caplog, messages, lines):
    """What was in flight is told once, in the line of the hook that tells of that end; a failure's says what failed."""

    class Server(cy.StatelessServer):
        async def application_send(self, scope, message):
            pass

    async def main():
        server = Server(obeying)
        instance = make(server)
        for message in messages:
            instance.put_nowait(message)
        await passes(6)
        server.delete_application_instance("a")
        await passes(6)

    with caplog.at_level(logging.DEBUG):
        run(main())
    assert logged(caplog) == lines


def test_undelivered_is_not_called_for_nothing(cy, run, caplog):
    """An override of `application_undelivered` that looks at nothing but messages is never called without any: one that
    makes a successor would bring every instance back that is evicted at work."""
    lists = []

    class Server(cy.StatelessServer):
        async def application_send(self, scope, message):
            pass

        def application_undelivered(self, messages, details):
            lists.append(messages)
            successor = self.get_or_create_application_instance(details.scope_id, details["scope"])
            for message in messages:
                successor.put_nowait(message)

    async def main():
        server = Server(obeying, 2)
        for number in range(20):
            make(server, number).put_nowait("work")
            await passes(5)
        assert lists == []
        assert (server.stats()["created"], server.stats()["interrupted"]) == (20, 18)

    with caplog.at_level(logging.WARNING):
        run(main())
    # The two that are left are not told of: nobody has ended them.
    assert len(logged(caplog)) == 18


def test_plain_dicts(cy, run):
    """Entries that are plain dicts know nothing of messages in flight; the hooks' defaults do not mind."""

    async def main():
        server = cy.StatelessServer(deaf)
        queue = asyncio.Queue()
        queue.put_nowait("left")
        server.application_instances["a"] = {"input_queue": queue, "scope": {}}
        server.delete_application_instance("a")
        await passes(5)
        assert (server.stats()["undelivered"], server.stats()["interrupted"]) == (1, 0)

    run(main())


def test_own_key(cy, run):
    """A key "in_flight" that a caller has added to an instance is the caller's."""

    async def main():
        server = telling(cy.StatelessServer)(obeying)
        instance = make(server)
        instance["in_flight"] = "own"
        instance.put_nowait("work")
        await passes(4)
        server.delete_application_instance("a")
        await eventually(lambda: server.told)
        assert instance["in_flight"] == "own" and instance.in_flight == ("work",)

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

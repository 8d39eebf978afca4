"""Loops that are not there yet, or no more; and the instance at work."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import sys
import types
from typing import Any

import pytest

from support.loops import passes
from support.serving import eventually, quiet

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


# Loops that are not as usual


async def go_through(cls: Any, scope_id: Any = "id") -> Any:
    """Goes through what a loop is needed for: an instance that is made, looked up, fed, waited for, cancelled, timed
    out, sent from, ended, made anew and deleted. Gives the first one."""
    sent, undelivered = [], []

    class Server(cls):
        async def application_send(self, scope, message):
            sent.append(message)

        def application_undelivered(self, messages, details):
            undelivered.extend(messages)

    async def pieces():
        for piece in ("one", "two"):
            yield piece

    async def application(scope, receive, send):
        try:
            async with asyncio.timeout(0):
                await receive()
        except TimeoutError:
            await send("time is up")
        while (message := await receive()) != "end":
            await send(message)
        children = [asyncio.create_task(receive()) for _ in range(2)]
        try:
            await receive()
        except asyncio.CancelledError as error:
            await send(error.args)
        await send(await asyncio.gather(*children))
        async for piece in pieces():
            await send(piece)

    server = Server(application)
    first = make(server, scope_id)
    await passes(6)
    for number in range(3):
        make(server, scope_id).put_nowait(number)
        await passes(3)
    assert make(server, scope_id) is first and first.idle
    assert sent == ["time is up", 0, 1, 2]
    del sent[:]
    first.put_nowait("end")
    await passes(3)
    first["future"].cancel("why")
    first.put_nowait("a")
    first.put_nowait("b")
    await until(first["future"].done)
    assert first["future"].exception() is None
    assert sent == [("why",), ["a", "b"], "one", "two"]
    second = make(server, scope_id)
    assert second is not first
    await passes(6)
    assert await server.delete_application_instance(scope_id)
    assert second["future"].cancelled()
    second.put_nowait("late")
    await passes(2)
    assert undelivered == ["late"]
    return first


def kind_of_loop(run: Any) -> Any:
    loop = run.loop_factory()
    loop.close()
    return type(loop)


def run_in(loop_factory: Any, run: Any, main: Any) -> None:
    """As run(main()), in a loop of another kind."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: run.complaints.append(context))
        runner.run(asyncio.wait_for(main(), 60))


def without_names(loop, coroutine, **options):
    assert options.pop("name", None) is None
    return asyncio.Task(coroutine, loop=loop, **options)


def with_options(loop, coroutine, **options):
    return asyncio.Task(coroutine, loop=loop, **options)


def in_another_coroutine(loop, coroutine, **options):
    async def wrapped():
        return await coroutine

    return asyncio.Task(wrapped(), loop=loop, **options)


def in_python(loop, coroutine, **options):
    return asyncio.tasks._PyTask(coroutine, loop=loop, **options)  # type: ignore[attr-defined]


NAMES = ["id", "", "two words", 1, None, ("a", 1), b"bytes"]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("scope_id", NAMES, ids=repr)
def test_the_task_is_called_by_its_scope_id(cy, run, scope_id, debug):
    """The task of an instance has its scope_id for a name if that is a str, and otherwise the package's."""

    async def main():
        server = cy.StatelessServer(collecting([]))
        for _ in range(2):
            assert make(server, scope_id)["future"].get_name() == (scope_id if type(scope_id) is str else "cyasgi")
            await passes(3)
            await server.delete_application_instance(scope_id)

    run(main(), debug=debug)


def test_the_task_of_an_instance_that_waited_for_its_loop_is_called_so_too(cy, run):
    """So has one that was created without a loop, and started later."""
    seen = []
    server = waiting_server(cy.StatelessServer, collecting(seen), lambda: len(seen) == 2)
    instances = [make(server, scope_id) for scope_id in ("id", 1)]
    run(server.arun())
    assert [instance["future"].get_name() for instance in instances] == ["id", "cyasgi"]


@pytest.mark.parametrize("scope_id", ["id", 1])
@pytest.mark.parametrize("factory", [without_names, with_options, in_another_coroutine, in_python])
def test_with_a_task_factory(cy, run, factory, scope_id):
    """Whatever a task factory takes, and whatever kind of task it makes, all works, under whatever name."""

    async def main():
        loop, made = asyncio.get_running_loop(), []

        @functools.wraps(factory)
        def noting(*arguments, **options):
            made.append(factory(*arguments, **options))
            return made[-1]

        loop.set_task_factory(noting)
        try:
            first = await go_through(cy.StatelessServer, scope_id)
            assert first["future"] in made
        finally:
            loop.set_task_factory(None)

    run(main())


def test_with_a_task_factory_of_two_arguments(cy):
    """The oldest kind of factory, which takes the loop and the coroutine and nothing else, is not asked for more."""

    async def main():
        asyncio.get_running_loop().set_task_factory(lambda loop, coroutine: asyncio.Task(coroutine, loop=loop))
        try:
            for scope_id in ("id", 1):
                await go_through(cy.StatelessServer, scope_id)
        finally:
            asyncio.get_running_loop().set_task_factory(None)

    # Not in uvloop, which gives such a factory a context, whoever makes the task.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(main())


def test_a_loop_whose_create_task_takes_no_name(cy, run):
    """A loop of a class that makes tasks in its own way is not asked to name them."""

    class Loop(kind_of_loop(run)):  # type: ignore[misc]
        def create_task(self, coroutine, *, context=None, **options):
            # asyncio itself gives a name of None in some versions.
            assert options.pop("name", None) is None and not options
            made.append(super().create_task(coroutine, context=context))
            return made[-1]

    async def main():
        for scope_id in ("id", 1):
            first = await go_through(cy.StatelessServer, scope_id)
            assert first["future"] in made

    made: list[Any] = []
    run_in(Loop, run, main)


def test_with_a_task_factory_that_comes_and_goes(cy, run):
    """The factory that is set when an instance is made makes its task; without one it is the loop's own kind again."""

    async def main():
        loop, server = asyncio.get_running_loop(), cy.StatelessServer(collecting([]))
        make(server, "before")
        loop.set_task_factory(in_python)
        during = make(server, "during")
        loop.set_task_factory(None)
        after = make(server, "after")
        await passes(3)
        assert type(during["future"]) is asyncio.tasks._PyTask and type(after["future"]) is asyncio.Task
        assert make(server, "before").idle and during.idle and after.idle

    run(main())


@pytest.mark.parametrize("when", ["before", "after", "in between"])
@pytest.mark.parametrize("hooks", ["none", "functions", "methods"])
def test_with_other_hooks_for_asynchronous_generators(cy, run, hooks, when):
    """Look-ups, sends and wake-ups need no hooks of the loop's own, whoever has set others, and at whatever time."""

    class Hooks:
        def begun(self, generator):
            seen.append(generator)

        def finished(self, generator):
            pass

    seen: list[Any] = []
    mine = Hooks()
    others = {
        "none": (None, None),
        "functions": (seen.append, lambda generator: None),
        "methods": (mine.begun, mine.finished),
    }

    async def main():
        before = sys.get_asyncgen_hooks()
        try:
            if when != "before":
                server, received = cy.StatelessServer(application), []
                instance = make(server)
                await passes(3)
            sys.set_asyncgen_hooks(*others[hooks])
            if when == "before":
                await go_through(cy.StatelessServer)
                assert bool(seen) is (hooks != "none")
                return
            for number in range(4):
                if when == "in between":
                    sys.set_asyncgen_hooks(*(before if number % 2 else others[hooks]))
                assert make(server) is instance
                instance.put_nowait((number, received))
                await passes(2)
                assert received == list(range(number + 1))
                assert make(server, number)["future"].get_loop() is asyncio.get_running_loop()
        finally:
            sys.set_asyncgen_hooks(*before)

    async def application(scope, receive, send):
        while True:
            number, received = await receive()
            await send((received, number))

    def application_send(self, scope, message):
        return appended(*message)

    async def appended(received, number):
        received.append(number)

    cy = types.SimpleNamespace(
        StatelessServer=type("Server", (cy.StatelessServer,), {"application_send": application_send})
    )
    run(main())


def test_with_another_loops_hooks_for_asynchronous_generators(cy, run):
    """Hooks that belong to a loop that the server was used in before do not make an instance start there."""

    async def main(hooks):
        mine = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(*hooks)
        try:
            instance = make(server, "second")
            instance.put_nowait("message")
            await passes(3)
            assert instance["future"].get_loop() is asyncio.get_running_loop()
            assert seen == ["test", "test", "message"]
        finally:
            sys.set_asyncgen_hooks(*mine)

    async def first():
        make(server, "first")
        await passes(3)
        return sys.get_asyncgen_hooks()

    async def last():
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    seen: list[Any] = []
    server = cy.StatelessServer(collecting(seen))
    loop = run.loop_factory()
    loop.set_exception_handler(lambda loop, context: run.complaints.append(context))
    try:
        run(main(loop.run_until_complete(first())))
    finally:
        loop.run_until_complete(last())
        loop.close()


async def undeterred(scope: Any, receive: Any, send: Any) -> None:
    """An application that goes on receiving after each of its first five cancellations."""
    for _ in range(5):
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await receive()


async def count_wake_ups(loop: Any, cls: Any) -> None:
    """Each wake-up is one call of call_soon, which is told of a context: `loop.soon` has one for each call."""
    instance = make(cls(undeterred))
    await passes(6)
    for number in range(5):
        for act in (functools.partial(instance.put_nowait, number), instance["future"].cancel):
            del loop.soon[:]
            act()
            assert len(loop.soon) == 1 and None not in loop.soon
            await passes(2)
    assert instance["future"].done() and not instance["future"].cancelled()


def test_a_loop_that_has_its_own_call_soon(cy, run):
    """In a loop of a class that overrides call_soon each wake-up of an application goes through that, just once."""

    class Loop(kind_of_loop(run)):  # type: ignore[misc]
        def __init__(self):
            self.soon = []
            super().__init__()

        def call_soon(self, callback, *arguments, context=None):
            self.soon.append(context)
            return super().call_soon(callback, *arguments, context=context)

    async def main():
        await go_through(cy.StatelessServer)
        loop = asyncio.get_running_loop()
        await count_wake_ups(loop, cy.StatelessServer)

    run_in(Loop, run, main)


def test_a_loop_whose_call_soon_was_replaced(cy, run):
    """So it does where call_soon was replaced on the loop itself before the server is used."""

    async def main():
        loop = asyncio.get_running_loop()
        plain = loop.call_soon
        loop.soon = []

        def call_soon(callback, *arguments, context=None):
            loop.soon.append(context)
            return plain(callback, *arguments, context=context)

        loop.call_soon = call_soon
        try:
            await count_wake_ups(loop, cy.StatelessServer)
            await go_through(cy.StatelessServer)
        finally:
            del loop.call_soon

    run(main())


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


# ---- what a closed loop leaves behind


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

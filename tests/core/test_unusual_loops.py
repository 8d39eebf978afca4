"""Event loops with task factories, hooks or methods of their own: an instance works in them as in any other."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import types
from typing import Any

import pytest

from support.loops import passes
from support.serving import collecting, in_time, serving_until

SCOPE = {"type": "test"}


def make(server: Any, scope_id: Any = "id", scope: Any = SCOPE) -> Any:
    return server.get_or_create_application_instance(scope_id, scope)


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
    await in_time(first["future"].done)
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


#: Tasks that asyncio has written in Python. From 3.14 on they are no tasks to its own current_task(): a subclass then.
OtherTask: Any = type("OtherTask", (asyncio.Task,), {}) if sys.version_info >= (3, 14) else asyncio.tasks._PyTask


def of_another_kind(loop, coroutine, **options):
    return OtherTask(coroutine, loop=loop, **options)


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
    server = serving_until(cy.StatelessServer, collecting(seen), lambda: len(seen) == 2)
    instances = [make(server, scope_id) for scope_id in ("id", 1)]
    run(server.arun())
    assert [instance["future"].get_name() for instance in instances] == ["id", "cyasgi"]


@pytest.mark.parametrize("scope_id", ["id", 1])
@pytest.mark.parametrize("factory", [without_names, with_options, in_another_coroutine, of_another_kind])
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
        loop.set_task_factory(of_another_kind)
        during = make(server, "during")
        loop.set_task_factory(None)
        after = make(server, "after")
        await passes(3)
        assert type(during["future"]) is OtherTask and type(after["future"]) is asyncio.Task
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

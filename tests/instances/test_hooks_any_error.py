"""Hooks and overrides may raise whatever there is: it is logged with its traceback, and nothing stops for it. Only a
cancellation of the task that runs the code is one."""

from __future__ import annotations

import asyncio
import logging

import pytest

from support.any_error import Doom, fail as fail, logged, of_a_cancelled_future
from support.loops import passes
from support.managed_servers import lifecycle, managed
from support.serving import checking, eventually, fast, handling, in_time, one_shot, reader


async def fails(scope, receive, send):
    await receive()
    raise ValueError("on purpose")


# ---- overrides that delete -----------------------------------------------------------------------------------------


def deleting(cls, method, kind, fail):
    """A server whose override of this method fails once it has deleted."""
    if kind == "def":

        def override(self, *args):
            deletion = getattr(super(Server, self), method)(*args)
            fail()
            return deletion

    elif kind == "async def":

        async def override(self, *args):
            await passes(1)
            await getattr(super(Server, self), method)(*args)
            fail()

    else:

        async def override(self, *args):
            await passes(1)
            fail()

    Server = type("Server", (fast(cls),), {method: override})
    return Server


METHODS = ["delete_application_instance", "delete_oldest_application_instance"]


@pytest.mark.parametrize("kind", ["def", "async def", "before it has deleted"])
@pytest.mark.parametrize("method", METHODS)
def test_making_room(cy, run, caplog, fail, method, kind):
    """Whoever asks for a new instance gets it; the victim is gone and its run ended."""

    async def main():
        server = deleting(cy.StatelessServer, method, kind, fail)(reader, 1)
        victim = server.get_or_create_application_instance("a", {})
        await passes(2)
        fresh = server.get_or_create_application_instance("b", {})
        assert list(server.application_instances) == ["b"]
        await eventually(lambda: victim["future"].done())
        assert victim["future"].cancelled()
        assert not fresh["future"].done()
        assert server.stats()["evicted"] == 1

    run(main())
    assert logged(caplog, fail) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("watchful")
@pytest.mark.parametrize("kind", ["def", "async def", "before it has deleted"])
def test_the_checker(cy, run, caplog, fail, kind):
    """The checker goes on and sees off all that has ended and all that was idle for too long."""

    async def main():
        server = deleting(cy.StatelessServer, METHODS[0], kind, fail)(one_shot)
        async with checking(server):
            for number in range(3):
                server.get_or_create_application_instance(number, {}).put_nowait(1)
                await in_time(lambda: len(server.application_instances) == 0)
            server.idle_timeout = 0.002
            server.get_or_create_application_instance("idle", {})
            await in_time(lambda: len(server.application_instances) == 0 and server.stats()["closing"] == 0)
            await passes(10)
        stats = server.stats()
        assert (stats["finished"], stats["expired"], stats["cancelled"]) == (3, 1, 1)

    run(main())
    assert logged(caplog, fail) == 4


@pytest.mark.parametrize("kind", ["def", "async def", "before it has deleted"])
def test_stopping(cy, run, caplog, fail, kind):
    """A server that stops ends every instance, and arun() returns as it would."""
    instances = []

    async def handle(server):
        instances.extend(server.get_or_create_application_instance(number, {}) for number in range(3))
        await passes(3)

    async def main():
        server = deleting(handling(cy.StatelessServer, handle), METHODS[0], kind, fail)(reader)
        await server.arun()
        assert len(server.application_instances) == 0
        assert [instance["future"].cancelled() for instance in instances] == [True] * 3

    run(main())
    assert logged(caplog, fail) == 3


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_asynchronous_override_that_is_cancelled(cy, run, caplog, steps):
    """The task of an override is cancelled, before its first step or in the middle: the deletion is completed."""

    async def main():
        server = deleting(cy.StatelessServer, METHODS[0], "async def", passes)(reader, 1)
        victim = server.get_or_create_application_instance("a", {})
        await passes(2)
        before = asyncio.all_tasks()
        server.get_or_create_application_instance("b", {})
        (override,) = (task for task in asyncio.all_tasks() - before if "_finish_override" in repr(task))
        await passes(steps)
        override.cancel()
        await eventually(lambda: victim["future"].done())
        assert victim["future"].cancelled()
        await eventually(lambda: override.done())
        assert override.cancelled()
        assert list(server.application_instances) == ["b"]

    with caplog.at_level(logging.ERROR):
        run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "an asynchronous override that deletes scope_id 'a' was cancelled"
    ]


def test_checker_that_is_overridden(cy, run, caplog, fail):
    """An application_checker() that raises is logged; the server goes on without it."""

    async def checker(server):
        await passes(1)
        fail()

    async def handle(server):
        await passes(10)
        server.get_or_create_application_instance("a", {}).put_nowait(1)

    async def main():
        server = handling(cy.StatelessServer, handle, application_checker=checker)(one_shot)
        await server.arun()
        assert server.stats()["finished"] == 1

    run(main())
    assert "application_checker raised; the server goes on without it" in caplog.text
    assert logged(caplog, fail) == 1


def test_plain_dict_with_a_queue_of_its_own(cy, run, caplog, fail):
    """A dict whose queue fails when it is looked at makes room, and is seen off, as any other."""

    class Queue(asyncio.Queue):
        def empty(self):
            fail()

    async def main():
        server = fast(cy.StatelessServer)(reader, 1)
        future = asyncio.get_running_loop().create_future()
        server.application_instances["a"] = {"input_queue": Queue(), "future": future}
        server.get_or_create_application_instance("b", {})
        assert list(server.application_instances) == ["b"]
        assert future.cancelled()
        await passes(3)
        assert server.stats()["closing"] == 0

    run(main())
    assert logged(caplog, fail) == 1


# ---- hooks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("name", ["application_exception", "application_undelivered"])
def test_hooks(cy, run, caplog, fail, name, kind):
    """A hook that raises hears of every other instance all the same, and the error that it was given is logged."""
    told = []

    if kind == "def":

        def hook(self, subject, details):
            told.append(details.scope_id)
            fail()

    else:

        async def hook(self, subject, details):
            await passes(1)
            told.append(details.scope_id)
            fail()

    async def main():
        server = type("Server", (fast(cy.StatelessServer),), {name: hook})(fails)
        async with checking(server):
            for number in range(3):
                instance = server.get_or_create_application_instance(number, {})
                instance.put_nowait(1)
                instance.put_nowait(2)
                await in_time(lambda: len(server.application_instances) == 0)
            await in_time(lambda: len(told) == 3)
            await passes(5)
        assert told == [0, 1, 2]
        assert len(server.failures) + len(server.undelivered) == 3

    run(main())
    assert logged(caplog, fail) == 3
    assert caplog.text.count("ValueError: on purpose") == (3 if name == "application_exception" else 0)


def test_asynchronous_hook_that_is_cancelled(cy, run, caplog):
    """A hook whose task is cancelled is logged with what it was called with, traceback included; the next one is
    called."""
    called = []

    class Server(fast(cy.StatelessServer)):
        async def application_exception(self, exception, details):
            called.append(asyncio.current_task())
            if len(called) == 1:
                await asyncio.get_running_loop().create_future()

    async def main():
        server = Server(fails)
        async with checking(server):
            server.get_or_create_application_instance("a", {}).put_nowait(1)
            await in_time(lambda: called)
            called[0].cancel()
            server.get_or_create_application_instance("b", {}).put_nowait(1)
            await in_time(lambda: len(called) == 2)
        assert called[0].cancelled()

    run(main())
    assert "the hook application_exception was cancelled" in caplog.text
    assert caplog.text.count("ValueError: on purpose") == 1
    assert "in fails" in caplog.text


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("name", ["on_created", "on_expired", "on_closed"])
def test_hooks_for_the_life_of_an_instance(cy, run, caplog, fail, name, kind):
    """Each hook is called once for each instance, in order, whatever the one before has raised."""

    def plain(self, instance, *rest):
        self.heard.append((name.removeprefix("on_"), instance.scope_id))
        fail()

    async def asynchronous(self, instance, *rest):
        self.heard.append((name.removeprefix("on_"), instance.scope_id))
        await passes(1)
        fail()

    async def main():
        hooks = {name: plain if kind == "def" else asynchronous}
        server = managed(cy, idle_timeout=0.002, **hooks)(reader)
        async with checking(server):
            for scope_id in "ab":
                server.get_or_create_application_instance(scope_id, {"client": None})
                await in_time(lambda: len(server.application_instances) == 0)
                await in_time(lambda: server.heard and server.heard[-1][0] == "closed")
        assert [event[:2] for event in server.heard] == [
            (event, scope_id) for scope_id in "ab" for event in ("created", "expired", "closed")
        ]

    run(main())
    assert logged(caplog, fail) == 2


def test_hook_for_what_is_limited(cy, run, caplog, fail):
    """on_limited() that raises: whoever asked gets LimitExceeded, as without it."""

    async def main():
        server = managed(cy, max_instances_per_key=1, on_limited=lambda *_: fail())(reader)
        server.get_or_create_application_instance("a", {"client": ("h", 1)})
        with pytest.raises(lifecycle(cy).LimitExceeded):
            server.get_or_create_application_instance("b", {"client": ("h", 1)})
        server.delete_application_instance("a")
        await passes(3)

    run(main())
    assert logged(caplog, fail) == 1


def test_clock_that_fails(cy, run, caplog, fail):
    """A clock that fails when an instance ends: its key is free, and its hooks are told; the checker goes on."""

    async def main():
        server = managed(cy, max_instances_per_key=1, max_messages_per_second=100, max_age=15)(reader)
        async with checking(server):
            for client in "ab":
                server.get_or_create_application_instance(client, {"client": (client, 1)})
            await passes(3)
            server.clock = fail
            server.delete_application_instance("a")
            await in_time(lambda: ("closed", "a") in server.heard)
            await in_time(lambda: "looking for instances older than max_age failed" in caplog.text)
            server.clock = lambda: 1010.0
            server.get_or_create_application_instance("c", {"client": ("a", 1)})
            server.clock = lambda: 1020.0
            await in_time(lambda: ("expired", "b", "age") in server.heard)
            assert list(server.application_instances) == ["c"]

    run(main())
    assert "clock() raised" in caplog.text
    assert logged(caplog, fail) >= 2


def test_base_exceptions_of_applications_count_as_errors(cy, run):
    """The statistics of an instance count whatever its application has raised, as application_exception tells it."""

    async def application(scope, receive, send):
        await receive()
        raise Doom

    async def main():
        statistics = []
        server = managed(cy, on_closed=lambda self, instance, one: statistics.append(one))(application)
        async with checking(server):
            server.get_or_create_application_instance("a", {}).put_nowait(1)
            await in_time(lambda: statistics)
        assert statistics[0].errors == len(server.failures) == 1

    run(main())


# ---- tasks of the server -------------------------------------------------------------------------------------------


def test_spawned_task_that_ends_with_a_cancelled_error_of_its_own(cy, run):
    """It ends the server as any other failure of a spawned task; one that was cancelled ends alone."""

    async def listener():
        await passes(2)
        of_a_cancelled_future()

    async def handle(server):
        cancelled = server.spawn(asyncio.sleep(3600))
        cancelled.cancel()
        await passes(5)
        assert cancelled.cancelled()
        server.spawn(listener())
        await asyncio.get_running_loop().create_future()

    async def main():
        with pytest.raises(RuntimeError, match="nobody had cancelled it") as raised:
            await handling(cy.StatelessServer, handle)(reader).arun()
        assert isinstance(raised.value.__cause__, asyncio.CancelledError)

    run(main())

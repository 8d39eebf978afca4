"""Faults of the reference when applications end: each is shown, and then what cyasgi does instead.

A test whose name ends in `_reference` shows what asgiref's class does, so that the list of differences stays true.
"""

from __future__ import annotations

import asyncio
import gc

import pytest

from support.loops import passes
from support.recording_server import EVERY_PASS, echo, recording, run_in_thread, served
from support.serving import in_time, reader

# ---- an application that ends cancelled --------------------------------------------------------------------------


async def raises_it(server):
    raise asyncio.CancelledError


async def cancels_itself(server):
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


async def awaits_a_cancelled_future(server):
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def is_cancelled_from_outside(server):
    server.application_instances["a"]["future"].cancel()
    await asyncio.sleep(0)


@pytest.fixture(params=[raises_it, cancels_itself, awaits_a_cancelled_future, is_cancelled_from_outside])
def cancelled_server(request):
    """Given a class, a server whose instance `a` ends cancelled when fed; every other one echoes."""

    def make(base):
        class Server(base):
            handling = None

            async def handle(self):
                self.handling = asyncio.current_task()
                await super().handle()

        async def application(scope, receive, send):
            if scope["id"] != "a":
                await echo(scope, receive, send)
            await receive()
            await request.param(server)

        server = Server(application)
        return server

    return make


@pytest.mark.slow
def test_cancelled_application_reference(reference, run, cancelled_server):
    """Reference: the checker dies of an application that ended cancelled, and arun() with it; handle() goes on."""

    async def main():
        server = cancelled_server(recording(reference, EVERY_PASS))
        running = asyncio.create_task(server.arun())
        server.get_or_create_application_instance("a", {"id": "a"}).put_nowait(None)
        await passes(20)
        assert running.cancelled()
        assert not server.handling.done()

    run(main())


def test_cancelled_application(cy, run, cancelled_server):
    """An application that ends cancelled is finished and counted as such; nothing stops and nobody is told."""

    async def main():
        server = cancelled_server(recording(cy.StatelessServer))
        async with served(server):
            server.get_or_create_application_instance("a", {"id": "a"}).put_nowait(None)
            await in_time(lambda: not server.application_instances)
            stats = server.stats()
            assert (stats["cancelled"], stats["failed"], stats["finished"]) == (1, 0, 0)
            server.get_or_create_application_instance("b", {"id": "b"}).put_nowait("still there")
            await passes(5)
            assert server.sent == ["still there"]
            assert server.failures == []

    run(main())


def cancelled_in_run(base):
    """A server whose handle() makes an application that ends cancelled and then has work left to do."""

    async def application(scope, receive, send):
        raise asyncio.CancelledError

    class Server(recording(base)):
        handled = False

        async def handle(self):
            self.get_or_create_application_instance("a", {}).put_nowait(None)
            await in_time(lambda: not self.application_instances)
            await asyncio.sleep(0.01)
            self.handled = True

    return Server(application)


def test_cancelled_application_ends_run_reference(reference):
    """Reference: one cancelled application ends run() with a CancelledError before handle() is through."""
    server = cancelled_in_run(reference)
    assert isinstance(run_in_thread(server), asyncio.CancelledError)
    assert not server.handled


def test_cancelled_application_does_not_end_run(cy):
    """run() lasts as long as handle(), whatever becomes of applications."""
    server = cancelled_in_run(cy.StatelessServer)
    assert run_in_thread(server) is None
    assert server.handled


# ---- the hook for exceptions -------------------------------------------------------------------------------------


async def application_that_breaks(scope, receive, send):
    await receive()
    raise ValueError("the application broke")


def with_broken_hook(base, interval):
    class Server(recording(base, interval)):
        async def application_exception(self, exception, details):
            self.failures.append(exception)
            raise LookupError("the hook broke")

    return Server(application_that_breaks)


def with_plain_hook(base, interval):
    class Server(recording(base, interval)):
        def application_exception(self, exception, details):
            self.failures.append(exception)

    return Server(application_that_breaks)


@pytest.mark.parametrize(("make", "error"), [(with_broken_hook, LookupError), (with_plain_hook, TypeError)])
def test_broken_or_plain_hook_reference(reference, run, make, error):
    """Reference: a hook that raises, or is a plain `def`, ends arun()."""

    async def main():
        server = make(reference, EVERY_PASS)
        running = asyncio.create_task(server.arun())
        server.get_or_create_application_instance("a", {}).put_nowait(None)
        await passes(20)
        assert running.done()
        with pytest.raises(error):
            await running

    run(main())


def test_broken_hook(cy, run, caplog):
    """What the hook raises is logged together with what the application raised, and the server goes on."""

    async def main():
        server = with_broken_hook(cy.StatelessServer, 0.001)
        async with served(server):
            for count in (1, 2):
                server.get_or_create_application_instance("a", {}).put_nowait(None)
                await in_time(lambda count=count: len(server.failures) == count and not server.application_instances)
            await passes(5)

    run(main())
    for trace in ("the application broke", "the hook broke", "in application_that_breaks", "in application_exception"):
        assert trace in caplog.text


def test_plain_hook(cy, run, caplog):
    """A plain `def` is a hook like any other."""

    async def main():
        server = with_plain_hook(cy.StatelessServer, 0.001)
        async with served(server):
            for count in (1, 2):
                server.get_or_create_application_instance("a", {}).put_nowait(None)
                await in_time(lambda count=count: len(server.failures) == count and not server.application_instances)
            await passes(5)
        assert [str(error) for error in server.failures] == ["the application broke"] * 2

    run(main())
    assert caplog.records == []


# ---- what happens while the hook is at work ----------------------------------------------------------------------


def with_slow_hook(base, interval=0.001, max_applications=1000):
    """A server whose hook waits for `release`; its instance `a` breaks when fed, the others idle."""

    async def application(scope, receive, send):
        server.live.append(scope["id"])
        try:
            if scope["id"] == "a" and await receive() == "break":
                raise ValueError("the application broke")
            await reader(scope, receive, send)
        finally:
            server.live.remove(scope["id"])

    class Server(recording(base, interval)):
        async def application_exception(self, exception, details):
            self.hooked.set()
            await self.release.wait()
            await super().application_exception(exception, details)

    server = Server(application, max_applications)
    server.live, server.hooked, server.release = [], asyncio.Event(), asyncio.Event()
    return server


async def break_a_beside_b(server):
    """Instance `a` fails and its hook is under way, `b` is there and the least recently used."""
    broken = server.get_or_create_application_instance("a", {"id": "a"})
    server.get_or_create_application_instance("b", {"id": "b"})
    server.application_instances["b"]["last_used"] = 0.0
    await passes(2)
    broken.put_nowait("break")
    await server.hooked.wait()


def delete_b(server):
    server.delete_application_instance("b")


def evict_b(server):
    for scope_id in "cde":
        if "b" in server.application_instances:
            server.get_or_create_application_instance(scope_id, {"id": scope_id})


@pytest.mark.parametrize("remove", [delete_b, evict_b])
def test_removal_during_a_hook_reference(reference, run, remove):
    """Reference: the server dies when another instance is deleted or evicted while a hook sleeps."""

    async def main():
        server = with_slow_hook(reference, EVERY_PASS, max_applications=1)
        running = asyncio.create_task(server.arun())
        await break_a_beside_b(server)
        remove(server)
        assert "b" not in server.application_instances
        await passes(2)
        server.release.set()
        await passes(5)
        assert running.cancelled()

    run(main())


@pytest.mark.parametrize("remove", [delete_b, evict_b])
def test_removal_during_a_hook(cy, run, remove):
    """Deleting or evicting an instance while the hook for another one sleeps harms nobody."""

    async def main():
        server = with_slow_hook(cy.StatelessServer, max_applications=2)
        async with served(server):
            await break_a_beside_b(server)
            future = server.application_instances["b"]["future"]
            remove(server)
            assert "b" not in server.application_instances
            await passes(2)
            server.release.set()
            await in_time(lambda: server.failures)
            await passes(5)
            assert future.cancelled()
            assert [str(error) for error in server.failures] == ["the application broke"]

    run(main())


async def recreate_during_a_hook(server):
    """Instance `a` fails; while its hook sleeps the id is deleted and made again. Gives the new queue."""
    broken = server.get_or_create_application_instance("a", {"id": "a"})
    await passes(2)
    broken.put_nowait("break")
    await server.hooked.wait()
    server.delete_application_instance("a")
    fresh = server.get_or_create_application_instance("a", {"id": "a"})
    await passes(5)
    server.release.set()
    await passes(5)
    return fresh


def test_recreation_during_a_hook_reference(reference, run):
    """Reference: the fresh record is dropped when the old one's hook returns: two live instances of one id."""

    async def main():
        server = with_slow_hook(reference, EVERY_PASS)
        running = asyncio.create_task(server.arun())
        fresh = await recreate_during_a_hook(server)
        assert server.get_or_create_application_instance("a", {"id": "a"}) is not fresh
        await passes(2)
        assert server.live == ["a", "a"]
        assert not running.done()

    run(main())


def test_recreation_during_a_hook(cy, run):
    """Only the record that failed is removed: its id's new instance stays, and stays the only one."""

    async def main():
        server = with_slow_hook(cy.StatelessServer)
        async with served(server):
            fresh = await recreate_during_a_hook(server)
            await in_time(lambda: server.failures)
            await passes(5)
            assert server.application_instances["a"] is fresh
            assert server.get_or_create_application_instance("a", {"id": "a"}) is fresh
            await passes(2)
            assert server.live == ["a"]
            assert len(server.failures) == 1

    run(main())


# ---- failures that nobody asks for -------------------------------------------------------------------------------


def with_broken_cleanup(base, interval=0.001):
    """A server whose instance `a` fails when it is cancelled, or fed; the others do as they are told."""

    async def application(scope, receive, send):
        try:
            await receive()
        finally:
            if scope["id"] == "a":
                raise ValueError("the clean-up broke")

    return recording(base, interval)(application, max_applications=1)


async def evict_a(server):
    for scope_id in "abc":
        if scope_id == "a" or "a" in server.application_instances:
            server.get_or_create_application_instance(scope_id, {"id": scope_id})
            await passes(3)
    assert "a" not in server.application_instances


async def delete_a_before_the_sweep(server):
    server.get_or_create_application_instance("a", {"id": "a"}).put_nowait(None)
    await passes(3)
    server.delete_application_instance("a")


@pytest.mark.parametrize("remove", [evict_a, delete_a_before_the_sweep])
def test_failure_of_a_removed_instance_reference(reference, run, remove):
    """Reference: what fails after it was evicted, or is deleted after it failed, is never reported."""

    async def main():
        # The checker comes an hour later: like most removals in life, this one is before its sweep.
        server = with_broken_cleanup(reference, 3600)
        async with served(server):
            await remove(server)
            await passes(20)
            assert server.failures == []

    run(main())
    gc.collect()
    assert [context["message"] for context in run.complaints] == ["Task exception was never retrieved"]
    run.complaints.clear()


@pytest.mark.parametrize("remove", [evict_a, delete_a_before_the_sweep])
def test_failure_of_a_removed_instance(cy, run, remove):
    """An application's failure is reported exactly once, whichever way its record went, checker or none."""

    async def main():
        server = with_broken_cleanup(cy.StatelessServer)
        await remove(server)
        await in_time(lambda: server.failures)
        await passes(20)
        assert [str(error) for error in server.failures] == ["the clean-up broke"]
        for scope_id in list(server.application_instances):
            await server.delete_application_instance(scope_id)

    run(main())


class Falsy(Exception):
    """An exception that is false."""

    def __bool__(self):
        return False


async def application_that_fails_falsely(scope, receive, send):
    raise Falsy


def test_falsy_exception_reference(reference, run):
    """Reference: an exception that is false is reaped without a word."""

    async def main():
        server = recording(reference, EVERY_PASS)(application_that_fails_falsely)
        async with served(server):
            server.get_or_create_application_instance("a", {}).put_nowait(None)
            await passes(10)
            assert not server.application_instances
            assert server.failures == []

    run(main())


def test_falsy_exception(cy, run):
    """An exception that is false is reported like any other."""

    async def main():
        server = recording(cy.StatelessServer)(application_that_fails_falsely)
        async with served(server):
            server.get_or_create_application_instance("a", {}).put_nowait(None)
            await in_time(lambda: server.failures)
            assert type(server.failures[0]) is Falsy
            assert server.stats()["failed"] == 1

    run(main())


# ---- one server, several arun() ----------------------------------------------------------------------------------


def with_pausing_hook(base, interval):
    class Server(recording(base, interval)):
        async def application_exception(self, exception, details):
            await super().application_exception(exception, details)
            await passes(2)

    return Server(application_that_breaks)


def test_three_aruns_reference(reference, run):
    """Reference: with three arun() on one server a failure is reported three times."""

    async def main():
        server = with_pausing_hook(reference, EVERY_PASS)
        async with served(server), served(server), served(server):
            server.get_or_create_application_instance("a", {}).put_nowait(None)
            await passes(20)
            assert len(server.failures) == 3

    run(main())


def test_three_aruns(cy, run):
    """A second arun() beside a running one is refused; a failure is reported once."""

    async def main():
        server = with_pausing_hook(cy.StatelessServer, 0.001)
        async with served(server):
            for _ in range(2):
                with pytest.raises(RuntimeError):
                    await server.arun()
            server.get_or_create_application_instance("a", {}).put_nowait(None)
            await in_time(lambda: server.failures)
            await passes(20)
            assert len(server.failures) == 1

    run(main())

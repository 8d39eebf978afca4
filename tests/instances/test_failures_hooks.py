"""Hooks for failures that raise, take their time or use the server: they stop and delay nothing."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from support.loops import passes
from support.serving import checking, eventually, fast, in_time


class Oops(Exception):
    pass


async def fails(scope, receive, send):
    raise Oops(await receive())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_hook_that_raises_is_logged_with_both(cy, run, caplog, kind):
    """A hook that raises stops nothing; the log has its error and the application's, each with its traceback."""

    if kind == "def":

        def hook(self, exception, details):
            raise LookupError("the hook is broken")

    else:

        async def hook(self, exception, details):
            await passes(1)
            raise LookupError("the hook is broken")

    async def main():
        server = type("Server", (fast(cy.StatelessServer),), {"application_exception": hook})(fails)
        async with checking(server):
            for number in range(3):
                server.get_or_create_application_instance(number, {}).put_nowait("the application is broken")
                await in_time(lambda: len(server.application_instances) == 0)
            await in_time(lambda: len(caplog.records) >= 3)
            await passes(10)

    with caplog.at_level(logging.DEBUG):
        run(main())
    text = "\n".join(caplog.handler.format(record) for record in caplog.records if record.name == "cyasgi.server")
    assert text.count("LookupError: the hook is broken") == 3
    assert text.count("Oops: the application is broken") == 3
    assert "in fails" in text
    assert "in hook" in text


@pytest.mark.parametrize("kind", ["def", "async def", "raises"])
def test_reference_dies_of_such_hooks(reference, run, kind):
    """In the reference a hook that raises, or one that is a plain `def`, ends the checker."""

    class Server(fast(reference)):
        if kind == "def":

            def application_exception(self, exception, details):
                pass

        else:

            async def application_exception(self, exception, details):
                if kind == "raises":
                    raise LookupError("the hook is broken")

    async def main():
        server = Server(fails)
        checker = asyncio.create_task(server.application_checker())
        server.get_or_create_application_instance("a", {}).put_nowait(1)
        await asyncio.wait([checker], timeout=0.05 if kind == "async def" else 10)
        assert checker.done() == (kind != "async def")
        checker.cancel()
        await asyncio.gather(checker, return_exceptions=True)

    run(main())


def test_slow_hook_delays_no_reaping(cy, run):
    """While the hook for one failure is still at it, everything else is reaped."""
    gate = asyncio.Event()

    class Server(fast(cy.StatelessServer)):
        async def application_exception(self, exception, details):
            if details.scope_id == "slow":
                await gate.wait()
            self.failures.append(details.scope_id)

    async def main():
        server = Server(fails)
        async with checking(server):
            server.get_or_create_application_instance("slow", {}).put_nowait(1)
            await in_time(lambda: "slow" not in server.application_instances)
            for number in range(20):
                server.get_or_create_application_instance(number, {}).put_nowait(1)
            await in_time(lambda: len(server.application_instances) == 0)
            gate.set()
            await in_time(lambda: len(server.failures) == 21)
        assert sorted(server.failures, key=str) == sorted(["slow", *range(20)], key=str)

    run(main())


def test_instance_made_while_a_slow_hook_runs(cy, run):
    """An id that comes back while the hook for its old instance runs is not touched when that hook ends."""
    gate = asyncio.Event()

    class Server(fast(cy.StatelessServer)):
        async def application_exception(self, exception, details):
            await gate.wait()
            self.failures.append(exception)

    async def main():
        server = Server(fails)
        async with checking(server):
            server.get_or_create_application_instance("a", {}).put_nowait(1)
            await in_time(lambda: "a" not in server.application_instances)
            fresh = server.get_or_create_application_instance("a", {})
            gate.set()
            await in_time(lambda: server.failures)
            await asyncio.sleep(0.01)
            assert server.application_instances["a"] is fresh
            assert not fresh["future"].done()

    run(main())


def test_delete_while_a_slow_hook_runs(cy, run):
    """Deleting another finished instance while a hook sleeps is harmless, and that one is reported too."""
    gate = asyncio.Event()

    class Server(fast(cy.StatelessServer)):
        async def application_exception(self, exception, details):
            await gate.wait()
            self.failures.append(details.scope_id)

    async def main():
        server = Server(fails)
        records = [server.get_or_create_application_instance(name, {}) for name in "ab"]
        for details in records:
            details.put_nowait(1)
        await eventually(lambda: all(details["future"].done() for details in records))
        async with checking(server):
            await passes(2)
            server.delete_application_instance("b")
            server.delete_application_instance("a")
            gate.set()
            await in_time(lambda: len(server.failures) == 2)
            await asyncio.sleep(0.01)
        assert sorted(server.failures) == ["a", "b"]

    run(main())


def test_hook_may_use_the_server(cy, run):
    """A hook may delete, create and feed: a supervisor that starts its applications anew works."""
    received = []

    class Server(fast(cy.StatelessServer)):
        async def application_exception(self, exception, details):
            await self.delete_application_instance(details.scope_id)
            self.get_or_create_application_instance(details.scope_id, details["scope"]).put_nowait("again")

    async def application(scope, receive, send):
        message = await receive()
        received.append(message)
        if len(received) < 3:
            raise Oops(message)
        await receive()

    async def main():
        server = Server(application)
        async with checking(server):
            server.get_or_create_application_instance("a", {}).put_nowait("first")
            await in_time(lambda: len(received) == 3)
        assert received == ["first", "again", "again"]

    run(main())


@pytest.mark.slow
def test_storm_of_failures_blocks_no_loop(cy, run):
    """Four hundred failures at once with a hook that takes a millisecond: the loop turns meanwhile."""
    turns = []
    pause = threading.Event()

    class Server(fast(cy.StatelessServer)):
        def application_exception(self, exception, details):
            pause.wait(0.001)
            self.failures.append(len(turns))

    async def ticker():
        while True:
            turns.append(None)
            await asyncio.sleep(0)

    async def main():
        server = Server(fails)
        records = [server.get_or_create_application_instance(number, {}) for number in range(400)]
        for details in records:
            details.put_nowait(1)
        ticking = asyncio.create_task(ticker())
        async with checking(server):
            await in_time(lambda: len(server.failures) == 400)
        ticking.cancel()
        assert server.failures[-1] - server.failures[0] >= 2

    run(main())


@pytest.mark.slow
def test_storm_is_reaped_before_it_is_reported(cy, run):
    """Two thousand failures leave the table at once; their reports follow, one each, while new work goes on."""

    class Server(fast(cy.StatelessServer)):
        async def application_exception(self, exception, details):
            await passes(2)
            self.failures.append(details.scope_id)

    async def application(scope, receive, send):
        await receive()
        if scope == "steady":
            steady.set_result(None)
        raise Oops

    async def main():
        nonlocal steady
        steady = asyncio.get_running_loop().create_future()
        server = Server(application, 5000)
        async with checking(server):
            for number in range(2000):
                server.get_or_create_application_instance(number, {}).put_nowait(1)
            await in_time(lambda: len(server.application_instances) == 0)
            server.get_or_create_application_instance("steady", "steady").put_nowait(1)
            await asyncio.wait_for(steady, 10)
            await in_time(lambda: len(server.failures) == 2001)
        assert sorted(server.failures, key=str) == sorted(["steady", *range(2000)], key=str)

    steady = None
    run(main())

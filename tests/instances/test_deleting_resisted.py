"""Applications that resist cancellation are out of the table at once, cancelled once more, kept and counted."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref

import pytest

from support.loops import passes
from support.serving import Stubborn, checking, eventually, fast, in_time, quiet, reader


@pytest.mark.slow
def test_resisting_application_is_out_of_the_table_at_once(cy, run):
    """An application that swallows its cancellation stands in no table, but is counted as long as it lives."""
    application = Stubborn()

    async def main():
        with application:
            server = quiet(cy.StatelessServer)(application)
            server.shutdown_timeout = 0.02
            server.get_or_create_application_instance("a", {})
            await passes(5)
            server.delete_application_instance("a")
            assert "a" not in server.application_instances
            await passes(20)
            assert server.stats()["closing"] == 1
            assert server.stats()["live"] == 0
            application.release.set()
            await in_time(lambda: server.stats()["closing"] == 0)

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["called", "awaited", "evicted", "with a checker"])
def test_resisting_application_is_cancelled_once_more(cy, run, how):
    """An application that swallows its cancellation gets one more after the time-out, whoever waits, and no third."""

    async def application(scope, receive, send):
        await (stubborn if scope == "stubborn" else reader)(scope, receive, send)

    async def main():
        with stubborn:
            server = fast(cy.StatelessServer)(application, 1)
            server.shutdown_timeout = 0.01
            server.get_or_create_application_instance("a", "stubborn")
            await passes(5)
            if how == "evicted":
                server.get_or_create_application_instance("b", "b")
            elif how == "awaited":
                await server.delete_application_instance("a")
            else:
                server.delete_application_instance("a")
            async with checking(server) if how == "with a checker" else contextlib.nullcontext():
                await in_time(lambda: len(stubborn.cancellations) == 2)
                await asyncio.sleep(0.05)
                assert len(stubborn.cancellations) == 2
            stubborn.release.set()
            await in_time(lambda: server.stats()["closing"] == 0)

    stubborn = Stubborn()
    run(main())


def test_application_that_gives_in_at_the_second_cancellation(cy, run):
    """One that swallows a single cancellation is gone after the second, without anybody waiting for it."""
    cancellations = []

    async def application(scope, receive, send):
        while len(cancellations) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancellations.append(scope)

    async def main():
        server = quiet(cy.StatelessServer)(application)
        server.shutdown_timeout = 0.01
        details = server.get_or_create_application_instance("a", {})
        await passes(5)
        server.delete_application_instance("a")
        await in_time(lambda: details["future"].done())
        await in_time(lambda: server.stats()["closing"] == 0)

    run(main())


@pytest.mark.slow
def test_resisting_application_is_kept_referenced(cy, run):
    """A task that nobody but the server knows is not collected while it still runs."""
    tasks = []
    swallowed = []

    async def application(scope, receive, send):
        tasks.append(weakref.ref(asyncio.current_task()))
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                swallowed.append(scope)
                if len(swallowed) > 2:
                    raise

    async def main():
        server = quiet(cy.StatelessServer)(application)
        server.shutdown_timeout = 0.01
        server.get_or_create_application_instance("a", {})
        await passes(5)
        server.delete_application_instance("a")
        await in_time(lambda: len(swallowed) == 2)
        await asyncio.sleep(0.03)
        gc.collect()
        assert tasks[0]() is not None
        assert not tasks[0]().done()
        assert server.stats()["closing"] == 1
        tasks[0]().cancel()
        await in_time(lambda: server.stats()["closing"] == 0)

    run(main())


def test_many_that_resist_at_the_limit(cy, run):
    """With ten places and a hundred ids that resist, ten are in the table and every other one is counted."""
    application = Stubborn()

    async def main():
        with application:
            server = quiet(cy.StatelessServer)(application, 10)
            server.shutdown_timeout = 0.01
            for number in range(100):
                server.get_or_create_application_instance(number, {})
                await passes(2)
            stats = server.stats()
            assert len(server.application_instances) == stats["live"] == 10
            assert stats["closing"] == 90
            application.release.set()
            await in_time(lambda: server.stats()["closing"] == 0)

    run(main())


@pytest.mark.slow
def test_clean_up_that_takes_its_time_is_not_disturbed(cy, run):
    """An application that cleans up well within the time-out is cancelled once only."""
    gate = asyncio.Event()
    heard = []

    async def application(scope, receive, send):
        try:
            await receive()
        except asyncio.CancelledError:
            try:
                await gate.wait()
                heard.append("cleaned up")
            except asyncio.CancelledError:
                heard.append("disturbed")
            raise

    async def main():
        server = quiet(cy.StatelessServer)(application)
        server.shutdown_timeout = 30.0
        server.get_or_create_application_instance("a", {})
        await passes(5)
        server.delete_application_instance("a")
        await asyncio.sleep(0.05)
        assert server.stats()["closing"] == 1
        gate.set()
        await eventually(lambda: server.stats()["closing"] == 0)

    run(main())
    assert heard == ["cleaned up"]

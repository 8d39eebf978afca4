"""How arun() ends, and what it cleans up."""

from __future__ import annotations

import asyncio

import pytest

from support.loops import passes
from support.serving import Stubborn, deaf, for_ever, handling, in_time, reader


@pytest.mark.slow
def test_arun_ends_when_handle_returns(impl, run):
    """arun() ends, and gives None, when handle() has returned and no listener is open."""
    order = []

    async def handle(server):
        await passes(3)
        order.append("handled")

    async def main():
        assert await handling(impl.StatelessServer, handle)(reader).arun() is None

    run(main())
    assert order == ["handled"]


def test_arun_runs_in_the_callers_loop(impl, run):
    """arun() makes no loop of its own: handle() and the applications run in the one it was awaited in."""
    loops = []

    async def application(scope, receive, send):
        loops.append(asyncio.get_running_loop())

    async def handle(server):
        loops.append(asyncio.get_running_loop())
        server.get_or_create_application_instance("a", {}).put_nowait(1)
        await in_time(lambda: len(loops) == 2)

    async def main():
        await handling(impl.StatelessServer, handle)(application).arun()
        assert set(loops) == {asyncio.get_running_loop()}

    run(main())


def test_handle_must_be_written(impl, run):
    """A server without a handle() raises NotImplementedError, and so does one without an application_send()."""

    async def main():
        server = impl.StatelessServer(reader)
        with pytest.raises(NotImplementedError):
            await server.arun()
        with pytest.raises(NotImplementedError):
            await server.application_send({}, {})

    run(main())


def test_error_of_handle_is_raised(impl, run):
    """What handle() raises comes out of arun(), the very object."""
    error = ZeroDivisionError("handled badly")

    async def handle(server):
        raise error

    async def main():
        with pytest.raises(ZeroDivisionError) as caught:
            await handling(impl.StatelessServer, handle)(reader).arun()
        assert caught.value is error

    run(main())


def test_error_of_handle_drains_first(cy, run):
    """When handle() raises, what was accepted is worked off, then instances are cancelled and the error raised."""
    order = []

    async def application(scope, receive, send):
        try:
            while True:
                message = await receive()
                await passes(3)
                order.append(message)
        finally:
            await passes(5)
            order.append("cleaned up")

    async def handle(server):
        for number in range(50):
            server.get_or_create_application_instance("a", {}).put_nowait(number)
        await passes(5)
        raise ZeroDivisionError

    async def main():
        server = handling(cy.StatelessServer, handle, shutdown_timeout=30.0)(application)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(server.arun(), 20)
        assert order == [*range(50), "cleaned up"]
        assert server.undelivered == []
        assert len(server.application_instances) == 0

    run(main())


@pytest.mark.slow
def test_error_of_handle_drains_within_the_bound(cy, run):
    """What is not worked off within `shutdown_timeout` is handed on: the sum of messages is exact."""
    processed, in_hand = [], []

    async def application(scope, receive, send):
        while True:
            message = await receive()
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                in_hand.append(message)
                raise
            processed.append(message)

    async def handle(server):
        for number in range(200):
            server.get_or_create_application_instance(number % 2, {}).put_nowait(number)
        await asyncio.sleep(0.02)
        raise ZeroDivisionError

    async def main():
        server = handling(cy.StatelessServer, handle, shutdown_timeout=0.1)(application)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(server.arun(), 20)
        told = [message for messages, _ in server.undelivered for message in messages]
        assert len(processed) > 4
        assert len(in_hand) == 2
        assert server.stats()["undelivered"] >= len(told) > 100
        assert sorted({*processed, *in_hand, *told}) == list(range(200))

    run(main())


@pytest.mark.parametrize("how", ["second request", "cancelled"])
def test_error_of_handle_and_no_more_patience(cy, run, how):
    """While a server drains because handle() raised, the second request to stop, or a cancellation, ends it at once."""
    order = []

    async def application(scope, receive, send):
        try:
            await receive()
            await asyncio.get_running_loop().create_future()
        finally:
            order.append("cleaned up")

    async def handle(server):
        server.get_or_create_application_instance("a", {}).put_nowait(1)
        await passes(5)
        raise ZeroDivisionError

    async def main():
        server = handling(cy.StatelessServer, handle, shutdown_timeout=60.0)(application)
        task = asyncio.create_task(server.arun())
        await passes(30)
        assert order == []
        if how == "cancelled":
            task.cancel()
        else:
            server._cyasgi.server_run.request_stop()
            await passes(10)
            assert not task.done()
            server._cyasgi.server_run.request_stop()
        await asyncio.wait([task], timeout=20)
        assert order == ["cleaned up"]
        assert task.cancelled() if how == "cancelled" else isinstance(task.exception(), ZeroDivisionError)

    run(main())


@pytest.mark.parametrize("end", ["stop", "cancelled"])
def test_error_of_a_handle_that_was_cancelled(cy, run, caplog, end):
    """What handle() raises while it is being ended is logged; arun() ends as it would have without it."""

    async def handle(server):
        try:
            await for_ever(server)
        finally:
            raise ZeroDivisionError("cleaned up badly")

    async def main():
        server = handling(cy.StatelessServer, handle)(reader)
        task = asyncio.create_task(server.arun())
        await passes(5)
        if end == "stop":
            server._cyasgi.server_run.request_stop()
        else:
            task.cancel()
        await asyncio.wait([task], timeout=20)
        assert task.cancelled() == (end == "cancelled")

    run(main())
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["cleaned up badly"]


def test_cancelled_arun_cleans_up_first(cy, run):
    """A cancelled arun() cancels everything, awaits the clean-up and is a cancelled task then."""
    order = []

    async def application(scope, receive, send):
        try:
            await receive()
        finally:
            await passes(5)
            order.append("application")

    async def handle(server):
        server.get_or_create_application_instance("a", {})
        try:
            await for_ever(server)
        finally:
            await passes(5)
            order.append("handle")

    async def main():
        server = handling(cy.StatelessServer, handle, shutdown_timeout=30.0)(application)
        before = asyncio.all_tasks()
        task = asyncio.create_task(server.arun())
        await passes(10)
        task.cancel()
        await asyncio.wait([task], timeout=20)
        assert task.cancelled()
        assert sorted(order) == ["application", "handle"]
        assert asyncio.all_tasks() == before
        assert len(server.application_instances) == 0

    run(main())


def test_cancelled_before_it_began(cy, run):
    """An arun() that is cancelled before its first steps leaves nothing behind either."""

    async def main():
        server = handling(cy.StatelessServer, for_ever)(reader)
        for count in range(6):
            before = asyncio.all_tasks()
            task = asyncio.create_task(server.arun())
            await passes(count)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert asyncio.all_tasks() == before

    run(main())


def test_wait_for_ends_it(cy, run):
    """wait_for(arun(), …) raises its TimeoutError and nothing of the server is left."""

    async def handle(server):
        server.get_or_create_application_instance("a", {}).put_nowait("never read")
        await for_ever(server)

    async def main():
        before = asyncio.all_tasks()
        server = handling(cy.StatelessServer, handle)(deaf)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(server.arun(), 0.02)
        assert asyncio.all_tasks() == before
        assert len(server.application_instances) == 0

    run(main())


def test_second_cancellation_of_arun(cy, run):
    """Cancelling arun() again while it cleans up does not leave anything behind."""
    gate = asyncio.Event()

    async def application(scope, receive, send):
        try:
            await receive()
        finally:
            await gate.wait()

    async def handle(server):
        server.get_or_create_application_instance("a", {})
        await for_ever(server)

    async def main():
        before = asyncio.all_tasks()
        server = handling(cy.StatelessServer, handle, shutdown_timeout=0.05)(application)
        task = asyncio.create_task(server.arun())
        await passes(10)
        for _ in range(3):
            task.cancel()
            await passes(3)
        gate.set()
        await asyncio.wait([task], timeout=20)
        assert task.cancelled()
        await in_time(lambda: asyncio.all_tasks() == before)
        assert len(server.application_instances) == 0

    run(main())


@pytest.mark.parametrize("end", ["returns", "raises", "cancelled"])
def test_nothing_is_left(cy, run, end):
    """Fifty runs that end in whichever way leave no checker, no application, no hook and no record."""

    async def handle(server):
        for number in range(3):
            server.get_or_create_application_instance(number, {}).put_nowait(number)
        await passes(3)
        if end == "raises":
            raise ZeroDivisionError
        if end == "cancelled":
            await for_ever(server)

    async def application(scope, receive, send):
        if await receive() == 1:
            raise LookupError
        await receive()

    async def main():
        before = asyncio.all_tasks()
        server = handling(cy.StatelessServer, handle)(application)
        for _ in range(50):
            task = asyncio.create_task(server.arun())
            await passes(8)
            if end == "cancelled":
                task.cancel()
            await asyncio.wait([task], timeout=20)
            if not task.cancelled():
                task.exception()
            assert len(server.application_instances) == 0
            assert server.stats()["live"] == server.stats()["closing"] == 0
        assert asyncio.all_tasks() == before
        assert len(server.failures) == 50

    run(main())


def test_reference_leaves_things_behind(reference, run):
    """In the reference the checker and the applications outlive an arun() whose handle() has returned."""

    async def handle(server):
        server.get_or_create_application_instance("a", {})

    async def main():
        before = asyncio.all_tasks()
        server = handling(reference, handle)(reader)
        await server.arun()
        await passes(5)
        assert len(asyncio.all_tasks() - before) == 2
        assert len(server.application_instances) == 1

    run(main())


@pytest.mark.slow
def test_handle_that_resists_its_cancellation(cy, run):
    """A handle() that swallows its cancellation holds arun() up no longer than the bound."""
    stubborn = Stubborn()

    async def handle(server):
        await stubborn({}, None, None)

    async def main():
        with stubborn:
            server = handling(cy.StatelessServer, handle, shutdown_timeout=0.05)(reader)
            task = asyncio.create_task(server.arun())
            await passes(10)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=20)
            assert done
            stubborn.release.set()
            await passes(10)

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("end", ["returns", "raises"])
def test_application_that_resists_holds_nothing_up(cy, run, end):
    """An application that never ends is waited for within the bound, taken out of the table and still counted."""
    application = Stubborn()

    async def handle(server):
        server.get_or_create_application_instance("a", {}).put_nowait(1)
        await passes(5)
        if end == "raises":
            raise ZeroDivisionError

    async def main():
        with application:
            before = asyncio.all_tasks()
            server = handling(cy.StatelessServer, handle, shutdown_timeout=0.05)(application)
            task = asyncio.create_task(server.arun())
            await asyncio.wait([task], timeout=20)
            if end == "raises":
                with pytest.raises(ZeroDivisionError):
                    task.result()
            assert task.done()
            assert len(server.application_instances) == 0
            assert server.stats()["closing"] == 1
            assert len(application.cancellations) >= 1
            application.release.set()
            await in_time(lambda: server.stats()["closing"] == 0)
            await in_time(lambda: asyncio.all_tasks() == before)

    run(main())

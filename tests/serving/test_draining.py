"""When a server ends, its instances are drained within bounds, and only then cancelled."""

from __future__ import annotations

import asyncio

import pytest

from support.loops import passes
from support.serving import deaf, eventually, handling, reader


@pytest.mark.slow
def test_returned_handle_drains(cy, run):
    """When handle() has returned, what is queued is still worked off before anything is cancelled."""
    handled = []
    order = []

    async def application(scope, receive, send):
        try:
            while True:
                message = await receive()
                await passes(3)
                handled.append(message)
        finally:
            order.append(len(handled))

    async def handle(server):
        for number in range(20):
            server.get_or_create_application_instance(number % 2, {}).put_nowait(number)

    async def main():
        server = handling(cy.StatelessServer, handle)(application)
        await server.arun()
        assert sorted(handled) == list(range(20))
        assert order == [20, 20]
        assert server.undelivered == []

    run(main())


def test_settled_one_is_kept_until_all_are(cy, run):
    """An instance that is idle already is not cancelled while another one, still at work, may feed it."""
    heard = []

    async def application(scope, receive, send):
        while True:
            message = await receive()
            if scope == "busy":
                await passes(10)
                server.get_or_create_application_instance("idle", "idle").put_nowait(f"about {message}")
            else:
                heard.append(message)

    async def handle(server):
        server.get_or_create_application_instance("idle", "idle")
        busy = server.get_or_create_application_instance("busy", "busy")
        for number in range(3):
            busy.put_nowait(number)

    async def main():
        nonlocal server
        server = handling(cy.StatelessServer, handle)(application)
        await server.arun()

    server = None
    run(main())
    assert heard == ["about 0", "about 1", "about 2"]


@pytest.mark.slow
def test_drain_is_bounded(cy, run):
    """An instance that does not settle within `shutdown_timeout` is cancelled, and its clean-up awaited."""
    order = []

    async def application(scope, receive, send):
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await passes(5)
            order.append("cleaned up")

    async def handle(server):
        server.get_or_create_application_instance("a", {}).put_nowait("left")
        await passes(5)

    async def main():
        loop = asyncio.get_running_loop()
        begun = loop.time()
        server = handling(cy.StatelessServer, handle, shutdown_timeout=0.05)(application)
        await server.arun()
        assert 0.045 < loop.time() - begun < 10
        assert order == ["cleaned up"]
        assert [messages for messages, _ in server.undelivered] == [["left"]]

    run(main())


@pytest.mark.parametrize("how", ["late", "at once", "second request", "cancelled", "in time"])
def test_work_that_is_cut_is_told_of(cy, run, how, caplog):
    """One warning has the number of applications that had work in hand when their time was over, for whatever reason,
    and names one; those that wait for messages, or end in time, are not among them."""
    gate = asyncio.Event()

    async def application(scope, receive, send):
        if scope["type"] == "http":
            await gate.wait()
        while True:
            await receive()

    async def handle(server):
        for number in range(3):
            server.get_or_create_application_instance(number, {"type": "idle"}).put_nowait(1)
            scope = {"type": "http", "method": "PUT", "path": f"/{number}"}
            server.get_or_create_application_instance(f"busy {number}", scope)
        await passes(5)
        if how == "in time":
            asyncio.get_running_loop().call_soon(gate.set)
        begun.set()

    begun = asyncio.Event()

    async def main():
        bound = {"late": 0.05, "at once": 0}.get(how, 1000.0)
        server = handling(cy.StatelessServer, handle, shutdown_timeout=bound)(application)
        running = asyncio.create_task(server.arun())
        await begun.wait()
        if how == "second request":
            await passes(10)
            assert not running.done()
            server.stop()
            server.stop()
        elif how == "cancelled":
            await passes(10)
            running.cancel()
        await asyncio.wait([running])
        assert running.cancelled() is (how == "cancelled")
        assert len(server.application_instances) == 0

    run(main())
    when = {
        "late": " when the server stopped (shutdown_timeout is 0.05 s)",
        "at once": " when the server stopped (shutdown_timeout is 0 s)",
        "second request": ", at the second stop of the server",
    }.get(how)
    text = f"3 applications were cut with work in hand{when}: one of them is PUT '/0'"
    told = [(record.levelname, record.getMessage()) for record in caplog.records if "cut" in record.getMessage()]
    assert told == ([] if when is None else [("WARNING", text)])


def test_a_clean_up_that_is_cut_is_told_of(cy, run, caplog):
    """That of handle() too, which has as long as the applications."""

    async def handle(server):
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.get_running_loop().create_future()

    async def main():
        server = handling(cy.StatelessServer, handle, shutdown_timeout=0.02)(reader)
        running = asyncio.create_task(server.arun())
        await passes(5)
        server.stop()
        await running

    run(main())
    text = "1 task that handle() has started was cut when the server stopped (shutdown_timeout is 0.02 s)"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", text)]


def test_no_drain_with_a_time_out_of_zero(cy, run):
    """A `shutdown_timeout` of zero is allowed: nothing is waited for, everything is cancelled."""

    async def handle(server):
        server.get_or_create_application_instance("a", {})
        await passes(5)

    async def main():
        server = handling(cy.StatelessServer, handle, shutdown_timeout=0)(reader)
        await asyncio.wait_for(server.arun(), 20)
        assert len(server.application_instances) == 0
        await passes(10)

    run(main())


def test_idle_ones_end_without_delay(cy, run):
    """Where nothing is left to drain the server ends at once, whatever the time-out."""

    async def handle(server):
        for number in range(10):
            server.get_or_create_application_instance(number, {})
        await passes(5)

    async def main():
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await handling(cy.StatelessServer, handle, shutdown_timeout=60.0)(reader).arun()
        assert loop.time() - begun < 20

    run(main())


def test_held_one_does_not_hold_up_the_end(cy, run):
    """An instance that is held and never called counts as settled."""

    async def handle(server):
        await server.get_or_create_application_instance("a", {})

    async def main():
        server = handling(cy.StatelessServer, handle, shutdown_timeout=60.0)(reader)
        await asyncio.wait_for(server.arun(), 20)
        assert len(server.application_instances) == 0

    run(main())


def test_callers_run_is_drained_too(cy, run):
    """A caller's run that is under way may end by itself within the time-out."""
    gate = asyncio.Event()
    order = []

    async def application(scope, receive, send):
        await gate.wait()
        await send("answer")

    async def caller(server):
        details = await server.get_or_create_application_instance("a", {})

        async def send(message):
            order.append(message)

        await details["application"]({}, None, send)
        order.append("called")

    async def handle(server):
        tasks.append(asyncio.create_task(caller(server)))
        await passes(5)
        asyncio.get_running_loop().call_later(0.02, gate.set)

    tasks = []

    async def main():
        await handling(cy.StatelessServer, handle, shutdown_timeout=30.0)(application).arun()
        await tasks[0]

    run(main())
    assert order == ["answer", "called"]


def test_callers_run_that_takes_too_long(cy, run):
    """A caller's run that outlasts the time-out is cancelled: its caller gets InstanceDeleted."""

    async def caller(server):
        details = await server.get_or_create_application_instance("a", {})
        with pytest.raises(cy.InstanceDeleted):
            await details["application"]({}, None, None)

    async def handle(server):
        tasks.append(asyncio.create_task(caller(server)))
        await passes(5)

    tasks = []

    async def main():
        server = handling(cy.StatelessServer, handle, shutdown_timeout=0.02)(deaf)
        await server.arun()
        await tasks[0]
        assert len(server.application_instances) == 0

    run(main())


def test_failures_during_the_drain_are_reported(cy, run):
    """An application that fails while it drains is reported before arun() returns."""

    async def application(scope, receive, send):
        await receive()
        await passes(5)
        raise LookupError

    async def handle(server):
        server.get_or_create_application_instance("a", {}).put_nowait(1)

    async def main():
        server = handling(cy.StatelessServer, handle)(application)
        await server.arun()
        assert [type(failure) for failure in server.failures] == [LookupError]

    run(main())


@pytest.mark.slow
def test_slow_hook_is_awaited_within_the_bound(cy, run):
    """A hook that is still at work when the server ends is awaited, but not for ever."""

    async def hook(server, exception, details):
        if details.scope_id == "short":
            await passes(20)
            ended.append(details.scope_id)
        else:
            await asyncio.get_running_loop().create_future()

    async def handle(server):
        for name in names:
            server.get_or_create_application_instance(name, {}).put_nowait(1)
        await passes(10)

    async def application(scope, receive, send):
        await receive()
        raise LookupError

    async def main():
        before = asyncio.all_tasks()
        server = handling(cy.StatelessServer, handle, shutdown_timeout=0.2, application_exception=hook)(application)
        await asyncio.wait_for(server.arun(), 20)
        assert asyncio.all_tasks() == before

    ended = []
    names = ["short"]
    run(main())
    assert ended == ["short"]
    names = ["endless"]
    run(main())


def test_answers_are_sent_while_it_drains(cy, run):
    """While it drains, a server still sends: what applications answer last is not lost."""
    sent = []

    async def application(scope, receive, send):
        while True:
            await send(await receive())

    async def application_send(server, scope, message):
        await passes(3)
        sent.append(message)

    async def handle(server):
        for number in range(5):
            server.get_or_create_application_instance("a", {}).put_nowait(number)

    async def main():
        await handling(cy.StatelessServer, handle, application_send=application_send)(application).arun()
        await eventually(lambda: sent == [0, 1, 2, 3, 4])

    run(main())

"""run(): a loop of its own, signal handlers while it lasts, and always an end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
import threading

import pytest

from support.loops import passes
from support.serving import for_ever, handling, reader


@pytest.mark.slow
def test_run_owns_a_loop(impl):
    """run() makes a loop, runs handle() in it until it returns, and closes it."""
    loops = []

    async def handle(server):
        loops.append(asyncio.get_running_loop())

    server = handling(impl.StatelessServer, handle)(reader)
    for _ in range(2):
        assert server.run() is None
    assert len(set(loops)) == 2
    assert all(loop.is_closed() for loop in loops)


def test_run_uses_uvloop_where_installed(cy):
    """run() takes uvloop's loop where that can be imported."""
    uvloop = pytest.importorskip("uvloop")
    loops = []

    async def handle(server):
        loops.append(type(asyncio.get_running_loop()))

    handling(cy.StatelessServer, handle)(reader).run()
    assert loops == [uvloop.Loop]


def test_run_does_without_uvloop(cy, monkeypatch):
    """run() takes asyncio's own loop where uvloop is not installed."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loops = []

    async def handle(server):
        loops.append(type(asyncio.get_running_loop()).__module__)

    handling(cy.StatelessServer, handle)(reader).run()
    assert loops[0].startswith("asyncio.")


def test_run_is_refused_where_a_loop_runs(cy, run):
    """run() inside a running loop is a RuntimeError, without a complaint about anything left unawaited."""

    async def main():
        server = handling(cy.StatelessServer, for_ever)(reader)
        with pytest.raises(RuntimeError):
            server.run()

    run(main())


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
def test_error_of_handle_leaves_run(cy, error):
    """What handle() raises comes out of run(), with everything cleaned up."""
    order = []

    async def application(scope, receive, send):
        try:
            await receive()
        finally:
            await passes(3)
            order.append("cleaned up")

    async def handle(server):
        server.get_or_create_application_instance("a", {})
        await passes(5)
        raise error

    server = handling(cy.StatelessServer, handle)(application)
    with pytest.raises(error):
        server.run()
    assert order == ["cleaned up"]
    assert len(server.application_instances) == 0


@pytest.mark.slow
def test_run_always_exits(cy, caplog):
    """run() comes back, without a complaint, with an application and other tasks that nothing can stop."""

    async def stubborn():
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()

    async def application(scope, receive, send):
        await stubborn()

    async def handle(server):
        server.get_or_create_application_instance("a", {}).put_nowait(1)
        server.spawn(stubborn())
        stray.append(asyncio.create_task(stubborn()))
        await passes(5)

    stray = []
    server = handling(cy.StatelessServer, handle, shutdown_timeout=0.05)(application)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert len(server.application_instances) == 0
    del stray[:], server, thread
    gc.collect()
    assert "destroyed but it is pending" not in caplog.text


def test_run_in_a_thread_touches_no_signals(cy):
    """In another thread than the main one run() works and installs no signal handler."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    during = []

    async def handle(server):
        during.extend(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))

    server = handling(cy.StatelessServer, handle)(reader)
    thread = threading.Thread(target=server.run)
    thread.start()
    thread.join(20)
    assert during == before


def test_arun_touches_no_signals(cy, run):
    """arun() leaves the signal handlers to whoever owns the loop."""
    during = []

    async def handle(server):
        during.extend(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))

    async def main():
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        await handling(cy.StatelessServer, handle)(reader).arun()
        assert during == before

    run(main())


@pytest.mark.parametrize("end", ["returns", "raises"])
def test_run_restores_the_signal_handlers(cy, end):
    """run() in the main thread puts back the handlers that it found, its own having been at work meanwhile."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    during = []

    def mine(number, frame):
        pass

    async def handle(server):
        during.extend(signal.getsignal(number) for number in numbers)
        if end == "raises":
            raise ZeroDivisionError

    found = [signal.signal(number, mine) for number in numbers]
    try:
        server = handling(cy.StatelessServer, handle)(reader)
        try:
            server.run()
        except ZeroDivisionError:
            assert end == "raises"
        assert [signal.getsignal(number) for number in numbers] == [mine, mine]
    finally:
        for number, handler in zip(numbers, found, strict=True):
            signal.signal(number, handler)
    assert mine not in during


def test_wake_up_descriptor_is_restored(cy):
    """run() in the main thread leaves the wake-up descriptor for signals as it found it."""

    async def handle(server):
        pass

    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    handling(cy.StatelessServer, handle)(reader).run()
    after = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    assert after == before


def test_async_generators_and_executor_are_shut_down(cy):
    """As asyncio.run() does, run() finalises asynchronous generators and its default executor's threads."""
    order = []

    async def generator():
        try:
            while True:
                yield
        finally:
            await passes(1)
            order.append("generator")

    async def handle(server):
        kept.append(generator())
        await anext(kept[0])
        before.update(threading.enumerate())
        await asyncio.to_thread(threading.get_ident)

    kept = []
    before = set()
    handling(cy.StatelessServer, handle)(reader).run()
    assert order == ["generator"]
    assert set(threading.enumerate()) <= before

"""The time for which the event loop stood still counts against nobody: instance, clean-up, client, application."""

from __future__ import annotations

import asyncio
import importlib
import time

import pytest

from support.balancing import HTTP
from support.loops import passes
from support.managed_servers import lifecycle
from support.serving import checking, fast, in_time, reader

#: Seconds of a bound, and of the time for which the loop stands still.
SHORT, BLOCK = 0.3, 1.2


def lost_time(cy):
    return importlib.import_module(f"{cy.__name__}._common.lost_time").LostTime()


async def stand_still(seconds=BLOCK):
    """Blocks the loop, once the checker is asleep."""
    await passes(5)
    asyncio.get_running_loop().call_soon(time.sleep, seconds)
    await passes(2)


# ---- counting it ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_late_timers(cy):
    """What a timer is late by was lost, unless it is as little as in a busy loop."""
    lost = lost_time(cy)
    lost.expect(101.0)
    assert lost.pending(100.5) == lost.pending(101.1) == 0
    assert lost.pending(106.0) == lost.total(106.0) == lost.within(106.0, 1) == 5
    assert lost.woke(101.0, 106.0) == 5
    assert lost.pending(107.0) == 0
    assert lost.woke(106.9, 107.0) == 0
    assert lost.total(200.0) == 5


def test_two_who_wait(cy):
    """What two timers tell of is counted once."""
    lost = lost_time(cy)
    assert lost.woke(101.0, 106.0) == 5
    assert lost.woke(102.0, 106.0) == 0
    assert lost.woke(102.0, 107.0) == 1
    assert lost.total(107.0) == 6


def test_what_was_lost_lately(cy):
    """Blocks that ended longer ago do not count; a thousand of them are not forgotten before."""
    lost = lost_time(cy)
    for number in range(1000):
        assert lost.woke(10.0 * number + 1, 10.0 * number + 2) == 1
    assert lost.within(9992.0, 5) == 1
    assert lost.within(9992.0, 95) == 10
    assert lost.within(9992.0, 1_000_000) == lost.total(9992.0) == 1000
    assert len(lost._recent) == 256


# ---- instances -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_idle(cy, run):
    """An instance whose client had no chance to be heard is not idle; one that stays silent is, as long after."""

    async def main():
        server = fast(cy.StatelessServer)(reader)
        server.application_checker_interval = 0.02
        server.idle_timeout = SHORT
        server.get_or_create_application_instance("heard", {})
        server.get_or_create_application_instance("silent", {})
        async with checking(server):
            await stand_still()
            await asyncio.sleep(0.05)
            assert set(server.application_instances) == {"heard", "silent"}
            server.get_or_create_application_instance("heard", {}).put_nowait("x")
            await in_time(lambda: "silent" not in server.application_instances)
            assert "heard" in server.application_instances
            await in_time(lambda: "heard" not in server.application_instances)
        assert server.stats()["expired"] == 2

    run(main())


@pytest.mark.slow
def test_read_before_it_is_found_idle(cy, run):
    """What has reached the socket meanwhile is read before an instance is found to be idle."""
    import socket

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            server = fast(cy.StatelessServer)(reader)
            server.application_checker_interval = 0.02
            server.idle_timeout = SHORT

            def read():
                server.get_or_create_application_instance("a", {}).put_nowait(ours.recv(10))

            loop.add_reader(ours, read)
            server.get_or_create_application_instance("a", {})
            async with checking(server):
                # As good as idle.
                await asyncio.sleep(SHORT - 0.05)
                loop.call_soon(time.sleep, BLOCK)
                theirs.send(b"x")
                await asyncio.sleep(0.1)
                assert "a" in server.application_instances
            loop.remove_reader(ours)

    run(main())


class CleaningUp:
    """An application that takes a moment to clean up, and notes how often it was cancelled."""

    def __init__(self, seconds=SHORT / 2):
        self.seconds = seconds
        self.cancelled = 0
        self.runs = []

    async def __call__(self, scope, receive, send):
        self.runs.append("begun")
        try:
            await receive()
        except asyncio.CancelledError:
            self.cancelled += 1
            try:
                await asyncio.sleep(self.seconds)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            self.runs.append("ended")
            raise


@pytest.mark.slow
@pytest.mark.parametrize("awaited", [False, True])
def test_cleaning_up(cy, run, caplog, awaited):
    """A clean-up that is bounded by `shutdown_timeout` is not cancelled for what the loop has lost."""

    async def main():
        application = CleaningUp()
        server = fast(cy.StatelessServer)(application)
        server.application_checker_interval = 0.02
        server.shutdown_timeout = SHORT
        # One that expires nobody, so that the checker looks every 20 ms.
        server.idle_timeout = 60.0
        instance = server.get_or_create_application_instance("a", {})
        async with checking(server):
            await passes(3)
            deleting = server.delete_application_instance("a")
            waiting = asyncio.ensure_future(deleting) if awaited else None
            await stand_still()
            await in_time(lambda: instance.ended)
            if waiting is not None:
                await waiting
        assert application.cancelled == 1
        assert application.runs == ["begun", "ended"]

    run(main())
    assert caplog.records == []


@pytest.mark.slow
def test_cleaning_up_for_too_long(cy, run, caplog):
    """After a block the bound holds still: who goes on beyond it is cancelled once more."""

    async def main():
        application = CleaningUp(60.0)
        server = fast(cy.StatelessServer)(application)
        server.application_checker_interval = 0.02
        server.shutdown_timeout = SHORT
        server.idle_timeout = 60.0
        instance = server.get_or_create_application_instance("a", {})
        async with checking(server):
            await passes(3)
            server.delete_application_instance("a")
            await stand_still()
            assert application.cancelled == 1
            await in_time(lambda: instance.ended)
        assert application.cancelled == 2

    run(main())
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.slow
def test_the_successor_waits(cy, run):
    """The next run of an id begins after the clean-up of the one before, though the loop stood still meanwhile."""

    async def main():
        application = CleaningUp()
        server = fast(cy.StatelessServer)(application)
        server.application_checker_interval = 0.02
        server.shutdown_timeout = SHORT
        server.idle_timeout = 60.0
        server.get_or_create_application_instance("a", {})
        async with checking(server):
            await passes(3)
            server.delete_application_instance("a")
            server.get_or_create_application_instance("a", {}).put_nowait("x")
            await stand_still()
            await in_time(lambda: len(application.runs) == 3)
        assert application.runs == ["begun", "ended", "begun"]

    run(main())


# ---- clients -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rates(cy, run):
    """What a client has sent at its rate while the loop stood still comes at once, and is taken; no more than that."""

    async def main():
        server = fast(lifecycle(cy).ManagedServer)(reader)
        server.application_checker_interval = 0.02
        server.idle_timeout = 60.0
        server.max_messages_per_second = 10
        server.message_burst = 2
        scope = {"client": ("192.0.2.1", 5)}

        def take(count):
            taken = 0
            for _ in range(count):
                try:
                    server.get_or_create_application_instance("a", scope)
                except lifecycle(cy).LimitExceeded:
                    break
                taken += 1
            return taken

        async with checking(server):
            assert take(20) == 2
            await stand_still()
            # At least those of the time of the block, less what a timer may be late.
            assert 10 <= take(50) <= 16
            await asyncio.sleep(1.1)
            assert take(50) == 2

    run(main())


# ---- applications behind a balancer --------------------------------------------------------------------------------


@pytest.mark.slow
def test_slow_applications(cy, run):
    """An application is not slow for what the loop has lost; one that is slow without that is."""
    balancing = importlib.import_module(f"{cy.__name__}.balancing")

    async def main():
        going_on = asyncio.Event()

        async def application(scope, receive, send):
            if scope["path"] == "/waits":
                await going_on.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})

        async def nothing(*_):
            pass

        balancer = balancing.LoadBalancer(
            {"only": application}, slow_after=SHORT * 2, failure_threshold=100, failure_window=100
        )

        def slow():
            return balancer.stats()["applications"]["only"]["slow"]

        first = asyncio.create_task(balancer({**HTTP, "path": "/waits"}, nothing, nothing))
        await passes(3)
        await stand_still()
        await balancer({**HTTP, "path": "/"}, nothing, nothing)
        assert slow() == 0
        going_on.set()
        await first
        assert slow() == 0
        going_on.clear()
        second = asyncio.create_task(balancer({**HTTP, "path": "/waits"}, nothing, nothing))
        await passes(3)
        await in_time(lambda: slow() == 1)
        going_on.set()
        await second
        # It looks at the loop no longer than it has to.
        await in_time(lambda: balancer.watch._timer is None)

    run(main())

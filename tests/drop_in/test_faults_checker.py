"""Faults of the reference's checker: each is shown, and then what cyasgi does instead.

A test whose name ends in `_reference` shows what asgiref's class does, so that the list of differences stays true.
"""

from __future__ import annotations

import asyncio
import time
import traceback

import pytest

from support.loops import passes
from support.recording_server import EVERY_PASS, counting_rounds, echo, recording, served
from support.serving import in_time, reader

# ---- the checker's interval --------------------------------------------------------------------------------------


async def application_that_breaks(scope, receive, send):
    await receive()
    raise ValueError("the application broke")


@pytest.mark.slow
@pytest.mark.parametrize("interval", [None, "x"])
def test_interval_that_is_no_number_reference(reference, run, interval):
    """Reference: an interval that is no number ends arun()."""

    async def main():
        running = asyncio.create_task(counting_rounds(reference, interval)(reader).arun())
        await passes(10)
        assert running.done()
        with pytest.raises(TypeError):
            await running

    run(main())


@pytest.mark.parametrize("interval", [0, -1, float("-inf")])
def test_interval_of_nothing_reference(reference, run, interval):
    """Reference: with an interval of nothing the checker sweeps at every turn of the loop, for ever."""

    async def main():
        server = counting_rounds(reference, interval)(reader)
        async with served(server):
            before = server.rounds
            await passes(100)
            assert server.rounds - before == 100

    run(main())


def test_infinite_interval_reference(reference, run):
    """Reference: with an infinite interval nothing is ever reaped or reported."""

    async def main():
        server = counting_rounds(reference, float("inf"))(application_that_breaks)
        async with served(server):
            server.get_or_create_application_instance("a", {}).put_nowait(None)
            await passes(100)
            assert server.rounds == 1
            assert server.application_instances["a"]["future"].exception() is not None
            assert server.failures == []

    run(main())


@pytest.mark.parametrize("interval", [None, "x", 0, -1, float("-inf"), float("inf"), float("nan")])
def test_silly_interval(cy, run, interval):
    """Whatever the interval says, the server lives, reaps and reports."""

    async def main():
        server = counting_rounds(cy.StatelessServer, interval)(application_that_breaks)
        async with served(server):
            server.get_or_create_application_instance("a", {}).put_nowait(None)
            await in_time(lambda: server.failures and not server.application_instances)

    run(main())


@pytest.mark.parametrize("interval", [0, -1, float("-inf")])
def test_interval_of_nothing(cy, run, interval):
    """An interval of nothing is taken for a millisecond: the checker does not turn with the loop."""

    async def main():
        server = counting_rounds(cy.StatelessServer, interval)(application_that_breaks)
        async with served(server):
            before, start = server.rounds, time.monotonic()
            await passes(1000)
            milliseconds = (time.monotonic() - start) * 1000
            # On a machine slow enough the bound proves nothing, but it never fails for want of speed.
            assert server.rounds - before <= milliseconds + 10

    run(main())


# ---- entries that are not ours -----------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [{}, {"last_used": 1.0, "scope": {}}])
def test_entry_without_future_reference(reference, run, odd):
    """Reference: a plain dict without `future` in the table ends arun()."""

    async def main():
        server = recording(reference, EVERY_PASS)(reader)
        running = asyncio.create_task(server.arun())
        server.application_instances["odd"] = odd
        await passes(10)
        assert running.done()
        with pytest.raises(KeyError, match="future"):
            await running

    run(main())


def test_entry_without_last_used_reference(reference, run):
    """Reference: an entry without `last_used` breaks every creation at the limit."""

    async def main():
        server = recording(reference)(reader, max_applications=1)
        server.application_instances["odd"] = {"future": asyncio.get_running_loop().create_future()}
        server.get_or_create_application_instance("a", {})
        with pytest.raises(KeyError, match="last_used"):
            server.get_or_create_application_instance("b", {})

    run(main())


@pytest.mark.slow
@pytest.mark.usefixtures("watchful")
def test_incomplete_entries(cy, run):
    """Entries that lack a key harm neither the checker nor creations at the limit, and make room like any other."""

    async def main():
        server = counting_rounds(cy.StatelessServer)(echo, max_applications=3)
        async with served(server):
            server.application_instances["empty"] = {}
            server.application_instances["no future"] = {"last_used": 1.0, "scope": {}}
            server.application_instances["no last_used"] = {"future": asyncio.get_running_loop().create_future()}
            seen = server.rounds
            await in_time(lambda: server.rounds > seen + 3)
            for scope_id in "abc":
                server.get_or_create_application_instance(scope_id, {}).put_nowait(scope_id)
            await passes(5)
            assert sorted(server.application_instances) == ["a", "b", "c"]
            assert sorted(server.sent) == ["a", "b", "c"]
            server.application_instances["empty"] = {}
            server.delete_application_instance("empty")
            assert "empty" not in server.application_instances

    run(main())


# ---- many instances ----------------------------------------------------------------------------------------------


class Examined:
    """Counts how often a table's records are looked at, as far as that shows: their tasks asked, their ids compared."""

    def __init__(self):
        self.count = 0
        examined = self

        class Task(asyncio.Task):
            def done(self):
                examined.count += 1
                return super().done()

        class Id(int):
            def __eq__(self, other):
                examined.count += 1
                return super().__eq__(other)

            def __hash__(self):
                examined.count += 1
                return super().__hash__()

        self.task, self.id = Task, Id


async def examined_in_five_rounds(base, many):
    """How many records the checker looks at in five of its rounds, with so many idle instances in the table."""
    server, examined = counting_rounds(base)(reader), Examined()
    server.idle_timeout = 3600
    async with served(server):
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coroutine, **options: examined.task(coroutine, loop=loop, **options))
        for number in range(many):
            server.get_or_create_application_instance(examined.id(number), {})
        loop.set_task_factory(None)
        await passes(5)
        assert len(server.application_instances) == many
        rounds, before = server.rounds, examined.count
        await in_time(lambda: server.rounds >= rounds + 6)
        return examined.count - before


@pytest.mark.slow
def test_idle_instances_reference(reference, run):
    """Reference: each round of the checker looks at every instance there is."""

    async def main():
        assert await examined_in_five_rounds(reference, 1000) >= 5 * 1000

    run(main())


@pytest.mark.slow
def test_idle_instances(cy, run):
    """The checker has nothing to look at where nothing has happened, however many instances there are."""

    async def main():
        assert await examined_in_five_rounds(cy.StatelessServer, 1000) == 0

    run(main())


STORM = 1000


async def storm(server):
    """Makes a thousand applications fail in one turn of the loop."""
    queues = [server.get_or_create_application_instance(number, {}) for number in range(STORM)]
    await passes(3)
    for queue in queues:
        queue.put_nowait(None)


def noting_turns(base, interval):
    """A server that notes at which turn of the loop each failure is reported, the hook being as dear as the default."""

    class Server(recording(base, interval)):
        turn = 0

        async def application_exception(self, exception, details):
            "".join(traceback.format_exception(exception))
            self.failures.append(self.turn)

        async def handle(self):
            while True:
                self.turn += 1
                await asyncio.sleep(0)

    return Server(application_that_breaks)


@pytest.mark.slow
def test_storm_of_failures_reference(reference, run):
    """Reference: a thousand failures are reported in one sweep that does not let the loop turn."""

    async def main():
        server = noting_turns(reference, EVERY_PASS)
        async with served(server):
            await storm(server)
            await in_time(lambda: len(server.failures) == STORM)
            assert len(set(server.failures)) == 1

    run(main())


@pytest.mark.slow
def test_storm_of_failures(cy, run):
    """A thousand failures are reported while the loop turns, each once."""

    async def main():
        server = noting_turns(cy.StatelessServer, 0.001)
        async with served(server):
            await storm(server)
            await in_time(lambda: len(server.failures) == STORM)
            await passes(5)
            assert len(server.failures) == STORM
            assert max(map(server.failures.count, set(server.failures))) <= STORM // 4

    run(main())


def with_waiting_hook(base, interval):
    """A server whose hook waits for `release`, after it has noted the failure."""

    class Server(recording(base, interval)):
        async def application_exception(self, exception, details):
            await super().application_exception(exception, details)
            await self.release.wait()

    server = Server(application_that_breaks)
    server.release = asyncio.Event()
    return server


def test_slow_hook_reference(reference, run):
    """Reference: nothing is reaped while a hook is at work."""

    async def main():
        server = with_waiting_hook(reference, EVERY_PASS)
        async with served(server):
            await storm(server)
            await passes(100)
            assert len(server.failures) == 1
            assert len(server.application_instances) == STORM
            server.release.set()
            await passes(3)
            assert len(server.application_instances) == 0

    run(main())


@pytest.mark.slow
def test_slow_hook(cy, run):
    """What has failed is reaped at once, however slow the hook is; all of it is reported, each failure once."""

    async def main():
        server = with_waiting_hook(cy.StatelessServer, 0.001)
        async with served(server):
            await storm(server)
            await in_time(lambda: server.failures and not server.application_instances)
            assert not server.release.is_set()
            server.release.set()
            await in_time(lambda: len(server.failures) == STORM)
            await passes(20)
            assert len(server.failures) == STORM

    run(main())

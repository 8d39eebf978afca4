"""What is recorded of servers: failures, what was not delivered, queues, and how late the event loop is."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager

import pytest

from support.serving import eventually, in_time, quiet, serving_until


@contextmanager
def recording(**servers):
    """A recorder at work, and its page."""
    from cyasgi._common.cells import Page
    from cyasgi.metrics.recorder import Recorder

    recorder = Recorder(servers, Page())
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.stop()


async def failing(scope, receive, send):
    raise scope["error"]


def failed(server, *errors):
    """Has the server run an application that fails, for each of these."""
    for error in errors:
        server.get_or_create_application_instance(object(), {"type": "test", "error": error})


def running(cls, application, over, **attributes):
    server = serving_until(cls, application, lambda: over)
    for name, value in attributes.items():
        setattr(server, name, value)
    return server


def test_failures(cy, run):
    """Each is counted at once, by type, and kept with its traceback."""
    from cyasgi._common.cells import FAILURES

    async def main():
        over = []
        server = running(quiet(cy.StatelessServer), failing, over)
        with recording(one=server) as recorder:
            task = asyncio.create_task(server.arun())
            await server.wait_started()
            failed(server, ValueError("first"), KeyError("second"), ValueError("<third>"))
            await eventually(lambda: recorder.page.cells[FAILURES] == 3)
            over.append(True)
            await task
            found = recorder.overview()
        assert found.failure_types == {"ValueError": 2, "KeyError": 1}
        assert {one.error for one in found.failures} == {"ValueError", "KeyError"}
        [third] = [one for one in found.failures if "<third>" in one.traceback]
        assert third.server == "one" and "type 'test'" in third.scope
        assert third.traceback.startswith("Traceback") and third.traceback.endswith("ValueError: <third>")
        assert abs(third.moment - time.time()) < 60
        assert recorder.overview(failures=False).failures is None
        assert len(server.failures) == 3

    run(main())


def test_a_flood_of_failures(cy, run):
    """Types are bounded, and so are the failures that are kept, and the tracebacks that are written in a second."""
    from cyasgi._common.cells import FAILURES
    from cyasgi.metrics import recorder as module
    from cyasgi.metrics.overview import MOST_FAILURES, MOST_TYPES, OTHER

    async def main():
        over = []
        server = running(quiet(cy.StatelessServer), failing, over, max_applications=None)
        errors = [type(f"Error{number}", (Exception,), {})(number) for number in range(100)]
        with recording(one=server) as recorder:
            task = asyncio.create_task(server.arun())
            await server.wait_started()
            failed(server, *errors)
            await eventually(lambda: recorder.page.cells[FAILURES] == len(errors))
            found = recorder.overview()
            over.append(True)
            await task
        assert len(found.failures) == MOST_FAILURES == module.TRACEBACKS
        assert len(found.failure_types) == MOST_TYPES + 1
        assert found.failure_types[OTHER] == len(errors) - MOST_TYPES
        assert recorder.failed == len(errors)

    run(main())


class Hostile:
    """An id that fails to tell what it is."""

    def __repr__(self):
        raise asyncio.CancelledError


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no")


def test_what_fails_to_tell_what_it_is(cy, run):
    """It is counted, and described by its type."""

    async def main():
        over = []
        server = running(quiet(cy.StatelessServer), failing, over)
        with recording(one=server) as recorder:
            task = asyncio.create_task(server.arun())
            await server.wait_started()
            error = Unspeakable()
            server.get_or_create_application_instance(Hostile(), {"type": "test", "error": error})
            await eventually(lambda: recorder.failed == 1)
            over.append(True)
            await task
            [failure] = recorder.overview().failures
        assert failure.error == "Unspeakable"
        assert "ApplicationInstance, which CancelledError keeps from being described" in failure.scope

    run(main())


def test_undelivered(cy, run):
    """What is left in queues is counted when it is known, also what is put later."""
    from cyasgi._common.cells import UNDELIVERED

    async def main():
        over = []

        async def application(scope, receive, send):
            await receive()

        server = running(quiet(cy.StatelessServer), application, over)
        with recording(one=server) as recorder:
            task = asyncio.create_task(server.arun())
            await server.wait_started()
            instance = server.get_or_create_application_instance("id", {"type": "test"})
            for number in range(5):
                instance.put_nowait(number)
            await eventually(lambda: recorder.page.cells[UNDELIVERED] == 4)
            instance.put_nowait(5)
            assert recorder.page.cells[UNDELIVERED] == 5
            over.append(True)
            await task
        assert server.stats()["undelivered"] == 5

    run(main())


def test_whoever_is_told_and_raises(cy, run, caplog):
    """It is logged, and what was to be told is told to the hooks."""

    def refuse(*_):
        raise KeyError("not now")

    async def main():
        over = []
        server = running(quiet(cy.StatelessServer), failing, over)
        server._cyasgi.on_failure = server._cyasgi.on_undelivered = refuse
        task = asyncio.create_task(server.arun())
        await server.wait_started()
        instance = server.get_or_create_application_instance("id", {"type": "test", "error": ValueError("it")})
        instance.put_nowait("left")
        await eventually(lambda: server.failures and server.undelivered)
        over.append(True)
        await task

    run(main())
    said = [record.getMessage() for record in caplog.records]
    assert said.count("a failure could not be noted") == said.count("undelivered messages could not be noted") == 1


def test_queues(cy, run):
    """The longest ones are shown, and all are counted, in as many looks as it takes."""
    from cyasgi.metrics.recorder import Backlog

    async def main():
        server = quiet(cy.StatelessServer)(deaf, None)
        for number in range(25):
            instance = server.get_or_create_application_instance(number, {"type": "test"})
            for message in range(number):
                instance.put_nowait(message)
        backlog = Backlog(server)
        for _ in range(2):
            backlog.look(10)
            assert backlog.queued == 0
        backlog.look(10)
        assert (backlog.waiting, backlog.queued) == (24, sum(range(25)))
        assert [one.queued for one in backlog.busiest] == list(range(24, 14, -1))
        assert backlog.busiest[0].scope == "scope_id 24, type 'test'"
        server.application_instances.clear()
        backlog.look(10)
        assert (backlog.waiting, backlog.queued, backlog.busiest) == (0, 0, ())

    run(main())


def test_queues_of_a_table_that_changes(cy, run):
    """Where the instance that was looked at last has left, what was seen counts, and each instance once."""
    from cyasgi.metrics.recorder import Backlog

    async def main():
        server = quiet(cy.StatelessServer)(deaf, None)
        for number in range(25):
            server.get_or_create_application_instance(number, {"type": "test"}).put_nowait("a message")
        backlog = Backlog(server)
        backlog.look(10)
        assert (backlog.waiting, backlog.queued) == (0, 0)
        await server.delete_application_instance(9)
        backlog.look(10)
        assert (backlog.waiting, backlog.queued) == (10, 10)
        backlog.look(20)
        assert (backlog.waiting, backlog.queued) == (24, 24)
        server.application_instances.clear()

    run(main())


async def deaf(scope, receive, send):
    await asyncio.get_running_loop().create_future()


@pytest.mark.slow
def test_how_late_the_loop_is(cy, run, monkeypatch):
    from cyasgi._common.cells import LOOP_LAG
    from cyasgi.metrics import recorder as module

    monkeypatch.setattr(module, "TICK", 0.02)

    async def main():
        server = quiet(cy.StatelessServer)(deaf)
        with recording(one=server) as recorder:
            await in_time(lambda: recorder.page.histogram(LOOP_LAG).count >= 2)
            before = recorder.page.histogram(LOOP_LAG)
            time.sleep(0.15)  # noqa: ASYNC251
            await in_time(lambda: recorder.page.histogram(LOOP_LAG).count > before.count)
            assert 0.1 < recorder.page.histogram(LOOP_LAG).sum - before.sum < 5
            assert recorder.overview().lag > 0.1
            # The longest time of a second, and no longer.
            await in_time(lambda: recorder.overview().lag < 0.1)
        count = recorder.page.histogram(LOOP_LAG).count
        await asyncio.sleep(0.05)
        assert recorder.page.histogram(LOOP_LAG).count == count

    run(main())


def test_one_at_a_time(cy, run):
    """And before the servers run; what has ended can begin again."""

    async def main():
        over = []
        server = running(quiet(cy.StatelessServer), deaf, over)
        with (
            recording(one=server),
            pytest.raises(RuntimeError, match="name all of them at once"),
            recording(two=server),
        ):
            pass
        task = asyncio.create_task(server.arun())
        await server.wait_started()
        with pytest.raises(RuntimeError, match="the server 'one' is running"), recording(one=server):
            pass
        over.append(True)
        await task
        with recording(one=server) as recorder:
            assert server._cyasgi.on_failure is not None
        recorder.stop()
        assert server._cyasgi.on_failure is None is server._cyasgi.on_undelivered

    run(main())


def test_what_is_no_server(cy):
    from cyasgi._common.cells import Page
    from cyasgi.metrics.recorder import Recorder

    with pytest.raises(TypeError, match=r"one=5: accepted is a StatelessServer"):
        Recorder({"one": 5}, Page())
    server = quiet(cy.StatelessServer)(deaf)
    with pytest.raises(ValueError, match="at most 16"):
        Recorder({f"server{number}": server for number in range(17)}, Page())
    with pytest.raises(ValueError, match="accepted are up to 64 printable characters"):
        Recorder({"x" * 65: server}, Page())
    with pytest.raises(ValueError, match="accepted are up to 64 printable characters"):
        Recorder({"\udc80": server}, Page())


def test_counters_of_any_kind(cy, run, caplog):
    """What `stats()` has beside counters is left out, and whatever it raises is logged once."""

    class Server(quiet(cy.StatelessServer)):
        fails = False

        def stats(self):
            if self.fails:
                raise asyncio.CancelledError
            return {**super().stats(), "negative": -1, "text": "x", "large": 2**64, "own": 7, 5: 6}

    async def main():
        server = Server(deaf)
        with recording(one=server) as recorder:
            stats = recorder.overview().servers["one"].stats
            assert stats["own"] == 7 and stats["5"] == 6 and not {"negative", "text", "large"} & stats.keys()
            server.fails = True
            for _ in range(3):
                # No counter goes back.
                assert recorder.overview().servers["one"].stats == stats

    run(main())
    assert [one.getMessage() for one in caplog.records] == [
        "stats() of the server 'one' failed: its metrics stay what they were"
    ]

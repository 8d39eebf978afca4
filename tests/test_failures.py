"""Failed applications are reported once each, whatever the hook does and whichever path removes the record."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest
from conftest import passes
from serving import checking, eventually, fast, in_time, reader


class Oops(Exception):
    pass


class Nothing(Exception):
    """An exception that is falsy."""

    def __bool__(self):
        return False

    def __len__(self):
        return 0


class Unusual(BaseException):
    """Not an Exception, and none of those that stop a program."""


async def fails(scope, receive, send):
    raise Oops(await receive())


async def fails_cleaning_up(scope, receive, send):
    try:
        await receive()
    finally:
        raise Oops("while cleaning up")


def reporting(cls, kind="def"):
    """A server that keeps what its hook was given: a list of (exception, details)."""

    class Base(fast(cls)):
        def __init__(self, application, max_applications=1000):
            super().__init__(application, max_applications)
            self.reports = []

    if kind == "def":

        class Server(Base):
            def application_exception(self, exception, details):
                self.reports.append((exception, details))

    else:

        class Server(Base):
            async def application_exception(self, exception, details):
                await passes(2)
                self.reports.append((exception, details))

    return Server


# ------------------------------------------------------------------------------------------ once, on every path


async def reaped(server):
    details = server.get_or_create_application_instance("a", {})
    details.put_nowait(1)
    async with checking(server):
        await in_time(lambda: "a" not in server.application_instances)
        await passes(20)
    return details


async def deleted_after_the_failure(server):
    details = server.get_or_create_application_instance("a", {})
    details.put_nowait(1)
    await eventually(lambda: details["future"].done())
    await server.delete_application_instance("a")
    return details


async def asked_for_again(server):
    details = server.get_or_create_application_instance("a", {})
    details.put_nowait(1)
    await eventually(lambda: details["future"].done())
    assert server.get_or_create_application_instance("a", {}) is not details
    return details


async def evicted_after_the_failure(server):
    server.max_applications = 1
    details = server.get_or_create_application_instance("a", {})
    details.put_nowait(1)
    await eventually(lambda: details["future"].done())
    server.get_or_create_application_instance("b", {})
    return details


async def failed_at_its_deletion(server):
    server.application = fails_cleaning_up
    details = server.get_or_create_application_instance("a", {})
    await passes(5)
    await server.delete_application_instance("a")
    return details


async def failed_at_its_eviction(server):
    server.application = fails_cleaning_up
    server.max_applications = 1
    details = server.get_or_create_application_instance("a", {})
    await passes(5)
    server.application = reader
    server.get_or_create_application_instance("b", {})
    return details


async def failed_at_its_expiry(server):
    server.application = fails_cleaning_up
    server.idle_timeout = 0.005
    details = server.get_or_create_application_instance("a", {})
    async with checking(server):
        await in_time(lambda: "a" not in server.application_instances)
        await in_time(lambda: server.reports)
    return details


async def failed_after_del(server):
    details = server.get_or_create_application_instance("a", {})
    await passes(5)
    del server.application_instances["a"]
    details.put_nowait(1)
    await eventually(lambda: details["future"].done())
    return details


async def failed_before_del(server):
    details = server.get_or_create_application_instance("a", {})
    details.put_nowait(1)
    await eventually(lambda: details["future"].done())
    del server.application_instances["a"]
    return details


async def failed_at_shutdown(server):
    server.application = fails_cleaning_up
    kept = []

    async def handle():
        kept.append(server.get_or_create_application_instance("a", {}))
        await passes(5)

    server.handle = handle
    await server.arun()
    return kept[0]


async def failed_just_before_the_end(server):
    kept = []

    async def handle():
        kept.append(server.get_or_create_application_instance("a", {}))
        kept[0].put_nowait(1)

    server.handle = handle
    await server.arun()
    return kept[0]


PATHS = [
    reaped,
    deleted_after_the_failure,
    asked_for_again,
    evicted_after_the_failure,
    failed_at_its_deletion,
    failed_at_its_eviction,
    failed_at_its_expiry,
    failed_after_del,
    failed_before_del,
    failed_at_shutdown,
    failed_just_before_the_end,
]


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("path", PATHS)
def test_each_failure_is_reported_once(cy, run, kind, path):
    """Whichever way a failed instance goes, the hook, of either kind, is called once with its error and the record."""

    async def main():
        server = reporting(cy.StatelessServer, kind)(fails)
        details = await path(server)
        await in_time(lambda: server.reports)
        # A checker that comes by afterwards, and a deletion, find nothing left to report.
        async with checking(server):
            await passes(20)
        await server.delete_application_instance("a")
        await passes(20)
        ((exception, whose),) = server.reports
        assert type(exception) is Oops
        assert whose is details
        assert whose["scope"] == {}
        assert server.stats()["failed"] == 1

    run(main())


def test_traceback_comes_along(impl, run):
    """The hook gets the exception itself, with the traceback that leads to the failing line, and the record."""

    class Server(fast(impl.StatelessServer)):
        async def application_exception(self, exception, details):
            self.failures.append((exception, details["scope"], details["future"].done()))

    async def main():
        server = Server(fails)
        async with checking(server):
            server.get_or_create_application_instance("a", "scope").put_nowait("message")
            await in_time(lambda: server.failures)
        ((exception, scope, done),) = server.failures
        assert (exception.args, scope, done) == (("message",), "scope", True)
        names = []
        traceback = exception.__traceback__
        while traceback:
            names.append(traceback.tb_frame.f_code.co_name)
            traceback = traceback.tb_next
        assert names[-1] == "fails"

    run(main())


def test_successes_are_not_reported(impl, run):
    """An application that returns, whatever it returns, has not failed."""

    async def application(scope, receive, send):
        return await receive()

    async def main():
        server = fast(impl.StatelessServer)(application)
        async with checking(server):
            for value in (None, 1, Oops("returned, not raised")):
                server.get_or_create_application_instance("a", {}).put_nowait(value)
                await in_time(lambda: "a" not in server.application_instances)
        assert server.failures == []

    run(main())


@pytest.mark.parametrize("error", [Nothing(), Unusual(), GeneratorExit(), StopAsyncIteration()], ids=repr)
def test_unusual_errors_are_reported(cy, run, error):
    """An exception that is falsy, or no Exception, or one that asyncio uses itself, is reported like any other."""

    async def application(scope, receive, send):
        await receive()
        raise error

    async def main():
        server = reporting(cy.StatelessServer)(application)
        async with checking(server):
            server.get_or_create_application_instance("a", {}).put_nowait(1)
            await in_time(lambda: server.reports)
        assert server.reports[0][0] is error

    run(main())


def test_callers_run_is_not_reported_to_the_hook(cy, run):
    """What a caller's run raises goes to the caller alone."""

    async def application(scope, receive, send):
        raise Oops("for the caller")

    async def main():
        server = reporting(cy.StatelessServer)(application)
        async with checking(server):
            details = await server.get_or_create_application_instance("a", {})
            with pytest.raises(Oops):
                await details["application"]({}, None, None)
            await in_time(lambda: "a" not in server.application_instances)
            await passes(20)
        assert server.reports == []
        assert server.stats()["failed"] == 1

    run(main())


def test_application_that_cannot_be_started(cy, run):
    """An application that raises when it is called, before any coroutine is there, has failed like any other."""

    def application(scope, receive, send):
        raise Oops("no coroutine")

    async def main():
        server = reporting(cy.StatelessServer)(application)
        async with checking(server):
            server.get_or_create_application_instance("a", {}).put_nowait(1)
            await in_time(lambda: server.reports)
        assert server.reports[0][0].args == ("no coroutine",)

    run(main())


# ------------------------------------------------------------------------------------------ the default hook


def test_default_hook_logs_with_traceback(cy, run, caplog):
    """By default a failure is one ERROR on the logger `cyasgi.server`, with the traceback as logging has it."""

    class Server(cy.StatelessServer):
        async def application_send(self, scope, message):
            pass

    async def main():
        server = Server(fails)
        async with checking(server):
            server.get_or_create_application_instance("a", {}).put_nowait("what was wrong")
            await in_time(lambda: "a" not in server.application_instances)
            await passes(10)

    with caplog.at_level(logging.DEBUG):
        run(main())
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (record.name, record.levelno) == ("cyasgi.server", logging.ERROR)
    assert record.exc_info[0] is Oops
    text = caplog.handler.format(record)
    assert "what was wrong" in text
    assert "in fails" in text


def test_default_hook_may_be_awaited(cy, run, caplog):
    """A subclass, or the documented server, may await the hook above with whatever details it has."""

    class Server(cy.StatelessServer):
        async def application_exception(self, exception, application_details):
            await super().application_exception(exception, application_details)

    async def main():
        server = Server(reader)
        try:
            raise Oops("by hand")
        except Oops as error:
            await server.application_exception(error, {"scope_id": "a"})

    with caplog.at_level(logging.ERROR):
        run(main())
    assert [record.exc_info[0] for record in caplog.records] == [Oops]


# ------------------------------------------------------------------------------------------ hooks that misbehave


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

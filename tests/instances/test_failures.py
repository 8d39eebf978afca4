"""Failed applications are reported once each, whatever the hook does and whichever path removes the record."""

from __future__ import annotations

import asyncio
import logging

import pytest

from support.loops import passes
from support.serving import checking, eventually, fast, in_time, reader


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


@pytest.mark.parametrize("how", ["future", "cancelled", "child"])
def test_error_that_the_application_handles_is_none(cy, run, how):
    """An application that catches what its await raised, a cancellation too, and returns has finished, not failed."""

    async def child():
        raise Oops("in the child")

    async def application(scope, receive, send):
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        try:
            if how == "child":
                await asyncio.create_task(child())
            if how == "future":
                loop.call_soon(future.set_exception, Oops())
            await future
        except (Oops, asyncio.CancelledError):
            return

    async def main():
        server = reporting(cy.StatelessServer)(application)
        details = server.get_or_create_application_instance("a", {})
        await passes(5)
        if how == "cancelled":
            details["future"].cancel()
        await eventually(lambda: details["future"].done())
        async with checking(server):
            await in_time(lambda: "a" not in server.application_instances)
            await passes(10)
        assert server.reports == []
        stats = server.stats()
        assert (stats["finished"], stats["failed"], stats["cancelled"]) == (1, 0, 0)

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


@pytest.mark.parametrize(
    ("scope", "what"),
    [
        ({"type": "http", "method": "GET", "path": "/a\nb"}, r"GET '/a\nb'"),
        ({"type": "websocket", "path": "/chat"}, "WebSocket '/chat'"),
        ({"type": "telegram", "user": 7}, "scope_id 'one', type 'telegram'"),
        ({}, "scope_id 'one'"),
    ],
)
def test_the_log_says_what_failed(cy, run, caplog, scope, what):
    """A request by method and path, anything else by its scope's type and id, in one line."""

    async def main():
        server = cy.StatelessServer(fails)
        server.get_or_create_application_instance("one", scope).put_nowait("x")
        checker = asyncio.create_task(server.application_checker())
        await eventually(lambda: caplog.records)
        checker.cancel()

    run(main())
    assert [record.getMessage() for record in caplog.records] == [f"Exception inside application ({what}): x"]

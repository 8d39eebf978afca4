"""Failures and messages that are still to be told when a loop ends, a server is dropped or the process ends: each is
told once, or logged with its traceback, and asyncio never complains that nobody retrieved it (`run` would fail)."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import re

import pytest

from support.loops import passes
from support.serving import end_all, eventually, python

COUNT = 20


async def fails(scope, receive, send):
    await receive()
    raise ValueError(scope["number"])


def telling(cls, kind="def"):
    """A server that notes whatever its hooks, of either kind, are told by the number of the instance."""

    class Base(cls):
        application_checker_interval = 0.001

        def __init__(self, application, max_applications=1000):
            super().__init__(application, max_applications)
            self.failures = collections.Counter()
            self.messages = collections.Counter()

        async def application_send(self, scope, message):
            pass

    if kind == "def":

        class Server(Base):
            def application_exception(self, exception, details):
                self.failures[exception.args[0]] += 1

            def application_undelivered(self, messages, details):
                self.messages[details.scope_id] += len(messages)

    else:

        class Server(Base):
            async def application_exception(self, exception, details):
                await asyncio.sleep(0.001)
                self.failures[exception.args[0]] += 1

            async def application_undelivered(self, messages, details):
                await passes(3)
                self.messages[details.scope_id] += len(messages)

    return Server


def feed(server, first=0, messages=2):
    """New instances, each of which fails over its first message."""
    instances = []
    for number in range(first, first + COUNT):
        instance = server.get_or_create_application_instance(number, {"number": number})
        for _ in range(messages):
            instance.put_nowait(number)
        instances.append(instance)
    return instances


def each(first=0):
    return dict.fromkeys(range(first, first + COUNT), 1)


def logged(caplog):
    """How often the failure of each instance was logged with its traceback, and the messages left behind each."""
    failures, messages = collections.Counter(), collections.Counter()
    for record in caplog.records:
        text = record.getMessage()
        if record.exc_info:
            assert isinstance(record.exc_info[1], ValueError)
            assert record.exc_info[2] is not None
            failures[record.exc_info[1].args[0]] += 1
        elif found := re.match(r"(\d+) undelivered messages? (?:was|were) left in the queue of scope_id (\d+)", text):
            messages[int(found[2])] += int(found[1])
        elif found := re.search(r"application_undelivered was cancelled; it was called with \[(\d+)\]$", text):
            messages[int(found[1])] += 1
    return failures, messages


# ---- the loop ends -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_asyncio_run_returns_reference(reference, run):
    """Reference: what its checker has not come to is never told, and asyncio complains of each."""

    async def main():
        for instance in feed_reference(telling(reference)(fails)):
            await asyncio.wait([instance])

    def feed_reference(server):
        for number in range(COUNT):
            server.get_or_create_application_instance(number, {"number": number}).put_nowait(1)
        return [details["future"] for details in server.application_instances.values()]

    run(main())
    gc.collect()
    assert [context["message"] for context in run.complaints] == ["Task exception was never retrieved"] * COUNT
    run.complaints.clear()


@pytest.mark.parametrize("turns", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("checker", [False, True])
def test_asyncio_run_returns(cy, run, caplog, kind, checker, turns):
    """However far the failures are on their way to the hooks: each is told once, before the loop is closed."""
    server = telling(cy.StatelessServer, kind)(fails)
    tasks = []

    async def main():
        if checker:
            tasks.append(asyncio.create_task(server.application_checker()))
        feed(server)
        await passes(turns)

    run(main())
    assert server.stats()["failed"] == COUNT
    # asyncio.run() cancels what is at work, asynchronous hooks too.
    assert server.failures + logged(caplog)[0] == each()
    if kind == "def" or not checker:
        assert server.failures == each()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_undelivered_messages(cy, run, caplog, kind):
    """Evicted and deleted with messages when the loop ends: these are told of in its last turns."""
    server = telling(cy.StatelessServer, kind)(fails)

    async def main():
        instances = feed(server)
        await passes(2)
        for instance in instances:
            server.delete_application_instance(instance.scope_id)

    run(main())
    failures, messages = logged(caplog)
    assert (server.failures + failures, server.messages + messages) == (each(), each())
    assert kind != "def" or not caplog.records


def test_told_by_default_hooks(cy, run, caplog):
    """The default hooks' entries carry the tracebacks."""

    async def main():
        server = cy.StatelessServer(fails, 1000)
        for instance in feed(server):
            await asyncio.wait([instance["future"]])
            server.delete_application_instance(instance.scope_id)

    run(main())
    assert logged(caplog) == (each(), each())


@pytest.mark.slow
def test_a_hook_that_does_not_return(cy, run, caplog):
    """It has `shutdown_timeout` seconds at the end of a loop; then it is cancelled, which is logged."""
    begun = []

    async def hook(self, exception, details):
        begun.append(exception.args[0])
        await asyncio.get_running_loop().create_future()

    cls = type("Server", (telling(cy.StatelessServer),), {"application_exception": hook, "shutdown_timeout": 0.3})
    server = cls(fails)

    async def main():
        feed(server, messages=1)
        await passes(2)

    run(main())
    assert collections.Counter(begun) == logged(caplog)[0] == each()


def test_the_next_loop(cy, run):
    """What is told at the end of one loop is not told in the next, whose own failures are."""
    server = telling(cy.StatelessServer)(fails)

    async def first():
        feed(server)
        await passes(2)

    async def second():
        checker = asyncio.create_task(server.application_checker())
        feed(server, COUNT)
        await eventually(lambda: len(server.failures) == 2 * COUNT)
        await eventually(lambda: not server.application_instances)
        await eventually(lambda: len(server.messages) == 2 * COUNT)
        await end_all([checker])

    run(first())
    assert (server.failures, server.messages) == (each(), {})
    run(second())
    assert server.failures == server.messages == each() | each(COUNT)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_loop_close(cy, run, kind):
    """A loop that is closed without its end being seen to: the next loop tells what waits."""
    server = telling(cy.StatelessServer, kind)(fails)

    async def main():
        feed(server)
        await passes(2)

    loop = run.loop_factory()
    loop.run_until_complete(main())
    loop.close()
    assert server.failures == {}

    async def later():
        checker = asyncio.create_task(server.application_checker())
        await eventually(lambda: len(server.failures) == len(server.messages) == COUNT)
        await end_all([checker])

    run(later())
    assert server.failures == server.messages == each()


def test_loop_close_and_no_next_loop(cy, run, caplog):
    """There it is logged when the server goes, messages that nobody has told of as well."""

    async def main(server):
        feed(server, messages=3)
        await passes(2)

    server = telling(cy.StatelessServer)(fails)
    loop = run.loop_factory()
    loop.run_until_complete(main(server))
    loop.close()
    failures = server.failures
    del server, loop
    gc.collect()
    assert failures == {}
    assert logged(caplog) == (each(), dict.fromkeys(range(COUNT), 2))


# ---- the server is dropped -----------------------------------------------------------------------------------------


def test_a_dropped_server(cy, run, caplog):
    """Dropped while the loop runs on: what it had to tell is logged or told, once."""
    told = []

    async def main():
        server = telling(cy.StatelessServer)(fails)
        told.append(server.failures)
        instances = feed(server, messages=1)
        await asyncio.wait([instance["future"] for instance in instances])
        del server, instances
        gc.collect()
        await passes(5)

    run(main())
    gc.collect()
    assert told[0] + logged(caplog)[0] == each()


# ---- everything is cancelled ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_stray_cancel(cy, run, kind, caplog):
    """Somebody cancels all tasks but his own, the one that tells included: each is told, or logged, once."""
    server = telling(cy.StatelessServer, kind)(fails)

    async def main():
        before = asyncio.all_tasks()
        instances = feed(server, messages=1)
        await asyncio.wait([instance["future"] for instance in instances])
        for instance in instances:
            server.delete_application_instance(instance.scope_id)
        await passes(1)
        others = asyncio.all_tasks() - before
        for task in others:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*others, return_exceptions=True)
        await eventually(lambda: server._cyasgi.reports.pending == 0)

    run(main())
    assert server.failures + logged(caplog)[0] == each()


# ---- the process ends ----------------------------------------------------------------------------------------------

SCRIPT = """
    import asyncio, cyasgi

    async def fails(scope, receive, send):
        await receive()
        raise ValueError(scope["number"])

    server = cyasgi.StatelessServer(fails, 100)

    async def main():
        for number in range(3):
            instance = server.get_or_create_application_instance(number, {"number": number})
            for _ in range(3):
                instance.put_nowait(1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

"""
ENDS = {
    "run": "    asyncio.run(main())",
    "close": "    loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close()",
    "neither": "    loop = asyncio.new_event_loop(); loop.run_until_complete(main())",
}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_the_process(cy, tmp_path, end):
    """Whatever has become of the loop, each failure is on stderr with its traceback, once, and so are the messages."""
    done = python(SCRIPT + ENDS[end] + "\n", cwd=tmp_path, backend=cy.backend, PYTHONWARNINGS="ignore")
    assert done.returncode == 0, done.stderr
    for number in range(3):
        assert len(re.findall(rf"^ValueError: {number}$", done.stderr, re.MULTILINE)) == 1, done.stderr
        assert done.stderr.count(f"2 undelivered messages were left in the queue of scope_id {number}") == 1
    assert "never retrieved" not in done.stderr
    assert "was destroyed" not in done.stderr

"""Who runs the application: the server, with its queue and its `application_send`; what has finished is never run
again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.instances import make
from support.loops import passes
from support.serving import in_time

# The server runs it


@pytest.mark.slow
def test_receive_is_the_queue_and_send_goes_to_application_send(impl, run):
    """The application gets the scope itself, the instance's queue as receive, and send as application_send's front."""

    async def main():
        seen, sent = [], []

        class Server(impl.StatelessServer):
            async def application_send(self, scope, message):
                sent.append((scope, message))
                return "answer"

        async def application(scope, receive, send):
            seen.append(scope)
            while (message := await receive()) is not None:
                seen.append((message, await send(message)))

        server = Server(application)
        scope = {"type": "mine"}
        queue = make(server, "id", scope)
        for message in (1, 2, None):
            queue.put_nowait(message)
        await passes(5)
        assert seen[0] is scope and seen[1:] == [(1, "answer"), (2, "answer")]
        assert sent == [(scope, 1), (scope, 2)] and sent[0][0] is scope
        assert server.application_instances["id"]["future"].done()

    run(main())


def test_receive_may_be_waited_for_in_any_way(impl, run):
    """receive() goes into create_task, wait_for and gather; cancelled, or out of time, it loses no message."""

    async def main():
        seen = []

        async def application(scope, receive, send):
            try:
                await asyncio.wait_for(receive(), 0.001)
            except TimeoutError:
                seen.append("nothing yet")
            task = asyncio.create_task(receive())
            await passes(2)
            queue.put_nowait(1)
            task.cancel()
            await passes(2)
            seen.append(task.cancelled())
            seen.append(await asyncio.gather(receive(), receive(), receive()))
            seen.append(await asyncio.wait_for(receive(), 5))

        server = impl.StatelessServer(application)
        queue = make(server)
        await in_time(lambda: seen == ["nothing yet", True])
        for message in (2, 3, 4):
            queue.put_nowait(message)
        await in_time(lambda: server.application_instances["id"]["future"].done())
        assert seen == ["nothing yet", True, [1, 2, 3], 4]

    run(main())


def test_a_failing_application_send_fails_in_the_application(impl, run):
    """What application_send raises, the application's send raises."""

    async def main():
        class Server(impl.StatelessServer):
            async def application_send(self, scope, message):
                raise ConnectionError(message)

        async def application(scope, receive, send):
            with pytest.raises(ConnectionError, match="message"):
                await send("message")
            return "caught"

        server = Server(application)
        make(server).put_nowait("go")
        await passes(5)
        assert server.application_instances["id"]["future"].result() == "caught"

    run(main())


def test_send_follows_the_server(impl, run):
    """application_send is looked up when something is sent, so that it may be set on the server later."""

    async def main():
        sent = []

        async def application(scope, receive, send):
            while True:
                await send(await receive())

        async def late(scope, message):
            sent.append((scope["type"], message))

        server = impl.StatelessServer(application)
        queue = make(server)
        await passes(3)
        server.application_send = late
        queue.put_nowait("message")
        await passes(5)
        assert sent == [("test", "message")]

    run(main())


# Finished instances


def test_a_finished_record_stays_visible_without_a_checker(impl, run):
    """With no checker running, what has finished stays in the table, with its future done."""

    async def main():
        async def application(scope, receive, send):
            return await receive()

        server = impl.StatelessServer(application)
        make(server).put_nowait("result")
        await passes(10)
        assert list(server.application_instances) == ["id"]
        assert server.application_instances["id"]["future"].result() == "result"

    run(main())


@pytest.mark.parametrize("end", ["returns", "fails", "cancelled"])
def test_a_finished_instance_is_never_handed_out_again(cy, run, end):
    """The next get_or_create for a finished id reports the old record and makes a fresh one, in the same call."""

    async def main():
        seen, reported = [], []

        async def application(scope, receive, send):
            seen.append(message := await receive())
            if message == "fails":
                raise ValueError("on purpose")
            if message == "cancelled":
                raise asyncio.CancelledError

        class Server(cy.StatelessServer):
            async def application_exception(self, exception, details):
                reported.append((exception, details))

        server = Server(application)
        old = make(server)
        old.put_nowait(end)
        await passes(5)
        assert old["future"].done() and server.application_instances["id"] is old
        fresh = make(server)
        assert fresh is not old and server.application_instances["id"] is fresh
        assert list(server.application_instances) == ["id"]
        fresh.put_nowait("more")
        await passes(5)
        assert seen == [end, "more"]
        assert len(reported) == (end == "fails")
        if reported:
            assert isinstance(reported[0][0], ValueError) and reported[0][1] is old
        make(server)
        await passes(5)
        assert len(reported) == (end == "fails")

    run(main())


def test_the_reference_feeds_the_finished(reference, run):
    """What the rule above is for: in the reference the messages go to an application that is no more."""

    async def main():
        seen = []

        async def application(scope, receive, send):
            seen.append(await receive())

        server = reference(application)
        for number in range(5):
            make(server).put_nowait(number)
            await passes(5)
        assert seen == [0]

    run(main())


def test_one_shot_applications_lose_nothing(cy, run):
    """An application that serves one message and returns serves every one that comes after it has returned."""

    async def main():
        seen = []

        async def application(scope, receive, send):
            seen.append(await receive())

        server = cy.StatelessServer(application)
        for number in range(100):
            make(server).put_nowait(number)
            await passes(5)
        assert seen == list(range(100))
        assert len(server.application_instances) == 1

    run(main())


def cleaner(log: list, gate: asyncio.Event) -> Any:
    """An application that reads one message, then waits, and whose clean-up waits for the gate."""

    async def application(scope, receive, send):
        log.append(("begins", scope["n"]))
        try:
            log.append(("received", scope["n"], await receive()))
            await asyncio.get_running_loop().create_future()
        finally:
            await gate.wait()
            log.append(("cleaned up", scope["n"]))

    return application


def test_a_fresh_instance_waits_for_the_clean_up_of_the_old_one(cy, run):
    """Under one id the new application begins after the old one has ended, and misses no message."""

    async def main():
        log, gate = [], asyncio.Event()
        server = cy.StatelessServer(cleaner(log, gate))
        make(server, "id", {"n": 1}).put_nowait("a")
        await passes(3)
        server.delete_application_instance("id")
        fresh = make(server, "id", {"n": 2})
        fresh.put_nowait("b")
        await passes(10)
        assert log == [("begins", 1), ("received", 1, "a")]
        assert make(server) is fresh
        make(server, "other", {"n": 3}).put_nowait("c")
        await passes(3)
        assert log[2:] == [("begins", 3), ("received", 3, "c")]
        gate.set()
        await in_time(lambda: len(log) == 7)
        assert log[4:] == [("cleaned up", 1), ("begins", 2), ("received", 2, "b")]

    run(main())


@pytest.mark.slow
def test_a_fresh_instance_waits_no_longer_than_shutdown_timeout(cy, run):
    """An old application that will not end holds the new one up for shutdown_timeout seconds at most."""

    async def main():
        log, gate = [], asyncio.Event()

        class Server(cy.StatelessServer):
            shutdown_timeout = 0.05

        server = Server(cleaner(log, gate))
        make(server, "id", {"n": 1}).put_nowait("a")
        await passes(3)
        server.delete_application_instance("id")
        make(server, "id", {"n": 2}).put_nowait("b")
        await passes(10)
        assert len(log) == 2
        await in_time(lambda: len(log) == 4)
        assert log[2:] == [("begins", 2), ("received", 2, "b")]
        # The old one, cancelled once more, has given up by now; the new one may clean up in peace.
        gate.set()

    run(main())


def test_deleted_while_it_waits_for_the_old_one_it_never_starts(cy, run):
    """Generations of one id are deleted faster than the first cleans up: only the last one runs, after the first."""

    async def main():
        log, gate = [], asyncio.Event()

        class Server(cy.StatelessServer):
            def application_undelivered(self, messages, details):
                log.append(("undelivered", details["scope"]["n"], *messages))

        server = Server(cleaner(log, gate))
        for n in range(1, 5):
            if n > 1:
                server.delete_application_instance("id")
            make(server, "id", {"n": n}).put_nowait(n)
            await passes(3)
        gate.set()
        await in_time(lambda: ("received", 4, 4) in log)
        assert [entry for entry in log if entry[0] == "begins"] == [("begins", 1), ("begins", 4)]
        assert log.index(("cleaned up", 1)) < log.index(("begins", 4))
        assert [entry for entry in log if entry[0] == "undelivered"] == [("undelivered", 2, 2), ("undelivered", 3, 3)]

    run(main())


def test_cancelled_while_another_error_is_handled(impl, run):
    """The cancellation that arrives in receive() knows the error that is being handled there."""
    seen = []

    async def application(scope, receive, send):
        try:
            raise ValueError("on purpose")
        except ValueError:
            try:
                await receive()
            except asyncio.CancelledError as cancelled:
                seen.append(cancelled.__context__)
                raise

    async def main():
        server = impl.StatelessServer(application)
        server.get_or_create_application_instance("id", {"type": "test"})
        await passes(4)
        server.delete_application_instance("id")
        await passes(4)
        assert [str(error) for error in seen] == ["on purpose"]

    run(main())

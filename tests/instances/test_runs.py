"""Who runs the application: the server. When it starts, in which order, of which kind, on which loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.loops import passes

SCOPE = {"type": "test"}


def make(server: Any, scope_id: Any = "id", scope: Any = SCOPE) -> Any:
    return server.get_or_create_application_instance(scope_id, scope)


class Log(list):
    """What happened, in order; with a turn noted for each loop pass, between whose callbacks it happened."""

    def watch(self) -> None:
        self.ticker = asyncio.get_running_loop().call_soon(self.turn)

    def turn(self) -> None:
        self.append("turn")
        self.watch()

    def note(self, *what: Any) -> None:
        self.append(what)


async def until(condition: Any) -> None:
    """Waits for what only time brings, for a bounded time."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came true")


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
        await until(lambda: seen == ["nothing yet", True])
        for message in (2, 3, 4):
            queue.put_nowait(message)
        await until(lambda: server.application_instances["id"]["future"].done())
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


# When it starts


def feed_each(server: Any, log: Log) -> None:
    """Five are made, each fed at once."""
    for scope_id in range(5):
        asyncio.get_running_loop().call_soon(log.note, "before", scope_id)
        make(server, scope_id, {"id": scope_id}).put_nowait(("m", scope_id))
        asyncio.get_running_loop().call_soon(log.note, "after", scope_id)


def feed_in_reverse(server: Any, log: Log) -> None:
    """Five are made, then fed, the last one first."""
    queues = [make(server, scope_id, {"id": scope_id}) for scope_id in range(5)]
    asyncio.get_running_loop().call_soon(log.note, "made")
    for scope_id, queue in reversed(list(enumerate(queues))):
        asyncio.get_running_loop().call_soon(log.note, "feeding", scope_id)
        queue.put_nowait(("m", scope_id))


def feed_many(server: Any, log: Log) -> None:
    """Several messages for each, in rounds."""
    for number in range(4):
        for scope_id in range(3):
            make(server, scope_id, {"id": scope_id}).put_nowait(("m", number))


async def feed_waiting(server: Any, log: Log) -> None:
    """Fed once, and again after all wait in receive, the last one first."""
    feed_each(server, log)
    await passes(4)
    for scope_id in reversed(range(5)):
        make(server, scope_id, {"id": scope_id}).put_nowait(("again", scope_id))
        asyncio.get_running_loop().call_soon(log.note, "between", scope_id)


async def feed_by_put(server: Any, log: Log) -> None:
    """Fed by awaiting put."""
    for scope_id in range(5):
        await make(server, scope_id, {"id": scope_id}).put(("m", scope_id))
        asyncio.get_running_loop().call_soon(log.note, "after", scope_id)


async def feed_from_tasks(server: Any, log: Log) -> None:
    """Several feeders at once, for ids in common."""

    async def feeder(name):
        for number in range(4):
            make(server, (name + number) % 5, {"id": (name + number) % 5}).put_nowait((name, number))
            log.note("fed", name, number)
            if number % 2:
                await passes(1)

    await asyncio.gather(*map(feeder, range(3)))


async def feed_and_delete(server: Any, log: Log) -> None:
    """Every other one is deleted before it starts, one while it waits."""
    for scope_id in range(5):
        make(server, scope_id, {"id": scope_id}).put_nowait(("m", scope_id))
    for scope_id in (0, 2, 4):
        server.delete_application_instance(scope_id)
    log.note(list(server.application_instances))
    await passes(3)
    server.delete_application_instance(1)
    asyncio.get_running_loop().call_soon(log.note, "deleted")


def feed_to_the_end(server: Any, log: Log) -> None:
    """Some return, some fail, some start others."""
    for scope_id, message in enumerate(["end", "fail", ("m", 0), "start", "end", "start"]):
        make(server, scope_id, {"id": scope_id}).put_nowait(message)


SCRIPTS = [
    feed_each,
    feed_in_reverse,
    feed_many,
    feed_waiting,
    feed_by_put,
    feed_from_tasks,
    feed_and_delete,
    feed_to_the_end,
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_fed_before_the_loop_turns_it_starts_when_the_reference_starts_it(cy, reference, run, script):
    """Fed in time, applications start, receive, send and end in the reference's order, between the same callbacks."""

    async def play(cls):
        log = Log()

        class Server(cls):
            async def application_send(self, scope, message):
                log.note(scope["id"], "sent", message)

            def application_undelivered(self, messages, details):
                pass

        async def application(scope, receive, send):
            log.note(scope["id"], "begins")
            try:
                while True:
                    message = await receive()
                    log.note(scope["id"], "received", message)
                    await send(message)
                    if message == "end":
                        return
                    if message == "fail":
                        raise ValueError("on purpose")
                    if message == "start":
                        other = scope["id"] + 10
                        make(server, other, {"id": other}).put_nowait(("m", other))
            except BaseException as error:
                log.note(scope["id"], type(error))
                raise

        server = Server(application)
        log.watch()
        fed = script(server, log)
        if fed is not None:
            await fed
        await passes(6)
        log.ticker.cancel()
        futures = [(scope_id, entry["future"]) for scope_id, entry in server.application_instances.items()]
        log.note(sorted((scope_id, future.done() and repr(future.exception())) for scope_id, future in futures))
        for scope_id in sorted(server.application_instances):
            server.delete_application_instance(scope_id)
        await passes(3)
        return log

    async def main():
        assert await play(cy.StatelessServer) == await play(reference)

    run(main())


def test_never_fed_it_starts_all_the_same(impl, run):
    """An instance that nobody feeds or holds starts within two passes of the loop."""

    async def main():
        begun = []

        async def application(scope, receive, send):
            begun.append(scope["id"])
            await receive()

        server = impl.StatelessServer(application)
        for scope_id in range(3):
            make(server, scope_id, {"id": scope_id})
        assert begun == []
        await passes(2)
        assert begun == [0, 1, 2]

    run(main())


def test_it_is_run_once(impl, run):
    """However often an id is looked up and fed, from whatever task, its application is started once."""

    async def main():
        begun = []

        async def application(scope, receive, send):
            begun.append(scope)
            while True:
                await receive()

        server = impl.StatelessServer(application)

        async def feeder():
            for number in range(3):
                make(server).put_nowait(number)
                await passes(number)

        await asyncio.gather(feeder(), feeder(), feeder())
        await passes(3)
        assert len(begun) == 1

    run(main())


def test_deleted_before_it_starts_it_never_starts(impl, run):
    """An instance that is deleted in the pass of its creation never runs a step of its application."""

    async def main():
        begun = []

        async def application(scope, receive, send):
            begun.append(scope)

        class Server(impl.StatelessServer):
            def application_undelivered(self, messages, details):
                pass

        server = Server(application)
        make(server, "fed").put_nowait("message")
        make(server, "unfed")
        server.delete_application_instance("fed")
        server.delete_application_instance("unfed")
        await passes(5)
        assert begun == []

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
        await until(lambda: len(log) == 7)
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
        await until(lambda: len(log) == 4)
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
        await until(lambda: ("received", 4, 4) in log)
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

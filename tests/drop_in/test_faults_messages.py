"""Faults of the reference that lose or delay messages: each is shown, and then what cyasgi does instead.

A test whose name ends in `_reference` shows what asgiref's class does, so that the list of differences stays true.
"""

from __future__ import annotations

import asyncio
import functools
import threading

import pytest

from support.loops import passes
from support.recording_server import EVERY_PASS, echo, recording, served
from support.serving import in_time, reader

# ---- applications that end before their messages do --------------------------------------------------------------


async def feed_a_one_shot(base, count):
    """Feeds an application that returns after one message, letting it finish each time. Gives the server."""

    async def application(scope, receive, send):
        await send(await receive())

    server = recording(base)(application)
    for number in range(count):
        server.get_or_create_application_instance("a", {}).put_nowait(number)
        await passes(4)
    return server


@pytest.mark.slow
def test_one_shot_fed_again_reference(reference, run):
    """Reference: until the next sweep a finished application is fed on, and nobody ever reads that."""

    async def main():
        server = await feed_a_one_shot(reference, 100)
        assert server.sent == [0]
        assert server.application_instances["a"]["input_queue"].qsize() == 99

    run(main())


def test_one_shot_fed_again(cy, run):
    """An application that has finished is never fed again: a message for its id goes to a fresh instance."""

    async def main():
        server = await feed_a_one_shot(cy.StatelessServer, 100)
        assert server.sent == list(range(100))
        assert server.handed_over == []
        assert server.stats()["created"] == 100

    run(main())


async def feed_poison(base, interval):
    """Feeds a thousand messages of which the first kills the application. Gives the server and the queue."""

    async def application(scope, receive, send):
        while True:
            message = await receive()
            if message == 0:
                raise ValueError(message)
            await send(message)

    server = recording(base, interval)(application)
    async with served(server):
        queue = server.get_or_create_application_instance("a", {})
        for number in range(1000):
            queue.put_nowait(number)
        await in_time(lambda: server.failures and not server.application_instances)
        await passes(5)
    return server, queue


def test_messages_behind_a_deadly_one_reference(reference, run, caplog):
    """Reference: the messages behind one that kills the application vanish with its queue, without a word."""

    async def main():
        server, queue = await feed_poison(reference, EVERY_PASS)
        assert queue.qsize() == 999
        assert not server.application_instances
        assert (server.sent, server.undelivered) == ([], [])

    run(main())
    assert caplog.records == []


def test_messages_behind_a_deadly_one(cy, run):
    """The messages behind one that kills the application are handed over, in order and once."""

    async def main():
        server, _ = await feed_poison(cy.StatelessServer, 0.001)
        assert len(server.undelivered) == 1
        assert server.handed_over == list(range(1, 1000))
        assert server.stats()["undelivered"] == 999
        assert server.sent == []

    run(main())


# ---- messages of instances that must make room -------------------------------------------------------------------


async def squeeze_the_busy_one(base, limit):
    """Two new ids arrive in a full table whose least recently used instance has a thousand messages to work off."""

    async def application(scope, receive, send):
        while True:
            await send(await receive())
            await asyncio.sleep(0)

    server = recording(base)(application, max_applications=limit)
    for scope_id in ("busy", "idle", "also idle"):
        server.get_or_create_application_instance(scope_id, {})
    await passes(2)
    for number in range(1000):
        server.application_instances["busy"]["input_queue"].put_nowait(number)
    await passes(17)
    for scope_id in ("new", "another"):
        server.get_or_create_application_instance(scope_id, {})
        await passes(3)
    await passes(1100)
    return server


def test_busy_instance_at_the_limit_reference(reference, run):
    """Reference: an instance with a full queue is evicted beside idle ones, and its messages are lost."""

    async def main():
        server = await squeeze_the_busy_one(reference, limit=2)
        assert "busy" not in server.application_instances
        assert 1000 - len(server.sent) > 900

    run(main())


def test_busy_instance_at_the_limit(cy, run):
    """Idle instances make room before one that has work to do, though it was used longer ago."""

    async def main():
        server = await squeeze_the_busy_one(cy.StatelessServer, limit=3)
        assert list(server.application_instances) == ["busy", "new", "another"]
        assert server.sent == list(range(1000))
        assert server.handed_over == []

    run(main())


async def flood(base):
    """Five thousand ids with a message each, in one turn of the loop, at a limit of a thousand."""
    server = recording(base)(echo, max_applications=1000)
    for number in range(5000):
        server.get_or_create_application_instance(number, {}).put_nowait(number)
    await passes(5)
    return server


@pytest.mark.slow
def test_flood_of_ids_reference(reference, run, caplog):
    """Reference: whoever is evicted before its first step loses its message, and nobody hears of it."""

    async def main():
        server = await flood(reference)
        assert server.sent == list(range(3999, 5000))
        assert server.undelivered == []

    run(main())
    assert caplog.records == []


@pytest.mark.slow
def test_flood_of_ids(cy, run):
    """The messages of those that are evicted before their first step are counted and handed over."""

    async def main():
        server = await flood(cy.StatelessServer)
        await in_time(lambda: len(server.handed_over) == 4000)
        assert sorted(server.sent + server.handed_over) == list(range(5000))
        stats = server.stats()
        assert (stats["live"], stats["evicted"], stats["undelivered"]) == (1000, 4000, 4000)

    run(main())


# ---- feeders that never wait -------------------------------------------------------------------------------------


async def feed_in_a_tight_loop(base, **attributes):
    """Puts a thousand messages in a tight loop. Gives how many were sent on and how many waited after each."""
    server = recording(base)(echo)
    for name, value in attributes.items():
        setattr(server, name, value)
    queue = server.get_or_create_application_instance("a", {})
    progress = []
    for number in range(1000):
        await queue.put(number)
        progress.append((len(server.sent), queue.qsize()))
    await passes(10)
    assert server.sent == list(range(1000))
    return progress


def test_tight_feeder_reference(reference, run):
    """Reference: `await queue.put()` never lets the loop turn: nothing is delivered until the feeder stops."""

    async def main():
        progress = await feed_in_a_tight_loop(reference)
        assert progress[-1] == (0, 1000)

    run(main())


def test_tight_feeder(cy, run):
    """`await put()` lets the loop turn at least every 64th time, so that the application keeps up."""

    async def main():
        progress = await feed_in_a_tight_loop(cy.StatelessServer)
        # Its first step and its first message may take a turn each.
        assert max(waiting for _, waiting in progress) <= 3 * 64
        assert progress[200][0] > 0

    run(main())


def test_bounded_queue(cy, run):
    """`max_queue_size` bounds what waits: `put` waits for room, `put_nowait` refuses."""

    async def main():
        progress = await feed_in_a_tight_loop(cy.StatelessServer, max_queue_size=8)
        assert max(waiting for _, waiting in progress) <= 8
        server = recording(cy.StatelessServer)(reader)
        server.max_queue_size = 8
        queue = server.get_or_create_application_instance("a", {})
        for number in range(8):
            queue.put_nowait(number)
        with pytest.raises(asyncio.QueueFull):
            queue.put_nowait(8)

    run(main())


# ---- other threads -----------------------------------------------------------------------------------------------


def in_a_thread(function, *arguments):
    """Calls it in another thread while the loop stands still; gives the exception that it raised, or None."""
    raised = []

    def call():
        try:
            function(*arguments)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def test_feeding_from_a_thread_reference(reference, run):
    """Reference: feeding from another thread does not wake the loop, which sees it when something else happens."""

    async def main():
        server = recording(reference)(echo)
        queue = server.get_or_create_application_instance("a", {})
        await passes(3)
        loop, woken = asyncio.get_running_loop(), []
        loop.call_soon_threadsafe = lambda *arguments, **options: woken.append(arguments)
        try:
            assert in_a_thread(queue.put_nowait, "message") is None
        finally:
            del loop.call_soon_threadsafe
        assert woken == []
        await passes(3)
        assert server.sent == ["message"]

    run(main())


def test_debug_mode_reference(reference, run):
    """Reference: not even debug mode says so when the queue of a busy instance is fed from another thread."""

    async def main():
        server = recording(reference)(reader)
        queue = server.get_or_create_application_instance("a", {})
        assert in_a_thread(queue.put_nowait, "message") is None
        assert queue.qsize() == 1

    run(main(), debug=True)


@pytest.mark.parametrize("debug", [False, True])
def test_feeding_from_a_thread(cy, run, debug):
    """`put_threadsafe` wakes the loop, and its future is done once the message is in the queue."""

    async def main():
        arrived = asyncio.Event()

        async def application(scope, receive, send):
            await send(await receive())
            arrived.set()

        server = recording(cy.StatelessServer)(application)
        instance = server.get_or_create_application_instance("a", {})
        await passes(3)
        results = []
        thread = threading.Thread(target=lambda: results.append(instance.put_threadsafe("message").result(30)))
        thread.start()
        # Nothing but the message wakes the loop now.
        await arrived.wait()
        thread.join()
        assert results == [None]
        assert server.sent == ["message"]

    run(main(), debug=debug)


def test_debug_mode(cy, run):
    """In debug mode using a queue or the table from the wrong thread raises, whatever the instance is doing."""

    async def main():
        server = recording(cy.StatelessServer)(reader)
        instance = server.get_or_create_application_instance("a", {})
        for _ in range(2):
            assert isinstance(in_a_thread(instance.put_nowait, "message"), RuntimeError)
            assert isinstance(in_a_thread(server.get_or_create_application_instance, "b", {}), RuntimeError)
            assert isinstance(in_a_thread(server.delete_application_instance, "a"), RuntimeError)
            assert isinstance(in_a_thread(server.application_instances.pop, "a"), RuntimeError)
            await passes(3)
        assert instance.qsize() == 0
        assert list(server.application_instances) == ["a"]

    run(main(), debug=True)


# ---- applications taken for what they are not --------------------------------------------------------------------


def as_lambda():
    return lambda scope, receive, send: echo(scope, receive, send)


def as_wrapped():
    @functools.wraps(echo)
    def wrapper(*arguments, **options):
        return echo(*arguments, **options)

    return wrapper


def as_object():
    class Application:
        def __call__(self, scope, receive, send):
            return echo(scope, receive, send)

    return Application()


@pytest.mark.parametrize("make", [as_lambda, as_wrapped, as_object])
def test_callable_that_returns_a_coroutine_reference(reference, run, make):
    """Reference: a callable that returns a coroutine is taken for a double one: TypeError for every message."""

    async def main():
        server = recording(reference, EVERY_PASS)(make())
        async with served(server):
            for _ in range(3):
                server.get_or_create_application_instance("a", {}).put_nowait("message")
                await passes(10)
            assert [type(error) for error in server.failures] == [TypeError] * 3
            assert server.sent == []

    run(main())


@pytest.mark.parametrize("make", [as_lambda, as_wrapped, as_object])
def test_callable_that_returns_a_coroutine(cy, run, make):
    """A callable that takes the three arguments and returns a coroutine is an application like any other."""

    async def main():
        server = recording(cy.StatelessServer)(make())
        async with served(server):
            for _ in range(3):
                server.get_or_create_application_instance("a", {}).put_nowait("message")
                await passes(10)
            assert server.sent == ["message"] * 3
            assert server.failures == []
            assert server.stats()["created"] == 1

    run(main())

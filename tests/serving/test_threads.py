"""Other threads: put_threadsafe() feeds from them; in debug mode, anything else from there is refused."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading

import pytest

from support.loops import passes
from support.serving import deaf, eventually, fast, in_time, quiet, reader


def collecting(received):
    async def application(scope, receive, send):
        while True:
            received.append(await receive())

    return application


def in_thread(function):
    """Runs it in another thread; gives what it gives, and raises what it raises."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(20)


@pytest.mark.slow
def test_put_threadsafe_delivers(cy, run):
    """A message fed from another thread wakes the loop and arrives; the future it gives is done then."""
    received = []

    async def main():
        server = quiet(cy.StatelessServer)(collecting(received))
        details = server.get_or_create_application_instance("a", {})
        await passes(5)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        future = await asyncio.to_thread(details.put_threadsafe, "hello")
        assert isinstance(future, concurrent.futures.Future)
        assert await asyncio.wrap_future(future) is None
        await eventually(lambda: received == ["hello"])
        assert loop.time() - begun < 10

    run(main())


def test_put_threadsafe_can_be_waited_for_in_the_thread(cy, run):
    """The feeding thread may wait for its message to be in the queue."""
    received = []

    async def main():
        server = quiet(cy.StatelessServer)(collecting(received))
        details = server.get_or_create_application_instance("a", {})

        def feed():
            for number in range(100):
                assert details.put_threadsafe(number).result(20) is None

        await asyncio.to_thread(feed)
        await eventually(lambda: received == list(range(100)))

    run(main())


def test_put_threadsafe_keeps_the_order(cy, run):
    """Messages from one thread arrive in their order, whatever other threads do."""
    received = []

    async def main():
        server = quiet(cy.StatelessServer)(collecting(received))
        details = server.get_or_create_application_instance("a", {})

        def feed(name):
            futures = [details.put_threadsafe((name, number)) for number in range(200)]
            concurrent.futures.wait(futures, 20)

        await asyncio.gather(*[asyncio.to_thread(feed, name) for name in "abc"])
        await eventually(lambda: len(received) == 600)
        for name in "abc":
            assert [number for who, number in received if who == name] == list(range(200))

    run(main())


def test_put_threadsafe_waits_for_room(cy, run):
    """With a full queue the future stays undone until there is room; the order of feeding is kept."""
    received = []
    gate = asyncio.Event()

    async def application(scope, receive, send):
        await gate.wait()
        while True:
            received.append(await receive())

    async def main():
        server = quiet(cy.StatelessServer)(application)
        server.max_queue_size = 1
        details = server.get_or_create_application_instance("a", {})

        def feed():
            return [details.put_threadsafe(number) for number in range(5)]

        futures = await asyncio.to_thread(feed)
        await in_time(futures[0].done)
        await passes(10)
        assert not any(future.done() for future in futures[1:])
        gate.set()
        await asyncio.gather(*map(asyncio.wrap_future, futures))
        await eventually(lambda: received == [0, 1, 2, 3, 4])

    run(main())


def test_put_threadsafe_on_an_ended_instance(cy, run):
    """A message fed from another thread to an instance that has ended goes to application_undelivered."""

    async def main():
        server = quiet(cy.StatelessServer)(deaf)
        details = server.get_or_create_application_instance("a", {})
        await passes(5)
        await server.delete_application_instance("a")
        future = await asyncio.to_thread(details.put_threadsafe, "too late")
        await asyncio.wrap_future(future)
        await eventually(lambda: server.undelivered == [(["too late"], details)])

    run(main())


def test_put_threadsafe_that_waits_when_the_instance_ends(cy, run):
    """A message that waits for room when the instance ends is handed on, and its future is done."""

    async def main():
        server = quiet(cy.StatelessServer)(deaf)
        server.max_queue_size = 1
        details = server.get_or_create_application_instance("a", {})
        futures = await asyncio.to_thread(lambda: [details.put_threadsafe(number) for number in range(3)])
        await in_time(futures[0].done)
        await passes(5)
        await server.delete_application_instance("a")
        await asyncio.gather(*map(asyncio.wrap_future, futures))
        await eventually(lambda: [m for messages, _ in server.undelivered for m in messages] == [0, 1, 2])

    run(main())


def test_put_threadsafe_in_the_loops_own_thread(cy, run):
    """put_threadsafe() may be used in the loop's own thread as well."""
    received = []

    async def main():
        server = quiet(cy.StatelessServer)(collecting(received))
        details = server.get_or_create_application_instance("a", {})
        await asyncio.wrap_future(details.put_threadsafe("here"))
        await eventually(lambda: received == ["here"])

    run(main(), debug=True)


def test_put_threadsafe_counts_as_being_fed(cy, run):
    """A held instance that is fed from another thread is run by the server."""
    received = []

    async def main():
        server = quiet(cy.StatelessServer)(collecting(received))
        details = await server.get_or_create_application_instance("a", {})
        await passes(5)
        assert received == []
        await asyncio.wrap_future(await asyncio.to_thread(details.put_threadsafe, "hello"))
        await eventually(lambda: received == ["hello"])

    run(main())


USES = {
    "get_or_create": lambda server, details: server.get_or_create_application_instance("b", {}),
    "get_or_create again": lambda server, details: server.get_or_create_application_instance("a", {}),
    "delete": lambda server, details: server.delete_application_instance("a"),
    "delete oldest": lambda server, details: server.delete_oldest_application_instance(),
    "table: look up": lambda server, details: server.application_instances["a"],
    "table: take out": lambda server, details: server.application_instances.pop("a"),
    "table: put in": lambda server, details: server.application_instances.update(b={}),
    "table: list": lambda server, details: list(server.application_instances),
    "table: list backwards": lambda server, details: list(reversed(server.application_instances)),
    "table: length": lambda server, details: len(server.application_instances),
    "table: items": lambda server, details: list(server.application_instances.items()),
    "table: values": lambda server, details: list(server.application_instances.values()),
    "table: contains": lambda server, details: "a" in server.application_instances,
    "table: get": lambda server, details: server.application_instances.get("a"),
    "table: setdefault": lambda server, details: server.application_instances.setdefault("a", {}),
    "table: compare": lambda server, details: server.application_instances == {},
    "table: copy": lambda server, details: server.application_instances.copy(),
    "table: popitem": lambda server, details: server.application_instances.popitem(),
    "table: clear": lambda server, details: server.application_instances.clear(),
    "put_nowait": lambda server, details: details.put_nowait(1),
    "get_nowait": lambda server, details: details.get_nowait(),
    "input_queue": lambda server, details: details["input_queue"].put_nowait(1),
}


@pytest.mark.parametrize("use", USES)
def test_debug_mode_refuses_the_wrong_thread(cy, run, use):
    """In asyncio's debug mode a table or a queue that is used from another thread raises, and is untouched."""

    async def main():
        server = quiet(cy.StatelessServer)(deaf)
        details = server.get_or_create_application_instance("a", {})
        details.put_nowait("there")
        await passes(5)
        with pytest.raises(RuntimeError, match="thread"):
            await asyncio.to_thread(USES[use], server, details)
        await passes(5)
        assert list(server.application_instances) == ["a"]
        assert details.qsize() == 1
        assert not details["future"].done()

    run(main(), debug=True)


@pytest.mark.parametrize("use", [use for use in USES if use != "get_nowait"])
def test_debug_mode_allows_the_right_thread(cy, run, use):
    """In debug mode the loop's own thread is allowed everything, in tasks and in plain callbacks."""

    async def main():
        server = fast(cy.StatelessServer)(reader)
        details = server.get_or_create_application_instance("a", {})
        await passes(5)
        done = asyncio.get_running_loop().create_future()

        def callback():
            USES[use](server, details)
            done.set_result(None)

        asyncio.get_running_loop().call_soon(callback)
        await done
        await passes(5)

    run(main(), debug=True)


def test_debug_mode_and_two_loops(cy, run):
    """In debug mode each of two servers in two threads is at home in its own."""
    received = []

    async def other():
        server = quiet(cy.StatelessServer)(collecting(received))
        server.get_or_create_application_instance("a", {}).put_nowait(threading.get_ident())
        await eventually(lambda: received)

    async def main():
        server = quiet(cy.StatelessServer)(reader)
        server.get_or_create_application_instance("a", {}).put_nowait(1)
        await asyncio.to_thread(asyncio.run, other(), debug=True)
        server.get_or_create_application_instance("a", {}).put_nowait(2)

    run(main(), debug=True)
    assert received != [threading.get_ident()]


@pytest.mark.parametrize("size", [0, 1])
def test_put_threadsafe_cancelled_in_time(cy, run, size):
    """A message whose future is cancelled before the loop has seen it is not queued."""
    received = []

    async def main():
        server = quiet(cy.StatelessServer)(collecting(received))
        server.max_queue_size = size
        details = server.get_or_create_application_instance("a", {})
        await passes(5)
        cancelled = details.put_threadsafe("cancelled")
        assert cancelled.cancel() and cancelled.cancelled()
        await asyncio.wrap_future(details.put_threadsafe("kept"))
        await eventually(lambda: received == ["kept"])
        assert server.undelivered == []

    run(main())


def test_put_threadsafe_cancelled_too_late(cy, run):
    """Once the message is in hand in the loop, queued or waiting for room, it stays, and cancel() says so."""
    received = []
    gate = asyncio.Event()

    async def application(scope, receive, send):
        await gate.wait()
        while True:
            received.append(await receive())

    async def main():
        server = quiet(cy.StatelessServer)(application)
        server.max_queue_size = 1
        details = server.get_or_create_application_instance("a", {})
        queued, waiting = details.put_threadsafe(1), details.put_threadsafe(2)
        await passes(5)
        assert queued.done() and not waiting.done()
        assert not queued.cancel() and not waiting.cancel()
        gate.set()
        await asyncio.wrap_future(waiting)
        await eventually(lambda: received == [1, 2])

    run(main())


@pytest.mark.parametrize("made", [0, 1, 2])
def test_a_new_id_from_another_thread_is_refused(cy, run, made):
    """While the loop of the server's instances runs, no other thread makes one; nothing is touched, nobody evicted."""

    async def main():
        server = Server(reader, 2)
        for number in range(made):
            server.get_or_create_application_instance(number, {})
        running = None if made else asyncio.create_task(server.arun())
        await passes(5)

        def ask():
            with pytest.raises(RuntimeError) as caught:
                server.get_or_create_application_instance("new", {})
            return str(caught.value)

        said = await asyncio.to_thread(ask)
        assert "'new'" in said and "put_threadsafe" in said and "call_soon_threadsafe" in said
        await passes(5)
        assert list(server.application_instances) == list(range(made))
        assert server.stats()["created"] == made and server.stats()["evicted"] == 0
        if running is not None:
            running.cancel()
            await asyncio.wait({running})

    class Server(quiet(cy.StatelessServer)):
        async def handle(self):
            await asyncio.get_running_loop().create_future()

    run(main())


def test_a_known_id_from_another_thread_is_found(cy, run):
    """What is there is given to any thread, to be fed by its put_threadsafe()."""
    received = []

    async def main():
        server = quiet(cy.StatelessServer)(collecting(received))
        details = server.get_or_create_application_instance("a", {})
        await passes(5)

        def feed():
            found = server.get_or_create_application_instance("a", {})
            found.put_threadsafe("hello").result(20)
            return found

        assert await asyncio.to_thread(feed) is details
        await eventually(lambda: received == ["hello"])

    run(main())


def test_another_thread_may_make_instances_while_no_loop_runs(cy, run):
    """They wait for the loop that comes; so do those that a loop left that no longer runs."""
    received = []
    server = quiet(cy.StatelessServer)(collecting(received))

    async def main(number):
        server.get_or_create_application_instance(f"inside {number}", {}).put_nowait(f"inside {number}")
        await eventually(lambda: len(received) == 2 * number)

    for number in (1, 2):
        in_thread(lambda number=number: server.get_or_create_application_instance(number, {}).put_nowait(number))
        run(main(number))
    assert sorted(map(str, received)) == ["1", "2", "inside 1", "inside 2"]


def test_a_loop_that_moves_to_another_thread(cy, run):
    """A loop is at home in the thread that runs it now."""
    received = []
    server = quiet(cy.StatelessServer)(collecting(received))
    loop = run.loop_factory()

    async def main(number):
        server.get_or_create_application_instance(number, {}).put_nowait(number)
        server.get_or_create_application_instance(-number, {}).put_nowait(-number)
        await eventually(lambda: len(received) == 2 * number)

    async def end():
        for scope_id in list(server.application_instances):
            await server.delete_application_instance(scope_id)

    loop.run_until_complete(main(1))
    in_thread(lambda: loop.run_until_complete(main(2)))
    loop.run_until_complete(main(3))
    loop.run_until_complete(end())
    loop.close()
    assert received == [1, -1, 2, -2, 3, -3]


def test_put_threadsafe_before_any_loop(cy):
    """An instance that was made and fed by a thread before any loop ran keeps the message for the loop to come."""
    received = []

    class Server(quiet(cy.StatelessServer)):
        async def handle(self):
            await eventually(lambda: received)

    server = Server(collecting(received))
    details = server.get_or_create_application_instance("a", {})
    in_thread(lambda: details.put_threadsafe("early").result(20))
    server.run()
    assert received == ["early"]

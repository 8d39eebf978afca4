"""Other threads: put_threadsafe() feeds from them; in debug mode, anything else from there is refused."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading

import pytest
from conftest import passes
from serving import deaf, eventually, fast, in_time, quiet, reader


def collecting(received):
    async def application(scope, receive, send):
        while True:
            received.append(await receive())

    return application


def in_thread(function):
    """Runs it in another thread; gives what it gives, and raises what it raises."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(20)


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

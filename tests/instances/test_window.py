"""Window: how many messages instances may have that are not done, over all of them and for each key."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from support.instances import make, silent
from support.loops import passes
from support.serving import eventually


@pytest.fixture
def window(cy):
    return importlib.import_module(f"{cy.__name__}.instances.window").Window


def test_over_all_instances(cy, window, run):
    async def main():
        server, bounded = silent(cy), window(2)
        first, second = make(server, "a"), make(server, "b")
        await bounded.put(first, "busy")
        await bounded.put(second, "busy")
        assert bounded.in_flight == 2
        with pytest.raises(asyncio.QueueFull):
            bounded.put_nowait(second, "x")
        waiting = asyncio.create_task(bounded.put(second, "x"))
        await passes(5)
        assert not waiting.done()
        server.delete_application_instance("a")
        await waiting
        assert bounded.in_flight == 2
        server.delete_application_instance("b")
        await eventually(lambda: bounded.in_flight == 0)

    run(main())


def test_first_come_first_served(cy, window, run):
    async def main():
        seen = []

        async def application(scope, receive, send):
            while True:
                seen.append(await receive())
                await passes(2)

        server, bounded = silent(cy, application), window(1)
        instance = make(server)
        putting = [asyncio.create_task(bounded.put(instance, number)) for number in range(10)]
        await passes(3)
        putting[5].cancel()
        await asyncio.wait(putting)
        await eventually(lambda: bounded.in_flight == 0)
        assert seen == [0, 1, 2, 3, 4, 6, 7, 8, 9]
        server.delete_application_instance("id")

    run(main())


def test_one_that_gives_up_passes_on_its_room(cy, window, run):
    async def main():
        server, bounded = silent(cy), window(1)
        instance, other = make(server), make(server, "other")
        bounded.put_nowait(instance, "one", lambda outcome, _: outcome == "done" and first.cancel())
        first = asyncio.create_task(bounded.put(other, "busy"))
        second = asyncio.create_task(bounded.put(other, "x"))
        await second
        assert first.cancelled()
        server.delete_application_instance("other")
        server.delete_application_instance("id")

    run(main())


def test_a_slow_key_is_paused(cy, window, run):
    """The others go on, and the source is told when it may go on with that one."""

    async def main():
        resumed, released = [], asyncio.Event()

        async def application(scope, receive, send):
            while True:
                if await receive() == "slow":
                    await released.wait()

        server, bounded = silent(cy, application), window(100, most_per_key=4, on_resume=resumed.append)
        slow, fast = make(server, "slow"), make(server, "fast")
        for _ in range(4):
            await bounded.put(slow, "slow")
        assert bounded.paused("slow")
        with pytest.raises(asyncio.QueueFull):
            await bounded.put(slow, "slow")
        for _ in range(20):
            await bounded.put(fast, "x")
            await passes(3)
        assert not bounded.paused("fast")
        assert resumed == []
        released.set()
        await eventually(lambda: bounded.in_flight == 0)
        assert resumed == ["slow"]
        assert not bounded.paused("slow")
        server.delete_application_instance("slow")
        server.delete_application_instance("fast")

    run(main())


def test_outcomes_are_passed_on(cy, window, run):
    async def main():
        told, server, bounded = [], silent(cy), window(10)
        instance = make(server)
        bounded.put_nowait(instance, "fail", lambda outcome, error: told.append((outcome, str(error))))
        await eventually(lambda: instance.ended)
        assert told == [("taken", "None"), ("failed", "on purpose")]
        server.delete_application_instance("id")

    run(main())


@pytest.mark.parametrize("arguments", [(0,), (True,), ("1",), (1, 0), (1, 1.5)])
def test_bounds(window, arguments):
    with pytest.raises((TypeError, ValueError), match="accepted is an int of at least 1"):
        window(*arguments)


def test_an_instance_that_has_ended(cy, window, run):
    """What is put into it is told at once, and takes up no room; nothing is kept of its key."""

    async def main():
        told, resumed = [], []
        server, bounded = silent(cy), window(2, most_per_key=1, on_resume=resumed.append)
        ended = make(server, "ended")
        server.delete_application_instance("ended")
        await eventually(lambda: ended.ended)
        for _ in range(3):
            await bounded.put(ended, "x", lambda outcome, _: told.append((outcome, bounded.in_flight)))
            assert not bounded.paused("ended")
        assert told == [("undelivered", 0)] * 3
        assert bounded.in_flight == 0
        assert not bounded._counts

    run(main())


def test_a_put_that_is_refused(cy, window, run):
    """It leaves the window, and the key, as they were."""

    async def main():
        bounded = window(10, most_per_key=1)

        class Full:
            scope_id = "full"

            def put_nowait(self, message):
                raise asyncio.QueueFull

        with pytest.raises(asyncio.QueueFull):
            bounded.put_nowait(Full(), "x")
        assert (bounded.in_flight, bounded.paused("full")) == (0, False)
        assert not bounded._counts

    run(main())

"""A bounded queue keeps the order in which `put` was called: the cases worth a sentence, each with a bad moment of
its own."""

from __future__ import annotations

import asyncio

import pytest

from support.bounded_queue import bounded, end, refused, waiting
from support.loops import passes
from support.queue_scripts import never_reads
from support.serving import eventually, quiet


def test_put_nowait_overtakes_nobody(cy, run):
    """Room that was made for a putter is no room for put_nowait; full() says the same, and is right the next moment."""

    async def main():
        instance = bounded(cy, 1)
        instance.put_nowait(0)
        await waiting(instance, 1)
        assert instance.get_nowait() == 0
        assert instance.empty() and instance.full() and refused(instance, "thief")
        await passes(1)
        assert instance.get_nowait() == 1
        assert not instance.full() and not refused(instance, 2)
        await end(instance)

    run(main())


def test_several_slots_wake_several(cy, run):
    """Messages taken in one pass wake as many putters, and whoever comes meanwhile stays behind these."""

    async def main():
        instance = bounded(cy, 3)
        for number in range(3):
            instance.put_nowait(number)
        tasks = await waiting(instance, 3, 4)
        assert [instance.get_nowait() for _ in range(3)] == [0, 1, 2]
        # One slot more is free than anybody waits for.
        assert refused(instance, "thief")
        tasks += [asyncio.create_task(instance.put(number)) for number in (5, 6)]
        await passes(2)
        assert [task.done() for task in tasks] == [True, True, True, False]
        assert [instance.get_nowait() for _ in range(3)] == [3, 4, 5]
        await passes(2)
        assert instance.get_nowait() == 6
        await end(instance)

    run(main())


def test_a_getter_waits_for_who_owns_the_slot(cy, run):
    """With the queue empty and a putter woken, whoever gets waits for that putter's message."""

    async def main():
        instance = bounded(cy, 1)
        instance.put_nowait(0)
        await waiting(instance, 1)
        assert await instance.get() == 0
        getting = asyncio.create_task(instance.get())
        late = asyncio.create_task(instance.put(2))
        assert await getting == 1
        assert await instance.get() == 2
        await late
        await end(instance)

    run(main())


def test_an_owner_that_is_cancelled_passes_its_slot_on(cy, run):
    """A whole row of owners, cancelled in the pass in which they were woken: the next ones put, in order."""

    async def main():
        instance = bounded(cy, 2)
        instance.put_nowait(0)
        instance.put_nowait(1)
        tasks = await waiting(instance, *range(2, 8))
        instance.get_nowait()
        instance.get_nowait()
        for task in tasks[:3]:
            task.cancel()
        assert refused(instance, "thief")
        await passes(3)
        assert [task.cancelled() for task in tasks] == [True] * 3 + [False] * 3
        assert [instance.get_nowait() for _ in range(2)] == [5, 6]
        await passes(2)
        assert instance.get_nowait() == 7
        assert not instance.full()
        await end(instance)

    run(main())


def test_an_owner_that_times_out(cy, run):
    """wait_for() around put(): a slot is neither lost nor used twice, whenever the time is over."""

    async def main():
        instance = bounded(cy, 1)
        for number in range(50):
            instance.put_nowait("first")
            timed = asyncio.create_task(asyncio.wait_for(instance.put("timed"), 0.0002 * (number % 5)))
            await passes(2)
            after = asyncio.create_task(instance.put("after"))
            await asyncio.sleep(0.0001 * (number % 7))
            got = [instance.get_nowait()]
            while not (timed.done() and after.done()) or not instance.empty():
                await asyncio.sleep(0)
                if not instance.empty():
                    got.append(instance.get_nowait())
            assert got == ["first", "after"] if timed.exception() else got == ["first", "timed", "after"]
            assert not instance.full()
        await end(instance)

    run(main())


def test_driven_by_hand_and_thrown_away(cy, run):
    """A put() that nobody goes on with, whether it waits or owns a slot, is in nobody's way."""

    async def main():
        instance = bounded(cy, 1)
        instance.put_nowait(0)
        owner, waiter = instance.put("owner"), instance.put("waiter")
        owner.send(None)
        waiter.send(None)
        last = await waiting(instance, 1)
        assert instance.get_nowait() == 0
        assert refused(instance, "thief")
        del waiter, owner
        await passes(2)
        assert last[0].done() and instance.get_nowait() == 1
        assert not instance.full()
        await end(instance)

    run(main())


def test_a_put_that_is_driven_before_its_turn(cy, run):
    """Going on with a put() whose room has not come is a RuntimeError, as with every coroutine that waits."""

    async def main():
        instance = bounded(cy, 1)
        instance.put_nowait(0)
        putting = instance.put(1)
        putting.send(None)
        with pytest.raises(RuntimeError):
            putting.send(None)
        putting.close()
        assert instance.get_nowait() == 0 and not instance.full()
        await end(instance)

    run(main())


@pytest.mark.parametrize("how", ["ends", "fails", "deleted", "evicted"])
def test_all_of_them_are_told_of_in_order(cy, run, how):
    """What was queued, what owned a slot and what still waited when the instance ended goes to the hook, in order."""

    async def main():
        gate = asyncio.Event()

        async def application(scope, receive, send):
            await gate.wait()
            if how == "fails":
                raise ZeroDivisionError
            if how != "ends":
                await asyncio.get_running_loop().create_future()

        instance = bounded(cy, 3, application)
        server = instance._server
        server.max_applications = 1
        for number in (-1, -2, 0):
            instance.put_nowait(number)
        tasks = await waiting(instance, *range(1, 6))
        gate.set()
        # Two own a slot when it ends, and three do not.
        if how in ("deleted", "evicted"):
            await passes(3)
        assert instance.get_nowait() == -1 and instance.get_nowait() == -2
        match how:
            case "deleted":
                server.delete_application_instance("id")
            case "evicted":
                server.get_or_create_application_instance("other", {})
        await asyncio.gather(*tasks)
        server.delete_application_instance("id")
        await eventually(lambda: sum(len(messages) for messages, _ in server.undelivered) == 6)
        assert [message for messages, _ in server.undelivered for message in messages] == list(range(6))
        server.delete_application_instance("other")
        await passes(5)

    run(main())


def test_begun_again_while_they_come_back(cy, run):
    """A caller's run that ends and begins again in one pass: its queue holds no more than before, in the same order."""

    async def main():
        gate = asyncio.Event()

        async def once(scope, receive, send):
            await gate.wait()

        again = bounded(cy, 1, once)
        await again
        call = asyncio.create_task(again["application"]({}, None, None))
        again.put_nowait(0)
        tasks = await waiting(again, 1, 2, 3)
        gate.set()
        await call
        gate.clear()
        call = asyncio.create_task(again["application"]({}, None, None))
        await passes(5)
        got = []
        for _ in range(4):
            assert again.qsize() <= 1
            while not again.empty():
                got.append(again.get_nowait())
            await passes(2)
        assert all(task.done() for task in tasks)
        told = [message for messages, _ in again._server.undelivered for message in messages]
        assert told + got == [0, 1, 2, 3]
        gate.set()
        await call
        await end(again)

    run(main())


def test_put_threadsafe_overtakes_nobody(cy, run):
    """Accepted in the order of the calls, and behind those who wait already, however room is made between."""

    async def main():
        instance = bounded(cy, 1)
        instance.put_nowait(0)
        tasks = await waiting(instance, 1)
        loop = asyncio.get_running_loop()
        got = []
        futures = [instance.put_threadsafe(2)]
        # In the same pass: between the two calls a slot becomes free.
        loop.call_soon(lambda: got.append(instance.get_nowait()))
        futures.append(instance.put_threadsafe(3))
        late = asyncio.create_task(instance.put(4))
        while len(got) < 5:
            await passes(1)
            if not instance.empty():
                got.append(instance.get_nowait())
        assert got == [0, 1, 2, 3, 4]
        await asyncio.gather(*tasks, late, *map(asyncio.wrap_future, futures))
        await end(instance)

    run(main())


@pytest.mark.parametrize("owns", [False, True], ids=["waits", "owns a slot"])
def test_a_putter_of_a_closed_loop(cy, run, owns):
    """Made where no loop runs, the instance outlives a loop in which somebody waited: it is in nobody's way."""
    server = quiet(cy.StatelessServer)(never_reads)
    server.max_queue_size = 1
    instance = server.get_or_create_application_instance("id", {})
    instance.put_nowait(0)
    loop = run.loop_factory()
    task = loop.create_task(instance.put("never"))
    task._log_destroy_pending = False
    loop.run_until_complete(passes(3))
    if owns:
        assert instance.get_nowait() == 0
        assert refused(instance, "thief")
    loop.close()

    async def main():
        if not owns:
            assert refused(instance, "too many")
            tasks = await waiting(instance, 1)
            assert instance.get_nowait() == 0
            await passes(2)
            assert tasks[0].done()
        else:
            assert not instance.full()
            instance.put_nowait(1)
        tasks = await waiting(instance, 2)
        assert [instance.get_nowait()] == [1]
        await passes(2)
        assert tasks[0].done() and instance.get_nowait() == 2
        assert server.get_or_create_application_instance("id", {}) is instance
        await end(instance)

    run(main())


def test_the_thread_is_checked_before_a_place_is_taken(cy, run):
    """In debug mode, putting into a full queue from another thread raises, and nobody stands in line for it."""

    async def main():
        instance = bounded(cy, 1)
        instance.put_nowait(0)

        def elsewhere():
            with pytest.raises(RuntimeError, match="put_threadsafe"):
                asyncio.run(instance.put(1))

        await asyncio.to_thread(elsewhere)
        assert instance.get_nowait() == 0
        assert not instance.full()
        await end(instance)

    run(main(), debug=True)

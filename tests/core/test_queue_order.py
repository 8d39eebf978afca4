"""A bounded queue keeps the order in which `put` was called, whoever waits, is cancelled, or comes at a bad moment."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from support.loops import passes
from support.serving import eventually, quiet


async def never_reads(scope: Any, receive: Any, send: Any) -> None:
    """An application that leaves its queue alone."""
    await asyncio.get_running_loop().create_future()


def bounded(cy: Any, maxsize: int, application: Any = never_reads) -> Any:
    """An instance with a bounded queue; `instance._server` keeps what was not delivered."""
    server = quiet(cy.StatelessServer)(application)
    server.max_queue_size = maxsize
    return server.get_or_create_application_instance("id", {})


def inversions(numbers: list[int]) -> int:
    """How many stand behind one that is larger."""
    largest = -1
    count = 0
    for number in numbers:
        count += number < largest
        largest = max(largest, number)
    return count


async def end(instance: Any) -> None:
    await instance._server.delete_application_instance("id")
    await passes(5)


async def waiting(instance: Any, *numbers: int) -> list[asyncio.Task[Any]]:
    """Tasks that wait for room, in this order."""
    tasks = [asyncio.create_task(instance.put(number)) for number in numbers]
    await passes(2)
    return tasks


def refused(instance: Any, message: Any) -> bool:
    try:
        instance.put_nowait(message)
    except asyncio.QueueFull:
        return True
    return False


# Many tasks


async def three_thousand(queue: Any, take: Callable[[], Any]) -> list[int]:
    """Tasks that put in order, some of them meeting slots that have just become free."""
    pick = random.Random(17)
    tasks: list[asyncio.Task[None]] = []
    taken: list[int] = []
    while len(taken) < 3000:
        for _ in range(pick.randrange(4)):
            if len(tasks) < 3000:
                tasks.append(asyncio.create_task(queue.put(len(tasks))))
        if pick.random() < 0.7:
            await asyncio.sleep(0)
        taken += [take() for _ in range(min(pick.randrange(4), queue.qsize()))]
    await asyncio.gather(*tasks)
    return taken


@pytest.mark.slow
@pytest.mark.parametrize("maxsize", [1, 2, 10])
def test_three_thousand_puts(cy, run, maxsize):
    """3,000 tasks that put in order: not one message overtakes another."""

    async def main():
        instance = bounded(cy, maxsize)
        taken = await three_thousand(instance, instance.get_nowait)
        assert taken == list(range(3000))
        await end(instance)

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("maxsize", [1, 2, 10])
def test_three_thousand_puts_into_the_queue_of_asyncio(run, maxsize):
    """What the rule is for: the same with asyncio.Queue, which is what the reference's instances have."""

    async def main():
        queue = asyncio.Queue(maxsize)
        assert inversions(await three_thousand(queue, queue.get_nowait)) > 100

    run(main())


@pytest.mark.slow
def test_the_reference_loses_the_order(reference, run):
    """And what it is at the reference's own interface, bounded as its users bound it."""

    class Server(reference):
        def get_or_create_application_instance(self, scope_id, scope):
            queue = super().get_or_create_application_instance(scope_id, scope)
            queue._maxsize = 2
            return queue

    async def main():
        server = Server(never_reads)
        queue = server.get_or_create_application_instance("id", {})
        assert inversions(await three_thousand(queue, queue.get_nowait)) > 100
        server.delete_application_instance("id")

    run(main())


@pytest.mark.parametrize("maxsize", [1, 3])
def test_what_an_application_receives(cy, run, maxsize):
    """The same through `receive()`: an application that is now slow, now fast gets them in order."""

    async def main():
        pick = random.Random(18)
        received = []

        async def application(scope, receive, send):
            while True:
                received.append(await receive())
                await passes(pick.randrange(3))

        instance = bounded(cy, maxsize, application)
        tasks = []
        while len(tasks) < 1000:
            tasks += [asyncio.create_task(instance.put(len(tasks) + more)) for more in range(pick.randrange(5))]
            await passes(pick.randrange(3))
        await asyncio.gather(*tasks)
        await eventually(lambda: len(received) == len(tasks))
        assert received == list(range(len(tasks)))
        await end(instance)

    run(main())


# Every schedule

#: What can happen, in the order of the letters of a schedule.
STEPS = {
    "p": "a task puts",
    "n": "put_nowait",
    "g": "get_nowait",
    "t": "the loop turns",
    "c": "the putter that has waited longest is cancelled",
    "y": "the youngest one is",
}


async def play(instance: Any, schedule: str, maxsize: int) -> None:
    """The queue is full and two wait; then the schedule; then all is taken. What was put came, once and in order."""
    numbers = itertools.count()
    tasks: list[asyncio.Task[None]] = []
    accepted: set[int] = set()
    taken: list[int] = []

    async def put() -> None:
        number = next(numbers)
        await instance.put(number)
        accepted.add(number)

    for step in "n" * maxsize + "ppt" + schedule + "t":
        match step:
            case "p":
                tasks.append(asyncio.create_task(put()))
            case "n":
                number = next(numbers)
                if not refused(instance, number):
                    accepted.add(number)
            case "g" if not instance.empty():
                taken.append(instance.get_nowait())
            case "t":
                await passes(2)
            case "c" | "y":
                undone = [task for task in tasks if not task.done()]
                if undone:
                    undone[0 if step == "c" else -1].cancel()
        assert instance.qsize() <= maxsize
    for _ in range(len(schedule) + maxsize + 4):
        while not instance.empty():
            taken.append(instance.get_nowait())
        await passes(2)
    assert all(task.done() for task in tasks)
    assert taken == sorted(accepted)
    assert not instance.full() and instance.qsize() == 0


@pytest.mark.slow
@pytest.mark.few_combinations
@pytest.mark.parametrize("maxsize", [1, 2])
def test_every_schedule(cy, run, maxsize):
    """All that can happen in five steps to a full queue on which two wait."""

    async def main():
        instance = bounded(cy, maxsize)
        await passes(3)
        for steps in itertools.product(STEPS, repeat=5):
            schedule = "".join(steps)
            try:
                await play(instance, schedule, maxsize)
            except AssertionError as error:
                raise AssertionError(f"schedule {schedule}") from error
        await end(instance)

    run(main())


# Single cases


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

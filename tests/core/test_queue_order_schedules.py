"""A bounded queue keeps the order in which `put` was called: thousands of tasks, and every schedule of five steps."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from support.bounded_queue import bounded, end, refused
from support.loops import passes
from support.queue_scripts import never_reads
from support.serving import eventually


def inversions(numbers: list[int]) -> int:
    """How many stand behind one that is larger."""
    largest = -1
    count = 0
    for number in numbers:
        count += number < largest
        largest = max(largest, number)
    return count


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

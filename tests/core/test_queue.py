"""The instance as an input queue: the same scripts are played on an ``asyncio.Queue`` and on an instance."""

from __future__ import annotations

import asyncio
import random

import pytest

from support.loops import passes
from support.queue_model import FairQueue
from support.queue_scripts import agree, drained, getter, joiner, putter

# What needs no waiting


@pytest.mark.slow
def test_fifo_and_sizes(cy, run):
    """put_nowait and get_nowait keep the order; qsize, empty and full follow; an empty queue raises QueueEmpty."""

    async def scenario(queue, log):
        for number in range(3):
            log.note(queue.put_nowait(number), queue.qsize(), queue.empty(), queue.full())
        while not queue.empty():
            log.note(queue.get_nowait(), queue.qsize(), queue.empty(), queue.full())
        with pytest.raises(asyncio.QueueEmpty):
            queue.get_nowait()

    assert agree(cy, run, scenario)[-2:] == [(2, 0, True, False), ("left", 0, True, False, 0)]


def test_maxsize(cy, run):
    """max_queue_size bounds the queue: maxsize names it, full says so, put_nowait raises QueueFull and adds nothing."""

    async def scenario(queue, log):
        queue.put_nowait("a")
        log.note(queue.full())
        queue.put_nowait("b")
        log.note(queue.full())
        with pytest.raises(asyncio.QueueFull):
            queue.put_nowait("c")
        log.note(drained(queue))

    assert agree(cy, run, scenario, 2) == [False, True, ["a", "b"], ("left", 0, True, False, 2)]


def test_any_object_is_a_message(cy, run):
    """None, exceptions, classes and tuples go through unchanged, and no message is taken for the end of something."""
    messages = [None, False, StopIteration(3), StopIteration, asyncio.CancelledError(), (1, 2), {}, asyncio.Queue]

    async def scenario(queue, log):
        for message in messages:
            queue.put_nowait(message)
        for message in messages[:4]:
            log.note((await queue.get()) is message)
        log.note(all(left is right for left, right in zip(drained(queue), messages[4:], strict=True)))
        for message in messages:
            task = asyncio.create_task(queue.get())
            await passes(2)
            queue.put_nowait(message)
            log.note((await task) is message)

    assert set(agree(cy, run, scenario)[:-1]) == {True}


def test_no_wait_where_none_is_needed(cy, run):
    """get from a queue that has something, and put into one that has room, do not suspend."""

    async def scenario(queue, log):
        for number in range(3):
            await queue.put(number)
            log.note("put")
        for _ in range(3):
            log.note(await queue.get())
        assert {entry[0] for entry in log} == {log[0][0]}

    assert agree(cy, run, scenario, 3)[:-1] == ["put", "put", "put", 0, 1, 2]


def test_get_takes_nothing_before_it_is_awaited(cy, run):
    """A get that was made but closed, or cancelled before it began, takes no message."""

    async def scenario(queue, log):
        queue.put_nowait("kept")
        get = queue.get()
        log.note(queue.qsize())
        get.close()
        task = asyncio.create_task(queue.get())
        task.cancel()
        await passes(2)
        log.note(task.cancelled(), queue.qsize(), await queue.get())

    assert agree(cy, run, scenario)[:-1] == [1, (True, 1, "kept")]


def test_get_is_taken_by_whatever_takes_a_coroutine(cy, run):
    """create_task, ensure_future, gather, wait_for, TaskGroup and shield take what get and put return."""

    async def scenario(queue, log):
        for number in range(5):
            queue.put_nowait(number)
        log.note(await asyncio.create_task(queue.get()))
        log.note(await asyncio.ensure_future(queue.get()))
        log.note(await asyncio.wait_for(queue.get(), 5))
        log.note(await asyncio.shield(queue.get()))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(queue.get())
        log.note(task.result())
        log.note(await asyncio.gather(queue.get(), queue.put("late"), queue.get(), queue.put("later")))
        await asyncio.create_task(queue.put("latest"))
        await asyncio.wait_for(queue.put("last"), 5)
        get, put = queue.get(), queue.put(0)
        log.note(asyncio.iscoroutine(get), asyncio.iscoroutine(put))
        get.close()
        put.close()
        log.note(drained(queue))

    events = agree(cy, run, scenario)
    # The second get comes while the first one, woken by "late", has not taken yet.
    assert events[:6] == [0, 1, 2, 3, 4, ["later", None, "late", None]]
    assert events[6:8] == [(True, True), ["latest", "last"]]


# join and task_done


def test_join_waits_for_every_task_done(cy, run):
    """join returns when each message ever put has been marked done, to all who wait; taking alone is not enough."""

    async def scenario(queue, log):
        await queue.join()
        log.note("nothing to wait for")
        queue.put_nowait(1)
        queue.put_nowait(2)
        for name in "ab":
            log.start(joiner(queue, log, name))
        await passes(2)
        log.note(drained(queue))
        await passes(2)
        log.note(queue.task_done())
        await passes(2)
        log.note(queue.task_done())
        await passes(2)
        await queue.join()
        log.note("again")

    events = agree(cy, run, scenario)
    assert events[1:] == [[1, 2], None, None, ("a", "joined"), ("b", "joined"), "again", ("left", 0, True, False, 0)]


def test_task_done_once_too_often(cy, run):
    """task_done without a message to match raises ValueError, on a fresh queue and after the last one."""

    async def scenario(queue, log):
        with pytest.raises(ValueError):
            queue.task_done()
        queue.put_nowait(1)
        queue.task_done()
        with pytest.raises(ValueError):
            queue.task_done()
        log.note(await asyncio.wait_for(queue.join(), 5), drained(queue))

    assert agree(cy, run, scenario)[0] == (None, [1])


def test_a_cancelled_joiner_disturbs_nobody(cy, run):
    """Of two that join, the one that is cancelled takes nothing from the other."""

    async def scenario(queue, log):
        queue.put_nowait(queue.qsize())
        tasks = [log.start(joiner(queue, log, name)) for name in "ab"]
        await passes(2)
        tasks[0].cancel()
        await passes(2)
        drained(queue)
        queue.task_done()
        await passes(2)

    assert agree(cy, run, scenario)[:-1] == [("a", "cancelled"), ("b", "joined")]


# At random


@pytest.mark.slow
@pytest.mark.parametrize("maxsize", [0, 1, 3])
def test_random_scripts(cy, run, maxsize):
    """Random scripts of puts, gets, cancellations, joins and passes go the same way, to the very pass."""

    def script(seed):
        async def scenario(queue, log):
            pick = random.Random(seed)
            for step in range(150):
                match pick.randrange(9):
                    case 0 | 1:
                        log.start(getter(queue, log, step))
                    case 2 | 3 if maxsize:
                        log.start(putter(queue, log, step, step))
                    case 2 | 3 | 4:
                        try:
                            queue.put_nowait(step)
                        except asyncio.QueueFull:
                            log.note(step, "full")
                    case 5:
                        try:
                            log.note(step, queue.get_nowait())
                        except asyncio.QueueEmpty:
                            log.note(step, "empty")
                    case 6:
                        waiting = [task for task in log.tasks if not task.done()]
                        if waiting:
                            pick.choice(waiting).cancel()
                    case 7:
                        try:
                            queue.task_done()
                        except ValueError:
                            log.note(step, "too often")
                        if pick.random() < 0.3:
                            log.start(joiner(queue, log, step))
                    case 8:
                        await passes(pick.randrange(1, 3))
                log.note(step, queue.qsize(), queue.full())
            for task in log.tasks:
                task.cancel()

        return scenario

    for seed in range(12):
        agree(cy, run, script(seed), maxsize, FairQueue)

"""Getters and putters that wait: the same scripts on an instance and on ``asyncio.Queue``, or on one in which nobody
is overtaken, where a bounded queue is better than asyncio's."""

from __future__ import annotations

import asyncio

import pytest

from support.instances import SCOPE
from support.loops import passes
from support.queue_model import FairQueue
from support.queue_scripts import Log, agree, drained, getter, putter, server_of

# Waiting getters


def test_getters_are_served_in_order(cy, run):
    """Getters that wait are served first come, first served, in the pass after the put."""

    async def scenario(queue, log):
        for name in "abc":
            log.start(getter(queue, log, name))
        await passes(2)
        for number in range(3):
            queue.put_nowait(number)
            log.note("put", queue.qsize())
        await passes(2)

    assert agree(cy, run, scenario)[3:6] == [("a", 0), ("b", 1), ("c", 2)]


def test_a_message_waits_in_the_queue_until_its_getter_runs(cy, run):
    """A getter that was woken has not taken yet: who comes first takes, and the woken one waits again, at the end."""

    async def scenario(queue, log):
        for name in "ab":
            log.start(getter(queue, log, name))
        await passes(2)
        queue.put_nowait("first")
        log.note("thief", queue.get_nowait())
        await passes(2)
        queue.put_nowait("second")
        queue.put_nowait("third")
        await passes(2)

    assert agree(cy, run, scenario)[:3] == [("thief", "first"), ("b", "second"), ("a", "third")]


def test_a_cancelled_getter_is_passed_over(cy, run):
    """A getter that was cancelled while it waited takes nothing; the next one is served."""

    async def scenario(queue, log):
        tasks = [log.start(getter(queue, log, name)) for name in "abc"]
        await passes(2)
        tasks[0].cancel()
        queue.put_nowait("message")
        await passes(2)
        tasks[1].cancel()
        tasks[2].cancel()
        await passes(2)

    assert agree(cy, run, scenario)[:2] == [("a", "cancelled"), ("b", "message")]


def test_a_getter_cancelled_after_its_wake_up_loses_no_message(cy, run):
    """Woken and cancelled in one pass, a getter leaves the message, and wakes the next one in its stead."""

    async def scenario(queue, log):
        tasks = [log.start(getter(queue, log, name)) for name in "ab"]
        await passes(2)
        queue.put_nowait("message")
        tasks[0].cancel()
        await passes(3)
        tasks[1].cancel()

    assert agree(cy, run, scenario)[:2] == [("a", "cancelled"), ("b", "message")]


def test_a_lone_getter_cancelled_after_its_wake_up_leaves_the_message(cy, run):
    """With nobody else waiting the message of a cancelled getter stays where it is, for the next get."""

    async def scenario(queue, log):
        task = log.start(getter(queue, log, "a"))
        await passes(2)
        queue.put_nowait(1)
        queue.put_nowait(2)
        task.cancel()
        await passes(2)
        log.note(drained(queue))

    assert agree(cy, run, scenario)[:2] == [("a", "cancelled"), [1, 2]]


def test_timeouts_lose_no_message(cy, run):
    """wait_for around get: when the time is up nothing was taken, even if a message came in the same pass."""

    async def scenario(queue, log):
        for put_late in (False, True):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(queue.get(), 0.001)
            if put_late:
                queue.put_nowait("late")
        log.note(await asyncio.wait_for(queue.get(), 5))
        queue.put_nowait("there")
        try:
            async with asyncio.timeout(0):
                log.note(await queue.get())
        except TimeoutError:
            log.note("time is up", drained(queue))

    async def main():
        instance = server_of(cy).get_or_create_application_instance("id", SCOPE)
        logs = []
        for queue in (asyncio.Queue(), instance):
            logs.append(log := Log())
            await scenario(queue, log)
            log.ticker.cancel()
        assert logs[0].events() == logs[1].events() == ["late", "there"]

    run(main())


# Waiting putters


def test_putters_are_served_in_order(cy, run):
    """Putters that wait for room are served first come, first served, one for each message taken."""

    async def scenario(queue, log):
        queue.put_nowait(0)
        for number in (1, 2, 3):
            log.start(putter(queue, log, f"p{number}", number))
        for _ in range(4):
            await passes(2)
            log.note(queue.get_nowait())

    assert agree(cy, run, scenario, 1)[:-1] == [0, ("p1", "done"), 1, ("p2", "done"), 2, ("p3", "done"), 3]


async def robbery(queue, log):
    """Room is made for who waits, and somebody else tries to put before it can."""
    queue.put_nowait("old")
    for number in (1, 2):
        log.start(putter(queue, log, f"p{number}", number))
    await passes(2)
    log.note(queue.get_nowait())
    try:
        queue.put_nowait("thief")
    except asyncio.QueueFull:
        log.note("full")
    log.start(putter(queue, log, "p3", 3))
    for _ in range(3):
        await passes(2)
        log.note(queue.get_nowait())


def test_nobody_robs_a_putter_of_its_room(cy, run):
    """Room belongs to who was woken for it: whoever comes later waits, or is told that the queue is full."""
    events = agree(cy, run, robbery, 1, FairQueue)
    assert events[:-1] == ["old", "full", ("p1", "done"), 1, ("p2", "done"), 2, ("p3", "done"), 3]


def test_asyncio_lets_them_be_robbed(run):
    """What the rule above is for: in asyncio's queue the robbed one waits again, behind those that came later."""

    async def main():
        log = Log()
        await robbery(asyncio.Queue(1), log)
        log.ticker.cancel()
        for task in log.tasks:
            task.cancel()
        assert log.events() == ["old", "thief", ("p2", "done"), 2, ("p1", "done"), 1]

    run(main())


def test_a_cancelled_putter_puts_nothing(cy, run):
    """A putter that was cancelled while it waited adds nothing; the next one gets the room."""

    async def scenario(queue, log):
        queue.put_nowait(0)
        tasks = [log.start(putter(queue, log, f"p{number}", number)) for number in (1, 2)]
        await passes(2)
        tasks[0].cancel()
        log.note(queue.get_nowait())
        await passes(3)
        log.note(drained(queue))

    assert agree(cy, run, scenario, 1)[:-1] == [0, ("p1", "cancelled"), ("p2", "done"), [2]]


def test_a_putter_cancelled_after_its_wake_up_passes_the_room_on(cy, run):
    """Woken and cancelled in one pass, a putter wakes the next one, so that the room is not lost."""

    async def scenario(queue, log):
        queue.put_nowait(0)
        tasks = [log.start(putter(queue, log, f"p{number}", number)) for number in (1, 2)]
        await passes(2)
        log.note(queue.get_nowait())
        tasks[0].cancel()
        await passes(3)
        log.note(drained(queue))

    assert agree(cy, run, scenario, 1)[:-1] == [0, ("p1", "cancelled"), ("p2", "done"), [2]]

"""The instance as an input queue: the same scripts are played on an ``asyncio.Queue`` and on an instance.

Where a bounded queue is better than asyncio's, on one in which nobody is overtaken.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support.loops import passes
from support.queue_model import FairQueue

SCOPE = {"type": "test"}


async def never_reads(scope: Any, receive: Any, send: Any) -> None:
    """An application that leaves its queue alone."""
    await asyncio.get_running_loop().create_future()


def server_of(cy: Any, application: Any = never_reads, **attributes: Any) -> Any:
    return type("Server", (cy.StatelessServer,), attributes)(application)


class Log(list):
    """What happened, each entry with the loop pass in which it did."""

    def __init__(self) -> None:
        super().__init__()
        self.tick = 0
        self.tasks: list[asyncio.Task[Any]] = []
        self.ticker = asyncio.get_running_loop().call_soon(self.turn)

    def turn(self) -> None:
        self.tick += 1
        self.ticker = asyncio.get_running_loop().call_soon(self.turn)

    def note(self, *what: Any) -> None:
        self.append((self.tick, *what))

    def start(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self.tasks.append(task)
        return task

    def events(self) -> list[Any]:
        """Without the passes; what has one part only is given bare."""
        return [entry[1] if len(entry) == 2 else entry[1:] for entry in self]


async def getter(queue: Any, log: Log, name: Any) -> None:
    try:
        log.note(name, await queue.get())
    except asyncio.CancelledError:
        log.note(name, "cancelled")


async def putter(queue: Any, log: Log, name: Any, message: Any) -> None:
    try:
        await queue.put(message)
        log.note(name, "done")
    except asyncio.CancelledError:
        log.note(name, "cancelled")


async def joiner(queue: Any, log: Log, name: Any) -> None:
    try:
        await queue.join()
        log.note(name, "joined")
    except asyncio.CancelledError:
        log.note(name, "cancelled")


def drained(queue: Any) -> list[Any]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


Scenario = Callable[[Any, Log], Awaitable[None]]


async def breathe(cy: Any) -> None:
    """Puts until a put() has let the loop turn, which it does now and then: the next ones do not."""
    queue = server_of(cy).get_or_create_application_instance("breathes", SCOPE)
    for _ in range(200):
        turned: list[bool] = []
        turn = asyncio.get_running_loop().call_soon(turned.append, True)
        await queue.put(None)
        turn.cancel()
        queue.get_nowait()
        if turned:
            return
    raise AssertionError("no put() has let the loop turn")


def agree(cy: Any, run: Any, scenario: Scenario, maxsize: int = 0, model: type = asyncio.Queue) -> list[Any]:
    """Plays the scenario on both queues, passes counted; gives the events for a look at what they are."""

    async def play(queue: Any) -> Log:
        log = Log()
        try:
            await scenario(queue, log)
            await passes(4)
        finally:
            log.ticker.cancel()
        log.note("left", queue.qsize(), queue.empty(), queue.full(), queue.maxsize)
        return log

    async def main() -> list[Any]:
        server = server_of(cy, max_queue_size=maxsize)
        instance = server.get_or_create_application_instance("id", SCOPE)
        await breathe(cy)
        await passes(3)
        expected = await play(model(maxsize))
        got = await play(instance)
        assert got == expected
        return expected.events()

    return run(main())


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


# Where the instance goes further than a queue


def test_put_lets_the_loop_breathe(cy, run):
    """A feeder that only awaits put on an unbounded queue lets the loop turn before each 64th message or sooner."""

    async def main():
        first = []

        async def application(scope, receive, send):
            while True:
                first.append(await receive())

        instance = server_of(cy, application).get_or_create_application_instance("id", SCOPE)
        log = Log()
        waits, since = [], 0
        for number in range(1000):
            before = log.tick
            await instance.put(number)
            since += 1
            if log.tick != before:
                waits.append(since)
                since = 0
        assert len(waits) >= 1000 // 64 and max(waits) <= 64
        assert len(first) >= 800
        await passes(4)
        assert first == list(range(1000))
        log.ticker.cancel()

    run(main())


def test_cancelled_put_without_a_bound(impl, run):
    """A put that need not wait for a slot accepts its message, although it is cancelled while the loop turns."""

    async def main():
        instance = server_of(impl).get_or_create_application_instance("id", SCOPE)
        for number in range(300):
            task = asyncio.create_task(instance.put(number))
            await passes(1)
            task.cancel()
            await asyncio.wait([task])
        assert drained(instance) == list(range(300))

    run(main())


def test_cancelled_put_with_a_bound(cy, run):
    """A put that waits for a slot when somebody cancels it accepts nothing, like that of asyncio.Queue."""

    async def main():
        instance = server_of(cy, max_queue_size=1).get_or_create_application_instance("id", SCOPE)
        await instance.put(0)
        task = asyncio.create_task(instance.put(1))
        await passes(2)
        task.cancel("enough")
        await asyncio.wait([task])
        assert task.cancelled()
        assert drained(instance) == [0]

    run(main())


@pytest.mark.parametrize("maxsize", [0, 500])
def test_putters_that_need_not_wait_keep_their_order(cy, run, maxsize):
    """However often put lets the loop breathe, messages of many tasks come in the order in which they were put."""

    async def main():
        instance = server_of(cy, max_queue_size=maxsize).get_or_create_application_instance("id", SCOPE)
        await asyncio.gather(*(instance.put(number) for number in range(200)))
        assert drained(instance) == list(range(200))

    run(main())


def test_put_in_the_reference_starves_the_loop(reference, run):
    """What the rule above is for: the reference's queue never yields to a feeder that never waits."""

    async def main():
        queue = reference(never_reads).get_or_create_application_instance("id", SCOPE)
        log = Log()
        for number in range(1000):
            await queue.put(number)
        assert log.tick == 0
        log.ticker.cancel()

    run(main())


@pytest.mark.parametrize("end", ["returns", "fails", "deleted", "evicted", "cancelled"])
def test_a_waiting_putter_is_woken_when_the_instance_ends(cy, run, end):
    """Whichever way the instance ends, putters waiting on its full queue come back; their messages are not lost."""

    async def main():
        gate = asyncio.Event()
        undelivered = []

        async def application(scope, receive, send):
            await gate.wait()
            if end == "fails":
                raise ValueError("on purpose")

        class Server(cy.StatelessServer):
            max_queue_size = 1

            def application_undelivered(self, messages, details):
                undelivered.extend(messages)

            def application_exception(self, exception, details):
                pass

        server = Server(application, max_applications=1)
        instance = server.get_or_create_application_instance("id", SCOPE)
        instance.put_nowait(0)
        tasks = [asyncio.create_task(instance.put(number)) for number in (1, 2)]
        await passes(3)
        assert not any(task.done() for task in tasks)
        match end:
            case "returns" | "fails":
                gate.set()
            case "deleted":
                server.delete_application_instance("id")
            case "evicted":
                server.get_or_create_application_instance("other", SCOPE)
            case "cancelled":
                instance["future"].cancel()
        done, _ = await asyncio.wait(tasks, timeout=5)
        assert done == set(tasks)
        assert [task.exception() for task in tasks] == [None, None]
        await server.delete_application_instance("id")
        await passes(3)
        assert sorted(undelivered) == [0, 1, 2]

    run(main())


# From 3.12 on a coroutine warns of the forms with a type.
@pytest.mark.filterwarnings("ignore:the .type, exc, tb. signature of throw:DeprecationWarning")
@pytest.mark.parametrize("form", [(ValueError("on purpose"),), (ValueError,), (ValueError, ValueError("on purpose"))])
def test_thrown_into_a_get_that_waits(cy, run, form):
    """Whatever form the exception comes in, the get is over, and the next message is somebody else's."""

    async def main():
        queue = server_of(cy).get_or_create_application_instance("id", SCOPE)
        getting = queue.get()
        assert asyncio.isfuture(getting.send(None)) and queue.idle
        with pytest.raises(ValueError) as caught:
            getting.throw(*form)
        assert caught.value in form or form == (ValueError,)
        assert not queue.idle
        queue.put_nowait("message")
        assert await queue.get() == "message"

    run(main())


@pytest.mark.filterwarnings("ignore:the .type, exc, tb. signature of throw:DeprecationWarning")
@pytest.mark.parametrize("wrong", [(), ("text",), (1, 2, 3, 4)])
def test_what_cannot_be_thrown(cy, run, wrong):
    async def main():
        getting = server_of(cy).get_or_create_application_instance("id", SCOPE).get()
        getting.send(None)
        with pytest.raises(TypeError):
            getting.throw(*wrong)
        getting.close()

    run(main())

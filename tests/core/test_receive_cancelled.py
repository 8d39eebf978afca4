"""Cancellation of `receive`, and timeouts."""

from __future__ import annotations

import asyncio
import random

import pytest

from support.loops import passes
from support.receiving import Given, end, make

# Cancellation


CANCELLATIONS = ["cancelled", "put, cancelled", "cancelled, put", "cancelled, cancelled", "put, cancelled, cancelled"]


@pytest.mark.parametrize("what", CANCELLATIONS)
@pytest.mark.parametrize("who", ["application", "child", "child alone"])
def test_a_cancelled_receive_takes_nothing(impl, run, who, what):
    """Cancelled while it waits, in whatever order with a put in the same pass, receive leaves the message for later."""

    async def main():
        instance, given = await Given.by(impl)
        seen = []

        async def receiving():
            for _ in range(2):
                try:
                    seen.append(await given.receive())
                except asyncio.CancelledError:
                    seen.append("cancelled")

        task = asyncio.create_task(given.receive() if who == "child alone" else receiving())
        if who == "application":
            # Two wait: the other one was there first, and is gone when the message comes.
            other = asyncio.create_task(given.receive())
            await passes(2)
            other.cancel()
        await passes(2)
        for step in what.split(", "):
            if step == "put":
                instance.put_nowait("message")
            else:
                task.cancel()
        await passes(3)
        if "put" not in what:
            instance.put_nowait("message")
        if who == "child alone":
            assert task.cancelled()
            seen += ["cancelled", await given.receive()]
        await passes(3)
        assert seen == ["cancelled", "message"] and instance.empty()

    run(main())


@pytest.mark.parametrize("message", ["why", None, ["a", "list"], ("a", "tuple"), 0], ids=repr)
@pytest.mark.parametrize("who", ["application", "child", "second child"])
def test_the_message_of_a_cancellation(impl, run, who, message):
    """What task.cancel(msg) was given is in the CancelledError that receive raises, and in no later one."""

    async def main():
        seen = []

        async def receiving(receive):
            for _ in range(3):
                try:
                    seen.append(await receive())
                except asyncio.CancelledError as error:
                    seen.append(error.args)

        async def application(scope, receive, send):
            if who == "application":
                await receiving(receive)
            else:
                children = [asyncio.create_task(receive()) for _ in range(who == "second child")]
                children.append(asyncio.create_task(receiving(receive)))
                tasks[:] = children
                await asyncio.wait(children)

        server = impl.StatelessServer(application)
        instance = make(server)
        tasks = [server.application_instances["id"]["future"]]
        await passes(4)
        *others, task = tasks
        task.cancel(msg=message)
        await passes(2)
        task.cancel()
        await passes(2)
        for _ in tasks:
            instance.put_nowait("message")
        await passes(3)
        assert seen == [() if message is None else (message,), (), "message"]
        assert [other.result() for other in others] == ["message"] * len(others)

    run(main())


def test_an_application_that_swallows_cancellations_goes_on_receiving(impl, run):
    """A hundred times cancelled in receive, an application that goes on has every message, in order."""

    async def main():
        received, cancelled = [], 0

        async def application(scope, receive, send):
            nonlocal cancelled
            while len(received) < 100:
                try:
                    received.append(await receive())
                except asyncio.CancelledError:
                    cancelled += 1
                    if cancelled > 100:
                        raise

        server = impl.StatelessServer(application)
        instance = make(server)
        future = server.application_instances["id"]["future"]
        await passes(3)
        for number in range(100):
            future.cancel()
            if number % 3 == 0:
                await passes(number % 2)
            instance.put_nowait(number)
            await passes(3)
        assert received == list(range(100)) and cancelled == 100
        assert future.done() and not future.cancelled()

    run(main())


@pytest.mark.parametrize("where", ["application", "child"])
def test_what_receive_raises_may_be_handled_by_receiving(impl, run, where):
    """Who is cancelled in receive may call it again at once, in the handler of the CancelledError."""

    async def main():
        received = []

        async def receiving(receive):
            try:
                received.append(await receive())
            except asyncio.CancelledError:
                received.append(await receive())
                raise

        async def application(scope, receive, send):
            if where == "application":
                await receiving(receive)
            else:
                tasks[:] = [asyncio.create_task(receiving(receive))]
                await asyncio.wait(tasks)

        server = impl.StatelessServer(application)
        instance = make(server)
        tasks = [server.application_instances["id"]["future"]]
        await passes(4)
        (task,) = tasks
        task.cancel("why")
        await passes(3)
        assert not task.done()
        instance.put_nowait("last")
        await passes(3)
        assert received == ["last"] and task.cancelled()

    run(main())


# Timeouts


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 0.001])
def test_wait_for_many_times_in_a_row(impl, run, seconds):
    """However often wait_for gives receive up, no message is lost, and none comes twice."""

    async def main():
        received, timeouts = [], 0

        async def application(scope, receive, send):
            nonlocal timeouts
            while len(received) < 100:
                try:
                    received.append(await asyncio.wait_for(receive(), seconds))
                except TimeoutError:
                    timeouts += 1
                    if seconds == 0:
                        # With 0 wait_for does not even begin to wait.
                        received.append(await receive())

        pick = random.Random(2)
        server = impl.StatelessServer(application)
        instance = make(server)
        for number in range(100):
            await (asyncio.sleep(0.01) if seconds and number % 5 == 0 else passes(pick.randrange(3)))
            instance.put_nowait(number)
        await asyncio.wait([server.application_instances["id"]["future"]])
        assert received == list(range(100)) and timeouts >= 10

    run(main())


@pytest.mark.parametrize("first", ["put", "time"])
@pytest.mark.parametrize("others", [0, 1])
def test_time_is_up_in_the_pass_of_the_message(impl, run, first, others):
    """A message that comes in the pass in which a timeout strikes is received by somebody, or stays."""

    async def main():
        instance, given = await Given.by(impl)

        async def waiting():
            try:
                async with asyncio.timeout(None) as limit:
                    limits.append(limit)
                    return await given.receive()
            except TimeoutError:
                return "time is up"

        limits: list[asyncio.Timeout] = []
        for number in range(20):
            task = asyncio.create_task(waiting())
            await passes(2)
            waiters = [asyncio.create_task(given.receive()) for _ in range(others)]
            await passes(2)
            actions = [lambda: instance.put_nowait(number), lambda: limits[-1].reschedule(0.0)]  # noqa: B023
            for action in actions if first == "put" else reversed(actions):
                action()
            await passes(5)
            got = [task.result(), *(waiter.result() for waiter in waiters if waiter.done())]
            if number not in got:
                got.append(instance.get_nowait())
            assert sorted(map(str, got)) == sorted([str(number), "time is up"] if len(got) == 2 else [str(number)])
            assert instance.empty()
            await end(waiters)

    run(main())


def test_a_shielded_receive_keeps_its_turn(impl, run):
    """A receive that goes on behind a shield has the next message; who calls receive after it, the one after."""

    async def main():
        instance, given = await Given.by(impl)
        behind = asyncio.ensure_future(given.receive())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(behind), 0.001)
        later = asyncio.create_task(given.receive())
        await passes(2)
        instance.put_nowait(1)
        instance.put_nowait(2)
        assert [await later, await behind] == [2, 1]

    run(main())

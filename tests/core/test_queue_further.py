"""Where the instance goes further than a queue: the loop turns, ends wake who waits, awaitables are driven by hand."""

from __future__ import annotations

import asyncio

import pytest

from support.instances import SCOPE
from support.loops import passes
from support.queue_scripts import Log, drained, never_reads, server_of


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

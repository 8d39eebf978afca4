"""`receive` as an application sees it: waiting, order, several that wait, and the end."""

from __future__ import annotations

import asyncio
import contextvars
import io
import itertools
import random
from types import SimpleNamespace
from typing import Any

import pytest

from support.loops import passes
from support.receiving import MESSAGES, SCOPE, Given, end, make, resolved
from support.serving import in_time, quiet

# Waiting


@pytest.mark.slow
def test_a_thousand_waits(impl, run):
    """Every message comes once and in order, whether it was waited for, came in a burst, or a few passes later."""

    async def main():
        received = []

        async def application(scope, receive, send):
            while True:
                received.append(await receive())

        pick, numbers = random.Random(1), itertools.count()
        instance = make(impl.StatelessServer(application))
        for _ in range(1000):
            for _ in range(pick.choice((0, 1, 1, 1, 2, 3, 70))):
                instance.put_nowait(next(numbers))
            await passes(pick.choice((0, 1, 1, 2)))
        await passes(2)
        assert received == list(range(next(numbers)))

    run(main())


def test_a_message_is_there_one_pass_after_it_was_put(impl, run):
    """Whoever waits in receive has the message within one pass of the loop, the first time and every later one."""

    async def main():
        received = []

        async def application(scope, receive, send):
            while True:
                received.append(await receive())

        instance = make(impl.StatelessServer(application))
        await passes(3)
        for number in range(50):
            instance.put_nowait(number)
            assert len(received) == number
            await passes(1)
            assert received == list(range(number + 1))

    run(main())


@pytest.mark.parametrize("waits", [False, True])
def test_any_object_is_a_message(impl, run, waits):
    """None, tuples, exceptions and classes come as they are, waited for or not, awaited or as a task's result."""

    async def main():
        instance, given = await Given.by(impl)
        for message in MESSAGES:
            for way in (resolved(given.receive()), given.receive()):
                if not waits:
                    instance.put_nowait(message)
                task = asyncio.create_task(way)
                await passes(2)
                assert task.done() is not waits
                if waits:
                    instance.put_nowait(message)
                assert (await task) is message

    run(main())


def test_it_wakes_up_in_its_own_context(impl, run):
    """Who waits goes on with its own context variables, not with those of who put the message."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")

    async def main():
        seen = []

        async def child(receive):
            variable.set("the child's")
            await receive()
            seen.append(variable.get())

        async def application(scope, receive, send):
            variable.set("the application's")
            for _ in range(2):
                await receive()
                seen.append(variable.get())
            await asyncio.gather(child(receive), child(receive))

        instance = make(impl.StatelessServer(application))
        for _ in range(4):
            await passes(3)
            variable.set("the feeder's")
            instance.put_nowait("message")
        await passes(3)
        assert seen == ["the application's"] * 2 + ["the child's"] * 2

    run(main())


def test_fed_while_its_loop_stands_still(impl, run):
    """A message put between two runs of the loop wakes who waits when the loop runs again."""
    received = []

    async def application(scope, receive, send):
        while True:
            received.append(await receive())

    async def begin():
        instance = make(impl.StatelessServer(application))
        await passes(3)
        return instance

    async def finish(instance):
        await passes(3)
        await end(asyncio.all_tasks() - {asyncio.current_task()})

    loop = run.loop_factory()
    loop.set_exception_handler(lambda loop, context: run.complaints.append(context))
    try:
        instance = loop.run_until_complete(begin())
        for number in range(3):
            instance.put_nowait(number)
            loop.run_until_complete(passes(2))
            assert received == list(range(number + 1))
        loop.run_until_complete(finish(instance))
    finally:
        loop.close()


def test_tasks_that_wait_can_be_shown(impl, run):
    """asyncio's own means of looking at tasks take those that wait in receive, the instance's and a child's."""

    async def main():
        async def application(scope, receive, send):
            children.append(asyncio.create_task(receive()))
            await receive()

        children: list[asyncio.Task[Any]] = []
        make(impl.StatelessServer(application))
        await passes(4)
        assert len(children) == 1
        for task in asyncio.all_tasks():
            assert "pending" in repr(task)
            task.get_stack()
            task.print_stack(file=io.StringIO())
        await end(children)

    run(main())


# Several at once


def test_several_are_served_in_order(impl, run):
    """Of several that wait in receive, each gets one message, the first one the first."""

    async def main():
        instance, given = await Given.by(impl)
        for count in (2, 5, 1, 3):
            tasks = [asyncio.create_task(given.receive()) for _ in range(count)]
            await passes(2)
            for number in range(count):
                instance.put_nowait(number)
            assert await asyncio.gather(*tasks) == list(range(count))
        gathered = asyncio.gather(*(given.receive() for _ in range(5)))
        await passes(2)
        for number in range(5):
            instance.put_nowait(number)
        assert await gathered == list(range(5))

    run(main())


@pytest.mark.parametrize("when", ["before", "after", "after, a pass later"])
@pytest.mark.parametrize("gone", [(0,), (1,), (0, 1), (0, 2), (4,), (0, 1, 2, 3)], ids=repr)
def test_some_of_several_are_cancelled(impl, run, gone, when):
    """Those that were cancelled take nothing, woken already or not: the others are served in order, the rest stays."""

    async def main():
        instance, given = await Given.by(impl)
        tasks = [asyncio.create_task(given.receive()) for _ in range(5)]
        await passes(2)
        if when == "before":
            for index in gone:
                tasks[index].cancel()
        for number in range(5):
            instance.put_nowait(number)
        if when == "after":
            for index in gone:
                tasks[index].cancel()
        await passes(4)
        if when == "after, a pass later":
            assert not any(tasks[index].cancel() for index in gone)
            gone_for_good = ()
        else:
            gone_for_good = gone
        left = [index for index in range(5) if index not in gone_for_good]
        assert [task.cancelled() for task in tasks] == [index in gone_for_good for index in range(5)]
        assert [tasks[index].result() for index in left] == list(range(len(left)))
        assert [instance.get_nowait() for _ in range(instance.qsize())] == list(range(len(left), 5))

    run(main())


def test_a_child_and_its_application_receive(impl, run):
    """A child that waits in receive and the application that calls it too take turns, as they began to wait."""

    async def main():
        seen = []

        async def receiving(name, receive):
            while True:
                seen.append((name, await receive()))

        async def application(scope, receive, send):
            child = asyncio.create_task(receiving("child", receive))
            await passes(1)
            try:
                await receiving("application", receive)
            finally:
                child.cancel()

        server = impl.StatelessServer(application)
        instance = make(server)
        await passes(5)
        for number in range(6):
            instance.put_nowait(number)
            await passes(2)
        names = ["child", "application"] * 3
        assert seen == list(zip(names, range(6), strict=True))
        server.application_instances["id"]["future"].cancel()
        await passes(3)

    run(main())


def test_a_robbed_receive_waits_again(impl, run):
    """Woken for a message that somebody else took, receive waits again, behind those that wait already."""

    async def main():
        instance, given = await Given.by(impl)
        for others in (0, 1, 2):
            tasks = [asyncio.create_task(given.receive()) for _ in range(1 + others)]
            await passes(2)
            instance.put_nowait("stolen")
            assert instance.get_nowait() == "stolen"
            await passes(2)
            for number in range(1 + others):
                instance.put_nowait(number)
            assert await asyncio.gather(*tasks) == [others, *range(others)]

    run(main())


def test_getters_of_the_queue_wait_in_the_same_line(impl, run):
    """Whoever waits in the queue's get, and whoever in receive, is served in the order in which they came."""

    async def main():
        instance, given = await Given.by(impl)
        for ways in itertools.product((given.receive, instance.get), repeat=3):
            tasks = [asyncio.create_task(way()) for way in ways]
            await passes(2)
            for number in range(3):
                instance.put_nowait(number)
            assert await asyncio.gather(*tasks) == [0, 1, 2]

    run(main())


# After the end


def test_a_child_that_outlives_its_application_is_cancelled(cy, run):
    """Whoever waits in receive when the application ends is let go: nothing will come for it, not what is put for a
    namesake of its application."""

    async def main():
        seen, children = [], []

        async def waiting(receive):
            try:
                seen.append(await receive())
            except asyncio.CancelledError as error:
                seen.append(error.args)
                raise

        async def application(scope, receive, send):
            if not children:
                children.append(asyncio.create_task(waiting(receive)))
                await passes(2)
                children.append(asyncio.create_task(waiting(receive)))
                await passes(2)
            else:
                seen.append(("new", await receive()))

        server = quiet(cy.StatelessServer)(application)
        old = make(server)
        await passes(8)
        assert old["future"].done() and len(children) == 2
        assert all(child.cancelled() for child in children)
        make(server).put_nowait("message")
        old.put_nowait("late")
        await passes(6)
        assert seen == [(), (), ("new", "message")]
        assert [message for messages, _ in server.undelivered for message in messages] == ["late"]

    run(main())


def test_who_receives_only_after_the_end_is_cancelled(cy, run):
    """receive, kept and called when the application has ended, ends whoever awaits it; any number may try."""

    async def main():
        _, given = await Given.by(cy)
        given.gate.set_result(None)
        await passes(3)
        tasks = [asyncio.create_task(given.receive()) for _ in range(3)]
        tasks.append(asyncio.create_task(resolved(given.receive())))
        await passes(4)
        assert all(task.cancelled() for task in tasks)
        for _ in range(2):
            with pytest.raises(asyncio.CancelledError):
                await given.receive()

    run(main())


def test_who_receives_only_after_the_end_waits_for_ever_reference(reference, run):
    """Reference: receive is the queue's get, which nobody feeds any more."""

    async def main():
        _, given = await Given.by(SimpleNamespace(StatelessServer=reference))
        given.gate.set_result(None)
        await passes(3)
        tasks = [asyncio.create_task(given.receive()) for _ in range(3)]
        await passes(3)
        assert not any(task.done() for task in tasks)
        await end(tasks)

    run(main())


@pytest.mark.parametrize("how", ["returns", "fails", "cancelled", "deleted", "evicted"])
@pytest.mark.parametrize("waits", ["in a task of its own", "as a future", "behind another"])
def test_however_it_ends_nobody_is_left_waiting(cy, run, how, waits):
    """Ten child tasks each; and none but those."""

    async def main():
        children = []
        gate = asyncio.get_running_loop().create_future()

        async def waiting(receive):
            await receive()

        async def application(scope, receive, send):
            if scope["type"] == "other":
                await gate
            for _ in range(10 if waits != "as a future" else 1):
                children.append(asyncio.ensure_future(receive() if waits == "as a future" else waiting(receive)))
                if waits == "behind another":
                    await passes(1)
            await passes(2)
            if how == "fails":
                raise ZeroDivisionError
            if how == "cancelled":
                raise asyncio.CancelledError
            if how != "returns":
                await asyncio.get_running_loop().create_future()

        server = quiet(cy.StatelessServer)(application, 1)
        instance = make(server)
        await in_time(lambda: len(children) == (1 if waits == "as a future" else 10))
        await passes(4)
        if how == "deleted":
            await server.delete_application_instance("id")
        elif how == "evicted":
            make(server, "other", {"type": "other"})
        await passes(6)
        assert instance.ended
        assert all(child.cancelled() for child in children)
        gate.cancel()
        await server.delete_application_instance("id")
        await passes(3)

    run(main())


def test_a_child_that_waits_is_cancelled_with_its_loop(impl, run):
    """Whoever still waits in receive when the loop ends is cancelled like any other task: nothing is left pending."""
    children = []

    async def main():
        async def application(scope, receive, send):
            children.extend(asyncio.create_task(receive()) for _ in range(3))
            await passes(2)
            if scope["id"]:
                await receive()

        server = impl.StatelessServer(application)
        for number in range(2):
            make(server, number, {"id": number})
        await passes(6)
        children.extend(server.application_instances[number]["future"] for number in range(2))
        # Those of the application that has ended may wait for ever (reference) or are let go.
        assert [task.done() for task in children][3:] == [False] * 3 + [True, False]

    run(main())
    assert [task.cancelled() for task in children] == [True] * 6 + [False, True]


def test_the_application_ends_in_the_pass_of_a_childs_message(cy, run):
    """A message that came for a child, and whose application ended before the child's turn, is not lost."""

    async def main():
        for end_first in (False, True):
            instance, given = await Given.by(cy)
            child = asyncio.create_task(given.receive())
            await passes(2)
            if end_first:
                given.gate.set_result(None)
            instance.put_nowait("message")
            if not end_first:
                given.gate.set_result(None)
            await passes(3)
            server = instance._server
            assert await server.delete_application_instance("id")
            await passes(2)
            got = [message for messages, _ in server.undelivered for message in messages]
            if child.done() and not child.cancelled():
                got.append(child.result())
            assert got == ["message"]
            await end([child])

    run(main())


def test_send_works_after_the_end(impl, run):
    """What is sent when the application has ended still goes to application_send, with its scope."""

    async def main():
        sent = []

        class Server(impl.StatelessServer):
            async def application_send(self, scope, message):
                sent.append((scope, message))
                return "answer"

        given = Given()
        make(Server(given))
        await passes(3)
        assert await given.send(1) == "answer"
        given.gate.set_result(None)
        await passes(3)
        assert await given.send(2) == "answer"
        assert await asyncio.create_task(given.send(3)) == "answer"
        assert sent == [(SCOPE, 1), (SCOPE, 2), (SCOPE, 3)]

    run(main())

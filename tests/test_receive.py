"""`receive`, and `send`, as an application sees them: waiting, order, cancellation, timeouts, children, and misuse."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import io
import itertools
import random
import warnings
from typing import Any

import pytest
from conftest import passes
from serving import quiet

SCOPE = {"type": "test"}
MESSAGES = [None, False, (), (1, 2), {}, StopIteration(3), StopIteration, ValueError("text"), asyncio.CancelledError()]


def make(server: Any, scope_id: Any = "id", scope: Any = SCOPE) -> Any:
    return server.get_or_create_application_instance(scope_id, scope)


class Log(list):
    """What happened, each entry with the loop pass in which it did."""

    def __init__(self) -> None:
        super().__init__()
        self.tick = 0
        self.turn()

    def turn(self) -> None:
        self.tick += 1
        self.ticker = asyncio.get_running_loop().call_soon(self.turn)

    def note(self, *what: Any) -> None:
        self.append((self.tick, *what))


class Given:
    """What an application was given: it does nothing itself, and leaves `receive` and `send` to the test."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.receive, self.send = receive, send
        self.gate = asyncio.get_running_loop().create_future()
        await self.gate

    @classmethod
    async def by(cls, impl: Any) -> tuple[Any, Any]:
        """The instance of a server, once its application has begun, and what it was given."""
        given = cls()
        instance = make(quiet(impl.StatelessServer)(given))
        await passes(3)
        return instance, given


async def resolved(awaitable: Any) -> Any:
    return await awaitable


async def end(tasks: Any) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# Waiting


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


def test_a_child_that_outlives_its_application_waits_for_ever(cy, run):
    """Nothing comes for it any more, not what is put for a namesake of its application; it can be cancelled."""

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
        make(server).put_nowait("message")
        old.put_nowait("late")
        await passes(6)
        assert seen == [("new", "message")]
        assert [message for messages, _ in server.undelivered for message in messages] == ["late"]
        assert not any(child.done() for child in children)
        for child in children:
            child.cancel("why")
        await passes(3)
        assert all(child.cancelled() for child in children)
        assert seen == [("new", "message"), ("why",), ("why",)]

    run(main())


def test_who_receives_only_after_the_end_waits_for_ever(impl, run):
    """receive, kept and called when the application has ended, never gives anything; any number may wait so."""

    async def main():
        _, given = await Given.by(impl)
        given.gate.set_result(None)
        await passes(3)
        tasks = [asyncio.create_task(given.receive()) for _ in range(3)]
        tasks.append(asyncio.create_task(resolved(given.receive())))
        await passes(3)
        assert not any(task.done() for task in tasks)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(given.receive(), 0.001)
        await end(tasks)
        assert all(task.cancelled() for task in tasks)

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
        assert [task.done() for task in children] == [False] * 6 + [True, False]

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
            if child.done():
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


# The awaitable itself


def test_it_takes_nothing_before_it_is_awaited(impl, run):
    """Calling receive takes no message and no place in the line: that is what awaiting it does."""

    async def main():
        instance, given = await Given.by(impl)
        first, second, third = (given.receive() for _ in range(3))
        tasks = [asyncio.create_task(third)]
        await passes(2)
        tasks.append(asyncio.create_task(first))
        await passes(2)
        for number in range(2):
            instance.put_nowait(number)
        assert await asyncio.gather(*tasks) == [0, 1]
        instance.put_nowait(2)
        assert instance.qsize() == 1 and await second == 2

    run(main())


def test_dropped_and_never_awaited(impl, run):
    """A call of receive that nobody awaited is nothing but forgotten: the messages go to the other calls."""

    async def main():
        instance, given = await Given.by(impl)
        for number in range(3):
            with warnings.catch_warnings():
                # A coroutine warns that it was never awaited.
                warnings.simplefilter("ignore")
                given.receive()
            instance.put_nowait(number)
            assert await given.receive() == number
            task = asyncio.create_task(given.receive())
            await passes(2)
            instance.put_nowait(number)
            assert await task == number

    run(main())


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("waits", [False, True])
def test_closed_by_hand(impl, run, waits, others):
    """Closed, begun or not, a receive takes nothing: the messages go to those that wait, or to the next one."""

    async def main():
        instance, given = await Given.by(impl)
        for message in range(3):
            closed = given.receive()
            if waits:
                closed.send(None)
            tasks = [asyncio.create_task(given.receive()) for _ in range(others)]
            await passes(2)
            closed.close()
            instance.put_nowait(message)
            instance.put_nowait("next")
            assert await asyncio.gather(*tasks) == [message, "next"][:others]
            if not others:
                assert [await given.receive(), await given.receive()] == [message, "next"]

    run(main())


def test_closed_after_its_wake_up(impl, run):
    """Closed when its message has come, a receive leaves that to the next one in the line."""

    async def main():
        instance, given = await Given.by(impl)
        closed = given.receive()
        closed.send(None)
        task = asyncio.create_task(given.receive())
        await passes(2)
        instance.put_nowait("message")
        closed.close()
        assert await asyncio.wait_for(task, 5) == "message"

    run(main())


@pytest.mark.parametrize("used", ["awaited", "closed"])
def test_awaited_again(impl, run, used):
    """What was awaited to its end, or closed, cannot be awaited: that is a RuntimeError, and takes no message."""

    async def main():
        instance, given = await Given.by(impl)
        call = given.receive()
        if used == "closed":
            call.close()
        else:
            instance.put_nowait("first")
            assert await call == "first"
        instance.put_nowait("second")
        with pytest.raises(RuntimeError):
            await call
        assert await given.receive() == "second"

    run(main())


def test_awaited_by_two(impl, run):
    """Who awaits what another waits for has a RuntimeError, and that other one's wait goes on."""

    async def main():
        instance, given = await Given.by(impl)
        call = given.receive()
        first = asyncio.create_task(resolved(call))
        await passes(2)
        second = asyncio.create_task(resolved(call))
        await passes(2)
        second.cancel()
        await passes(2)
        assert not first.done()
        assert not second.cancelled() and isinstance(second.exception(), RuntimeError)
        instance.put_nowait("message")
        assert await first == "message"

    run(main())


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("waits", [False, True])
def test_thrown_into_by_hand(impl, run, waits, others):
    """Thrown into, begun or not, a receive raises just that and takes nothing."""

    async def main():
        instance, given = await Given.by(impl)
        for message in range(3):
            thrown = given.receive()
            if waits:
                thrown.send(None)
            tasks = [asyncio.create_task(given.receive()) for _ in range(others)]
            await passes(2)
            error = KeyError("on purpose")
            with pytest.raises(KeyError) as caught:
                thrown.throw(error)
            assert caught.value is error
            instance.put_nowait(message)
            instance.put_nowait("next")
            assert await asyncio.gather(*tasks) == [message, "next"][:others]
            if not others:
                assert [await given.receive(), await given.receive()] == [message, "next"]

    run(main())


def test_driven_by_hand(impl, run):
    """What receive waits for is a future to asyncio: it calls back, in the context given or the current one."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def main():
        instance, given = await Given.by(impl)
        for message in range(3):
            called = []
            call = given.receive()
            waits_for = call.send(None)
            assert asyncio.isfuture(waits_for) and not waits_for.done()
            assert waits_for.get_loop() is asyncio.get_running_loop()
            variable.set("given")
            context = contextvars.copy_context()
            variable.set("current")

            def note(future, called=called):
                called.append((future, variable.get()))

            waits_for.add_done_callback(note)
            waits_for.add_done_callback(note, context=context)
            variable.set("later")
            instance.put_nowait(message)
            assert called == []
            await passes(2)
            assert called == [(waits_for, "current"), (waits_for, "given")]
            assert waits_for.done() and not waits_for.cancelled() and waits_for.result() is None
            with pytest.raises(StopIteration) as stop:
                call.send(None)
            assert stop.value.value == message

    run(main())


def test_made_in_one_task_and_awaited_in_another(impl, run):
    """Who calls receive need not be who awaits what it gives."""

    async def main():
        instance, given = await Given.by(impl)

        async def making():
            return [given.receive(), given.receive()]

        for message in range(3):
            calls = await asyncio.create_task(making())
            tasks = [asyncio.create_task(resolved(call)) for call in calls]
            await passes(2)
            instance.put_nowait(message)
            instance.put_nowait("next")
            assert await asyncio.gather(*tasks) == [message, "next"]

    run(main())


# Arguments


def test_receive_takes_no_arguments(impl, run):
    """Called with any, receive raises a TypeError, and goes on as if it had not been called."""

    async def main():
        seen: list[Any] = []
        nothing = ()

        async def application(scope, receive, send):
            while True:
                for arguments, keywords in [((1,), {}), ((1, 2), {}), ((), {"key": 1}), ((None,), {"key": 1})]:
                    with pytest.raises(TypeError):
                        receive(*arguments, **keywords)
                seen.append(await receive(*nothing, **dict(nothing)))

        instance = make(impl.StatelessServer(application))
        for number in range(3):
            instance.put_nowait(number)
            await passes(3)
        assert seen == [0, 1, 2]

    run(main())


@pytest.mark.parametrize("ended", [False, True])
def test_send_takes_one_message(impl, run, ended):
    """Called with none, with two or with other keywords, send raises a TypeError at once, and sends nothing."""

    async def main():
        sent = []

        class Server(impl.StatelessServer):
            async def application_send(self, scope, message):
                sent.append(message)

        given = Given()
        make(Server(given))
        await passes(3)
        if ended:
            given.gate.set_result(None)
            await passes(2)
        nothing = ()
        wrong = [((), {}), ((1, 2), {}), ((), {"other": 1}), ((1,), {"other": 1}), ((1,), {"message": 1})]
        for number, (arguments, keywords) in enumerate(wrong):
            with pytest.raises(TypeError):
                given.send(*arguments, **keywords)
            await given.send(*[number], **dict(nothing))
        assert sent == list(range(len(wrong)))

    run(main())


def test_send_takes_its_message_by_name(impl, run):
    """send(message=...) is what the reference's send takes as well."""

    async def main():
        sent = []

        class Server(impl.StatelessServer):
            async def application_send(self, scope, message):
                sent.append(message)

        given = Given()
        make(Server(given))
        await passes(3)
        await given.send(message="by name")
        await functools.partial(given.send, message="in part")()
        assert sent == ["by name", "in part"]

    run(main())


def test_called_through_others(impl, run):
    """functools.partial and map call receive and send as a plain call does."""

    async def main():
        sent = []

        class Server(impl.StatelessServer):
            async def application_send(self, scope, message):
                sent.append(message)

        given = Given()
        instance = make(Server(given))
        await passes(3)
        receive = functools.partial(given.receive)
        task = asyncio.create_task(receive())
        await passes(2)
        for number in range(4):
            instance.put_nowait(number)
        assert await task == 0
        assert await asyncio.gather(receive(), receive()) == [1, 2]
        assert await receive() == 3
        await functools.partial(given.send, "partial")()
        await asyncio.gather(*map(given.send, ("a", "b")))
        assert sent == ["partial", "a", "b"]

    run(main())


def test_the_method_that_calls(impl, run):
    """__call__ of receive and send, which wrappers look for, is what a plain call runs."""

    async def main():
        sent = []

        class Server(impl.StatelessServer):
            async def application_send(self, scope, message):
                sent.append(message)

        given = Given()
        instance = make(Server(given))
        await passes(3)
        instance.put_nowait("message")
        assert await given.receive.__call__() == "message"
        await given.send.__call__("sent")
        assert sent == ["sent"]
        for wrong in (given.send.__call__, functools.partial(given.receive.__call__, 1)):
            with pytest.raises(TypeError):
                wrong()

    run(main())


# At random


def random_script(seed: int) -> Any:
    """A script of puts, thefts, passes, children that receive in several ways, cancellations and timeouts."""

    async def play(cls: Any) -> list[Any]:
        pick, log, children = random.Random(seed), Log(), []

        async def child(name, way, receive):
            try:
                match way:
                    case 0:
                        log.note(name, await receive())
                    case 1:
                        log.note(name, await asyncio.wait_for(receive(), 0))
                    case 2:
                        async with asyncio.timeout(0):
                            log.note(name, await receive())
                    case 3:
                        first, second = receive(), receive()
                        log.note(name, await second)
                        log.note(name, await first)
            except asyncio.CancelledError as error:
                log.note(name, "cancelled", error.args)
                if way == 3:
                    first.close()
            except TimeoutError:
                log.note(name, "time is up")

        async def application(scope, receive, send):
            given.append(receive)
            while not ending:
                try:
                    log.note("application", await receive())
                except asyncio.CancelledError as error:
                    log.note("application", "cancelled", error.args)

        given: list[Any] = []
        ending: list[bool] = []
        server = cls(application)
        queue = make(server)
        queue.put_nowait("first")
        future = server.application_instances["id"]["future"]
        await passes(3)
        try:
            for step in range(150):
                match pick.randrange(10):
                    case 0 | 1 | 2:
                        queue.put_nowait(step)
                    case 3 | 4:
                        children.append(asyncio.create_task(child(step, pick.randrange(4), given[0])))
                    case 5:
                        try:
                            log.note(step, queue.get_nowait())
                        except asyncio.QueueEmpty:
                            log.note(step, "empty")
                    case 6:
                        waiting = [task for task in children if not task.done()]
                        if waiting:
                            pick.choice(waiting).cancel(step)
                    case 7:
                        future.cancel(step)
                    case _:
                        await passes(pick.randrange(1, 3))
                log.note(step, queue.qsize())
        finally:
            ending.append(True)
        future.cancel()
        await end(children)
        await passes(3)
        log.note(future.done(), [queue.get_nowait() for _ in range(queue.qsize())])
        log.ticker.cancel()
        return log

    return play


def test_random_scripts(cy, reference, run):
    """Random scripts go as they do with the reference's queue, to the very pass."""

    async def main():
        for seed in range(40):
            play = random_script(seed)
            assert await play(quiet(cy.StatelessServer)) == await play(reference), seed

    run(main())


def test_random_lives(cy, run):
    """Whatever is cancelled, timed out, deleted or ends: each message is received once and in order, or is left over.

    The model: to each life of the one id there are the messages accepted, and those that were received or handed to
    application_undelivered, which are the same in the end, and each of the latter in order.
    """

    async def play(seed):
        pick, numbers = random.Random(seed), itertools.count()
        accepted: dict[Any, list[int]] = {}
        received: dict[Any, list[int]] = {}
        children: list[asyncio.Task[Any]] = []

        async def child(life, receive):
            while pick.random() < 0.8:
                try:
                    async with asyncio.timeout(pick.choice((0, None))):
                        received[life].append(await receive())
                except TimeoutError:
                    pass

        async def application(scope, receive, send):
            life = cy.current_instance()
            while (way := pick.randrange(12)) > 0:
                try:
                    if way <= 2:
                        children.append(asyncio.create_task(child(life, receive)))
                        await passes(pick.randrange(2))
                    elif way <= 4:
                        async with asyncio.timeout(0):
                            received[life].append(await receive())
                    else:
                        received[life].append(await receive())
                except TimeoutError:
                    pass
                except asyncio.CancelledError:
                    if ending or pick.random() < 0.2:
                        raise

        ending: list[bool] = []
        server = quiet(cy.StatelessServer)(application)
        try:
            for _ in range(300):
                life = make(server)
                received.setdefault(life, [])
                match pick.randrange(12):
                    case 0 | 1 | 2 | 3 | 4:
                        accepted.setdefault(life, []).append(number := next(numbers))
                        life.put_nowait(number)
                    case 5:
                        life["future"].cancel()
                    case 6 if children:
                        pick.choice(children).cancel()
                    case 7 if pick.random() < 0.3:
                        server.delete_application_instance("id")
                    case _:
                        await passes(pick.randrange(1, 3))
        finally:
            ending.append(True)
        await end(children)
        while not all(life["future"].done() for life in received):
            for life in received:
                life["future"].cancel()
            await passes(2)
        await end(children)
        await server.delete_application_instance("id")
        await passes(3)
        undelivered: dict[Any, list[int]] = {}
        for messages, life in server.undelivered:
            undelivered.setdefault(life, []).extend(messages)
        for life, taken in received.items():
            left = undelivered.get(life, [])
            assert taken == sorted(taken) and left == sorted(left), seed
            assert sorted(taken + left) == accepted.get(life, []), seed
        return len(received), sum(map(len, received.values())), sum(map(len, undelivered.values()))

    async def main():
        totals = [await play(seed) for seed in range(40)]
        # It is no test of anything unless there are many lives, and messages of both kinds.
        assert all(total > 100 for total in map(sum, zip(*totals, strict=True))), totals

    run(main())

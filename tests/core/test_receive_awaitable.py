"""What `receive()` and `send()` give, driven by hand and misused."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import warnings
from typing import Any

import pytest

from support.loops import passes
from support.receiving import Given, make, resolved

# The awaitable itself


@pytest.mark.slow
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

"""Cancelled at every point: neither a failure nor a success of the application, and no counter is left behind."""

from __future__ import annotations

import asyncio

import pytest

from cyasgi.balancing import LoadBalancer
from support.balancing import EMPTY, HTTP, WEBSOCKET, Client, Clock, Held, answering, ask, states, tallies
from support.loops import passes

START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"x", "more_body": True}
END = {"type": "http.response.body"}


class Stepwise(Client):
    """A client each of whose calls takes three turns of the loop."""

    async def receive(self):
        await passes(3)
        return await super().receive()

    async def send(self, message):
        await passes(3)
        await super().send(message)


async def failing_first(scope, receive, send):
    """Reads, then fails, with awaits between."""
    await receive()
    await passes(3)
    raise ZeroDivisionError


async def thorough(scope, receive, send):
    """Reads the request, works, answers in parts, works on."""
    while (await receive()).get("more_body"):
        await passes(1)
    await passes(3)
    await send(START)
    await send(BODY)
    await send(END)
    await passes(3)


async def stubborn(scope, receive, send):
    """Answers a cancellation by another exception."""
    try:
        await thorough(scope, receive, send)
    except asyncio.CancelledError:
        raise KeyError("cleaning up failed") from None


async def swallowing(scope, receive, send):
    """Answers a cancellation by returning."""
    try:
        await thorough(scope, receive, send)
    except asyncio.CancelledError:
        return


@pytest.mark.slow
@pytest.mark.parametrize("half_open", [False, True], ids=["closed", "half-open"])
@pytest.mark.parametrize("application", [thorough, stubborn, swallowing])
@pytest.mark.parametrize("retried", [False, True], ids=["first", "retried"])
def test_at_every_turn(run, application, retried, half_open):
    """Cancelled after so many turns of the loop, for every number of turns until the end."""

    async def main():
        clock = Clock()
        turns, ended = 0, False
        while not ended:
            ill = [half_open]

            async def probed(*arguments, ill=ill):
                if ill.pop():
                    raise ZeroDivisionError
                ill.append(False)
                await application(*arguments)

            applications = {"first": failing_first, "then": probed} if retried else {"then": probed}
            balancer = LoadBalancer(applications, failure_threshold=1, failure_window=1, open_time=10, clock=clock)
            then = balancer.backends[-1]
            if half_open:
                with pytest.raises(ZeroDivisionError):
                    await ask(balancer, HTTP, EMPTY)
                assert set(states(balancer)) == {"open"}
                ill.append(False)
                clock.now += 10
            client = Stepwise({**EMPTY, "more_body": True}, EMPTY)
            task = asyncio.create_task(balancer(HTTP, client.receive, client.send))
            await passes(turns)
            ended = task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for backend in balancer.backends:
                assert backend.running == 0 and not backend.owing
            counts = tallies(balancer)["then"]
            answered = END in client.sent
            # The last send may have been let through just before the cancellation came.
            assert counts[1] <= answered
            assert then.breaker.available
            assert then.failed == (1 if half_open else 0)
            if not counts[1] and then.started > then.failed:
                assert then.abandoned == 1
                assert then.breaker.state == ("half-open" if half_open else "closed")
            turns += 1
            assert turns < 200
        assert counts[1] == 1 and then.breaker.state == "closed"
        assert turns > 10

    run(main())


def test_a_cancelled_run_is_not_repeated(run):
    """An application that fails while it is being cancelled is not replaced by another one."""

    async def main():
        asked = []

        async def stubborn(scope, receive, send):
            try:
                await receive()
            except asyncio.CancelledError:
                raise KeyError("cleaning up failed") from None

        async def other(scope, receive, send):
            asked.append(scope)

        balancer = LoadBalancer([stubborn, other])
        client = Client()
        task = asyncio.create_task(balancer(HTTP, client.receive, client.send))
        await passes(3)
        task.cancel()
        with pytest.raises(KeyError):
            await task
        assert asked == []
        assert tallies(balancer) == {"0": (0, 0, 0, 1), "1": (0, 0, 0, 0)}

    run(main())


def test_timeouts_of_the_application_are_its_own(run):
    """An application that cancels itself by a timeout, and fails by it, has failed and is repeated."""

    async def main():
        async def impatient(scope, receive, send):
            async with asyncio.timeout(0):
                await receive()

        balancer = LoadBalancer([impatient, answering("b")])
        client = Client(then=None)
        await balancer(HTTP, client.receive, client.send)
        assert client.status == (200, b"b")
        assert tallies(balancer)["0"] == (0, 0, 1, 0)
        assert client.waiting == 0

    run(main())


def test_an_application_that_ends_as_cancelled(run):
    """CancelledError out of the application's own hands is no verdict either."""

    async def main():
        async def application(scope, receive, send):
            raise asyncio.CancelledError

        balancer = LoadBalancer([application, answering("b")])
        with pytest.raises(asyncio.CancelledError):
            await balancer(HTTP, Client().receive, Client().send)
        assert tallies(balancer) == {"0": (0, 0, 0, 1), "1": (0, 0, 0, 0)}

    run(main())


def test_never_begun(run):
    """A task that is cancelled before its first step, and a coroutine that is closed, count nowhere."""

    async def main():
        balancer = LoadBalancer([answering("a")])
        task = asyncio.create_task(balancer(HTTP, None, None))
        task.cancel()
        await asyncio.wait([task])
        balancer(HTTP, None, None).close()
        assert tallies(balancer) == {"0": (0, 0, 0, 0)}

    run(main())


@pytest.mark.parametrize("scope", [HTTP, WEBSOCKET], ids=["http", "websocket"])
def test_a_crowd_cancelled(run, scope):
    """Of a hundred that wait, some cancelled and some answered: the counters agree, and nothing is left running."""

    async def main():
        held = [Held("a"), Held("b"), Held("c")]
        balancer = LoadBalancer(held, "least-running")
        clients = [Client() for _ in range(99)]
        tasks = [asyncio.create_task(balancer(scope, client.receive, client.send)) for client in clients]
        await passes(3)
        assert tallies(balancer) == dict.fromkeys("012", (33, 0, 0, 0))
        for task in tasks[::2]:
            task.cancel()
        await passes(3)
        for one in held:
            one.go.set()
        await asyncio.wait(tasks)
        assert [one.running for one in held] == [0, 0, 0]
        counts = tallies(balancer).values()
        assert [sum(column) for column in zip(*counts, strict=True)] == [0, 49, 0, 50]

    run(main())


def test_interrupts_pass(run):
    """KeyboardInterrupt and SystemExit pass, count for nothing, and leave nothing running."""

    async def main():
        async def application(scope, receive, send):
            raise SystemExit(3)

        balancer = LoadBalancer([application, answering("b")])
        coroutine = balancer(HTTP, None, None)
        with pytest.raises(SystemExit):
            coroutine.send(None)
        assert tallies(balancer) == {"0": (0, 0, 0, 1), "1": (0, 0, 0, 0)}

    run(main())

"""What counts for an application's health: answers, failures, silence and slowness, and whose they are."""

from __future__ import annotations

import asyncio

import pytest

from cyasgi.balancing import LoadBalancer
from support.balancing import (
    CUSTOM,
    DATAGRAM,
    EMPTY,
    HTTP,
    POST,
    WEBSOCKET,
    Client,
    Clock,
    Held,
    answering,
    ask,
    failing,
    one,
    states,
    tallies,
)
from support.loops import passes

START = {"type": "http.response.start", "status": 200, "headers": []}
ACCEPT = {"type": "websocket.accept"}
CONNECT = {"type": "websocket.connect"}


async def silent(scope, receive, send):
    """Returns without a word."""


async def half(scope, receive, send):
    await send(START)
    await send({"type": "http.response.body", "body": b"x", "more_body": True})


HEALTH = {
    "answered": (HTTP, answering("a"), True),
    "any method": (POST, answering("a"), True),
    "404": (HTTP, answering("a", 404), True),
    "499": (HTTP, answering("a", 499), True),
    "500": (HTTP, answering("a", 500), False),
    "503": (HTTP, answering("a", 503), False),
    "no answer": (HTTP, silent, False),
    "half an answer": (HTTP, half, False),
    "raised": (HTTP, failing(), False),
    "raised after the start": (HTTP, failing(after=[START]), False),
    "raised after the answer": (HTTP, failing(after=[START, {"type": "http.response.body"}]), False),
    "accepted": (WEBSOCKET, failing(after=[ACCEPT]), False),
    "refused by 404": (WEBSOCKET, failing(after=[{"type": "websocket.http.response.start", "status": 500}]), False),
    "no handshake": (WEBSOCKET, silent, False),
    "nothing to say": (DATAGRAM, silent, True),
    "nothing to say either": (CUSTOM, silent, True),
    "raised, custom": (CUSTOM, failing(), False),
}


@pytest.mark.parametrize(("scope", "application", "well"), HEALTH.values(), ids=HEALTH)
def test_health(scope, application, well):
    """What counts as a failure and what does not."""

    async def main():
        balancer = one(application)
        try:
            await ask(balancer, scope)
        except ZeroDivisionError:
            assert not well
        assert tallies(balancer) == {"0": (0, 1, 0, 0) if well else (0, 0, 1, 0)}
        assert states(balancer) == ["closed" if well else "open"]

    asyncio.run(main())


def test_a_websocket_is_judged_when_it_is_accepted(run):
    """A probe that is a WebSocket brings its application back at once, not when it is closed."""

    async def main():
        clock, close = Clock(), asyncio.Event()
        verdicts = [False, True]

        async def application(scope, receive, send):
            if not verdicts.pop(0):
                raise ZeroDivisionError
            await receive()
            await send(ACCEPT)
            await close.wait()

        balancer = one(application, clock)
        with pytest.raises(ZeroDivisionError):
            await ask(balancer, WEBSOCKET)
        clock.now += 10
        assert states(balancer) == ["half-open"]
        task = asyncio.create_task(ask(balancer, WEBSOCKET, CONNECT))
        await passes(3)
        assert states(balancer) == ["closed"]
        assert tallies(balancer) == {"0": (1, 0, 1, 0)}
        close.set()
        await task
        assert tallies(balancer) == {"0": (0, 1, 1, 0)}

    run(main())


def test_a_stream_does_not_hold_a_probe_for_ever(run):
    """An answer that goes on for longer than open_time has shown enough."""

    async def main():
        clock, application = Clock(), Held()
        first = [True]

        async def streaming(scope, receive, send):
            if first.pop():
                raise ZeroDivisionError
            await send(START)
            await application.go.wait()
            await send({"type": "http.response.body"})

        balancer = one(streaming, clock)
        with pytest.raises(ZeroDivisionError):
            await ask(balancer)
        clock.now += 10
        first.append(False)
        task = asyncio.create_task(ask(balancer))
        await passes(3)
        assert states(balancer) == ["half-open"]
        assert (await ask(balancer)).status[0] == 503
        clock.now += 10
        assert states(balancer) == ["closed"]
        application.go.set()
        await task

    run(main())


def test_silence_is_no_failure_where_no_answer_is_owed(run):
    """A datagram conversation that goes on without a word for longer than open_time has shown enough, as a probe."""

    async def main():
        clock, ill = Clock(), [True]

        async def application(scope, receive, send):
            if ill.pop():
                raise ZeroDivisionError
            await receive()

        balancer = one(application, clock)
        with pytest.raises(ZeroDivisionError):
            await ask(balancer, DATAGRAM)
        clock.now += 10
        ill.append(False)
        task = asyncio.create_task(ask(balancer, DATAGRAM))
        await passes(2)
        assert states(balancer) == ["half-open"]
        clock.now += 10
        assert states(balancer) == ["closed"]
        task.cancel()
        await asyncio.wait([task])

    run(main())


def test_slow_ones_are_found_in_the_order_in_which_they_are_due(run):
    """A run that reads again what another one had read is due later; it hides none that is due before it."""

    async def main():
        clock, events = Clock(), []

        async def failing_first(scope, receive, send):
            await receive()
            raise ZeroDivisionError

        async def waiting(scope, receive, send):
            events.append(asyncio.Event())
            await events[-1].wait()
            await receive()
            await asyncio.get_running_loop().create_future()

        balancer = LoadBalancer([failing_first, waiting], slow_after=5, clock=clock)
        tasks = []
        for _ in range(2):
            tasks.append(asyncio.create_task(ask(balancer, HTTP, EMPTY)))
            await passes(2)
            clock.now += 3
        # Read at 4: due at 9 instead of 5. The other one is due at 8.
        clock.now -= 2
        events[0].set()
        await passes(2)
        for moment, slow in ((7.5, 0), (8.5, 1), (9.5, 2)):
            clock.now = 1000 + moment
            assert balancer.stats()["applications"]["1"]["slow"] == slow
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run(main())


@pytest.mark.parametrize("scope", [HTTP, WEBSOCKET], ids=["http", "websocket"])
@pytest.mark.parametrize("seen", ["by an answer", "by the next scope", "by stats", "by its cancellation"])
def test_slow_answers(run, scope, seen):
    """An answer that has not begun in time is a failure, once, whoever notices."""

    async def main():
        clock, go = Clock(), asyncio.Event()

        async def application(scope, receive, send):
            await go.wait()
            if scope["type"] == "http":
                await answering("a")(scope, receive, send)
            else:
                await send(ACCEPT)

        balancer = one(application, clock, slow_after=5)
        task = asyncio.create_task(ask(balancer, scope))
        await passes(2)
        clock.now += 4.5
        assert states(balancer) == ["closed"]
        clock.now += 0.5
        if seen == "by an answer":
            go.set()
        elif seen == "by the next scope":
            assert (await ask(balancer)).status[0] == 503
        elif seen == "by stats":
            assert states(balancer) == ["open"]
        else:
            task.cancel()
        go.set()
        await asyncio.wait([task])
        assert states(balancer) == ["open"]
        assert tallies(balancer) == {"0": (0, 0, 1, 0)}
        assert balancer.stats()["applications"]["0"]["slow"] == 1

    run(main())


def test_a_slow_client_is_not_a_slow_application():
    """Time spent waiting for the request's body is the client's; after the answer has begun nothing is measured."""

    async def main():
        clock = Clock()

        class Slow(Client):
            async def receive(self):
                clock.now += 100
                balancer.stats()
                return await super().receive()

            async def send(self, message):
                clock.now += 100
                await super().send(message)

        async def upload(scope, receive, send):
            while (await receive())["more_body"]:
                clock.now += 4
            await answering("a")(scope, receive, send)

        balancer = one(upload, clock, slow_after=5)
        client = Slow(*[{**EMPTY, "more_body": True}] * 3, EMPTY)
        await balancer(POST, client.receive, client.send)
        assert client.status == (200, b"a")
        assert tallies(balancer) == {"0": (0, 1, 0, 0)}

    asyncio.run(main())


def test_own_idea_of_a_failure():
    """is_failure() may leave out what clients bring about."""

    class Balancer(LoadBalancer):
        def is_failure(self, scope, outcome):
            return not isinstance(outcome, ZeroDivisionError) and super().is_failure(scope, outcome)

    async def main():
        balancer = Balancer([failing(), answering("b", 500)], failure_threshold=1, failure_window=1)
        with pytest.raises(ZeroDivisionError):
            await ask(balancer)
        assert (await ask(balancer)).status[0] == 500
        assert tallies(balancer) == {"0": (0, 0, 0, 1), "1": (0, 0, 1, 0)}

    asyncio.run(main())

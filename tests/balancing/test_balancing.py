"""LoadBalancer: who is asked, what it may be over, what is said when nobody is left."""

from __future__ import annotations

import asyncio
import functools
import logging

import pytest

from cyasgi.balancing import LeastRunning, LoadBalancer, NoApplicationAvailable, RoundRobin, Weighted
from support.balancing import (
    CUSTOM,
    DATAGRAM,
    HTTP,
    WEBSOCKET,
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

# ---- who is asked --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({}, "abcabc"),
        ({"strategy": "round-robin"}, "abcabc"),
        ({"strategy": "least-running"}, "abcabc"),
        ({"strategy": "weighted"}, "abcabc"),
        ({"strategy": Weighted(), "weights": [1, 3, 1]}, "babcbb"),
        ({"weights": {"b": 3}}, "babcbb"),
    ],
)
def test_strategies(options, order):
    """Each strategy by its name and as an object; weights alone mean the weighted one."""

    async def main():
        balancer = LoadBalancer({name: answering(name) for name in "abc"}, **options)
        answers = [(await ask(balancer)).status for _ in range(6)]
        assert answers == [(200, name.encode()) for name in order]

    asyncio.run(main())


def test_consistent_hash():
    """A client stays with its application; when that is taken out it goes to another, and then back."""

    async def main():
        clock = Clock()
        ill = set()

        def application(name):
            async def application(scope, receive, send):
                if name in ill:
                    raise ZeroDivisionError
                await answering(name)(scope, receive, send)

            return application

        balancer = LoadBalancer(
            {name: application(name) for name in "abc"},
            "consistent-hash",
            failure_threshold=1,
            failure_window=1,
            open_time=10,
            clock=clock,
        )
        ((_, first),) = {(await ask(balancer)).status for _ in range(5)}
        ill.add(first.decode())
        ((_, second),) = {(await ask(balancer)).status for _ in range(5)}
        assert second != first
        ill.clear()
        clock.now += 10
        assert {(await ask(balancer)).status for _ in range(5)} == {(200, first)}

    asyncio.run(main())


def test_least_running_counts_what_runs(run):
    """While one application is busy, the other is asked."""

    async def main():
        held = Held()
        balancer = LoadBalancer([held, answering("b")], "least-running")
        waiting = asyncio.create_task(ask(balancer))
        await passes(2)
        assert held.running == 1
        assert [(await ask(balancer)).status[1] for _ in range(3)] == [b"b"] * 3
        held.go.set()
        assert (await waiting).status == (200, b"held")
        assert tallies(balancer) == {"0": (0, 1, 0, 0), "1": (0, 3, 0, 0)}

    run(main())


def test_own_strategy():
    """Any object with choose() is a strategy; what is not one of those offered is refused."""

    class ByPath:
        def choose(self, backends, scope):
            return {backend.name: backend for backend in backends}.get(scope["path"].strip("/"), "nobody")

    async def main():
        balancer = LoadBalancer({"a": answering("a"), "b": answering("b")}, ByPath(), weights=[1, 2])
        assert (await ask(balancer, {**HTTP, "path": "/b"})).status[1] == b"b"
        with pytest.raises(RuntimeError, match="chose 'nobody': accepted is one of"):
            await ask(balancer, {**HTTP, "path": "/c"})
        assert tallies(balancer) == {"a": (0, 0, 0, 0), "b": (0, 1, 0, 0)}

    asyncio.run(main())


class Double:
    """An application of ASGI 2."""

    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await answering("double")(self.scope, receive, send)


def test_kinds_of_applications():
    """Applications may be of any kind that a server takes, a balancer too."""

    async def main():
        inner = LoadBalancer([answering("inner")])
        plain = functools.partial(lambda *arguments: answering("plain")(*arguments))
        balancer = LoadBalancer([Double, inner, plain])
        assert [(await ask(balancer)).status[1] for _ in range(3)] == [b"double", b"inner", b"plain"]

    asyncio.run(main())


@pytest.mark.parametrize("scope", [CUSTOM, {}, "a scope that is no mapping", None], ids=repr)
def test_any_scope(scope):
    """Scopes and messages of any type pass; an application has a copy of a scope that is a dict."""
    seen = []

    async def application(scope, receive, send):
        seen.append(scope)
        await send(await receive())

    async def main():
        balancer = LoadBalancer([application])
        for message in ("hello", {"type": "any"}, None):
            assert (await ask(balancer, scope, message)).sent == [message]
        assert seen == [scope] * 3
        assert tallies(balancer) == {"0": (0, 3, 0, 0)}

    asyncio.run(main())


# ---- nobody left ---------------------------------------------------------------------------------------------------


async def broken(*options):
    """A balancer whose applications are both out, for ten seconds."""
    balancer = LoadBalancer([failing(), failing()], failure_threshold=1, failure_window=1, open_time=10, clock=Clock())
    with pytest.raises(ZeroDivisionError):
        await ask(balancer)
    assert states(balancer) == ["open", "open"]
    return balancer


@pytest.mark.parametrize(("passed", "wait"), [(0, b"10"), (0.5, b"10"), (9.5, b"1")])
def test_503(passed, wait):
    """An HTTP request is told when to come back."""

    async def main():
        balancer = await broken()
        balancer.clock.now += passed
        client = await ask(balancer)
        start, body = client.sent
        headers = dict(start["headers"])
        assert client.status == (503, b"Service Unavailable: no application is available\n")
        assert headers[b"retry-after"] == wait
        assert headers[b"content-length"] == b"%d" % len(body["body"])
        assert balancer.stats()["refused"] == 1

    asyncio.run(main())


def test_websocket_refused():
    """A WebSocket is refused by 503 where the server can, else closed with 1013."""

    async def main():
        balancer = await broken()
        scope = {**WEBSOCKET, "extensions": {"websocket.http.response": {}}}
        start, body = (await ask(balancer, scope)).sent
        assert (start["type"], start["status"], body["type"]) == (
            "websocket.http.response.start",
            503,
            "websocket.http.response.body",
        )
        (close,) = (await ask(balancer, {**WEBSOCKET, "extensions": None})).sent
        assert (close["type"], close["code"]) == ("websocket.close", 1013)
        assert balancer.stats()["refused"] == 2

    asyncio.run(main())


@pytest.mark.parametrize("scope", [DATAGRAM, CUSTOM, {}, None], ids=repr)
def test_other_scopes_refused(scope):
    """Scopes without a way to say so get the documented error."""

    async def main():
        balancer = await broken()
        with pytest.raises(NoApplicationAvailable, match="none of the 2 applications is available"):
            await ask(balancer, scope)

    asyncio.run(main())


def test_probes_are_bounded(run):
    """Half-open, so many runs pass, however many come at once; their success brings the application back."""

    async def main():
        clock, held = Clock(), Held()
        first = [True]

        async def application(scope, receive, send):
            if first.pop():
                raise ZeroDivisionError
            first.append(False)
            await held(scope, receive, send)

        balancer = one(application, clock, probes=2)
        with pytest.raises(ZeroDivisionError):
            await ask(balancer)
        first.append(False)
        clock.now += 10
        tasks = [asyncio.create_task(ask(balancer)) for _ in range(10)]
        await passes(5)
        assert held.running == 2
        assert states(balancer) == ["half-open"]
        held.go.set()
        statuses = [(await task).status[0] for task in tasks]
        assert statuses == [200] * 2 + [503] * 8
        assert states(balancer) == ["closed"]

    run(main())


def test_changes_are_told(caplog):
    """Each change of a breaker is logged, a warning when it opens, and may be overridden."""

    async def main():
        clock = Clock()
        balancer = one(answering("a", 500), clock)
        await ask(balancer)
        clock.now += 10
        balancer.stats()

    with caplog.at_level(logging.INFO, "cyasgi.balancing"):
        asyncio.run(main())
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "application '0': its circuit breaker was closed and is open"),
        ("INFO", "application '0': its circuit breaker was open and is half-open"),
    ]


def test_a_hook_that_raises_harms_nobody(caplog):
    """What on_state_change() raises is logged; the run goes on as it would, and is accounted for."""

    class Balancer(LoadBalancer):
        def on_state_change(self, name, old, new):
            raise KeyError(new)

    async def main():
        balancer = Balancer([answering("a", 500)], failure_threshold=1, failure_window=1)
        assert (await ask(balancer)).status == (500, b"a")
        assert tallies(balancer) == {"0": (0, 0, 1, 0)}

    asyncio.run(main())
    assert "on_state_change raised KeyError(<BreakerState.OPEN" in caplog.text


# ---- arguments -----------------------------------------------------------------------------------------------------


GOOD = [answering("a"), answering("b")]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        (([],), {}, ValueError, r"applications=\[\]: .* at least one"),
        (({},), {}, ValueError, r"applications=\{\}: "),
        (("module:app",), {}, TypeError, "applications='module:app': accepted are applications by name"),
        ((GOOD[0],), {}, TypeError, "applications=<function .*: accepted are applications by name"),
        ((None,), {}, TypeError, "applications=None: "),
        ((["x"],), {}, TypeError, "application='x': accepted is an ASGI application, a callable"),
        (({"": GOOD[0]},), {}, TypeError, "'' is no name"),
        (({1: GOOD[0]},), {}, TypeError, "1 is no name"),
        ((GOOD, "random"), {}, ValueError, "strategy='random': accepted are round-robin, least-running, weighted, con"),
        ((GOOD, RoundRobin), {}, TypeError, "strategy=<class .*RoundRobin'>: .* object with a method choose"),
        ((GOOD, 3), {}, TypeError, "strategy=3: "),
        ((GOOD, "round-robin"), {"weights": [1, 2]}, ValueError, "it does not look at them"),
        ((GOOD,), {"weights": [1]}, ValueError, r"weights=\[1\]: accepted is one for each of 2"),
        ((GOOD,), {"weights": {"a": 1}}, ValueError, r"weights for \['a'\]: accepted are .*\['0', '1'\]"),
        ((GOOD,), {"weights": 3}, TypeError, "weights=3: "),
        ((GOOD,), {"weights": "12"}, TypeError, "weights='12': "),
        ((GOOD,), {"weights": [1, 0]}, ValueError, "weight of '1'=0: accepted is a number from 1e-6 to 1e6"),
        ((GOOD,), {"weights": [1, -1]}, ValueError, "weight of '1'=-1: "),
        ((GOOD,), {"weights": [1, float("nan")]}, ValueError, "weight of '1'=nan: "),
        ((GOOD,), {"weights": [True, 1]}, TypeError, "weight of '0'=True: "),
        ((GOOD,), {"weights": ["1", 1]}, TypeError, "weight of '0'='1': "),
        ((GOOD,), {"slow_after": 0}, ValueError, "slow_after=0: .*, or None for never"),
        ((GOOD,), {"slow_after": "1"}, TypeError, "slow_after='1': "),
        ((GOOD,), {"max_attempts": 0}, ValueError, "max_attempts=0: accepted is an int of at least 1"),
        ((GOOD,), {"max_replay": -1}, ValueError, "max_replay=-1: accepted is an int of at least 0"),
        ((GOOD,), {"max_replay_total": -1}, ValueError, "max_replay_total=-1: accepted is an int of at least 0"),
        ((GOOD,), {"max_replay": None}, TypeError, "max_replay=None: "),
        ((GOOD,), {"retry_methods": "GET"}, TypeError, "retry_methods='GET': "),
        ((GOOD,), {"retry_methods": ["get"]}, ValueError, r"retry_methods=\['get'\]: .* upper case"),
        ((GOOD,), {"retry_methods": [b"GET"]}, TypeError, "retry_methods=.*: "),
        ((GOOD,), {"failure_threshold": 0}, ValueError, "failure_threshold=0: "),
        ((GOOD,), {"open_time": None}, TypeError, "open_time=None: "),
        ((GOOD,), {"clock": None}, TypeError, "clock=None: "),
    ],
)
def test_bad_arguments(arguments, options, error, says):
    """What makes no sense is refused at once, with its value and what is accepted."""
    with pytest.raises(error, match=says):
        LoadBalancer(*arguments, **options)


def test_shape():
    """A balancer tells what it is over; its applications and their names are there to be read."""
    balancer = LoadBalancer(iter(GOOD), LeastRunning(), weights=(weight for weight in (1, 2.5)))
    assert [(backend.index, backend.name, backend.weight) for backend in balancer.backends] == [
        (0, "0", 1),
        (1, "1", 2.5),
    ]
    assert repr(balancer) == "<LoadBalancer over '0', '1'>"
    assert repr(balancer.backends[0]) == "<Backend '0': closed, 0 running>"
    assert balancer.stats() == {
        "retried": 0,
        "refused": 0,
        "applications": {
            name: {
                "state": "closed",
                "weight": weight,
                "running": 0,
                "started": 0,
                "succeeded": 0,
                "failed": 0,
                "slow": 0,
                "abandoned": 0,
                "opened": 0,
            }
            for name, weight in (("0", 1), ("1", 2.5))
        },
    }

"""Applications whose signature lies or says nothing: a call tells what they are; one that fails is a failed run."""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import re
from typing import Any
from unittest import mock

import pytest
from starlette.endpoints import HTTPEndpoint
from starlette.responses import PlainTextResponse

from support.instances import SCOPE, make, sending
from support.loops import passes
from support.serving import eventually, fast, quiet

# Signatures that lie


async def single(scope: Any, receive: Any, send: Any) -> str:
    await send((scope["type"], await receive()))
    return "returned"


class Double:
    """ASGI 2."""

    def __init__(self, scope: Any) -> None:
        self.scope = scope

    async def __call__(self, receive: Any, send: Any) -> str:
        return await single(self.scope, receive, send)


def nothing() -> None:
    """A signature for others."""


def claiming(signature: Any, function: Any) -> Any:
    function.__signature__ = inspect.signature(signature)
    return function


def around(wrapped: Any, function: Any) -> Any:
    """Like functools.wraps(wrapped)(function), for any callable."""
    return functools.update_wrapper(function, wrapped)


async def async_single(scope: Any, receive: Any, send: Any) -> Any:
    return await single(scope, receive, send)


async def async_by_name(*, scope: Any, receive: Any, send: Any) -> Any:
    return await single(scope, receive, send)


class AsyncObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        return await single(scope, receive, send)


class PlainObject:
    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        return single(scope, receive, send)

    def double(self, scope: Any) -> Any:
        return Double(scope)


class Lazy:
    """An object whose __call__ is found out when it is asked for, as a proxy's is."""

    def __init__(self, function: Any) -> None:
        self.function = function

    @property
    def __call__(self) -> Any:
        return self.function


class Silent:
    """One that cannot be asked for its signature."""

    def __init__(self, function: Any) -> None:
        self.function = function

    @property
    def __signature__(self) -> Any:
        raise OSError("on purpose")

    @property
    def __call__(self) -> Any:
        return self.function


class Made(type):
    """Makes instances in a way of its own."""

    def __call__(cls, *args: Any) -> Any:
        return super().__call__(*args)


class DoubleMade(metaclass=Made):
    def __init__(self, scope: Any) -> None:
        self.scope = scope

    async def __call__(self, receive: Any, send: Any) -> str:
        return await single(self.scope, receive, send)


class Endpoint:
    """A class that is called with all three and awaited, as Starlette's endpoints are."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.arguments = scope, receive, send

    def __await__(self) -> Any:
        return single(*self.arguments).__await__()


def copied(function: Any) -> Any:
    """A fresh function of the same code."""
    return lambda *args: function(*args)


#: What the reference runs as well.
CALLED = {
    "async, wraps a function of none": lambda: around(nothing, async_single_of_its_own()),
    "async, wraps a class": lambda: around(Double, async_single_of_its_own()),
    "async, claims none": lambda: claiming(nothing, async_single_of_its_own()),
    "async, parameters by name only": lambda: async_by_name,
    "async, partial of one by name only": lambda: functools.partial(async_by_name),
    "async object": AsyncObject,
    "bound method of an async object": lambda: AsyncObject().__call__,
    "async mock": lambda: mock.AsyncMock(side_effect=single),
    "double, wraps a single": lambda: around(single, lambda scope: Double(scope)),
    "double, claims to be single": lambda: claiming(single, lambda scope: Double(scope)),
    "double, claims none": lambda: claiming(nothing, lambda scope: Double(scope)),
    "double, class that claims to be single": lambda: claiming(single, type("Claiming", (Double,), {})),
    "double by a metaclass": lambda: DoubleMade,
    "double, method": lambda: PlainObject().double,
    "double, partial": lambda: functools.partial(lambda extra, scope: Double(scope), "extra"),
    "double, partial of a class": lambda: functools.partial(Double),
    "double with options": lambda: lambda scope, cache=None, retries=3: Double(scope) if retries == 3 else 1 / 0,
    "double, any arguments": lambda: copied(Double),
    "double that unpacks any arguments": lambda: unpacking_one,
    "double, any arguments and wraps a single": lambda: around(single, copied(Double)),
    "double, asked for": lambda: Lazy(Double),
    "double, silent": lambda: Silent(Double),
}
#: What the reference takes for double callables, and calls in vain.
CALLED_BY_US = {
    "plain, wraps a double": lambda: around(Double, lambda scope, receive, send: single(scope, receive, send)),
    "plain, claims none": lambda: claiming(nothing, lambda scope, receive, send: single(scope, receive, send)),
    "plain, any arguments": lambda: copied(single),
    "plain that unpacks any arguments": lambda: unpacking_three,
    "plain, any arguments and wraps a double": lambda: around(Double, copied(single)),
    "plain with defaults": lambda: lambda scope, receive=None, send=None: single(scope, receive, send),
    "plain with other defaults": lambda: lambda s, r=None, x=None: single(s, r, x),
    "class that makes an awaitable": lambda: type("Making", (), {"__new__": lambda cls, s, r, x: single(s, r, x)}),
    "plain object": PlainObject,
    "plain method": lambda: PlainObject().__call__,
    "plain, partial": lambda: functools.partial(lambda extra, s, r, x: single(s, r, x), "extra"),
    "plain, asked for": lambda: Lazy(single),
    "plain, silent": lambda: Silent(single),
    "plain with a default, gives a task": lambda: (
        lambda scope, receive=None, send=None: asyncio.ensure_future(single(scope, receive, send))
    ),
    "awaitable class": lambda: Endpoint,
    "C callable": lambda: single_in_c,
}


#: Written in C; it tells the signature of what it wraps.
single_in_c = functools.lru_cache(maxsize=0)(lambda scope, receive, send: single(dict(scope), receive, send))


def unpacking_one(*args: Any) -> Any:
    (scope,) = args
    return Double(scope)


def unpacking_three(*args: Any) -> Any:
    scope, receive, send = args
    return single(scope, receive, send)


def async_single_of_its_own() -> Any:
    async def application(scope: Any, receive: Any, send: Any) -> Any:
        return await single(scope, receive, send)

    return application


class HashableScope(dict):
    def __hash__(self) -> int:  # type: ignore[override]
        return 1


async def serves(server: Any) -> None:
    """Three instances, one after the other: the first finds out what the others go by."""
    for number in range(3):
        make(server, number, HashableScope(SCOPE)).put_nowait(number)
        await passes(6)
        assert server.application_instances[number]["future"].result() == "returned"
    assert server.sent == [("test", 0), ("test", 1), ("test", 2)]


@pytest.mark.parametrize("kind", CALLED)
def test_what_the_reference_runs(impl, run, kind):
    """Whatever an application says of itself, it is run if it can be called."""
    run(serves(sending(impl.StatelessServer, CALLED[kind]())))


@pytest.mark.parametrize("kind", CALLED_BY_US)
def test_what_the_reference_calls_in_vain(cy, run, kind):
    """So are plain callables that return an awaitable."""
    run(serves(sending(cy.StatelessServer, CALLED_BY_US[kind]())))


@pytest.mark.parametrize("kind", [*CALLED, *CALLED_BY_US])
def test_the_callers_application(cy, run, kind):
    """`instance["application"]` takes the three arguments, whatever the application is and says."""

    async def main():
        sent = []

        async def receive():
            return "mine"

        async def send(message):
            sent.append(message)

        instance = make(cy.StatelessServer({**CALLED, **CALLED_BY_US}[kind]()))
        assert await instance["application"](HashableScope(type="caller"), receive, send) == "returned"
        assert sent == [("caller", "mine")]

    run(main())


def test_an_endpoint_of_starlette(cy, run):
    """A class that takes all three and is awaited: under the reference each request fails."""

    class Page(HTTPEndpoint):
        async def get(self, request):
            return PlainTextResponse("hello")

    async def main():
        server = sending(cy.StatelessServer, Page)
        make(server, scope={"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""})
        await eventually(lambda: len(server.sent) == 2)
        assert server.sent[1] == {"type": "http.response.body", "body": b"hello"}

    run(main())


# Calls that fail


async def two_parameters(scope: Any, receive: Any) -> None:
    raise AssertionError("never called")


def claims_three_takes_none(*args: Any) -> Any:
    if args:
        raise TypeError("on purpose")


class TakesNone:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("never called")


#: What Python says of it; another sentence from 3.14 on.
NOT_AWAITABLE = r"object int can't be used in 'await' expression|'int' object can't be awaited"
#: And what is told of the failure.
FAILING = {
    "async with two parameters": (
        lambda: two_parameters,
        r"two_parameters\(\) takes 2 positional arguments but 3 were",
    ),
    "no parameter": (lambda: lambda: None, "takes 0 positional arguments but 1 was given"),
    "a class in the place of its instance": (lambda: TakesNone, r"TakesNone\(\) takes no arguments"),
    "raises in any case": (lambda: claims_three_takes_none, "on purpose"),
    "gives what is not callable": (lambda: lambda scope: 5, "'int' object is not callable"),
    "gives a future for a scope": (lambda: lambda scope: asyncio.get_running_loop().create_future(), "not callable"),
    "gives what is not awaitable": (lambda: lambda scope, receive, send: 5, NOT_AWAITABLE),
    "mock": (lambda: mock.Mock(return_value=5), NOT_AWAITABLE),
    "C callable": (lambda: len, "'int' object is not callable"),
}


@pytest.mark.parametrize("kind", FAILING)
@pytest.mark.parametrize("way", ["reaped", "renewed", "deleted"])
def test_a_call_that_fails_is_a_failed_run(cy, run, kind, way):
    """The look-up gives an instance, and the failure is reported as any other is: once, whatever removes the record;
    what was fed to it is told of as undelivered."""
    application, message = FAILING[kind]

    async def main():
        server = fast(cy.StatelessServer)(application())
        checker = asyncio.create_task(server.application_checker()) if way == "reaped" else None
        instance = make(server)
        instance.put_nowait("message")
        await passes(4)
        assert instance.ended and instance.end_reason == "failed"
        assert server.stats()["failed"] == 1
        if way == "renewed":
            assert make(server) is not instance
            server.delete_application_instance("id")
        elif way == "deleted":
            server.delete_application_instance("id")
        await eventually(lambda: server.failures and server.undelivered)
        await passes(20)
        if checker is not None:
            checker.cancel()
        failures = [failure for failure in server.failures if re.search(message, str(failure))]
        assert [type(failure) for failure in failures] == [TypeError] and failures == server.failures[:1]
        assert server.undelivered == [(["message"], instance)]

    run(main())


@pytest.mark.parametrize("kind", ["async with two parameters"])
def test_the_reference_raises_it_to_the_feeder(reference, run, kind):
    """In the reference a call that fails at once is raised at the look-up; one of a double callable is a failed run."""

    async def main():
        with pytest.raises(TypeError):
            make(reference(FAILING[kind][0]()))
        server = reference(FAILING["no parameter"][0]())
        make(server)
        await passes(3)
        assert isinstance(server.application_instances["id"]["future"].exception(), TypeError)

    run(main())


@pytest.mark.parametrize(
    "application",
    [
        lambda scope: int("on purpose"),
        lambda scope, more=None, most=None: int("on purpose"),
        lambda *args: int("on purpose"),
        copied(lambda scope: int("on purpose")),
        copied(lambda scope, receive, send: int("on purpose")),
        Lazy(lambda scope: int("on purpose")),
        lambda scope, receive, send: int("on purpose"),
    ],
    ids=["double", "with options", "any", "any, then double", "any, then single", "asked for", "plain"],
)
def test_the_applications_own_error_is_reported(cy, run, application):
    """And not that of an attempt to call it in another way."""

    async def main():
        server = quiet(cy.StatelessServer)(application)
        make(server)
        await passes(3)
        server.delete_application_instance("id")
        await eventually(lambda: server.failures)
        (failure,) = server.failures
        assert isinstance(failure, ValueError) and "on purpose" in str(failure)

    run(main())


def test_a_kind_once_found_is_kept(cy, run):
    """What has worked is what is done from then on: an application of any arguments is called once for each run, and an
    error that it raises then is that run's alone."""

    async def main():
        calls = []

        def application(*args):
            calls.append(len(args))
            if args[0]["type"] == "bad":
                raise TypeError("on purpose")
            return single(*args)

        server = sending(cy.StatelessServer, application)
        for number, kind in enumerate(["test", "bad", "test"]):
            make(server, number, {"type": kind}).put_nowait("message")
            await passes(6)
        assert calls == [3, 3, 3]
        assert server.sent == [("test", "message"), ("test", "message")]
        server.delete_application_instance(1)
        await eventually(lambda: [str(failure) for failure in server.failures] == ["on purpose"])

    run(main())


@pytest.mark.parametrize("names", ["others", "usual"])
def test_what_was_called_with_the_scope_alone_leaves_nothing(cy, run, names):
    """A task that such a call has made is cancelled, if that was the wrong way; by the usual names of the parameters it
    is known before."""

    async def main():
        made = []

        def others(scope, r=None, s=None):
            made.append(asyncio.ensure_future(single(scope, r, s)))
            return made[-1]

        def usual(scope, receive=None, send=None):
            return others(scope, receive, send)

        server = sending(cy.StatelessServer, others if names == "others" else usual)
        make(server).put_nowait("message")
        await passes(6)
        assert [task.cancelled() for task in made] == ([True, False] if names == "others" else [False])
        assert server.sent == [("test", "message")]

    run(main())


@pytest.mark.parametrize("kind", [*CALLED, *CALLED_BY_US])
def test_behind_a_balancer(cy, run, kind):
    """A balancer takes what a server takes."""
    balancing = importlib.import_module("cyasgi.balancing")

    async def main():
        read = []

        async def receive():
            return {"type": "test.message"}

        async def send(message):
            read.append(message[1])

        balancer = balancing.LoadBalancer({"only": {**CALLED, **CALLED_BY_US}[kind]()})
        for _ in range(3):
            await balancer(SCOPE, receive, send)
        assert read == [{"type": "test.message"}] * 3

    run(main())

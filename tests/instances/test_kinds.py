"""Application kinds: whatever can be called in one of the ways of ASGI is run, by the server and by a caller."""

from __future__ import annotations

import asyncio
import functools
import inspect
import types
from typing import Any
from unittest import mock

import pytest
from channels.consumer import AsyncConsumer

from support.instances import SCOPE, make
from support.loops import passes


async def serve(scope: Any, receive: Any, send: Any) -> str:
    await send((scope["type"], await receive()))
    return "returned"


async def positional(a: Any, b: Any, c: Any, /) -> str:
    return await serve(a, b, c)


async def with_more(prefix: str, scope: Any, receive: Any, send: Any, extra: int = 1) -> str:
    return await serve(scope, receive, send)


class Single:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> str:
        return await serve(scope, receive, send)

    async def method(self, scope: Any, receive: Any, send: Any) -> str:
        return await serve(scope, receive, send)

    @staticmethod
    async def static(scope: Any, receive: Any, send: Any) -> str:
        return await serve(scope, receive, send)

    @classmethod
    async def of_class(cls, scope: Any, receive: Any, send: Any) -> str:
        return await serve(scope, receive, send)

    def plain(self, scope: Any, receive: Any, send: Any) -> Any:
        return serve(scope, receive, send)


class Wrapper:
    """A callable object whose __call__ is a plain def."""

    def __init__(self, application: Any) -> None:
        self.application = application

    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        return self.application(scope, receive, send)


class Double:
    """ASGI 2: made with the scope, called with the rest."""

    def __init__(self, scope: Any) -> None:
        self.scope = scope

    async def __call__(self, receive: Any, send: Any) -> str:
        return await serve(self.scope, receive, send)


class DoubleObject:
    """ASGI 2 again: an object that, called with the scope, gives the rest."""

    def __call__(self, scope: Any) -> Any:
        return functools.partial(serve, scope)


def double(scope: Any) -> Any:
    async def inner(receive: Any, send: Any) -> str:
        return await serve(scope, receive, send)

    return inner


def marked_double(*args: Any) -> Any:
    return double(*args)


marked_double._asgi_double_callable = True  # type: ignore[attr-defined]


def marked_single(*args: Any) -> Any:
    return serve(*args)


marked_single._asgi_single_callable = True  # type: ignore[attr-defined]


@functools.wraps(serve)
def wrapping(*args: Any, **kwargs: Any) -> Any:
    return serve(*args, **kwargs)


def stars(*args: Any) -> Any:
    return serve(*args)


def double_stars(*args: Any) -> Any:
    return double(*args)


@functools.wraps(double)
async def lies_single(scope: Any, receive: Any, send: Any) -> Any:
    """Its signature is that of an ASGI 2 application."""
    return await serve(scope, receive, send)


def lies_plain(*args: Any) -> Any:
    """Its signature is that of something else altogether."""
    return serve(*args)


lies_plain.__signature__ = inspect.signature(lambda no, such, number, of, arguments: None)  # type: ignore[attr-defined]


@functools.wraps(serve)
def lies_double(scope: Any) -> Any:
    """Its signature is that of an ASGI 3 application."""
    return double(scope)


class Consumer(AsyncConsumer):
    async def __call__(self, scope: Any, receive: Any, send: Any) -> str:
        return await serve(scope, receive, send)


class Configured(Consumer):
    def __init__(self, *, colour: str) -> None:
        super().__init__()
        self.colour = colour


#: What the reference runs too.
KINDS = {
    "function": serve,
    "object": Single(),
    "method": Single().method,
    "static method": Single.static,
    "class method": Single.of_class,
    "partial": functools.partial(with_more, "prefix"),
    "ASGI 2 class": Double,
    "ASGI 2 function": double,
    "ASGI 2 object": DoubleObject(),
    "ASGI 2 partial": functools.partial(double),
    "marked as double": marked_double,
    "wraps an ASGI 2 function": lies_single,
    "Channels' consumer": Consumer.as_asgi(),
    "Channels' consumer with arguments": Configured.as_asgi(colour="red"),
    "signature of an ASGI 3 function": lies_double,
}
#: What the reference takes for a double callable, or calls with names that are not there.
MORE_KINDS = {
    "positional only": positional,
    "other names": positional,
    "lambda": lambda scope, receive, send: serve(scope, receive, send),
    "lambda with other names": lambda s, r, x: serve(s, r, x),
    "plain method": Single().plain,
    "wrapper object": Wrapper(serve),
    "wrapper of a wrapper": Wrapper(Wrapper(Single())),
    "partial of a plain method": functools.partial(Single().plain),
    "wraps": wrapping,
    "stars": stars,
    "marked as single": marked_single,
    "signature of nothing": lies_plain,
    "mock": mock.Mock(side_effect=serve, spec=[]),
    "C function": types.MethodType(serve, SCOPE).__func__.__call__,
    "partial of stars": functools.partial(stars),
    "ASGI 2 stars": double_stars,
}


def sending(cls: Any, application: Any, sent: list) -> Any:
    class Server(cls):
        async def application_send(self, scope, message):
            sent.append(message)

    return Server(application)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(impl, run, kind):
    """Whatever guarantee_single_callable takes is run by the server."""

    async def main():
        sent = []
        server = sending(impl.StatelessServer, KINDS[kind], sent)
        make(server).put_nowait("message")
        await passes(6)
        assert sent == [("test", "message")]
        assert server.application_instances["id"]["future"].result() == "returned"

    run(main())


@pytest.mark.parametrize("kind", MORE_KINDS)
def test_plain_callables(cy, run, kind):
    """So are plain callables that return a coroutine, called with the three arguments by position."""

    async def main():
        sent = []
        server = sending(cy.StatelessServer, MORE_KINDS[kind], sent)
        make(server).put_nowait("message")
        await passes(6)
        assert sent == [("test", "message")]
        assert server.application_instances["id"]["future"].result() == "returned"

    run(main())


@pytest.mark.parametrize("kind", [*KINDS, *MORE_KINDS])
def test_the_callers_application_is_single_whatever_the_kind(cy, run, kind):
    """instance["application"] takes scope, receive and send of the caller, whatever the server was given."""

    async def main():
        sent = []

        async def receive():
            return "mine"

        async def send(message):
            sent.append(message)

        instance = make(cy.StatelessServer({**KINDS, **MORE_KINDS}[kind]))
        assert await instance["application"]({"type": "caller"}, receive, send) == "returned"
        assert await instance["application"](scope={"type": "named"}, receive=receive, send=send) == "returned"
        assert sent == [("caller", "mine"), ("named", "mine")]

    run(main())


@pytest.mark.parametrize("wrong", [None, "application", object(), 5], ids=["None", "text", "object", "number"])
def test_what_is_not_callable_is_refused_at_once(cy, run, wrong):
    """It is a TypeError of the creation."""

    async def main():
        server = cy.StatelessServer(wrong)
        with pytest.raises(TypeError):
            make(server)
        assert len(server.application_instances) == 0

    run(main())


async def two_parameters(scope: Any, receive: Any) -> None:
    raise AssertionError("never called")


def fails_by_itself(*args: Any) -> Any:
    """Not to be taken for a refusal of the arguments, and called again."""
    CALLS.append(len(args))
    raise TypeError("by itself")


class FailsToBuild:
    def __init__(self, scope: Any) -> None:
        raise TypeError("by itself")


CALLS: list[int] = []
#: Applications that cannot be run, and what the error says.
WRONG = {
    "two parameters": (two_parameters, "two_parameters"),
    "no parameter": (lambda: None, "positional arguments"),
    "four parameters": (lambda a, b, c, d: None, "positional argument"),
    "a C function": (len, "not callable"),
    "fails by itself": (fails_by_itself, "by itself"),
    "fails to build": (FailsToBuild, "by itself"),
    "returns nothing": (lambda scope, receive, send: None, "await"),
    "a partial that is full": (functools.partial(two_parameters, 1, 2), "two_parameters"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_call_that_fails_is_a_failed_run(cy, run, kind):
    """As in the reference nothing is refused for its signature: the run fails, and is reported once."""
    application, says = WRONG[kind]
    errors = []
    CALLS.clear()

    class Server(cy.StatelessServer):
        def application_exception(self, exception, application_details):
            errors.append(exception)

        def application_undelivered(self, messages, application_details):
            assert messages == ["message"]

    async def main():
        server = Server(application)
        checker = asyncio.create_task(server.application_checker())
        make(server).put_nowait("message")
        await passes(20)
        assert [type(error) for error in errors] == [TypeError]
        assert says in str(errors[0])
        assert server.stats()["failed"] == 1
        checker.cancel()

    run(main())
    assert CALLS in ([], [3])


@pytest.mark.parametrize("kind", ["four parameters", "fails to build"])
def test_a_call_that_fails_is_a_failed_run_of_the_reference_too(reference, run, kind):
    errors = []

    class Server(reference):
        application_checker_interval = 0.001

        async def application_exception(self, exception, application_details):
            errors.append(exception)

    async def main():
        server = Server(WRONG[kind][0])
        checker = asyncio.create_task(server.application_checker())
        make(server)
        while not errors:
            await asyncio.sleep(0.001)
        assert [type(error) for error in errors] == [TypeError]
        checker.cancel()

    run(main())


def test_the_application_may_be_replaced(impl, run):
    """server.application is read for each new instance; those that run keep theirs."""

    async def main():
        sent = []

        def numbered(number):
            async def application(scope, receive, send):
                while True:
                    sent.append((number, await receive()))

            return application

        server = impl.StatelessServer(numbered(1))
        make(server, "a").put_nowait("a")
        await passes(3)
        server.application = numbered(2)
        make(server, "b").put_nowait("b")
        make(server, "a").put_nowait("a")
        await passes(3)
        server.application = Double
        server.application = numbered(1)
        make(server, "c").put_nowait("c")
        await passes(3)
        assert sorted(sent) == [(1, "a"), (1, "a"), (1, "c"), (2, "b")]

    run(main())


def test_an_asgi_2_application_that_fails_to_build_fails_in_its_run(impl, run):
    """What an ASGI 2 application raises when given the scope is an exception of that run, not of the creation."""

    async def main():
        def application(scope):
            raise ValueError("on purpose")

        server = impl.StatelessServer(application)
        make(server).put_nowait("message")
        await passes(5)
        assert isinstance(server.application_instances["id"]["future"].exception(), ValueError)

    run(main())

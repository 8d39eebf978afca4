"""Application kinds, and eager task factories."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
from typing import Any

import pytest
from conftest import passes

SCOPE = {"type": "test"}


def make(server: Any, scope_id: Any = "id", scope: Any = SCOPE) -> Any:
    return server.get_or_create_application_instance(scope_id, scope)


# Kinds


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


async def two_parameters(scope: Any, receive: Any) -> None:
    raise AssertionError("never called")


@pytest.mark.parametrize(
    "wrong",
    [two_parameters, lambda: None, None, "application", object(), 5],
    ids=["two parameters", "no parameter", "None", "text", "object", "number"],
)
def test_what_cannot_be_called_is_refused_at_once(cy, run, wrong):
    """An application that takes neither (scope, receive, send) nor (scope) is a TypeError of the creation."""

    async def main():
        server = cy.StatelessServer(wrong)
        with pytest.raises(TypeError):
            make(server)
        assert len(server.application_instances) == 0

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


# Eager task factories


def eager(loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
    """A home-made eager task factory: the first step is made before the task is handed out."""
    steps: list[tuple[Any, ...]] = []
    call_soon = loop.call_soon
    loop.call_soon = lambda callback, *args, context=None: steps.append((callback, args, context))
    try:
        task = asyncio.Task(coroutine, loop=loop, **kwargs)
    finally:
        loop.call_soon = call_soon  # type: ignore[method-assign]
    ((callback, args, context),) = steps
    outer = asyncio.current_task(loop)
    if outer is not None:
        asyncio.tasks._leave_task(loop, outer)
    try:
        (context or contextvars.copy_context()).run(callback, *args)
    finally:
        if outer is not None:
            asyncio.tasks._enter_task(loop, outer)
    return task


def eager_by_asyncio(loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
    """Python's own one. uvloop hands on an argument that it takes in some versions only."""
    kwargs.pop("eager_start", None)
    return asyncio.eager_task_factory(loop, coroutine, **kwargs)  # type: ignore[attr-defined]


since_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.eager_task_factory came with Python 3.12")


@pytest.fixture(params=["home-made", pytest.param("asyncio", marks=since_3_12)])
def eager_factory(request: pytest.FixtureRequest) -> Any:
    """A task factory that is eager: Python's own, from 3.12 on, and one that does the same everywhere."""
    return eager if request.param == "home-made" else eager_by_asyncio


def test_eager_record_before_the_first_step(cy, run, eager_factory):
    """Under an eager task factory too the record is in the table before the application's first step."""

    async def main():
        asyncio.get_running_loop().set_task_factory(eager_factory)
        seen = []

        async def application(scope, receive, send):
            instance = server.application_instances.get("id")
            seen.append((instance, cy.current_instance(), asyncio.current_task()))
            seen.append(await receive())

        server = cy.StatelessServer(application)
        instance = make(server)
        instance.put_nowait("message")
        await passes(3)
        assert seen == [(instance, instance, instance["future"]), "message"]
        assert instance["future"].done()

    run(main())


def test_eager_application_that_asks_for_its_own_id(cy, run, eager_factory):
    """Under an eager task factory an application that asks for its own id gets itself: one instance of one id."""

    async def main():
        asyncio.get_running_loop().set_task_factory(eager_factory)
        begun = []

        async def application(scope, receive, send):
            begun.append(scope)
            assert len(begun) < 5
            begun.append(make(server))
            await receive()

        server = cy.StatelessServer(application)
        instance = make(server)
        instance.put_nowait("message")
        await passes(3)
        assert begun == [SCOPE, instance]
        assert make(server) is not instance

    run(main())


def test_eager_applications_all_run(cy, run, eager_factory):
    """Applications that end, fail or start others in their first step lose nothing under such a factory."""

    async def main():
        asyncio.get_running_loop().set_task_factory(eager_factory)
        seen, reported = [], []

        class Server(cy.StatelessServer):
            def application_exception(self, exception, details):
                reported.append((str(exception), details.scope_id))

        async def application(scope, receive, send):
            seen.append(scope["id"])
            match scope["id"]:
                case "fails":
                    raise ValueError("on purpose")
                case "starts":
                    make(server, "other", {"id": "other"}).put_nowait("message")
                case "other":
                    seen.append(await receive())

        server = Server(application)
        for scope_id in ("returns", "fails", "starts"):
            make(server, scope_id, {"id": scope_id})
        await passes(4)
        assert sorted(seen) == ["fails", "message", "other", "returns", "starts"]
        assert all(instance["future"].done() for instance in server.application_instances.values())
        for scope_id in list(server.application_instances):
            server.delete_application_instance(scope_id)
        await passes(3)
        assert reported == [("on purpose", "fails")]

    run(main())


def test_eager_held_and_called(cy, run, eager_factory):
    """Holding, calling and deleting work alike when the caller's own task is started eagerly."""

    async def main():
        asyncio.get_running_loop().set_task_factory(eager_factory)
        begun = []

        async def application(scope, receive, send):
            begun.append(scope)
            await receive()

        async def receive():
            await asyncio.get_running_loop().create_future()

        server = cy.StatelessServer(application)
        instance = await make(server)
        await passes(5)
        assert begun == []
        task = asyncio.create_task(instance["application"]({"type": "caller"}, receive, None))
        await passes(3)
        assert begun == [{"type": "caller"}]
        server.delete_application_instance("id")
        await asyncio.wait([task], timeout=5)
        assert isinstance(task.exception(), cy.InstanceDeleted)
        gathered = await asyncio.gather(make(server, "a"), asyncio.create_task(make(server, "b")))
        await passes(5)
        assert [instance.scope_id for instance in gathered] == ["a", "b"] and len(begun) == 1

    run(main())

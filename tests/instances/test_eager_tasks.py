"""Eager task factories: instances whose first step is made before their task is handed out."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from typing import Any

import pytest

from support.instances import SCOPE, make
from support.loops import passes


def eager(loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
    """A home-made eager task factory: the first step is made before the task is handed out, if the loop runs."""
    if not loop.is_running():
        return asyncio.Task(coroutine, loop=loop, **kwargs)
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
    """HeldInstances, calling and deleting work alike when the caller's own task is started eagerly."""

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

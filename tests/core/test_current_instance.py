"""The instance at work, which `current_instance()` returns, and the context that its application runs in."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from support.loops import passes

SCOPE = {"type": "test"}


def make(server: Any, scope_id: Any = "id", scope: Any = SCOPE) -> Any:
    return server.get_or_create_application_instance(scope_id, scope)


def test_current_instance(cy, run):
    """Inside an application, its child tasks and application_send, current_instance() is the instance at work."""

    async def main():
        seen = []

        class Server(cy.StatelessServer):
            async def application_send(self, scope, message):
                seen.append((message, cy.current_instance()))

        async def child(send, message):
            await send(message)
            seen.append(("child", cy.current_instance()))
            await asyncio.create_task(grandchild())

        async def grandchild():
            await passes(1)
            seen.append(("grandchild", cy.current_instance()))

        async def application(scope, receive, send):
            seen.append(("begin", cy.current_instance()))
            await receive()
            await send("sent")
            await asyncio.gather(child(send, "sent by child"))
            seen.append(("end", cy.current_instance()))

        assert cy.current_instance() is None
        server = Server(application)
        for scope_id in "ab":
            del seen[:]
            instance = make(server, scope_id)
            instance.put_nowait("go")
            await passes(8)
            names = ["begin", "sent", "sent by child", "child", "grandchild", "end"]
            assert seen == [(name, instance) for name in names]
            assert cy.current_instance() is None

    run(main())


def test_current_instance_of_an_instance_that_another_made(cy, run):
    """An instance made by an application works under its own name, and its maker goes on under the maker's."""

    async def main():
        seen = {}

        async def application(scope, receive, send):
            if scope["id"] < 3:
                make(server, scope["id"] + 1, {"id": scope["id"] + 1}).put_nowait("go")
            await receive()
            seen[scope["id"]] = cy.current_instance()

        server = cy.StatelessServer(application)
        make(server, 0, {"id": 0}).put_nowait("go")
        await passes(8)
        assert seen == dict(server.application_instances) and len(seen) == 4
        assert cy.current_instance() is None

    run(main())


def test_current_instance_of_a_callers_run(cy, run):
    """In a caller's run it is the instance that was called; before and after, the caller's own, nested calls too."""

    async def main():
        seen = []

        async def inner(scope, receive, send):
            seen.append(cy.current_instance())
            await passes(1)
            seen.append(cy.current_instance())

        async def outer(scope, receive, send):
            seen.append(cy.current_instance())
            await second["application"](SCOPE, receive, send)
            seen.append(cy.current_instance())

        server = cy.StatelessServer(outer)
        first = await make(server, "first")
        server.application = inner
        second = await make(server, "second")
        await first["application"](SCOPE, None, None)
        assert seen == [first, second, second, first]
        assert cy.current_instance() is None
        with pytest.raises(TypeError):
            await second["application"]()
        assert cy.current_instance() is None

    run(main())


def test_current_instance_of_what_survives(cy, run):
    """A child task that outlives its application's run sees None."""

    async def main():
        seen, gate = [], asyncio.Event()
        children = []

        async def child():
            seen.append(cy.current_instance())
            await gate.wait()
            seen.append(cy.current_instance())

        async def application(scope, receive, send):
            children.append(asyncio.create_task(child()))
            await receive()

        server = cy.StatelessServer(application)
        instance = make(server)
        await passes(5)
        instance.put_nowait("end")
        await passes(5)
        assert instance["future"].done()
        gate.set()
        await children[0]
        assert seen == [instance, None]

    run(main())


def test_the_context_of_the_creator_is_the_applications(impl, run):
    """Context variables set before the creation are seen by the application, as a task sees them."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def main():
        seen = []

        async def application(scope, receive, send):
            seen.append(variable.get("unset"))
            await receive()
            variable.set("changed")

        variable.set("mine")
        server = impl.StatelessServer(application)
        make(server).put_nowait("go")
        variable.set("later")
        await passes(5)
        assert seen == ["mine"]
        assert variable.get() == "later"

    run(main())

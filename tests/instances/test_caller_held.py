"""An instance that was awaited is held: it waits for its caller, and runs when somebody feeds it."""

from __future__ import annotations

import asyncio

import pytest

from support.instances import make, recorder
from support.loops import passes


@pytest.mark.slow
def test_awaited_first_it_is_held(cy, run):
    """Awaited before anything was put, the application does not run while nobody calls it and nobody feeds it."""

    async def main():
        seen = []
        server = cy.StatelessServer(recorder(seen))
        instance = await make(server)
        await passes(20)
        assert seen == [] and not instance["future"].done()
        assert make(server) is instance and await make(server) is instance
        await passes(20)
        assert seen == []

    run(main())


@pytest.mark.parametrize("way", ["gather", "create_task", "wait_for", "TaskGroup", "later"])
def test_held_by_a_task(cy, run, way):
    """gather, create_task, wait_for and TaskGroup hold it as await does, although they await a pass later."""

    async def main():
        seen = []
        server = cy.StatelessServer(recorder(seen))
        match way:
            case "gather":
                await asyncio.gather(make(server, "a"), make(server, "b"))
            case "create_task":
                tasks = [asyncio.create_task(make(server, scope_id)) for scope_id in "ab"]
                await asyncio.wait(tasks)
            case "wait_for":
                await asyncio.wait_for(make(server, "a"), 5)
            case "TaskGroup":
                async with asyncio.TaskGroup() as group:
                    group.create_task(make(server, "a"))
                    group.create_task(make(server, "b"))
            case "later":

                async def hold(scope_id):
                    return await make(server, scope_id)

                await asyncio.gather(hold("a"), hold("b"))
        await passes(20)
        assert seen == []

    run(main())


def test_held_then_fed(cy, run):
    """A held instance that is fed is run by the server, with everything that was put."""

    async def main():
        seen, sent = [], []

        class Server(cy.StatelessServer):
            async def application_send(self, scope, message):
                sent.append(message)

        async def application(scope, receive, send):
            while True:
                seen.append(message := await receive())
                await send(message)

        server = Server(application)
        instance = await make(server)
        await passes(10)
        instance.put_nowait(1)
        await instance.put(2)
        await passes(4)
        assert seen == sent == [1, 2]
        assert isinstance(instance["future"], asyncio.Task)
        await instance
        instance.put_nowait(3)
        await passes(4)
        assert seen == sent == [1, 2, 3]

    run(main())


def test_a_put_before_the_await_wins(cy, run):
    """Fed before it was awaited, an instance is the server's to run."""

    async def main():
        seen = []
        server = cy.StatelessServer(recorder(seen))
        instance = make(server)
        instance.put_nowait("message")
        assert await instance is instance
        await passes(4)
        assert seen == ["test", "message"]
        seen.clear()
        other = make(server, "other")
        task = asyncio.create_task(other)
        other.put_nowait("message")
        assert await task is other
        await passes(4)
        assert seen == ["test", "message"]

    run(main())


def test_an_await_after_the_start_changes_nothing(cy, run):
    """Awaited after the server has started it, an instance goes on."""

    async def main():
        seen = []
        instance = make(cy.StatelessServer(recorder(seen)))
        await passes(5)
        assert seen == ["test"]
        await instance
        instance.put_nowait("message")
        await passes(5)
        assert seen == ["test", "message"]

    run(main())


def test_a_held_instance_is_deleted_like_any_other(cy, run):
    """Deleted or cancelled while held, it ends without a step of its application."""

    async def main():
        seen = []
        server = cy.StatelessServer(recorder(seen))
        deleted, cancelled = await make(server, "deleted"), await make(server, "cancelled")
        await passes(3)
        server.delete_application_instance("deleted")
        cancelled["future"].cancel()
        await passes(3)
        assert deleted["future"].cancelled() and cancelled["future"].cancelled()
        assert make(server, "cancelled") is not cancelled
        await make(server, "cancelled")
        await passes(5)
        assert seen == []

    run(main())

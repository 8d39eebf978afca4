"""application_ended: the end of each instance, with the reason for it."""

from __future__ import annotations

import asyncio

import pytest

from support.ends import listening, make, obeying
from support.loops import passes
from support.serving import checking, eventually, for_ever, handling, in_time, one_shot, reader

# Reasons


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(("message", "reason"), [("", "returned"), ("fail", "failed"), ("cancel", "cancelled")])
def test_by_itself(cy, run, kind, message, reason):
    """An application that comes to its end by itself."""

    async def main():
        server = listening(cy.StatelessServer, kind)(obeying)
        async with checking(server):
            instance = make(server)
            instance.put_nowait(message)
            assert instance.end_reason is None
            await in_time(lambda: server.ends)
            await passes(5)
        assert server.ends == [("scope", reason)]
        assert instance.ended and instance.end_reason == reason

    run(main())


@pytest.mark.parametrize("waits", [False, True])
def test_evicted(cy, run, waits):
    """Making room ends an instance, begun or not; one that had ended keeps its own reason."""

    async def main():
        server = listening(cy.StatelessServer)(obeying, 2)
        make(server, 1, 1)
        if waits:
            await passes(3)
        make(server, 2, 2)
        make(server, 3, 3)
        await eventually(lambda: server.ends)
        make(server, 2, 2).put_nowait("fail")
        await passes(5)
        make(server, 4, 4)
        await eventually(lambda: len(server.ends) == 2)
        make(server, 5, 5).put_nowait("")
        await server.delete_oldest_application_instance()
        await eventually(lambda: len(server.ends) == 4)
        assert server.ends == [(1, "evicted"), (2, "failed"), (3, "evicted"), (4, "evicted")]

    run(main())


def test_idle(cy, run):
    """An instance that was idle for too long."""

    async def main():
        server = listening(cy.StatelessServer)(reader)
        server.idle_timeout = 0.005
        async with checking(server):
            instance = make(server)
            await in_time(lambda: server.ends)
        assert (server.ends, instance.end_reason) == ([("scope", "idle")], "idle")

    run(main())


def test_deleted(cy, run):
    """Deleted by hand, and what its clean-up comes to makes no difference; after its own end, that counts."""

    async def returning(scope, receive, send):
        try:
            await receive()
        except asyncio.CancelledError:
            if scope == "fails":
                raise LookupError from None

    async def main():
        server = listening(cy.StatelessServer)(returning)
        for scope in ("returns", "fails"):
            make(server, scope, scope)
        await passes(3)
        for scope in ("returns", "fails"):
            await server.delete_application_instance(scope)
        make(server, "over", "over").put_nowait("")
        await passes(5)
        server.delete_application_instance("over")
        await eventually(lambda: len(server.ends) == 3)
        assert server.ends == [("returns", "deleted"), ("fails", "deleted"), ("over", "returned")]
        assert [type(error) for error in server.failures] == [LookupError]

    run(main())


def test_stopping(cy, run):
    """All that a server ends when it stops; what ended before, or while it drained, has its own reason."""

    async def handle(server):
        for name, message in [("before", ""), ("waits", None), ("drains", "")]:
            instance = make(server, name, name)
            if name == "drains":
                await in_time(lambda: server.ends)
            if message is not None:
                instance.put_nowait(message)

    async def main():
        server = handling(listening(cy.StatelessServer), handle)(obeying)
        await server.arun()
        assert sorted(server.ends) == [("before", "returned"), ("drains", "returned"), ("waits", "stopping")]

    run(main())


@pytest.mark.slow
@pytest.mark.usefixtures("watchful")
def test_orphaned(cy, run):
    """An instance that was awaited by a task that has ended without calling it."""

    async def main():
        server = listening(cy.StatelessServer)(obeying)
        async with checking(server):

            async def hold():
                await make(server)

            await asyncio.create_task(hold())
            await in_time(lambda: server.ends)
        assert server.ends == [("scope", "orphaned")]

    run(main())


def test_renewed(cy, run):
    """An instance that has ended and makes way for a fresh one of its id."""

    async def main():
        server = listening(cy.StatelessServer)(one_shot)
        first = make(server, "a", "first")
        first.put_nowait("")
        await passes(5)
        make(server, "a", "second")
        await eventually(lambda: server.ends)
        assert server.ends == [("first", "returned")]
        await passes(3)
        await server.delete_application_instance("a")
        await passes(3)
        assert server.ends == [("first", "returned"), ("second", "deleted")]

    run(main())


def test_unstarted(cy, run):
    """An instance that no loop has run is ended like any other."""
    server = listening(cy.StatelessServer)(reader)
    make(server)
    server.delete_application_instance("a")

    async def main():
        make(server, "b")
        async with checking(server):
            await eventually(lambda: server.ends == [("scope", "deleted")])
        await server.delete_application_instance("b")

    run(main())


@pytest.mark.parametrize(
    ("how", "reason"), [("result", "returned"), ("error", "failed"), ("cancel", "cancelled"), ("", "deleted")]
)
def test_plain_dicts(cy, run, how, reason):
    """Entries that are plain dicts end, too, with the outcome of their future."""

    async def main():
        server = listening(cy.StatelessServer)(reader)
        future = asyncio.get_running_loop().create_future()
        server.application_instances["a"] = {"scope": "own", "future": future, "input_queue": asyncio.Queue()}
        match how:
            case "result":
                future.set_result(None)
            case "error":
                future.set_exception(LookupError())
            case "cancel":
                future.cancel()
            case _:
                server.delete_application_instance("a")
        async with checking(server):
            await in_time(lambda: server.ends)
        assert server.ends == [("own", reason)]
        assert len(server.failures) == (how == "error")

    run(main())


def test_run_by_its_caller(cy, run):
    """The end of an instance whose caller runs it; one that is called again before it is reaped has not ended."""

    async def receive():
        return ""

    async def main():
        server = listening(cy.StatelessServer)(obeying)
        instance = await make(server)
        for _ in range(3):
            await instance["application"]("scope", receive, None)
        await passes(3)
        assert server.ends == []
        async with checking(server):
            await in_time(lambda: server.ends)
        assert server.ends == [("scope", "returned")]
        call = asyncio.create_task(instance["application"]("scope", asyncio.Queue().get, None))
        await passes(3)
        assert instance.end_reason is None
        server.delete_application_instance("a")
        with pytest.raises(cy.InstanceDeleted):
            await call
        await eventually(lambda: len(server.ends) == 2)
        assert server.ends[1:] == [("scope", "deleted")]

    run(main())


def test_interrupts(cy):
    """What stops the server is the failure of the application that raised it."""

    async def handle(server):
        make(server).put_nowait("interrupt")
        await for_ever(server)

    server = handling(listening(cy.StatelessServer), handle)(obeying)
    with pytest.raises(SystemExit):
        server.run()
    assert server.ends == [("scope", "failed")]


# Overrides of the delete methods


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("reason", ["evicted", "idle"])
def test_overridden_deletion(cy, run, kind, forgets, reason):
    """Overrides that clean up, with or without `super()`, leave the reason as it was."""

    class Server(listening(cy.StatelessServer)):
        if kind == "def":

            def delete_application_instance(self, scope_id):
                return super().delete_application_instance(scope_id)
        else:

            async def delete_application_instance(self, scope_id):
                await passes(2)
                if not forgets:
                    await super().delete_application_instance(scope_id)

            async def delete_oldest_application_instance(self):
                await passes(2)
                if not forgets:
                    await super().delete_oldest_application_instance()

    async def main():
        server = Server(reader)
        server.idle_timeout = 60
        async with checking(server):
            make(server)
            await passes(3)
            if reason == "evicted":
                server.max_applications = 1
                make(server, "b")
            else:
                server.idle_timeout = 0.005
            await in_time(lambda: server.ends)
        assert server.ends == [("scope", reason)]

    run(main())


def test_refused_deletion(cy, run):
    """Where an override refuses to delete nothing ends; what ends in the end does so for a reason of its own."""

    class Server(listening(cy.StatelessServer)):
        refused = 0

        def delete_application_instance(self, scope_id):
            instance = self.application_instances[scope_id]
            if scope_id == "a" and not instance.ended:
                self.refused += 1
                return None
            return super().delete_application_instance(scope_id)

    async def main():
        server = Server(obeying, 2)
        instance = make(server)
        make(server, "b", "b")
        await passes(3)
        make(server, "c", "c")
        await eventually(lambda: server.ends)
        assert (server.refused, server.ends) == (1, [("b", "evicted")])
        server.idle_timeout = 0.01
        async with checking(server):
            await in_time(lambda: server.refused > 2)
            server.idle_timeout = None
            instance.put_nowait("fail")
            await in_time(lambda: ("scope", "failed") in server.ends)
        assert instance.end_reason == "failed"

    run(main())

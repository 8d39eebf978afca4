"""application_ended: the end of each instance, with its reason, once and after all else that is told of it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from support.loops import passes
from support.managed_servers import managed
from support.serving import checking, eventually, for_ever, handling, in_time, one_shot, quiet, reader


def make(server, scope_id="a", scope="scope"):
    return server.get_or_create_application_instance(scope_id, scope)


def listening(cls, kind="def"):
    """A server that notes the ends that it hears of, by a hook of either kind."""

    class Base(quiet(cls)):
        application_checker_interval = 0.001
        shutdown_timeout = 0.01

        def __init__(self, application, max_applications=1000):
            super().__init__(application, max_applications)
            self.ends = []

    class Plain(Base):
        def application_ended(self, details, reason):
            self.ends.append((details["scope"], reason))

    class Asynchronous(Base):
        async def application_ended(self, details, reason):
            await passes(2)
            self.ends.append((details["scope"], reason))

    return Plain if kind == "def" else Asynchronous


async def obeying(scope, receive, send):
    """An application that ends as its message says."""
    match await receive():
        case "fail":
            raise LookupError("failed")
        case "cancel":
            raise asyncio.CancelledError
        case "interrupt":
            raise SystemExit


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


# Order and number


@pytest.mark.parametrize("slow", [False, True])
def test_last_of_all(cy, run, slow):
    """It is called when the other hooks for this instance have returned, and only then; other instances do not wait."""
    heard = []

    class Server(cy.StatelessServer):
        application_checker_interval = 0.001

        async def application_send(self, scope, message):
            pass

        async def application_exception(self, exception, details):
            heard.append((details.scope_id, "failure"))
            if slow:
                await gate
            await passes(3)
            heard.append((details.scope_id, "failure told"))

        async def application_undelivered(self, messages, details):
            await passes(1)
            heard.append((details.scope_id, messages))

        async def application_ended(self, details, reason):
            await passes(2)
            heard.append((details.scope_id, reason))

    async def main():
        nonlocal gate
        gate = asyncio.get_running_loop().create_future()
        server = Server(obeying)
        async with checking(server):
            for message in ("fail", "left"):
                make(server).put_nowait(message)
            make(server, "b").put_nowait("")
            await in_time(lambda: ("b", "returned") in heard)
            await passes(10)
            if slow:
                assert ("a", "failed") not in heard
                gate.set_result(None)
            await in_time(lambda: ("a", "failed") in heard)
        of_a = [what for scope_id, what in heard if scope_id == "a"]
        assert sorted(of_a[:-1], key=str) == sorted(["failure", ["left"], "failure told"], key=str)
        assert of_a[-1] == "failed"
        assert [what for scope_id, what in heard if scope_id == "b"] == ["returned"]

    gate = None
    run(main())


@pytest.mark.slow
def test_once_for_each(cy, run):
    """A thousand instances that end in all ways at once: each is told of once."""

    async def main():
        server = listening(cy.StatelessServer)(obeying, 600)
        async with checking(server):
            for number in range(1000):
                instance = make(server, number, number)
                if number % 3 == 0:
                    instance.put_nowait("fail" if number % 2 else "")
                if number % 7 == 0:
                    server.delete_application_instance(number)
                    server.delete_application_instance(number)
                if number % 100 == 0:
                    await passes(3)
            for number in range(1000):
                server.delete_application_instance(number)
            await in_time(lambda: len(server.ends) == 1000)
            await passes(10)
        assert sorted(scope for scope, _ in server.ends) == list(range(1000))

    run(main())


def test_a_hook_that_raises(cy, run, caplog):
    """Its error is logged; nothing else is disturbed."""

    class Server(listening(cy.StatelessServer)):
        def application_ended(self, details, reason):
            super().application_ended(details, reason)
            raise ValueError("on purpose")

    async def main():
        server = Server(one_shot)
        async with checking(server):
            for name in "ab":
                make(server, name, name).put_nowait("")
            await in_time(lambda: len(server.ends) == 2)
            await passes(3)

    with caplog.at_level(logging.WARNING):
        run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "the hook application_ended raised ValueError('on purpose')"
    ] * 2


def test_not_overridden(cy, run):
    """Then nothing is told of ends that are nothing out of the ordinary, and nothing waits to be told."""

    async def main():
        server = quiet(cy.StatelessServer)(one_shot, 5)
        async with checking(server):
            for number in range(20):
                make(server, number).put_nowait("")
                await passes(2)
                assert server._cyasgi.reports.pending == 0
            make(server, "last")
            server.delete_application_instance("last")
            await passes(3)
            assert server._cyasgi.reports.pending == 0

    run(main())


@pytest.mark.parametrize("where", ["instance", "class"])
def test_set_later(cy, run, where):
    """An override that is set on a server, or on its class, hears of the ends from then on."""
    ends = []

    async def main():
        server = quiet(cy.StatelessServer)(one_shot)
        async with checking(server):
            make(server, "before").put_nowait("")
            await in_time(lambda: "before" not in server.application_instances)
            if where == "instance":
                server.application_ended = lambda details, reason: ends.append(details.scope_id)
            else:
                type(server).application_ended = lambda self, details, reason: ends.append(details.scope_id)
            make(server, "after").put_nowait("")
            await in_time(lambda: ends)
        assert ends == ["after"]

    run(main())


# Managed servers


def test_managed(cy, run):
    """A managed server tells of its instances by one and the same reasons; `on_closed` is the last."""

    class Server(managed(cy)):
        def application_ended(self, details, reason):
            self.heard.append(("ended", details.scope_id, reason))

    async def main():
        server = Server(obeying)
        server.max_age = 60
        async with checking(server):
            make(server, "old", {"type": "test"})
            await passes(3)
            server.now += 61
            await in_time(lambda: len(server.heard) == 4)
            make(server, "fails", {"type": "test"}).put_nowait("fail")
            await in_time(lambda: len(server.heard) == 7)
        assert server.heard == [
            ("created", "old"),
            ("expired", "old", "age"),
            ("ended", "old", "age"),
            ("closed", "old"),
            ("created", "fails"),
            ("ended", "fails", "failed"),
            ("closed", "fails"),
        ]

    run(main())


# A gateway that puts nothing behind the end


def chat(cls, hears):
    """A gateway of chat connections, each of which ends with a message to its application."""

    class Chat(cls):
        application_checker_interval = 0.001

        def __init__(self, application):
            super().__init__(application)
            self.connected = {}

        async def application_send(self, scope, message):
            pass

        def connect(self, name):
            instance = self.get_or_create_application_instance(name, {"type": "chat", "name": name})
            self.connected[name] = instance
            instance.put_nowait({"type": "chat.connect"})

        def disconnect(self, name):
            instance = self.connected.pop(name, None)
            if instance is not None and not (hears and instance.ended):
                instance.put_nowait({"type": "chat.disconnect"})

        if hears:

            def application_ended(self, details, reason):
                if self.connected.get(details.scope_id) is details:
                    del self.connected[details.scope_id]

    return Chat


@pytest.mark.parametrize("hears", [False, True])
def test_nothing_is_put_behind_the_end(cy, run, caplog, hears):
    """Connections that outlive their applications: a gateway that hears of their ends has nothing undelivered; one that
    does not has a line for each, although its applications have returned as they should."""

    async def main():
        server = chat(cy.StatelessServer, hears)(one_shot)
        async with checking(server):
            for number in range(10):
                server.connect(number)
            await in_time(lambda: not server.application_instances)
            await passes(5)
            for number in range(10):
                server.disconnect(number)
            await passes(10)
        assert server.connected == {}
        assert server.stats()["undelivered"] == (0 if hears else 10)

    with caplog.at_level(logging.WARNING):
        run(main())
    assert len(caplog.records) == (0 if hears else 10)


def test_put_before_the_record_is_reaped(cy, run):
    """Between the end and its being told, `ended` says that nothing is to be put any more."""

    async def main():
        server = listening(cy.StatelessServer)(one_shot)
        instance = make(server)
        instance.put_nowait("")
        assert not instance.ended
        await passes(5)
        assert instance.ended and server.ends == []
        server.delete_application_instance("a")
        await eventually(lambda: server.ends)
        assert server.undelivered == []

    run(main())


def test_put_after_the_end_was_told(cy, run):
    """What is put all the same is undelivered, later than the end; it is not told again."""

    async def main():
        server = listening(cy.StatelessServer)(one_shot)
        instance = make(server)
        instance.put_nowait("")
        async with checking(server):
            await in_time(lambda: server.ends)
            instance.put_nowait("late")
            await in_time(lambda: server.undelivered)
            await passes(5)
        assert server.ends == [("scope", "returned")]
        assert server.undelivered == [(["late"], instance)]

    run(main())


def test_applications_that_resist(cy, run):
    """The end is told when it has come, and not when it was asked for."""

    async def resisting(scope, receive, send):
        while not gate.done():
            try:
                await asyncio.wait([gate])
            except asyncio.CancelledError:
                continue

    gate = None

    async def main():
        nonlocal gate
        gate = asyncio.get_running_loop().create_future()
        server = listening(cy.StatelessServer)(resisting)
        make(server)
        await passes(3)
        server.delete_application_instance("a")
        await passes(10)
        assert server.ends == []
        gate.set_result(None)
        await eventually(lambda: server.ends)
        assert server.ends == [("scope", "deleted")]

    run(main())

"""application_ended is called once for each instance, after all else that is told of it, and nothing is put behind
the end."""

from __future__ import annotations

import asyncio
import logging

import pytest

from support.ends import listening, make, obeying
from support.loops import passes
from support.managed_servers import managed
from support.serving import checking, eventually, in_time, one_shot, quiet

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

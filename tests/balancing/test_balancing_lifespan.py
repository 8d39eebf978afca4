"""The lifespan of a balancer: that of all its applications."""

from __future__ import annotations

import asyncio
import logging

import pytest

from cyasgi.balancing import LoadBalancer
from support.balancing import CUSTOM, HTTP, Client, answering, ask
from support.loops import passes

STARTUP = {"type": "lifespan.startup"}
SHUTDOWN = {"type": "lifespan.shutdown"}
COMPLETE = [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]
LIFESPAN = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}


class Application:
    """An application with a lifespan that writes down what happens to it."""

    def __init__(self, name, log, fail=None, stays=False):
        self.name = name
        self.log = log
        self.fail = fail
        self.stays = stays
        self.scopes = []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "lifespan":
            self.scopes.append(scope)
            await answering(self.name)(scope, receive, send)
            return
        try:
            for phase in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{phase}"
                self.log.append(f"{self.name} {phase}")
                await passes(2)
                if self.fail == phase:
                    await send({"type": f"lifespan.{phase}.failed", "message": "no database"})
                    return
                scope["state"]["name"] = self.name
                await send({"type": f"lifespan.{phase}.complete"})
            if self.stays:
                await receive()
        except asyncio.CancelledError:
            self.log.append(f"{self.name} cancelled")
            raise


def over(log, **fails):
    """A balancer over applications of these names, each failing in the phase given."""
    return LoadBalancer({name: Application(name, log, fail) for name, fail in fails.items()})


class Server(Client):
    """The server's side of a lifespan: it asks for shutdown once `over` is set."""

    def __init__(self):
        super().__init__(STARTUP)
        self.over = asyncio.Event()
        self.up = asyncio.Event()

    async def receive(self):
        if not self.messages:
            await self.over.wait()
            return SHUTDOWN
        return await super().receive()

    async def send(self, message):
        await super().send(message)
        self.up.set()

    async def begin(self, balancer, scope=LIFESPAN):
        """The task of the lifespan, once it has answered."""
        task = asyncio.create_task(balancer(scope, self.receive, self.send))
        up = asyncio.create_task(self.up.wait())
        await asyncio.wait([task, up], return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        return task


@pytest.mark.slow
def test_all_start_and_stop(run):
    """All start in their order before the server hears of it, and shut down in the reverse order."""

    async def main():
        log, server = [], Server()
        task = await server.begin(over(log, a=None, b=None, c=None))
        assert log == ["a startup", "b startup", "c startup"]
        assert server.sent == COMPLETE[:1]
        server.over.set()
        await task
        assert log[3:] == ["c shutdown", "b shutdown", "a shutdown"]
        assert server.sent == COMPLETE

    run(main())


def test_one_fails_to_start(run):
    """Those that have started are shut down, the rest is not started, and the server hears who failed and why."""

    async def main():
        log, server = [], Server()
        task = await server.begin(over(log, a=None, b="startup", c=None))
        await task
        assert log == ["a startup", "b startup", "a shutdown"]
        assert server.sent == [{"type": "lifespan.startup.failed", "message": "application 'b': no database"}]

    run(main())


def test_one_fails_to_stop(run):
    """The others shut down all the same; the server hears of it."""

    async def main():
        log, server = [], Server()
        task = await server.begin(over(log, a="shutdown", b=None, c="shutdown"))
        server.over.set()
        await task
        assert log[3:] == ["c shutdown", "b shutdown", "a shutdown"]
        message = "application 'c': no database; application 'a': no database"
        assert server.sent[1:] == [{"type": "lifespan.shutdown.failed", "message": message}]

    run(main())


def test_state_is_kept_apart(run):
    """Each application finds its own state in its scopes, over the server's, and none of it once it is over."""

    async def main():
        log, server = [], Server()
        balancer = over(log, a=None, b=None)
        a, b = (backend.application for backend in balancer.backends)
        shared = {"server": 1, "name": "the server's"}
        task = await server.begin(balancer, {**LIFESPAN, "state": shared})
        assert shared == {"server": 1, "name": "the server's"}
        for _ in range(2):
            await ask(balancer, {**HTTP, "state": dict(shared)})
        await ask(balancer, CUSTOM)
        assert [scope["state"] for scope in a.scopes] == [{"server": 1, "name": "a"}] * 2
        assert [scope["state"] for scope in b.scopes] == [{"server": 1, "name": "b"}]
        a.scopes[0]["state"]["name"] = "other"
        server.over.set()
        await task
        await ask(balancer)
        assert "state" not in b.scopes[1]

    run(main())


async def without(scope, receive, send):
    """An application that knows no lifespan."""
    if scope["type"] == "lifespan":
        raise ValueError("no lifespan here")
    await answering("without")(scope, receive, send)


async def returning(scope, receive, send):
    """An application that takes a lifespan for something that needs no answer."""


def test_some_have_none(run, caplog):
    """Applications without a lifespan are left out, as a server does without it."""

    async def main():
        log, server = [], Server()
        balancer = LoadBalancer([without, Application("b", log), returning])
        task = await server.begin(balancer)
        assert (await ask(balancer)).status == (200, b"without")
        server.over.set()
        await task
        assert server.sent == COMPLETE
        assert log == ["b startup", "b shutdown"]

    with caplog.at_level(logging.INFO, "cyasgi.balancing"):
        run(main())
    assert "application '0' has no lifespan: ValueError('no lifespan here')" in caplog.text
    assert "application '2' has no lifespan: 'it returned'" in caplog.text


def test_all_have_none(run):
    """If none has a lifespan, neither has the balancer: the server decides what that means."""

    async def main():
        server = Server()
        with pytest.raises(ValueError, match="no lifespan here"):
            await LoadBalancer([without, returning])(LIFESPAN, server.receive, server.send)
        assert server.sent == []
        server = Server()
        await LoadBalancer([returning])(LIFESPAN, server.receive, server.send)
        assert server.sent == []

    run(main())


def test_failing_after_the_start(run, caplog):
    """A lifespan that fails while the server runs is logged at once, and the server hears of it at the end."""

    async def main():
        async def failing(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.complete"})
            raise ZeroDivisionError("lost it")

        server = Server()
        task = await server.begin(LoadBalancer({"a": failing}))
        await passes(3)
        assert "application 'a': its lifespan failed: ZeroDivisionError('lost it')" in caplog.text
        server.over.set()
        await task
        message = "application 'a': ZeroDivisionError('lost it')"
        assert server.sent == [COMPLETE[0], {"type": "lifespan.shutdown.failed", "message": message}]

    run(main())


def test_failing_by_raising_too(run, caplog):
    """What an application raises after it has said that it failed is not told twice."""

    async def main():
        async def failing(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            raise ZeroDivisionError

        server = Server()
        await (await server.begin(LoadBalancer({"a": failing})))
        assert server.sent == [{"type": "lifespan.startup.failed", "message": "application 'a': no database"}]

    run(main())
    assert not caplog.records


@pytest.mark.parametrize("message", ["lifespan.shutdown.complete", "lifespan.startup.complete", "http.response.start"])
def test_out_of_turn(run, message):
    """A message that is not the answer is refused; a second answer too."""

    async def main():
        errors = []

        async def wrong(scope, receive, send):
            if message == "lifespan.startup.complete":
                await receive()
                await send({"type": message})
            try:
                await send({"type": message})
            except RuntimeError as error:
                errors.append(str(error))
            raise ZeroDivisionError

        server = Server()
        task = await server.begin(LoadBalancer([wrong]))
        server.over.set()
        await asyncio.gather(task, return_exceptions=True)
        assert len(errors) == 1 and f"unexpected message {message!r}" in errors[0]

    run(main())


def test_cancelled_at_every_turn(run):
    """A lifespan that is cancelled cancels those of the applications and waits for them; nothing is left behind."""

    async def main():
        turns, ended = 0, False
        while not ended:
            log, server = [], Server()
            server.over.set()
            balancer = over(log, a=None, b=None)
            others = asyncio.all_tasks()
            task = asyncio.create_task(balancer(LIFESPAN, server.receive, server.send))
            await passes(turns)
            ended = task.done()
            task.cancel()
            await asyncio.wait([task])
            await passes(2)
            assert asyncio.all_tasks() == others
            assert [backend.lifespan_state for backend in balancer.backends] == [None, None]
            turns += 1
            assert turns < 200
        assert server.sent == COMPLETE and turns > 10

    run(main())


def test_one_that_does_not_return(run, monkeypatch):
    """An application that goes on after its shutdown is complete is cancelled."""

    async def main():
        log, server = [], Server()
        task = await server.begin(LoadBalancer([Application("a", log, stays=True)]))
        server.over.set()
        await task
        assert log == ["a startup", "a shutdown", "a cancelled"]
        assert server.sent == COMPLETE

    monkeypatch.setattr("cyasgi.balancing.lifespan.GRACE", 0.01)
    run(main())

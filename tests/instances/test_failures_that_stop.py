"""KeyboardInterrupt and SystemExit, alone among errors, stop a server: in order, and most of them are raised again."""

from __future__ import annotations

import asyncio

import pytest

from support.loops import passes
from support.serving import fast, handling, reader


class Oops(Exception):
    pass


def stopping(cls, application):
    class Server(fast(cls)):
        shutdown_timeout = 5.0

        async def handle(self):
            self.bystander = self.get_or_create_application_instance("bystander", "bystander")
            await passes(5)
            self.get_or_create_application_instance("culprit", "culprit").put_nowait(1)
            await asyncio.get_running_loop().create_future()

    return Server(application)


@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), SystemExit(3)], ids=["KeyboardInterrupt", "SystemExit"])
@pytest.mark.parametrize("origin", ["application", "hook", "async hook", "undelivered", "delete"])
def test_keyboard_interrupt_and_system_exit_stop_it_in_order(cy, error, origin):
    """KeyboardInterrupt and SystemExit, from an application or a hook, end run() in order and are raised again."""
    order = []

    async def application(scope, receive, send):
        try:
            await receive()
            if origin == "application":
                raise error
            raise Oops
        except asyncio.CancelledError:
            await passes(3)
            order.append(f"{scope} cleaned up")
            raise

    class Server(type(stopping(cy.StatelessServer, application))):
        def application_exception(self, exception, details):
            if origin == "hook":
                raise error

        def application_undelivered(self, messages, details):
            if origin == "undelivered" and details.scope_id == "culprit":
                raise error

        def delete_application_instance(self, scope_id):
            deletion = super().delete_application_instance(scope_id)
            if origin == "delete" and scope_id == "culprit":
                raise error
            return deletion

        def get_or_create_application_instance(self, scope_id, scope):
            details = super().get_or_create_application_instance(scope_id, scope)
            if origin == "undelivered" and scope_id == "culprit":
                details.put_nowait("left behind")
            return details

    if origin == "async hook":

        async def application_exception(self, exception, details):
            await passes(2)
            raise error

        Server.application_exception = application_exception

    server = Server(application)
    with pytest.raises(type(error)) as caught:
        server.run()
    assert caught.value is error
    assert order == ["bystander cleaned up"]
    assert len(server.application_instances) == 0
    assert server.stats()["closing"] == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), SystemExit(3)], ids=["KeyboardInterrupt", "SystemExit"])
def test_they_leave_arun_too(cy, run, error):
    """In the caller's loop KeyboardInterrupt and SystemExit of an application leave the loop, and nothing behind."""

    async def application(scope, receive, send):
        await receive()
        raise error

    server = stopping(cy.StatelessServer, application)
    with pytest.raises(type(error)) as caught:
        run(server.arun())
    assert caught.value is error
    assert len(server.application_instances) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), SystemExit(3)], ids=["KeyboardInterrupt", "SystemExit"])
def test_usable_after_them(cy, error):
    """After such an end the same server runs again."""
    started = []

    async def application(scope, receive, send):
        started.append(scope)
        await receive()
        raise error

    server = stopping(cy.StatelessServer, application)
    for _ in range(2):
        with pytest.raises(type(error)):
            server.run()
    assert started == ["bystander", "culprit"] * 2


# ------------------------------------------------------------------------------------------ out of handle()


def raising(error, by):
    """A handle() that has two instances fed, and then raises the error itself or lets a spawned task do so."""

    async def fail():
        await passes(3)
        raise error

    async def handle(server):
        for number in range(10):
            server.get_or_create_application_instance("a", {}).put_nowait(number)
        await passes(2)
        if by == "spawn":
            server.spawn(fail())
            await asyncio.get_running_loop().create_future()
        if by == "gather":
            await asyncio.gather(fail())
        raise error

    return handle


def test_keyboard_interrupt_of_handle_ends_run(impl):
    """KeyboardInterrupt out of handle() ends run(), which returns; SystemExit leaves it."""
    error = KeyboardInterrupt("enough")
    server = handling(impl.StatelessServer, raising(error, "handle"))(reader)
    assert server.run() is None
    error = SystemExit(3)
    server = handling(impl.StatelessServer, raising(error, "handle"))(reader)
    with pytest.raises(SystemExit) as caught:
        server.run()
    assert caught.value is error


@pytest.mark.parametrize("by", ["handle", "gather", "spawn"])
@pytest.mark.parametrize("error", [KeyboardInterrupt("enough"), SystemExit(3)], ids=["KeyboardInterrupt", "SystemExit"])
def test_interrupt_of_handle_drains(cy, error, by):
    """Before run() ends for an interrupt of handle(), or of what it has spawned, what was accepted is worked off."""
    order = []

    async def application(scope, receive, send):
        try:
            while True:
                message = await receive()
                await passes(5)
                order.append(message)
        finally:
            await passes(3)
            order.append("cleaned up")

    server = handling(cy.StatelessServer, raising(error, by), shutdown_timeout=20.0)(application)
    for _ in range(2):
        order.clear()
        if isinstance(error, KeyboardInterrupt):
            server.run()
        else:
            with pytest.raises(SystemExit) as caught:
                server.run()
            assert caught.value is error
        assert order == [*range(10), "cleaned up"]
        assert server.undelivered == []
        assert len(server.application_instances) == 0


def test_interrupt_of_handle_under_arun(cy, run):
    """In the caller's loop it is the caller's: arun() raises it, and it leaves the loop."""
    error = KeyboardInterrupt("enough")
    server = handling(cy.StatelessServer, raising(error, "handle"))(reader)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(server.arun())
    assert caught.value is error


def test_interrupt_of_handle_ends_several(cy):
    """Of several servers the others end in order, and run() returns."""
    from cyasgi.supervisor import Supervisor

    processed = []

    async def application(scope, receive, send):
        while True:
            message = await receive()
            await passes(20)
            processed.append(message)

    async def feed(server):
        for number in range(10):
            server.get_or_create_application_instance("a", {}).put_nowait(number)
        await asyncio.get_running_loop().create_future()

    first = handling(cy.StatelessServer, raising(KeyboardInterrupt("enough"), "handle"), shutdown_timeout=20.0)(reader)
    second = handling(cy.StatelessServer, feed, shutdown_timeout=20.0)(application)
    Supervisor([first, second]).run()
    assert processed == list(range(10))
    assert len(second.application_instances) == 0

"""KeyboardInterrupt and SystemExit, alone among errors, stop a server: in order, and raised again."""

from __future__ import annotations

import asyncio

import pytest
from conftest import passes
from serving import fast


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

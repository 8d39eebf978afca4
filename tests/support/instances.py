"""A scope, an instance for it, applications and servers that make little of it, and a plain dict as an entry."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from support.serving import quiet

SCOPE = {"type": "test"}


def make(server: Any, scope_id: Any = "id", scope: Any = SCOPE) -> Any:
    return server.get_or_create_application_instance(scope_id, scope)


async def by_message(scope: Any, receive: Any, send: Any) -> Any:
    """Reads on until a message tells it to return, to fail, or to be busy with something else."""
    while True:
        match await receive():
            case "return":
                return "returned"
            case "fail":
                raise ValueError("on purpose")
            case "busy":
                await asyncio.get_running_loop().create_future()


def own_entry(**more: Any) -> dict[str, Any]:
    future = asyncio.get_running_loop().create_future()
    return {"input_queue": asyncio.Queue(), "future": future, "scope": SCOPE, "last_used": time.time(), **more}


def silent(cy: Any, application: Any = by_message, **arguments: Any) -> Any:
    """A server that says nothing of failures and left messages: they are not the subject here."""

    class Server(cy.StatelessServer):
        application_checker_interval = 0.001

        def application_exception(self, exception, details):
            pass

        def application_undelivered(self, messages, details):
            pass

    return Server(application, **arguments)


def recorder(seen: list) -> Any:
    """An application that notes its scope and one message, and returns both."""

    async def application(scope, receive, send):
        seen.append(scope["type"])
        seen.append(message := await receive())
        return scope["type"], message

    return application


def sending(cls: Any, application: Any) -> Any:
    """A server of this application that keeps what is sent."""

    class Server(quiet(cls)):
        async def application_send(self, scope, message):
            self.sent.append(message)

    server = Server(application)
    server.sent = []
    return server

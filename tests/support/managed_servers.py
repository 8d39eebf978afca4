"""For tests of managed servers: one whose clock the test moves and which records its hooks, and an application."""

from __future__ import annotations

import importlib
from typing import Any

from support.serving import quiet


def lifecycle(cy: Any) -> Any:
    """The module of managed servers that belongs to this twin."""
    return importlib.import_module(f"{cy.__name__}.lifecycle")


def managed(cy: Any, **attributes: Any) -> type:
    """A class whose clock is moved by its attribute `now`, and whose hooks keep what they hear in `heard`."""

    class Server(quiet(lifecycle(cy).ManagedServer)):
        application_checker_interval = 0.001
        now = 1000.0

        def __init__(self, application: Any, max_applications: int | None = 1000) -> None:
            super().__init__(application, max_applications)
            self.heard: list[tuple[Any, ...]] = []
            self.limited: list[Any] = []
            self.clock = lambda: self.now

        def on_created(self, instance):
            self.heard.append(("created", instance.scope_id))

        def on_expired(self, instance, reason):
            self.heard.append(("expired", instance.scope_id, reason))

        def on_closed(self, instance, statistics):
            self.heard.append(("closed", instance.scope_id))

        def on_limited(self, scope, error):
            self.limited.append((scope["client"], error.limit))

    return type("Server", (Server,), attributes)


async def obeying(scope: Any, receive: Any, send: Any) -> None:
    """Sends back dicts, fails and returns when told to."""
    while True:
        match await receive():
            case "return":
                return
            case "fail":
                raise ValueError("on purpose")
            case dict() as message:
                await send(message)


def counted(server: Any, scope_id: Any = "id") -> tuple[int, ...]:
    """Messages in and out, bytes in and out, and errors of an instance."""
    statistics = server.instance_statistics(scope_id)
    return (
        statistics.messages_in,
        statistics.messages_out,
        statistics.bytes_in,
        statistics.bytes_out,
        statistics.errors,
    )

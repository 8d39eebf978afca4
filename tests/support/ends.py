"""A server that notes the ends that it hears of, and an application that ends as its message says."""

from __future__ import annotations

import asyncio

from support.loops import passes
from support.serving import quiet


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

"""Instances whose death can be watched: what they are made of, and every way in which they come to their end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from support.loops import passes
from support.serving import in_time


class Scope(dict):
    """A scope that can be watched."""

    __slots__ = ("__weakref__",)


class Failure(Exception):
    """A failure that can be watched."""


class Probe:
    """Something that lives in an application's frame, or is a message."""


def make(server: Any, scope_id: Any = "id") -> Any:
    return server.get_or_create_application_instance(scope_id, Scope(type="test"))


@pytest.fixture
def no_collector() -> Iterator[None]:
    """The collector is off for the length of a test, and does not look at what was there before it."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()


def server_of(cy: Any, probes: list, **settings: Any) -> Any:
    """A server whose applications do what a message says, and leave a probe in their frame."""

    async def application(scope: Any, receive: Any, send: Any) -> Any:
        probe = Probe()
        probes.append(weakref.ref(probe))
        while True:
            match await receive():
                case "return":
                    return "returned"
                case "fail":
                    raise Failure
                case "send":
                    await send("message")
                case "busy":
                    await asyncio.get_running_loop().create_future()

    class Server(cy.StatelessServer):
        application_checker_interval = 0.001

        async def application_send(self, scope, message):
            await asyncio.sleep(0)

        def application_exception(self, exception, details):
            assert details["scope"]["type"] == "test"

        def application_undelivered(self, messages, details):
            assert details["scope"]["type"] == "test"

    server = Server(application)
    for name, value in settings.items():
        setattr(server, name, value)
    return server


def watched(instance: Any) -> list[weakref.ref[Any]]:
    return [weakref.ref(thing) for thing in (instance, instance["future"], instance["scope"])]


def alive(references: list[weakref.ref[Any]]) -> list[Any]:
    return [thing for reference in references if (thing := reference()) is not None]


# How instances come to their end. Each gives weak references to what is to die.


async def deleted(server: Any) -> list[weakref.ref[Any]]:
    """Deleted while it waits in receive."""
    instance = make(server)
    instance.put_nowait("send")
    await passes(4)
    references = watched(instance)
    server.delete_application_instance("id")
    return references


async def deleted_and_awaited(server: Any) -> list[weakref.ref[Any]]:
    """Deleted while it is busy, with messages left, and its end awaited."""
    instance = make(server)
    message = Probe()
    instance.put_nowait("busy")
    instance.put_nowait(message)
    await passes(4)
    references = [*watched(instance), weakref.ref(message)]
    assert await server.delete_application_instance("id")
    return references


async def deleted_before_it_began(server: Any) -> list[weakref.ref[Any]]:
    """Deleted, and never fed, before its first step."""
    references = watched(make(server))
    server.delete_application_instance("id")
    return references


async def deleted_while_held(server: Any) -> list[weakref.ref[Any]]:
    """Awaited, never called, and deleted."""
    references = watched(await make(server))
    await passes(3)
    server.delete_application_instance("id")
    return references


async def evicted(server: Any) -> list[weakref.ref[Any]]:
    """Evicted for others."""
    server.max_applications = 2
    references = []
    for number in range(4):
        instance = make(server, number)
        instance.put_nowait("busy" if number else "send")
        references += watched(instance)
        await passes(4)
    return references[:6]


async def renewed(server: Any) -> list[weakref.ref[Any]]:
    """Finished, or failed, and followed by others under its id."""
    references = []
    for message in ("return", "fail", "return"):
        instance = make(server)
        instance.put_nowait(message)
        references += watched(instance)
        await passes(4)
    make(server)
    return references


async def reaped(server: Any) -> list[weakref.ref[Any]]:
    """Finished, failed or cancelled, and reaped by the checker."""
    references = []
    for message in ("return", "fail", "send"):
        instance = make(server, message)
        instance.put_nowait(message)
        references += watched(instance)
    await passes(4)
    server.application_instances["send"]["future"].cancel()
    await reap(server)
    return references


async def reap(server: Any) -> None:
    checker = asyncio.create_task(server.application_checker())
    await in_time(lambda: not server.application_instances)
    checker.cancel()


async def expired(server: Any) -> list[weakref.ref[Any]]:
    """Idle for too long."""
    server.idle_timeout = 0.005
    instance = make(server)
    instance.put_nowait("send")
    references = watched(instance)
    del instance
    await reap(server)
    return references


async def called(server: Any) -> list[weakref.ref[Any]]:
    """Run by a caller, several times, and deleted."""

    async def receive() -> str:
        return "return"

    instance = await make(server)
    for _ in range(3):
        await instance["application"](instance["scope"], receive, None)
    references = watched(instance)
    await server.delete_application_instance("id")
    return references


async def called_and_failed(server: Any) -> list[weakref.ref[Any]]:
    """Run by a caller, to whom it fails, and reaped."""

    async def receive() -> str:
        return "fail"

    instance = await make(server)
    with contextlib.suppress(Failure):
        await instance["application"](instance["scope"], receive, None)
    references = watched(instance)
    del instance
    await reap(server)
    return references


async def called_and_deleted(server: Any) -> list[weakref.ref[Any]]:
    """Run by a caller, and deleted meanwhile."""

    async def caller() -> list[weakref.ref[Any]]:
        instance = await make(server)
        references = watched(instance)
        try:
            await instance["application"](instance["scope"], instance.get, None)
        except Exception as error:
            if type(error).__name__ != "InstanceDeleted":
                raise
        return references

    task = asyncio.create_task(caller())
    await passes(4)
    server.delete_application_instance("id")
    return await task


async def removed(server: Any) -> list[weakref.ref[Any]]:
    """Taken out of the table by hand, and cancelled."""
    instance = server.application_instances.pop("id", None) or make(server)
    instance.put_nowait("send")
    await passes(4)
    del server.application_instances["id"]
    instance["future"].cancel()
    return watched(instance)


async def stopped(server: Any) -> list[weakref.ref[Any]]:
    """Alive when the server is stopped."""
    references = []

    async def handle() -> None:
        for number in range(3):
            instance = make(server, number)
            instance.put_nowait("send")
            references.extend(watched(instance))
            await passes(number)

    server.handle = handle
    await server.arun()
    del server.handle
    return references


ENDS = [
    deleted,
    deleted_and_awaited,
    deleted_before_it_began,
    deleted_while_held,
    evicted,
    renewed,
    reaped,
    expired,
    called,
    called_and_failed,
    called_and_deleted,
    removed,
    stopped,
]
each_end = pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)

"""Hostile callers: what they do, with the garbage collector at work, and whether the server still works after it."""

from __future__ import annotations

import gc
from collections.abc import Coroutine
from typing import Any

import pytest

from support.instances import make
from support.serving import eventually


def boom() -> None:
    raise LookupError("boom")


async def still_works(server: Any) -> None:
    """A new id is served by this server, whatever was done to it."""
    server.max_applications = None
    received = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        received.append(await receive())

    server.application = application
    instance = make(server, "still works")
    instance.put_nowait("message")
    await eventually(lambda: received == ["message"])


def settle() -> None:
    """Have the collection come that is due, if any."""
    for _ in range(100):
        pass


def collect() -> None:
    """Collect all garbage, with no other collection due: CPython 3.12.1 crashes where that comes amid this one."""
    before = gc.get_threshold()
    gc.set_threshold(0)
    settle()
    gc.collect()
    gc.set_threshold(*before)


async def collecting(coroutine: Coroutine[Any, Any, None]) -> None:
    """With a garbage collector that runs all the time."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        await coroutine
    finally:
        gc.set_threshold(*before)
        settle()


async def as_usual(coroutine: Coroutine[Any, Any, None]) -> None:
    await coroutine


@pytest.fixture(params=[as_usual, collecting], ids=["", "collecting"])
def often(request: pytest.FixtureRequest) -> Any:
    """With the usual garbage collector, and with one that runs all the time."""
    return request.param

"""A server at work in the test's loop, which ends when it is cancelled and leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib


@contextlib.asynccontextmanager
async def running(server):
    """The server at work in this loop: it must go on until it is cancelled, and then leave nothing."""
    task = asyncio.create_task(server.arun())
    try:
        yield
        assert not task.done(), f"the server ended: {task!r}"
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
    assert not server.application_instances

"""An instance with a bounded queue: tasks that wait for room in it, messages that it refuses, its end."""

from __future__ import annotations

import asyncio
from typing import Any

from support.loops import passes
from support.queue_scripts import never_reads
from support.serving import quiet


def bounded(cy: Any, maxsize: int, application: Any = never_reads) -> Any:
    """An instance with a bounded queue; `instance._server` keeps what was not delivered."""
    server = quiet(cy.StatelessServer)(application)
    server.max_queue_size = maxsize
    return server.get_or_create_application_instance("id", {})


async def end(instance: Any) -> None:
    await instance._server.delete_application_instance("id")
    await passes(5)


async def waiting(instance: Any, *numbers: int) -> list[asyncio.Task[Any]]:
    """Tasks that wait for room, in this order."""
    tasks = [asyncio.create_task(instance.put(number)) for number in numbers]
    await passes(2)
    return tasks


def refused(instance: Any, message: Any) -> bool:
    try:
        instance.put_nowait(message)
    except asyncio.QueueFull:
        return True
    return False

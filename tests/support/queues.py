"""Servers of a queue in memory, and applications that note what they receive."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import importlib
from typing import Any

NAME = "orders"
PARTITIONS = 8


def queues(cy: Any) -> Any:
    """The module of queue servers that belongs to this twin."""
    return importlib.import_module(f"{cy.__name__}.sources.queue")


def engine_for(cy: Any, **arguments: Any) -> Any:
    """An engine in memory that has the queue already."""
    engine = queues(cy).MemoryEngine(**arguments)
    engine.declare(NAME, PARTITIONS)
    return engine


@contextlib.asynccontextmanager
async def consuming(cy: Any, engine: Any, application: Any, base: Any = None, **attributes: Any):
    """A server of the queue at work in this loop; it must go on until it is stopped, and leave nothing."""
    before = asyncio.all_tasks()
    attributes = {"retry_delay": 0.001, "balance_interval": 0.01, "application_checker_interval": 0.01, **attributes}
    server_class = type("Server", (base or queues(cy).QueueServer,), attributes)
    server = server_class(application, engine=engine, name=NAME, partitions=PARTITIONS)
    running = asyncio.create_task(server.arun())
    starting = asyncio.create_task(server.wait_started())
    await asyncio.wait({running, starting}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await running
    try:
        await starting
        yield server
    finally:
        server.stop()
        await running
    left = asyncio.all_tasks() - before
    if left:
        await asyncio.wait(left, timeout=1)
    assert not asyncio.all_tasks() - before


class Seen:
    """An application that notes what it receives, and does as the body says."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.by_scope: dict[str, list[bytes]] = collections.defaultdict(list)
        self.scopes: list[Any] = []
        self.release = asyncio.Event()

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.messages]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        while True:
            message = await receive()
            self.messages.append(message)
            self.by_scope[scope["scope_id"]].append(message["body"])
            match message["body"].partition(b" ")[0]:
                case b"fail":
                    raise ValueError(message["body"].decode())
                case b"return":
                    return
                case b"hold":
                    await self.release.wait()
                case b"acknowledge":
                    await send({"type": "queue.acknowledge", "delivery_id": message["delivery_id"]})
                    raise ValueError("too late to try it again")
                case b"reject":
                    await send({"type": "queue.reject", "reason": "not this one"})
                case b"requeue":
                    if message["deliveries"] == 1:
                        await send({"type": "queue.reject", "requeue": True})
                case b"answer":
                    await send({"type": "queue.reply", "body": b"answer to " + message["body"]})
                case b"publish":
                    await send({"type": "queue.publish", "body": b"published", "scope_id": "other", "priority": 3})


def quiet_failures(cy: Any) -> Any:
    """A server class that says nothing of failures: they are on purpose."""

    class Server(queues(cy).QueueServer):
        def application_exception(self, exception: BaseException, details: Any) -> None:
            pass

    return Server

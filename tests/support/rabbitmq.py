"""Servers of queues in RabbitMQ, and a client of somebody else's."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os

import pytest

from support.queues import quiet_failures

#: Of each queue that `server_of` serves.
PARTITIONS = 4
_names = itertools.count()


@pytest.fixture
def aiormq():
    return pytest.importorskip("aiormq")


@pytest.fixture
def name(aiormq):
    """The name of a queue that no other test has, whichever process of the run it is in."""
    return f"orders-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}-{next(_names)}"


def server_of(cy, broker, name, application, base=None, heartbeat=5, **attributes):
    attributes = {"retry_delay": 0.01, "balance_interval": 0.1, **attributes}
    server_class = type("Server", (base or quiet_failures(cy),), attributes)
    return server_class(application, engine=f"{broker.url}?heartbeat={heartbeat}", name=name, partitions=PARTITIONS)


@contextlib.asynccontextmanager
async def running(server):
    task = asyncio.create_task(server.arun())
    starting = asyncio.create_task(server.wait_started())
    await asyncio.wait({task, starting}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    await starting
    try:
        yield server
    finally:
        server.stop()
        await task


@contextlib.asynccontextmanager
async def client(aiormq, broker):
    """A channel of somebody else's."""
    connection = await aiormq.connect(broker.url)
    try:
        yield await connection.channel()
    finally:
        await connection.close()


async def publish(channel, name, *bodies, scope_id="a", **properties):
    from aiormq import spec

    for body in bodies:
        await channel.basic_publish(
            body, exchange=name, routing_key=scope_id, properties=spec.Basic.Properties(delivery_mode=2, **properties)
        )


async def dead_letter(channel, name):
    """The next dead letter."""
    found = []

    async def one():
        message = await channel.basic_get(f"{name}.dead", no_ack=True)
        if message.delivery.name == "Basic.GetOk":
            found.append(message)
        return found

    for _ in range(300):
        if await one():
            return found[0]
        await asyncio.sleep(0.02)
    raise AssertionError("no dead letter has come")

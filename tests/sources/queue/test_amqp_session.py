"""A session with RabbitMQ, without a broker: what it knows of it, and what it does if an answer makes no sense."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from types import SimpleNamespace

import pytest

from support.queues import queues


class Channel:
    """A channel whose first counts are numbers, as the library has them."""

    def __init__(self, counts):
        self.counts = iter(counts)
        self.consumers = {}

    async def queue_declare(self, queue, **options):
        return SimpleNamespace(consumer_count=next(self.counts, "many"))

    async def basic_consume(self, queue, callback, **options):
        self.consumers["tag"] = callback
        return SimpleNamespace(consumer_tag="tag")


class Connection:
    def __init__(self, *counts):
        self.counts = counts
        self.closing = asyncio.get_running_loop().create_future()

    async def channel(self, **options):
        return Channel(self.counts)

    async def close(self):
        pass


def test_a_count_that_is_none(cy, run, caplog):
    """The session is given up: without signs of life it would be sure of nothing, for ever."""
    pytest.importorskip("aiormq")
    name = queues(cy).__name__
    module, shapes = (importlib.import_module(f"{name}.{one}") for one in ("amqp_session", "engine"))

    async def main():
        shape = shapes.QueueShape("orders", 1, 10)
        session = module.AMQPSession(Connection(0, 1, 1), shape, 0.01, "amqp://127.0.0.1/", lambda: None)
        await session.register()
        async with asyncio.timeout(5):
            reason = await session.lost
        assert reason == "amqp://127.0.0.1/: invalid literal for int() with base 10: 'many'"
        await session.close()

    run(main())
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no such clock")
def test_after_the_machine_was_suspended(cy, run, monkeypatch):
    """It is sure of nothing until the broker has answered again, though the monotonic clock has stood still."""
    pytest.importorskip("aiormq")
    name = queues(cy).__name__
    module, shapes = (importlib.import_module(f"{name}.{one}") for one in ("amqp_session", "engine"))
    boot = [1000.0]
    clocks = {"monotonic": lambda: 1000.0, "clock_gettime": lambda clock: boot[0]}
    monkeypatch.setattr(module, "time", SimpleNamespace(CLOCK_BOOTTIME=time.CLOCK_BOOTTIME, **clocks))

    async def main():
        shape = shapes.QueueShape("orders", 1, 10)
        session = module.AMQPSession(Connection(0, 1, 1), shape, 60, "amqp://127.0.0.1/", lambda: None)
        await session.register()
        assert session.sure
        boot[0] += 60
        assert not session.sure
        await session.workers()
        assert session.sure
        await session.close()

    run(main())

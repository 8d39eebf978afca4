"""A session with RabbitMQ, without a broker: what it does if an answer makes no sense."""

from __future__ import annotations

import asyncio
import importlib
from types import SimpleNamespace

import pytest

from support.queues import queues


class Channel:
    """A channel whose first counts are numbers, as the library has them."""

    def __init__(self):
        self.counts = iter([0, 1, 1])
        self.consumers = {}

    async def queue_declare(self, queue, **options):
        return SimpleNamespace(consumer_count=next(self.counts, "many"))

    async def basic_consume(self, queue, callback, **options):
        self.consumers["tag"] = callback
        return SimpleNamespace(consumer_tag="tag")


class Connection:
    def __init__(self):
        self.closing = asyncio.get_running_loop().create_future()

    async def channel(self, **options):
        return Channel()

    async def close(self):
        pass


def test_a_count_that_is_none(cy, run, caplog):
    """The session is given up: without signs of life it would be sure of nothing, for ever."""
    pytest.importorskip("aiormq")
    name = queues(cy).__name__
    module, shapes = (importlib.import_module(f"{name}.{one}") for one in ("amqp_session", "engine"))

    async def main():
        shape = shapes.QueueShape("orders", 1, 10)
        session = module.AMQPSession(Connection(), shape, 0.01, "amqp://127.0.0.1/", lambda: None)
        await session.register()
        async with asyncio.timeout(5):
            reason = await session.lost
        assert reason == "amqp://127.0.0.1/: invalid literal for int() with base 10: 'many'"
        await session.close()

    run(main())
    assert [record.levelname for record in caplog.records] == ["ERROR"]

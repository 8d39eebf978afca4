"""A partition held in RabbitMQ, without a broker: what happens while it waits for an answer."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from support.loops import passes


class Channel:
    """A channel as the library has it: a consumer that is cancelled is forgotten before the call returns."""

    def __init__(self):
        self.closing = asyncio.get_running_loop().create_future()
        self.consumers = {}
        self.cancelled = asyncio.Event()
        self.acknowledged = []

    async def basic_qos(self, **options):
        pass

    async def basic_consume(self, queue, callback, *, consumer_tag):
        self.consumers[consumer_tag] = callback

    async def basic_cancel(self, consumer_tag):
        del self.consumers[consumer_tag]
        await self.cancelled.wait()

    async def basic_ack(self, tag, **options):
        self.acknowledged.append(tag)

    async def close(self):
        pass


class Session:
    def __init__(self, shape):
        self.shape = shape
        self.lost = asyncio.get_running_loop().create_future()
        self.sure = True
        self.unlocked = []

    def forget(self, hold):
        pass

    async def unlock(self, queue):
        self.unlocked.append(queue)


def test_a_pause_is_no_loss(cy, run):
    """What is done while the broker ends the consumer is acknowledged."""
    pytest.importorskip("aiormq")
    package = f"{cy.__name__}.sources.queue"
    amqp_hold, engine = (importlib.import_module(f"{package}.{name}") for name in ("amqp_hold", "engine"))

    async def main():
        channel, session = Channel(), Session(engine.QueueShape("orders", 1, 10))
        hold = amqp_hold.AMQPHold(session, channel, 0, lambda arrival: None)
        await hold.begin("orders.0")
        hold._acknowledgements.delivered(1)
        pausing = asyncio.create_task(hold.pause())
        await passes(3)
        assert not channel.consumers
        hold.look()
        hold.acknowledge(1)
        channel.cancelled.set()
        await pausing
        assert not hold.lost.done()
        await hold.release()
        assert channel.acknowledged == [1]
        assert session.unlocked == ["orders.0.owner"]

    run(main())


def test_a_consumer_that_the_broker_ends(cy, run):
    pytest.importorskip("aiormq")
    package = f"{cy.__name__}.sources.queue"
    amqp_hold, engine = (importlib.import_module(f"{package}.{name}") for name in ("amqp_hold", "engine"))

    async def main():
        channel = Channel()
        hold = amqp_hold.AMQPHold(Session(engine.QueueShape("orders", 1, 10)), channel, 0, lambda arrival: None)
        await hold.begin("orders.0")
        hold.look()
        assert not hold.lost.done()
        channel.consumers.clear()
        hold.look()
        assert hold.lost.result() == "the broker has cancelled its consumer"

    run(main())

"""Channels' worker on cyasgi, with consumers that fail now and then: no message is lost in silence."""

from __future__ import annotations

import asyncio
import importlib.util
import warnings

import pytest
from channels.layers import InMemoryChannelLayer

from support.loops import passes
from support.recording_server import EVERY_PASS, recording, served
from support.serving import eventually, in_time, output, python

CHANNELS = ("thumbnails", "mails")
SENT = 300


def fresh_worker():
    """Channels' Worker, its module executed anew: a class keeps the base that it was made with."""
    spec = importlib.util.find_spec("channels.worker")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Worker


@pytest.fixture
def worker_class(cy):
    """Channels' Worker on cyasgi's class."""
    with warnings.catch_warnings():
        # Classes of other tests, on the reference's class, may still be about; they are no matter here.
        warnings.simplefilter("ignore", RuntimeWarning)
        cy.install()
    try:
        worker = fresh_worker()
        assert issubclass(worker, cy.StatelessServer)
        yield worker
    finally:
        cy.uninstall()


def fails_of(number):
    """Which messages kill their consumer: every seventh."""
    return number % 7 == 3


def recording_worker(base, interval=0.001, deadly=fails_of, **attributes):
    """A worker on a layer of its own, whose consumers fail of deadly messages; and the layer."""
    layer = InMemoryChannelLayer(capacity=10 * SENT)

    class Consumer:
        """One for each channel, as Channels makes them."""

        def __init__(self, channel):
            self.channel = channel

        async def __call__(self, receive, send):
            while True:
                message = await receive()
                worker.in_hand.append((self.channel, message["number"]))
                await asyncio.sleep(0)
                worker.in_hand.remove((self.channel, message["number"]))
                if deadly(message["number"]):
                    worker.failing.append((self.channel, message["number"]))
                    raise ValueError(message["number"])
                worker.processed.append((self.channel, message["number"]))

    async def application(scope, receive, send):
        await Consumer(scope["channel"])(receive, send)

    class OnTheLayer(base):
        def __init__(self, application, max_applications=1000):
            super().__init__(application, CHANNELS, layer, max_applications)

    class Worker(recording(OnTheLayer, interval)):
        handle = base.handle

        def application_undelivered(self, messages, details):
            super().application_undelivered([(details["scope"]["channel"], m["number"]) for m in messages], details)

    worker = Worker(application)
    worker.failing, worker.processed, worker.in_hand = [], [], []
    for name, value in attributes.items():
        setattr(worker, name, value)
    return worker, layer


async def send_all(layer):
    for number in range(SENT):
        for channel in CHANNELS:
            await layer.send(channel, {"type": "work", "number": number})


EVERYTHING = sorted((channel, number) for channel in CHANNELS for number in range(SENT))


def left(layer):
    """How many messages nobody has taken from the layer."""
    return sum(queue.qsize() for queue in layer.channels.values())


def accounted_for(worker):
    """Every message that somebody heard of."""
    return sorted(worker.processed + worker.failing + worker.handed_over)


@pytest.mark.slow
def test_failing_consumer_reference(reference, run):
    """Reference: what waits behind a message that its consumer fails of is gone, without a word."""

    async def main():
        worker, layer = recording_worker(fresh_worker(), EVERY_PASS)
        assert isinstance(worker, reference)
        async with served(worker):
            await send_all(layer)
            await passes(3 * SENT)
            assert left(layer) == 0
            assert len(accounted_for(worker)) < len(EVERYTHING)

    run(main())


@pytest.mark.parametrize("max_queue_size", [0, 1, 10])
def test_failing_consumer(worker_class, run, max_queue_size):
    """What was sent was processed, or made its consumer fail, or is handed over; each message once."""

    async def main():
        worker, layer = recording_worker(worker_class, max_queue_size=max_queue_size)
        async with served(worker):
            await send_all(layer)
            await in_time(lambda: len(accounted_for(worker)) >= len(EVERYTHING))
            await in_time(lambda: len(worker.failures) == len(worker.failing))
            await passes(20)
        assert accounted_for(worker) == EVERYTHING
        assert worker.processed
        assert worker.failing
        # In order, for each channel.
        for channel in CHANNELS:
            numbers = [number for name, number in worker.processed if name == channel]
            assert numbers == sorted(numbers)
        assert sorted(error.args[0] for error in worker.failures) == sorted(number for _, number in worker.failing)
        assert worker.stats()["failed"] == len(worker.failing)
        assert worker.stats()["undelivered"] == len(worker.handed_over)

    run(main())


@pytest.mark.slow
def test_consumers_fed_one_by_one(worker_class, run):
    """Where messages come one by one only those that make their consumer fail are not processed."""

    async def main():
        worker, layer = recording_worker(worker_class)
        async with served(worker):
            for number in range(SENT):
                for channel in CHANNELS:
                    await layer.send(channel, {"type": "work", "number": number})
                await in_time(lambda sent=number + 1: len(accounted_for(worker)) == sent * len(CHANNELS))
                await passes(2)
        assert worker.handed_over == []
        assert len(worker.failing) == len(CHANNELS) * sum(map(fails_of, range(SENT)))
        assert sorted(worker.processed + worker.failing) == EVERYTHING

    run(main())


def test_interrupted_worker(worker_class, run):
    """A worker that is stopped in the middle hands over what its consumers had not taken."""

    async def main():
        worker, layer = recording_worker(worker_class, deadly=lambda number: False)
        running = asyncio.create_task(worker.arun())
        await send_all(layer)
        await eventually(lambda: left(layer) == 0 and len(worker.processed) > 10)
        assert len(worker.processed) < len(EVERYTHING) / 2
        running.cancel()
        await asyncio.wait([running])
        # A consumer that is cut in its work has taken a message: one for each consumer is not accounted for.
        heard_of = accounted_for(worker)
        assert len(EVERYTHING) - len(heard_of) <= len(CHANNELS)
        assert set(heard_of) <= set(EVERYTHING)
        assert len(set(heard_of)) == len(heard_of)
        assert len(worker.application_instances) == 0

    run(main())


@pytest.mark.parametrize("how", ["stop", "cancelled"])
@pytest.mark.parametrize("max_queue_size", [0, 1, 10])
def test_stopped_worker(worker_class, run, max_queue_size, how):
    """From the stop on a worker takes no message from its layer, and what it has taken is processed or handed over."""

    async def main():
        before = asyncio.all_tasks()
        worker, layer = recording_worker(
            worker_class, deadly=lambda number: False, max_queue_size=max_queue_size, shutdown_timeout=20.0
        )
        running = asyncio.create_task(worker.arun())
        await send_all(layer)
        await eventually(lambda: len(worker.processed) > 10)
        if how == "stop":
            worker._cyasgi.server_run.request_stop()
        else:
            running.cancel()
        await passes(2)
        remaining = left(layer)
        await asyncio.wait_for(asyncio.wait([running]), 30)
        assert left(layer) == remaining
        in_hand = [] if how == "stop" else worker.in_hand
        assert sorted(accounted_for(worker) + in_hand) == everything_but(layer)
        assert bool(worker.handed_over) == (how == "cancelled")
        assert asyncio.all_tasks() == before

    run(main())


def everything_but(layer):
    """What was taken from the layer: each channel's messages come in their order."""
    rest = {channel: layer.channels[channel].qsize() if channel in layer.channels else 0 for channel in CHANNELS}
    return [(channel, number) for channel in sorted(CHANNELS) for number in range(SENT - rest[channel])]


# What a project's `manage.py runworker` comes down to, with Channels' own consumers, router and layer.
PROJECT = """
import asyncio, sys
from collections import Counter
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["cyasgi"],
    DATABASES={},
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 1000}}},
)

import django

django.setup()

from channels.consumer import AsyncConsumer
from channels.layers import get_channel_layer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter
from channels.worker import Worker

import cyasgi

assert issubclass(Worker, cyasgi.StatelessServer), Worker.__mro__
processed, failing, undelivered, reported = [], [], [], []

class Consumer(AsyncConsumer):
    async def work(self, message):
        await asyncio.sleep(0)
        if message["number"] % 7 == 3:
            failing.append(message["number"])
            raise ValueError(message["number"])
        processed.append(message["number"])

class Recording(Worker):
    application_checker_interval = 0.001

    async def application_exception(self, exception, details):
        reported.append(exception)

    def application_undelivered(self, messages, details):
        undelivered.extend(message["number"] for message in messages)

    async def handle(self):
        listening = self.spawn(super().handle())
        for number in range(100):
            await self.channel_layer.send("works", {"type": "work", "number": number})
        for _ in range(5000):
            if len(processed + failing + undelivered) >= 100 and len(reported) == len(failing):
                break
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)

application = ProtocolTypeRouter({"channel": ChannelNameRouter({"works": Consumer.as_asgi()})})
Recording(application, ["works"], get_channel_layer()).run()
assert sorted(processed + failing + undelivered) == list(range(100)), (processed, failing, undelivered)
assert len(reported) == len(failing), (reported, failing)
assert processed and failing
print("all accounted for")
"""


@pytest.mark.slow
def test_project(cy, tmp_path):
    """With "cyasgi" in INSTALLED_APPS Channels' own consumers run on it, and no message is lost in silence."""
    assert output(python(PROJECT, cwd=tmp_path, backend=cy.backend)) == ["all accounted for"]

"""Servers of channels that are run again, however their last run has ended."""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib

import pytest
from channels.layers import InMemoryChannelLayer

from cyasgi.sources.channels.redis.shard import MOST_CLAIMED
from support.channel_layers import Recorder, send_numbers, sources, write_numbers
from support.serving import eventually, in_time


def test_within_the_pause_of_a_failing_application(cy, run, monkeypatch):
    """The pause is over when the server is run again, and its channels are heard."""
    dispatcher = importlib.import_module(f"{cy.__name__}.sources.channels.dispatcher")
    monkeypatch.setattr(dispatcher, "Backoff", functools.partial(dispatcher.Backoff, least=30.0))
    failing, done = [True], []

    async def application(scope, receive, send):
        if failing:
            failing.clear()
            raise OSError("no database")
        while True:
            done.append((await receive())["number"])

    async def main():
        layer = InMemoryChannelLayer(capacity=1000)
        server = sources(cy).ChannelLayerServer(application, ["a"], layer)
        await send_numbers(layer, "a", [1])
        running = asyncio.create_task(server.arun())
        await in_time(lambda: not failing and server.stats()["waiting"] == 1)
        server.stop()
        await running
        running = asyncio.create_task(server.arun())
        await send_numbers(layer, "a", [2])
        await in_time(lambda: done == [1, 2])
        server.stop()
        await running

    run(main())


@pytest.mark.parametrize("kept", [False, True])
def test_after_its_loop_was_closed_under_it(cy, run, kept):
    """It begins afresh with the bound of its instances, gives what had waited, and goes on until it is stopped."""
    app, tasks = Recorder(hangs=lambda number: number < 0), []

    async def application(scope, receive, send):
        if tasks and scope["channel"] == "b":
            # A message waits for its first receive().
            await asyncio.get_running_loop().create_future()
        await app(scope, receive, send)

    layer = InMemoryChannelLayer(capacity=1000)
    server = sources(cy).ChannelLayerServer(application, ["a", "b"], layer, max_applications=2)

    async def first():
        tasks.append(asyncio.create_task(server.arun()))
        await send_numbers(layer, "a", [-1])
        await send_numbers(layer, "b", [0])
        await eventually(lambda: app.began == [("a", -1)] and server.stats()["waiting"] == 1)

    closed_under(run, first())
    left = tasks.copy() if kept else []
    tasks.clear()
    gc.collect()

    async def second():
        # The queues of this layer belong to a loop.
        server.channel_layer = layer = InMemoryChannelLayer(capacity=1000)
        running = asyncio.create_task(server.arun())
        for channel in "ab":
            await send_numbers(layer, channel, [1])
        await in_time(lambda: sorted(app.done) == [("a", 1), ("b", 0), ("b", 1)])
        # What is left of the first run ends, and does no harm to this one.
        left.clear()
        gc.collect()
        for channel in "ab":
            await send_numbers(layer, channel, [2])
        await in_time(lambda: len(app.done) == 5)
        assert app.of("a") == [1, 2] and app.of("b") == [0, 1, 2]
        assert not running.done()
        server.stop()
        await running

    run(second())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_after_its_loop_was_closed_under_it_with_redis(cy, run, redis, layers, eager):
    """It works on what comes, and what the last run has held is put back as that of a dead worker."""
    app = Recorder(hangs=lambda number: number == 500)
    layer = layers(redis)
    server = sources(cy).ChannelLayerServer(app, ["a"], layer)
    server.worker_timeout = 0.5

    async def first():
        running.append(asyncio.create_task(server.arun()))
        await write_numbers(layer, "a", range(1000))
        await in_time(lambda: app.began[-1:] == [("a", 500)] and server.stats()["waiting"] > 50)

    running = []
    closed_under(run, first())

    async def second():
        server.channel_layer = again = layers(redis, prefix=layer.prefix)
        task = asyncio.create_task(server.arun())
        # But for the one in hand, and those that were about to begin.
        await in_time(lambda: len(app.done) >= 1000 - 1 - MOST_CLAIMED)
        assert server.stats()["taken_over"] > 0
        assert len({*app.done}) == len(app.done)
        server.stop()
        await task
        await again.close_pools()

    run(second())
    running.clear()


def closed_under(run, coroutine):
    """Runs a coroutine in a loop that is closed with tasks in it."""
    loop = run.loop_factory()
    # That tasks are destroyed while they are pending is what such an end of a loop means.
    loop.set_exception_handler(lambda loop, context: None)
    loop.run_until_complete(coroutine)
    loop.close()

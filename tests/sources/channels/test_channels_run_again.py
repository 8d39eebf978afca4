"""Servers of channels that are run again, however their last run has ended."""

from __future__ import annotations

import asyncio
import functools
import importlib

from channels.layers import InMemoryChannelLayer

from support.channel_layers import send_numbers, sources
from support.serving import in_time


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

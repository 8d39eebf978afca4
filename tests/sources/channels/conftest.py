"""One Redis for all tests of this directory, which use keys of their own; and one for a test that ends it."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from support.channel_layers import redis_layer
from support.redis_servers import RedisServer


@pytest.fixture(scope="session")
def redis(tmp_path_factory):
    """A Redis that is never ended or flushed."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path):
    """A Redis of the test's own, which persists every write as long as it is not told otherwise."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with RedisServer(folder, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
def eager(cy, monkeypatch):
    """Many messages are fetched ahead, and are not put back, however slow this machine is at the moment."""
    shard = importlib.import_module(f"{cy.__name__}.sources.channels.redis.shard")
    monkeypatch.setattr(shard, "AHEAD", 60)
    monkeypatch.setattr(shard, "HOLD", 60)


@pytest.fixture
def layers():
    """layers(redis, **options) gives a layer; `await layers.close()` closes the connections of all of them."""

    class Layers:
        def __init__(self):
            self.made = []

        def __call__(self, *arguments, **options):
            self.made.append(redis_layer(*arguments, **options))
            return self.made[-1]

        async def close(self):
            await asyncio.gather(*(layer.close_pools() for layer in self.made))

    return Layers()

"""Channels on a Redis of its own: Channels' Worker, and cyasgi's server, which reads in batches."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import shutil
import statistics
import time
from collections.abc import Mapping
from time import perf_counter, process_time
from typing import Any

from benchmarks.bench_worker import Consumer
from benchmarks.engines import redis_server
from benchmarks.probing import collect, run
from benchmarks.question import Bar, Figure, Probed
from benchmarks.sides import FLOOR, settle

#: Messages that the floor pops at a time, and single ones that are timed.
BATCH, SINGLE = 100, 200
PREFIX, STAGE = "benchmark", "written"
MESSAGE = {"type": "benchmark.message", "data": "x" * 64}


async def write(layer: Any, names: list[str], messages: int) -> None:
    """Writes messages as the layer does, but where nobody looks for them."""
    pipeline = layer.connection(0).pipeline(transaction=False)
    now = time.time()
    for number in range(messages):
        pipeline.zadd(f"{STAGE}{names[number % len(names)]}", {layer.serialize(MESSAGE): now + number / 1e6})
    await pipeline.execute()


async def show(layer: Any, names: list[str]) -> None:
    """Has all that was written be there at once."""
    pipeline = layer.connection(0).pipeline(transaction=True)
    for name in names:
        pipeline.rename(f"{STAGE}{name}", f"{PREFIX}{name}")
    await pipeline.execute()


async def pop(layer: Any, names: list[str], consumer: Consumer) -> None:
    """The floor: pops many messages at a time, and decodes them; it has no application."""
    connection = layer.connection(0)
    while True:
        for name in names:
            for content, _ in await connection.zpopmin(f"{PREFIX}{name}", BATCH):
                layer.deserialize(content)
                consumer.received += 1


def worker_of(side: str, consumer: Consumer, names: list[str], layer: Any) -> Any:
    if side == "reference":
        workers: Any = importlib.import_module("channels.worker")
        return workers.Worker(consumer.run, names, layer)
    channels: Any = importlib.import_module("cyasgi.sources.channels")
    return channels.ChannelLayerServer(consumer.run, names, layer)


async def reach(consumer: Consumer, count: int) -> None:
    while consumer.received < count:
        await asyncio.sleep(0.001)


async def consume(side: str, url: str, count: int, messages: int) -> dict[str, float]:
    core: Any = importlib.import_module("channels_redis.core")
    # redis-py would end the Worker's wait for a message after 5 seconds.
    layer = core.RedisChannelLayer(hosts=[{"address": url, "socket_timeout": None}], prefix=PREFIX, expiry=3600)
    consumer = Consumer()
    names = [f"channel-{number}" for number in range(count)]
    if side == FLOOR:
        running = asyncio.ensure_future(pop(layer, names, consumer))
    else:
        running = asyncio.ensure_future(worker_of(side, consumer, names, layer).arun())
    sender: Any = core.RedisChannelLayer(hosts=[{"address": url, "socket_timeout": None}], prefix=PREFIX)
    await write(sender, names, 2 * count)
    await show(sender, names)
    await reach(consumer, 2 * count)
    expected = 2 * count + messages
    await write(sender, names, messages)
    collect()
    begun, used = perf_counter(), process_time()
    await show(sender, names)
    await reach(consumer, expected)
    used, elapsed = process_time() - used, perf_counter() - begun
    waits = []
    if side != FLOOR:
        for number in range(SINGLE):
            content = sender.serialize(MESSAGE)
            sent = perf_counter()
            await sender.connection(0).zadd(f"{PREFIX}{names[number % count]}", {content: time.time()})
            while consumer.received <= expected + number:
                await asyncio.sleep(0)
            waits.append(perf_counter() - sent)
    # With the listeners that Channels' Worker leaves.
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.wait({running, *rest})
    await sender.close_pools()
    await layer.close_pools()
    found = {"cpu": used / messages, "rate": messages / elapsed}
    return found | ({"single": statistics.median(waits)} if waits else {})


def probe(side: str, loop: str, size: int, messages: int) -> Mapping[str, float]:
    settle(side)
    with redis_server() as engine:
        return run(loop, consume(side, engine.url, size, messages))


def hindrance() -> str:
    if importlib.util.find_spec("channels_redis") is None:
        return "channels_redis is not installed"
    return "" if shutil.which("redis-server") else "redis-server is not installed"


QUESTION = Probed(
    name="layer",
    title="Channels on Redis",
    size_of="channels",
    sizes={"quick": (10,), "usual": (1, 10, 100), "full": (1, 10, 100, 1_000)},
    probe=probe,
    figures={
        "cpu": Figure("worker's CPU time per message", "µs"),
        "rate": Figure("messages per second", "/s", more=True),
        "single": Figure("a single message, from its sending to the application", "ms"),
    },
    rounds={"quick": 1, "usual": 5, "full": 5},
    # Channels' Worker takes minutes for as many channels.
    only={1_000: ("pure", "cython", FLOOR)},
    arguments={"quick": {"messages": 1_000}, "usual": {"messages": 5_000}, "full": {"messages": 5_000}},
    floor_is=f"ZPOPMIN of {BATCH} messages at a time, which are decoded; what has been popped is lost with the process",
    bars=(
        Bar("reference", "cython", least=15.0, figure="cpu"),
        Bar("reference", "pure", least=10.0, figure="cpu"),
        Bar("cython", "reference", most=1.0, figure="single"),
        Bar("pure", "reference", most=1.0, figure="single"),
    ),
    hindrance=hindrance,
    note="Channels' Worker and cyasgi's ChannelLayerServer with the layer of channels_redis, on a Redis of their own "
    "that persists nothing; the application only counts. The messages are in Redis before they are timed.",
)


def test_layer(benchmark: Any, case: Any) -> None:
    """Reads messages of channels from Redis."""
    case(benchmark)

"""Channels' Worker on the in-memory layer: as it is on the reference, and after cyasgi.install()."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import itertools
from collections.abc import Mapping
from time import perf_counter, process_time
from typing import Any

from benchmarks.probing import collect, run
from benchmarks.question import Bar, Figure, Probed
from benchmarks.sides import FLOOR, settle
from benchmarks.workload import Receive, Send

LIMIT = 1_000
#: Messages sent before the Worker has its turn.
BATCH = 100


class Consumer:
    """An application that counts what it receives."""

    received = 0

    async def run(self, scope: Any, receive: Receive, send: Send) -> None:
        while True:
            await receive()
            self.received += 1


async def listen(layer: Any, channel: str, consumer: Consumer) -> None:
    """The floor: takes messages from the layer and makes no instance of anything."""
    while True:
        await layer.receive(channel)
        consumer.received += 1


async def consume(side: str, count: int, messages: int) -> dict[str, float]:
    """Sends messages to so many channels in turn, batch by batch, each batch once the one before has arrived."""
    layers: Any = importlib.import_module("channels.layers")
    workers: Any = importlib.import_module("channels.worker")
    layer = layers.InMemoryChannelLayer(capacity=BATCH)
    consumer = Consumer()
    names = [f"channel-{number}" for number in range(count)]
    if side == FLOOR:
        running = [asyncio.ensure_future(listen(layer, name, consumer)) for name in names]
    else:
        worker = workers.Worker(consumer.run, names, layer, max_applications=LIMIT)
        running = [asyncio.ensure_future(worker.arun())]
    turns = itertools.cycle(names)
    message = {"type": "benchmark.message", "data": "x" * 64}

    async def send(wanted: int) -> None:
        sent = consumer.received
        wanted += sent
        while sent < wanted:
            for name in itertools.islice(turns, BATCH):
                await layer.send(name, message)
            sent += BATCH
            while consumer.received < sent:
                await asyncio.sleep(0)

    await send(max(count, BATCH))
    collect()
    begun, used = perf_counter(), process_time()
    await send(messages)
    used, elapsed = process_time() - used, perf_counter() - begun
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    return {"cpu": used / messages, "rate": messages / elapsed}


def probe(side: str, loop: str, size: int, messages: int) -> Mapping[str, float]:
    settle(side)
    if side in ("pure", "cython"):
        import cyasgi

        cyasgi.install()
    return run(loop, consume(side, size, messages))


def hindrance() -> str:
    return "" if importlib.util.find_spec("channels") else "channels is not installed"


QUESTION = Probed(
    name="worker",
    title="Channels' Worker on the in-memory layer",
    size_of=f"channels (at most {LIMIT:,} instances)",
    sizes={"quick": (100,), "usual": (1, 100, 2 * LIMIT), "full": (1, 100, 1_000, 2 * LIMIT)},
    probe=probe,
    figures={
        "cpu": Figure("CPU time per message", "µs"),
        "rate": Figure("messages per second", "/s", more=True),
    },
    arguments={"quick": {"messages": 5_000}, "usual": {"messages": 20_000}, "full": {"messages": 20_000}},
    floor_is="listeners on the same layer that make no instances",
    bars=(
        Bar("reference", "pure", least=1.0, figure="cpu"),
        Bar("reference", "cython", least=1.0, figure="cpu"),
    ),
    hindrance=hindrance,
    note=f"With {2 * LIMIT:,} channels the working set is twice max_applications: every message evicts an instance. "
    "The layer itself copies each message, which is most of the floor.",
)


def test_worker(benchmark: Any, case: Any) -> None:
    """Sends messages through Channels' Worker."""
    case(benchmark)

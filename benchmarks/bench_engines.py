"""Workers on Redis and on RabbitMQ: what a message costs them and the engine, with one worker and with two."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.engines import CHANNELS, PARTITIONS, PREFIX, QUEUE, Crew, Engine, hindrance, rabbitmq, redis_server
from benchmarks.processes import usage
from benchmarks.question import Figure, Probed

#: Messages with which everything becomes warm, and those that are sent as an application sends them.
WARM, SENT = 500, 500
BODY = b"x" * 64
#: Messages that RabbitMQ has not confirmed, at most.
UNCONFIRMED = 500

FIGURES = {
    "redis_rate": Figure("messages per second from Redis, a core for each worker", "/s", more=True),
    "redis_cpu": Figure("CPU time of all workers per message from Redis", "µs"),
    "redis_server": Figure("Redis' CPU time per message fetched", "µs"),
    "redis_sent": Figure("Redis' CPU time per message sent by the channel layer", "µs"),
    "amqp_rate": Figure("messages per second from RabbitMQ, a core for each worker", "/s", more=True),
    "amqp_cpu": Figure("CPU time of all workers per message from RabbitMQ", "µs"),
    "amqp_server": Figure("RabbitMQ's CPU time per message fetched and acknowledged", "µs"),
    "amqp_sent": Figure("RabbitMQ's CPU time per message published and confirmed", "µs"),
    "amqp_moved": Figure("a worker that comes has its share of partitions after", "s"),
}


class Cost:
    """What workers and an engine have spent since this was made."""

    def __init__(self, crew: Crew, engine: Engine) -> None:
        self._pids = [engine.pid, *(process.pid for process in crew.processes)]
        self._before = [usage(pid).ran for pid in self._pids]

    def since(self) -> tuple[float, list[float]]:
        """The engine's, and that of each worker, in seconds."""
        engine, *workers = (usage(pid).ran - before for pid, before in zip(self._pids, self._before, strict=True))
        return engine, workers


def told(kind: str, messages: int, engine: float, workers: list[float]) -> dict[str, float]:
    return {
        f"{kind}_rate": messages / max(workers),
        f"{kind}_cpu": sum(workers) / messages,
        f"{kind}_server": engine / messages,
    }


# Redis


async def _send(url: str, count: int, *, at_once: bool) -> None:
    """Sends as an application does, or writes all of them at once where the workers find them together."""
    core: Any = importlib.import_module("channels_redis.core")
    layer = core.RedisChannelLayer(hosts=[url], prefix=PREFIX, capacity=1_000_000)
    message = {"type": "benchmark.message", "data": "x" * 64}
    if not at_once:
        for _, channel in zip(range(count), itertools.cycle(CHANNELS), strict=False):
            await layer.send(channel, message)
    else:
        connection = layer.connection(0)
        pipeline = connection.pipeline(transaction=False)
        now = time.time()
        for number, channel in zip(range(count), itertools.cycle(CHANNELS), strict=False):
            pipeline.zadd(f"written{channel}", {layer.serialize(message): now + number / 1e6})
        await pipeline.execute()
        pipeline = connection.pipeline(transaction=True)
        for channel in CHANNELS:
            pipeline.rename(f"written{channel}", f"{PREFIX}{channel}")
        await pipeline.execute()
    await layer.close_pools()


def over_redis(side: str, loop: str, workers: int, messages: int) -> dict[str, float]:
    with (
        redis_server() as engine,
        tempfile.NamedTemporaryFile() as file,
        Crew(side, loop, "redis", engine.url, file.name, workers) as crew,
    ):
        before = usage(engine.pid).ran
        asyncio.run(_send(engine.url, SENT, at_once=False))
        sent = usage(engine.pid).ran - before
        for _ in range(workers):
            crew.start()
        crew.until(lambda: crew.counts.started, "the start")
        asyncio.run(_send(engine.url, WARM, at_once=True))
        crew.until(lambda: crew.counts.taken == SENT + WARM, "the first messages")
        cost = Cost(crew, engine)
        asyncio.run(_send(engine.url, messages, at_once=True))
        crew.until(lambda: crew.counts.taken == SENT + WARM + messages, "all messages")
        return told("redis", messages, *cost.since()) | {"redis_sent": sent / SENT}


# RabbitMQ


async def _publish(url: str, count: int, scopes: int) -> None:
    aiormq: Any = importlib.import_module("aiormq")
    connection = await aiormq.connect(url)
    channel = await connection.channel()
    properties = aiormq.spec.Basic.Properties(delivery_mode=2)
    for first in range(0, count, UNCONFIRMED):
        numbers = range(first, min(first + UNCONFIRMED, count))
        await asyncio.gather(
            *(
                channel.basic_publish(BODY, exchange=QUEUE, routing_key=str(number % scopes), properties=properties)
                for number in numbers
            )
        )
    await connection.close()


def over_amqp(side: str, loop: str, workers: int, messages: int, scopes: int) -> dict[str, float]:
    with (
        rabbitmq() as engine,
        tempfile.NamedTemporaryFile() as file,
        Crew(side, loop, "amqp", engine.url, file.name, workers) as crew,
    ):
        crew.start()
        crew.until(lambda: crew.counts.most == PARTITIONS, "all partitions of one worker")
        found = {}
        if workers > 1:
            for _ in range(workers - 1):
                crew.start()
            fair = PARTITIONS // workers
            crew.until(lambda: crew.counts.started, "the start of each worker")
            found["amqp_moved"] = crew.until(lambda: crew.counts.least >= fair, "its share of partitions")
        asyncio.run(_publish(engine.url, WARM, scopes))
        crew.until(lambda: crew.counts.taken == WARM, "the first messages")
        # Messages come while they are published: what that costs RabbitMQ is measured below, where nobody consumes.
        cost = Cost(crew, engine)
        asyncio.run(_publish(engine.url, messages, scopes))
        crew.until(lambda: crew.counts.taken == WARM + messages, "all messages")
        spent, each = cost.since()
    with rabbitmq() as alone, tempfile.NamedTemporaryFile() as file:
        with Crew(side, loop, "amqp", alone.url, file.name, 1) as crew:
            crew.start()
            crew.until(lambda: crew.counts.most == PARTITIONS, "all partitions of one worker")
        before = usage(alone.pid).ran
        asyncio.run(_publish(alone.url, messages, scopes))
        sent = usage(alone.pid).ran - before
    return told("amqp", messages, max(0.0, spent - sent), each) | found | {"amqp_sent": sent / messages}


def probe(side: str, loop: str, size: int, messages: int, scopes: int) -> Mapping[str, float]:
    found = over_redis(side, loop, size, messages)
    return found if hindrance("amqp") else found | over_amqp(side, loop, size, messages, scopes)


QUESTION = Probed(
    name="engines",
    title="Workers on Redis and on RabbitMQ",
    size_of="workers",
    sizes={"quick": (1, 2), "usual": (1, 2), "full": (1, 2)},
    probe=probe,
    sides=("cython",),
    loops=("uvloop",),
    figures=FIGURES,
    rounds={"quick": 1, "usual": 3, "full": 5},
    arguments={
        "quick": {"messages": 2_000, "scopes": 1_000},
        "usual": {"messages": 10_000, "scopes": 10_000},
        "full": {"messages": 20_000, "scopes": 10_000},
    },
    hindrance=lambda: hindrance("redis"),
    told=("redis_cpu", "redis_server", "redis_sent", "amqp_cpu", "amqp_server", "amqp_sent", "amqp_moved"),
    note=f"{len(CHANNELS)} channels of channels_redis, and {PARTITIONS} partitions of a queue; 64 bytes. The "
    "application only counts. A rate is what was taken divided by the CPU time of the busiest worker. What RabbitMQ "
    "spends on publishing is measured where nobody consumes, and taken off what it spends where workers do.",
)


def test_engines(benchmark: Any, case: Any) -> None:
    """Takes messages from Redis, and from RabbitMQ where it is installed."""
    case(benchmark)

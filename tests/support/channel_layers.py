"""Servers fed by channels, at work in the test's loop; applications for them; channel layers of Redis."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import time

from channels_redis.core import RedisChannelLayer

from support.loops import PATIENCE
from support.serving import in_time

_prefixes = itertools.count(1)


def sources(cy):
    """The module of servers fed by channels that belongs to this twin."""
    return importlib.import_module(f"{cy.__name__}.sources.channels")


def redis_layer(server, cls=RedisChannelLayer, **options):
    """A channel layer on this Redis, or on several; without a `prefix` nobody else uses its keys."""
    servers = server if isinstance(server, list) else [server]
    options.setdefault("prefix", f"test{next(_prefixes)}")
    options.setdefault("capacity", 100_000)
    return cls(hosts=[one.url for one in servers], **options)


class Worker:
    """A server at work in this loop."""

    def __init__(self, server, task):
        self.server = server
        self.task = task

    async def stop(self):
        """Stops it as the first signal does, and waits for its end."""
        self.server.stop()
        await self.task


@contextlib.asynccontextmanager
async def working(cy, application, channels, layer, *, base=None, max_applications=1000, alone=True, **settings):
    """A server with these settings, ready for messages, until it is stopped; one that is `alone` must leave no task."""
    before = asyncio.all_tasks()
    overrides = {name: value for name, value in settings.items() if callable(value)}
    server = type("Server", (base or sources(cy).ChannelLayerServer,), overrides)(
        application, channels, layer, max_applications
    )
    for name in settings.keys() - overrides.keys():
        setattr(server, name, settings[name])
    task = asyncio.create_task(server.arun())
    try:
        async with asyncio.timeout(PATIENCE / 2):
            await server.wait_started()
            yield Worker(server, task)
    finally:
        server.stop()
        await asyncio.wait([task], timeout=PATIENCE / 2)
        assert task.done(), "the server did not stop"
    task.result()
    assert not server.application_instances
    if alone:
        await in_time(lambda: asyncio.all_tasks() <= before)


class Recorder:
    """An application that notes (channel, number) of each message, and how many it works on at a time.

    It works on each until `go` lets it, if it was told to wait, fails of numbers for which `fails` is true, and hands
    those for which `hangs` is true to nobody else.
    """

    def __init__(self, *, waits=False, fails=lambda number: False, hangs=lambda number: False):
        self.began = []
        self.done = []
        self.scopes = []
        self.at_work = {}
        self.most_of_channel = 0
        self.most = 0
        self.go = asyncio.Semaphore(0) if waits else None
        self.fails = fails
        self.hangs = hangs

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        channel = scope["channel"]
        while True:
            number = (await receive())["number"]
            self.began.append((channel, number))
            self.at_work[channel] = self.at_work.get(channel, 0) + 1
            self.most_of_channel = max(self.most_of_channel, self.at_work[channel])
            self.most = max(self.most, sum(self.at_work.values()))
            try:
                if self.hangs(number):
                    await asyncio.get_running_loop().create_future()
                if self.go is not None:
                    await self.go.acquire()
                await asyncio.sleep(0)
            finally:
                self.at_work[channel] -= 1
            if self.fails(number):
                raise ValueError(number)
            self.done.append((channel, number))

    def let(self, count):
        """Lets it finish so many messages."""
        for _ in range(count):
            self.go.release()

    def of(self, channel):
        """The numbers of a channel's messages that are done, in order."""
        return [number for name, number in self.done if name == channel]


async def used_up(layer, channel, worker):
    """Waits until no message of a channel is in Redis, held by a worker, or in hand."""
    connection = layer.connection(0)
    queue, held = layer.prefix + channel, f"{layer.prefix}:cyasgi:held:*:{channel}"
    async with asyncio.timeout(PATIENCE / 2):
        while (
            await connection.exists(queue)
            or await connection.keys(held)
            or worker.server.stats()["waiting"]
            or not worker.server.stats()["idle"]
        ):
            await asyncio.sleep(0.005)


def send_from_outside(redis, channel, numbers, prefix="asgi", **options):
    """Sends numbered messages from a loop of its own."""

    async def main():
        layer = redis_layer(redis, prefix=prefix, **options)
        await send_numbers(layer, channel, numbers)
        await layer.close_pools()

    asyncio.run(main())


async def take_over(layer):
    """Does what a worker does when the only one that is known was silent for too long: returns how many messages it
    puts back."""
    scripts = importlib.import_module("cyasgi.sources.channels.redis.scripts")
    connection, own = layer.connection(0), f"{layer.prefix}:cyasgi:"
    (worker,) = await connection.zrange(f"{own}workers", 0, -1)
    pipeline = connection.pipeline()
    pipeline.zadd(f"{own}workers", {worker: 1})
    pipeline.eval(scripts.RECOVER, 1, f"{own}workers", layer.prefix, own, 60, 1000, scripts.GONE_SECONDS)
    _, (_, count, *_) = await pipeline.execute()
    return count


async def cut(layer):
    """Ends the connections of workers, which are those that have run scripts or are told of changes."""
    connection = layer.connection(0)
    for client in await connection.client_list():
        if client["cmd"] in ("evalsha", "subscribe", "ping") or client["sub"] != "0":
            with contextlib.suppress(Exception):
                await connection.client_kill_filter(_id=client["id"])


def records(caplog, text):
    """What was logged with this text in it."""
    return [record for record in caplog.records if text in record.getMessage()]


async def write_numbers(layer, channel, numbers, index=0):
    """Writes to a Redis of the layer's hosts what the layer would, all at once and much faster."""
    pipeline = layer.connection(index).pipeline()
    now = time.time()
    for number in numbers:
        message = layer.serialize({"type": "work", "number": number})
        pipeline.zadd(layer.prefix + channel, {message: now + number * 1e-6})
    await pipeline.execute()


async def send_numbers(layer, channel, numbers):
    for number in numbers:
        await layer.send(channel, {"type": "work", "number": number})

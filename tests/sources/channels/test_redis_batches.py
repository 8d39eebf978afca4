"""Channels on Redis: producers and groups notice nothing, messages come in batches, and no more than can be taken."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time

import pytest
from channels.consumer import AsyncConsumer
from channels.exceptions import ChannelFull

from support.channel_layers import Recorder, send_numbers, sources, working, write_numbers
from support.serving import in_time

pytestmark = pytest.mark.slow


async def count(layer, channel):
    """How many messages of a channel are in Redis."""
    return await layer.connection(0).zcard(layer.prefix + channel)


async def keys_of(layer):
    """The names of all keys of the layer, without its prefix."""
    prefix = layer.prefix.encode()
    return sorted(key[len(prefix) :].decode() for key in await layer.connection(0).keys(prefix + b"*"))


def test_messages(cy, run, redis, layers):
    """What is sent to channels and to groups comes to the applications, in order, and nothing is left in Redis."""

    async def main():
        layer, app = layers(redis), Recorder()
        async with working(cy, app, ["a", "b"], layer) as worker:
            await send_numbers(layer, "a", range(300))
            await layer.group_add("both", "a")
            await layer.group_add("both", "b")
            await layer.group_send("both", {"type": "work", "number": 1000})
            await in_time(lambda: len(app.done) == 302)
            assert app.of("a") == [*range(300), 1000]
            assert app.of("b") == [1000]
            assert worker.server.stats()["messages"] == 302
        assert await keys_of(layer) == [":group:both"]
        await layers.close()

    run(main())


@pytest.mark.parametrize(
    "options",
    [
        {"serializer_format": "json"},
        {"symmetric_encryption_keys": ["secret"]},
        {"random_prefix_length": 20, "prefix": "other:prefix"},
    ],
    ids=["json", "encrypted", "prefixes"],
)
def test_formats(cy, run, redis, layers, options):
    """Messages are read as the layer writes them."""

    async def main():
        layer, app = layers(redis, **options), Recorder()
        async with working(cy, app, ["a"], layer):
            await send_numbers(layer, "a", range(5))
            await in_time(lambda: app.of("a") == list(range(5)))
        await layers.close()

    run(main())


def test_few_calls_for_many_messages(cy, run, redis, layers):
    """A channel that is full is read by calls that fetch many."""

    async def main():
        layer, app = layers(redis), Recorder()
        await write_numbers(layer, "a", range(1000))
        connection = layer.connection(0)
        before = (await connection.info("commandstats")).get("cmdstat_evalsha", {"calls": 0})["calls"]
        async with working(cy, app, ["a"], layer):
            await in_time(lambda: len(app.done) == 1000)
            calls = (await connection.info("commandstats"))["cmdstat_evalsha"]["calls"] - before
        assert app.of("a") == list(range(1000))
        assert calls < 500
        await layers.close()

    run(main())


def test_slow_consumer_leaves_messages_in_redis(cy, run, redis, layers):
    """A worker fetches what its instances can begin; producers are told that the channel is full, and others get it."""

    async def main():
        layer = layers(redis, capacity=20)
        slow, quick = Recorder(waits=True), Recorder()
        async with working(cy, slow, ["a"], layer) as worker:
            await send_numbers(layer, "a", [0])
            await in_time(lambda: slow.began)
            await send_numbers(layer, "a", range(1, 21))
            with pytest.raises(ChannelFull):
                await send_numbers(layer, "a", [21])
            assert worker.server.stats()["waiting"] == 0
            async with working(cy, quick, ["a"], layer, alone=False):
                await in_time(lambda: len(quick.done) == 20)
            slow.let(1)
            await in_time(lambda: slow.done)
        assert quick.of("a") == list(range(1, 21))
        await layers.close()

    run(main())


def test_what_waits_too_long_is_given_back(cy, run, redis, layers):
    """Messages that were fetched for a consumer that became slow are put back in order, and others take them."""

    async def main():
        layer = layers(redis)
        stuck, quick = Recorder(hangs=lambda number: number == 500), Recorder()
        async with working(cy, stuck, ["a"], layer, shutdown_timeout=0.1) as worker:
            await write_numbers(layer, "a", range(1500))
            await in_time(lambda: ("a", 500) in stuck.began)
            await in_time(lambda: worker.server.stats()["waiting"] == 0)
            assert await count(layer, "a") == 999
            async with working(cy, quick, ["a"], layer, alone=False):
                await in_time(lambda: len(quick.done) == 999)
        assert quick.of("a") == list(range(501, 1500))
        assert stuck.of("a") == list(range(500))
        await layers.close()

    run(main())


def test_two_workers(cy, run, redis, layers):
    """Each message comes to one of them."""

    async def main():
        layer = layers(redis)
        apps = [Recorder(waits=True), Recorder(waits=True)]
        first, second = (working(cy, app, ["a", "b"], layer, alone=False) for app in apps)
        async with first, second:
            for number in range(200):
                await send_numbers(layer, "ab"[number % 2], [number])
            await in_time(lambda: all(len(app.began) == 2 for app in apps))
            for app in apps:
                app.let(200)
            await in_time(lambda: sum(len(app.done) for app in apps) == 200)
        assert sorted(number for app in apps for _, number in app.done) == list(range(200))
        await layers.close()

    run(main())


def test_beside_channels_worker(cy, run, redis, layers):
    """With a worker of Channels on the same channel, each message comes to one of both."""
    from channels.worker import Worker

    async def main():
        ours, theirs = Recorder(), Recorder()
        layer, other = layers(redis), None
        other = layers(redis, prefix=layer.prefix)
        other.hosts[0]["socket_timeout"] = None
        worker = Worker(theirs, ["a"], other)
        before = asyncio.all_tasks()
        running = asyncio.create_task(worker.arun())
        async with working(cy, ours, ["a"], layer, alone=False):
            await send_numbers(layer, "a", range(100))
            await in_time(lambda: len(ours.done) + len(theirs.done) == 100)
        await send_numbers(layer, "a", [100])
        await in_time(lambda: 100 in theirs.of("a"))
        # With the listeners that it leaves.
        rest = asyncio.all_tasks() - before
        for task in rest:
            task.cancel()
        await asyncio.wait(rest)
        assert running.cancelled()
        assert sorted(ours.of("a") + theirs.of("a")) == list(range(101))
        await layers.close()

    run(main())


def test_several_hosts(cy, run, redis, own_redis, layers):
    """The layer spreads a channel's messages over its hosts, and all of them are read."""

    async def main():
        layer, app = layers([redis, own_redis]), Recorder()
        async with working(cy, app, ["a", "b"], layer):
            await send_numbers(layer, "a", range(50))
            await send_numbers(layer, "b", range(50))
            await in_time(lambda: len(app.done) == 100)
        for channel in "ab":
            numbers = app.of(channel)
            assert sorted(numbers) == list(range(50))
            # In order of each host.
            assert [number for number in numbers if number % 2 == 0] == list(range(0, 50, 2))
            assert [number for number in numbers if number % 2] == list(range(1, 50, 2))
        await layers.close()

    run(main())


async def write(layer, channel, content):
    """Writes what some other program might: it comes first."""
    await layer.connection(0).zadd(layer.prefix + channel, {content: time.time() - 1})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"x" * 12 + b"\x93\x01\x02\x03", "it is no map, but [1, 2, 3]"),
        (b"x" * 12 + b"\xc1", "it cannot be read: FormatError"),
        (b"x" * 12 + b"\x81\xa6number\x01", "it has no type: {'number': 1}"),
        (b"x" * 12 + b"\x81\xa6number" + b"\x91" * 1000 + b"\x01", "it has no type: {'number': [[[["),
        (b"x", "it cannot be read: "),
        (b"x" * 12 + b"\xa3\xff\xff\xff", "it cannot be read: UnicodeDecodeError: "),
    ],
    ids=["list", "bytes", "typeless", "nested", "short", "text"],
)
def test_message_that_is_none(cy, run, redis, layers, caplog, content, told):
    """It is told of in one line, kept aside in Redis, and takes nothing with it."""

    async def main():
        layer, app = layers(redis), Recorder()
        await write(layer, "a", content)
        await send_numbers(layer, "a", [1])
        async with working(cy, app, ["a"], layer) as worker:
            await in_time(lambda: app.done)
            assert worker.server.stats()["refused"] == 1
        connection = layer.connection(0)
        key = f"{layer.prefix}:cyasgi:refused:a"
        assert await connection.lrange(key, 0, -1) == [content]
        assert 0 < await connection.ttl(key) <= 86_400
        await layers.close()

    with caplog.at_level(logging.ERROR, "cyasgi"):
        run(main())
    (record,) = caplog.records
    assert record.getMessage().startswith(f"a message on channel 'a' was refused: {told}")
    assert "\n" not in record.getMessage()


def test_message_that_is_too_large(cy, run, redis, layers, caplog):
    """It never comes to the worker, which tells of it in one line; those behind it are processed."""

    async def main():
        layer, app = layers(redis), Recorder()
        await layer.send("a", {"type": "work", "number": 0, "data": "x" * 2000})
        await send_numbers(layer, "a", range(1, 60))
        async with working(cy, app, ["a"], layer, max_message_size=1000) as worker:
            await in_time(lambda: len(app.done) == 59)
            assert worker.server.stats()["refused"] == 1
        assert await layer.connection(0).llen(f"{layer.prefix}:cyasgi:refused:a") == 1
        await layers.close()

    with caplog.at_level(logging.ERROR, "cyasgi"):
        run(main())
    (record,) = caplog.records
    assert record.getMessage() == ("a message on channel 'a' was refused: it is larger than max_message_size=1000")


def test_large_messages_do_not_come_all_at_once(cy, run, redis, layers):
    """What waits in a worker is bounded in bytes as well."""

    async def main():
        layer, app = layers(redis), Recorder()
        for number in range(40):
            await layer.send("a", {"type": "work", "number": number, "data": "x" * 1_000_000})
        waiting = []
        async with working(cy, app, ["a"], layer) as worker:
            while len(app.done) < 40:
                waiting.append(worker.server.stats()["waiting"])
                await asyncio.sleep(0)
        assert max(waiting) <= 17
        assert app.of("a") == list(range(40))
        await layers.close()

    run(main())


@pytest.mark.long
@pytest.mark.few_combinations(1)
def test_consumers_own_channels(cy, run, redis, layers):
    """Consumers of Channels receive by names of their own on the same layer, while nothing comes for them."""
    from channels.layers import channel_layers

    async def main():
        layer = layers(redis)
        names, answers, got = [], [], []

        class Consumer(AsyncConsumer):
            async def work(self, message):
                names.append(self.channel_name)
                await self.channel_layer.send(self.channel_name, {"type": "answer", "number": message["number"]})

            async def answer(self, message):
                answers.append(message["number"])

        async def application_exception(self, exception, details):
            got.append(exception)

        before = channel_layers.set("default", layer)
        try:
            async with working(cy, Consumer.as_asgi(), ["a"], layer, application_exception=application_exception):
                for number in range(3):
                    await send_numbers(layer, "a", [number])
                    await in_time(lambda sent=number + 1: len(answers) == sent)
                # Longer than redis-py waits for an answer by itself.
                await asyncio.sleep(6)
                await send_numbers(layer, "a", [3])
                await in_time(lambda: answers == [0, 1, 2, 3])
        finally:
            channel_layers.set("default", before)
        assert len(set(names)) == 1
        assert not got
        await layers.close()

    from django.conf import settings

    if not settings.configured:
        settings.configure()
    run(main())


def test_specific_names_are_refused(cy, run, redis, layers):
    """A channel that belongs to one process is none to work for."""

    async def main():
        layer = layers(redis)
        with pytest.raises(ValueError, match="'name!' belongs to one process; accepted are general names"):
            sources(cy).ChannelLayerServer(Recorder(), ["name!"], layer)
        await layers.close()

    run(main())


@pytest.mark.few_combinations
def test_many_channels(cy, run, redis, layers):
    """Several hundred channels are more than one call has."""

    async def main():
        layer, app = layers(redis), Recorder()
        channels = [f"c{number}" for number in range(250)]
        async with working(cy, app, channels, layer):
            for number, channel in itertools.product(range(3), channels):
                await send_numbers(layer, channel, [number])
            await in_time(lambda: len(app.done) == 750)
        assert all(app.of(channel) == [0, 1, 2] for channel in channels)
        await layers.close()

    run(main())

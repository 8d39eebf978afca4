"""Messages on Redis that an application was given and has not received: they keep their place, and are done once."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from support.channel_layers import Recorder, send_numbers, sources, take_over, working, write_numbers
from support.loops import PATIENCE
from support.redis_servers import CuttingProxy
from support.serving import in_time

pytestmark = pytest.mark.slow


@pytest.fixture
def impatient(cy, monkeypatch):
    """What waits for a consumer is put back almost at once."""
    shard = importlib.import_module(f"{cy.__name__}.sources.channels.redis.shard")
    monkeypatch.setattr(shard, "HOLD", 0.03)
    monkeypatch.setattr(shard, "BEAT", 0.02)
    return shard


def leaving(numbers, leave):
    """An application that notes the numbers of messages, and ends once for each of `leave` before it receives it."""
    left = set(leave)

    async def application(scope, receive, send):
        while True:
            if left and len(numbers) == min(left):
                left.discard(len(numbers))
                # Usually it has been given the message by now.
                receive().close()
                return
            numbers.append((await receive())["number"])

    return application


def test_message_that_was_given_and_not_received(cy, run, redis, layers):
    """The next instance gets it."""

    async def main():
        layer, numbers = layers(redis), []

        async def application(scope, receive, send):
            if not numbers:
                numbers.append("first")
                receive().close()
                return
            numbers.append((await receive())["number"])

        await send_numbers(layer, "a", range(3))
        async with working(cy, application, ["a"], layer) as worker:
            await in_time(lambda: len(numbers) == 4)
            assert numbers == ["first", 0, 1, 2]
            assert worker.server.stats()["restored"] == 1
        await layers.close()

    run(main())


def test_it_is_not_overtaken(cy, run, redis, layers, eager):
    """It comes before those that wait in the worker, and those that are in Redis."""

    async def main():
        layer, numbers = layers(redis), []
        await write_numbers(layer, "a", range(500))
        async with working(cy, leaving(numbers, range(300, 310)), ["a"], layer) as worker:
            await in_time(lambda: len(numbers) == 500)
            # On a busy machine an instance may end before it was given one.
            assert 0 < worker.server.stats()["restored"] <= 10
        assert numbers == list(range(500))
        await layers.close()

    run(main())


def test_it_is_given_at_once(cy, run, redis, layers):
    """Not only when Redis is looked at now and then."""

    async def main():
        layer, numbers = layers(redis), []
        async with working(cy, leaving(numbers, [0]), ["a"], layer, worker_timeout=3600.0):
            await send_numbers(layer, "a", [0])
            await in_time(lambda: numbers == [0])
        await layers.close()

    run(main())


def failing_at_start(numbers, go):
    """An application that has message 0 given to it and ends, and then cannot be started until it may go on."""
    starts = []

    async def application(scope, receive, send):
        starts.append(1)
        if len(starts) == 1:
            receive().close()
            return
        if not go.is_set():
            raise OSError("no database")
        while True:
            numbers.append((await receive())["number"])

    return application


def test_it_is_put_back_and_fetched_again(cy, run, redis, layers, impatient):
    """While no application can take it, others may; a worker that is alone gets it again as soon as it can take it."""

    async def main():
        layer, numbers, go = layers(redis), [], asyncio.Event()
        async with working(cy, failing_at_start(numbers, go), ["a"], layer, worker_timeout=3600.0) as worker:
            await send_numbers(layer, "a", [0])
            await in_time(lambda: worker.server.stats()["put_back"])
            go.set()
            await in_time(lambda: numbers == [0])
        assert await layer.connection(0).keys(f"{layer.prefix}*") == []
        await layers.close()

    run(main())


def test_left_at_the_end(cy, run, redis, layers, eager):
    """An application that ends during the shutdown leaves its message to others, and counts as at work until then."""

    async def main():
        layer, go = layers(redis), asyncio.Event()

        async def application(scope, receive, send):
            given = receive()
            await go.wait()
            given.close()

        await write_numbers(layer, "a", range(10))
        connection = layer.connection(0)
        before = await connection.zrange(f"{layer.prefix}a", 0, -1, withscores=True)
        async with working(cy, application, ["a"], layer) as worker:
            await in_time(lambda: worker.server.stats()["messages"] == 1)
            (name,) = await connection.zrange(f"{layer.prefix}:cyasgi:workers", 0, -1)
            worker.server.stop()
            # Should it be killed now, others would tell of the message.
            async with asyncio.timeout(PATIENCE / 2):
                while await connection.hget(f"{layer.prefix}:cyasgi:worker:{name.decode()}", ":begun") != b"1":
                    await asyncio.sleep(0.001)
            go.set()
            await worker.task
            assert worker.server.stats()["restored"] == 1
        assert await connection.zrange(f"{layer.prefix}a", 0, -1, withscores=True) == before
        assert await connection.keys(f"{layer.prefix}*") == [f"{layer.prefix}a".encode()]
        await layers.close()

    run(main())


@pytest.mark.parametrize("taken_over", [False, True])
def test_answer_that_is_lost(cy, run, redis, layers, impatient, taken_over):
    """What was put back, and is done by others meanwhile, is not put back once more, whatever Redis could not say."""

    async def main():
        direct, numbers, go, elsewhere = layers(redis), [], asyncio.Event(), []
        connection = direct.connection(0)
        own = f"{direct.prefix}:cyasgi:"

        async def others():
            elsewhere.extend(await connection.zpopmin(f"{direct.prefix}a"))
            if taken_over:
                await take_over(direct)

        async with CuttingProxy(redis, b"precious", others) as proxy:
            layer = layers(proxy, prefix=direct.prefix)
            async with working(cy, failing_at_start(numbers, go), ["a"], layer) as worker:
                proxy.cuts = 1
                await direct.send("a", {"type": "work", "number": 0, "text": "precious"})
                await in_time(lambda: worker.server.stats()["put_back"])
                assert proxy.done == 1
                go.set()
                await send_numbers(direct, "a", [1])
                await in_time(lambda: 1 in numbers)
            await layer.close_pools()
        assert [direct.deserialize(content)["number"] for content, _ in elsewhere] == [0]
        assert numbers == [1]
        left = [f"{own}gone".encode()] * taken_over
        assert [key[: len(f"{own}gone")] for key in await connection.keys(f"{direct.prefix}*")] == left
        await layers.close()

    run(main())


def test_several_calls(cy, run, redis, layers, monkeypatch, impatient):
    """What was taken over by others, and waits here though it was claimed, goes back in order, however much it is."""
    returning = importlib.import_module(f"{sources(cy).__name__}.redis.returning")
    monkeypatch.setattr(returning, "AT_ONCE", 2)
    for name in ("CLAIMED", "AHEAD", "HOLD"):
        monkeypatch.setattr(impatient, name, 60)

    async def main():
        layer = layers(redis)
        stuck, other = Recorder(hangs=lambda number: number == 100), Recorder()
        await write_numbers(layer, "a", range(200))
        async with working(cy, stuck, ["a"], layer, shutdown_timeout=0.1) as worker:
            await in_time(lambda: ("a", 100) in stuck.began)
            await take_over(layer)
            for name, value in (("CLAIMED", 0.002), ("AHEAD", 0.02), ("HOLD", 0.03)):
                monkeypatch.setattr(impatient, name, value)
            async with asyncio.timeout(PATIENCE / 2):
                while await layer.connection(0).zcard(f"{layer.prefix}a") < 99:
                    await asyncio.sleep(0.001)
            assert worker.server.stats()["put_back"] > 2
            async with working(cy, other, ["a"], layer, alone=False):
                await in_time(lambda: len(stuck.done) + len(other.done) == 199)
        assert stuck.of("a") == list(range(100))
        assert other.of("a") == list(range(101, 200))
        await layers.close()

    run(main())

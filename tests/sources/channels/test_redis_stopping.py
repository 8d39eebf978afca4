"""Workers of channels on Redis that are stopped, and what is put back."""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import time

import pytest

from support.channel_layers import Recorder, records, sources, used_up, working, write_numbers
from support.serving import in_time

pytestmark = pytest.mark.slow


def test_stop_puts_back(cy, run, redis, layers, eager):
    """What was not begun is put back in order, to expire as before, and what was begun is finished."""

    async def main():
        layer = layers(redis)
        done = []
        go = asyncio.Event()

        async def application(scope, receive, send):
            while True:
                number = (await receive())["number"]
                if number == 500:
                    await go.wait()
                done.append(number)

        await write_numbers(layer, "a", range(1000))
        before = await layer.connection(0).zrange(f"{layer.prefix}a", 0, -1, withscores=True)
        async with working(cy, application, ["a"], layer) as worker:
            await in_time(lambda: len(done) == 500)
            assert worker.server.stats()["waiting"] > 0
            worker.server.stop()
            await in_time(lambda: worker.server.stats()["put_back"] > 0)
            assert not worker.task.done()
            go.set()
            await worker.task
        connection = layer.connection(0)
        assert done == list(range(501))
        assert await connection.zrange(f"{layer.prefix}a", 0, -1, withscores=True) == before[501:]
        assert 0 < await connection.ttl(f"{layer.prefix}a") <= layer.expiry
        assert await connection.keys(f"{layer.prefix}*") == [f"{layer.prefix}a".encode()]
        await layers.close()

    run(main())


def test_stop_without_redis(cy, run, own_redis, layers, caplog, eager):
    """The server ends in time, and says what is left to others, who find it when Redis is back."""

    async def main():
        layer = layers(own_redis)
        done = []

        async def application(scope, receive, send):
            while True:
                done.append((await receive())["number"])
                if done[-1] == 500:
                    await asyncio.get_running_loop().create_future()

        await write_numbers(layer, "a", range(1000))
        async with working(cy, application, ["a"], layer, shutdown_timeout=0.3, worker_timeout=1.0) as worker:
            await in_time(lambda: len(done) == 501)
            assert worker.server.stats()["waiting"] > 0
            await layer.close_pools()
            await asyncio.to_thread(own_redis.kill)
            began = time.monotonic()
            await worker.stop()
            assert time.monotonic() - began < 10
        await asyncio.to_thread(own_redis.start)
        app = Recorder()
        async with working(cy, app, ["a"], layer, worker_timeout=1.0) as worker:
            await in_time(lambda: worker.server.stats()["taken_over"])
            await used_up(layer, "a", worker)
        assert records(caplog, "another worker puts back")
        (record,) = records(caplog, "was silent for too long")
        told = int(re.search(r"up to (\d+) that it had begun are lost", record.getMessage())[1])
        numbers = sorted(app.of("a"))
        assert numbers == list(range(numbers[0], 1000))
        assert numbers[0] - 500 <= told <= 33
        await layers.close()

    with caplog.at_level(logging.WARNING, "cyasgi"):
        run(main())


def test_scripts_bound_what_they_put_back_at_once(cy, run, redis, layers, monkeypatch):
    """What a dead worker holds is put back in several calls, and none of it is lost or out of order."""
    scripts = importlib.import_module(f"{sources(cy).__name__}.redis.scripts")
    monkeypatch.setattr(scripts, "PUT_BACK_AT_ONCE", 7)

    async def main():
        layer, app = layers(redis), Recorder()
        connection = layer.connection(0)
        own = f"{layer.prefix}:cyasgi:"
        await connection.zadd(f"{own}workers", {"dead": 1})
        await connection.hset(f"{own}worker:dead", mapping={"a": 0, "b": 5, ":begun": 2})
        for channel in "ab":
            for number in range(20):
                content = layer.serialize({"type": "work", "number": number})
                await connection.rpush(f"{own}held:dead:{channel}", 1000 + number, content)
        async with working(cy, app, ["a", "b"], layer) as worker:
            await in_time(lambda: len(app.done) == 40)
            assert worker.server.stats()["taken_over"] == 40
        assert app.of("a") == app.of("b") == list(range(20))
        keys = await connection.keys(f"{own}*")
        assert keys == [f"{own}gone:dead".encode()]
        await layers.close()

    run(main())

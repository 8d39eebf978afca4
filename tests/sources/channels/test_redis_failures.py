"""Channels on Redis when connections are cut, answers are lost, or Redis is restarted or paused."""

from __future__ import annotations

import asyncio
import importlib
import logging
import shutil

import pytest

from support.channel_layers import (
    Recorder,
    cut,
    records,
    send_numbers,
    sources,
    take_over,
    used_up,
    working,
    write_numbers,
)
from support.redis_servers import CuttingProxy, RedisServer, SilencingProxy
from support.serving import in_time

pytestmark = pytest.mark.slow


def test_connections_that_are_cut(cy, run, redis, layers):
    """Nothing is lost, nothing comes twice, and a channel's messages stay in order."""

    async def main():
        layer, app = layers(redis), Recorder()
        async with working(cy, app, ["a", "b"], layer) as worker:
            sending = asyncio.create_task(send_both(layer, 400))
            for count in range(50, 350, 75):
                await in_time(lambda count=count: len(app.done) >= 2 * count)
                await cut(layer)
            await sending
            await in_time(lambda: len(app.done) == 800)
            assert worker.server.stats()["reconnects"] > 0
        for channel in "ab":
            assert app.of(channel) == list(range(400))
        await layers.close()

    run(main())


async def send_both(layer, count):
    for number in range(count):
        for channel in "ab":
            await send_numbers(layer, channel, [number])


def test_answers_that_are_lost(cy, run, redis, layers):
    """What Redis has done and could not say is found out: nothing is lost, nothing comes twice."""

    async def main():
        direct, app = layers(redis), Recorder()
        async with CuttingProxy(redis) as proxy:
            layer = layers(proxy, prefix=direct.prefix)
            async with working(cy, app, ["a", "b"], layer):
                sending = asyncio.create_task(send_both(direct, 300))
                for count in range(50, 300, 50):
                    await in_time(lambda count=count: len(app.done) >= 2 * count)
                    proxy.cuts = 1
                    await in_time(lambda: proxy.cuts == 0)
                await sending
                await in_time(lambda: len(app.done) == 600)
            assert proxy.done == 5
            await layer.close_pools()
        for channel in "ab":
            assert app.of(channel) == list(range(300))
        await layers.close()

    run(main())


def test_scripts_that_are_forgotten(cy, run, redis, layers):
    """Redis is told them again."""

    async def main():
        layer, app = layers(redis), Recorder()
        async with working(cy, app, ["a"], layer) as worker:
            for number in range(5):
                await send_numbers(layer, "a", [number])
                await in_time(lambda sent=number + 1: len(app.done) == sent)
                await layer.connection(0).script_flush()
            assert worker.server.stats()["reconnects"] == 0
        await layers.close()

    run(main())


def test_restarted_redis(cy, run, own_redis, layers, caplog):
    """A Redis that remembers goes on where it was; the log tells when it was gone and when it is back."""

    async def main():
        layer, app = layers(own_redis), Recorder(waits=True)
        await send_numbers(layer, "a", range(200))
        async with working(cy, app, ["a"], layer) as worker:
            app.let(100)
            await in_time(lambda: len(app.done) == 100)
            await layer.close_pools()
            await asyncio.to_thread(own_redis.kill)
            await in_time(lambda: worker.server.stats()["reconnects"] == 1)
            await asyncio.to_thread(own_redis.start)
            app.let(200)
            await send_numbers(layer, "a", range(200, 300))
            await in_time(lambda: len(app.done) == 300)
        assert app.of("a") == list(range(300))
        await layers.close()

    with caplog.at_level(logging.INFO, "cyasgi"):
        run(main())
    assert len([one for one in records(caplog, "has failed") if one.levelno == logging.WARNING]) == 1
    assert records(caplog, "is back after")


def test_restarted_redis_that_forgets(cy, run, tmp_path, layers, eager):
    """What waits in the worker is nowhere else, and is processed."""

    async def main():
        with RedisServer(tmp_path) as forgetful:
            layer, app = layers(forgetful), Recorder(hangs=lambda number: False)
            stop = asyncio.Event()

            async def application(scope, receive, send):
                while True:
                    number = (await receive())["number"]
                    if number == 500:
                        await stop.wait()
                    app.done.append(("a", number))

            await write_numbers(layer, "a", range(1000))
            async with working(cy, application, ["a"], layer) as worker:
                await in_time(lambda: len(app.done) == 500)
                waiting = worker.server.stats()["waiting"]
                assert waiting > 0
                await layer.close_pools()
                await asyncio.to_thread(forgetful.restart)
                await in_time(lambda: worker.server.stats()["reconnects"] == 1)
                stop.set()
                await in_time(lambda: len(app.done) >= 501 + waiting)
                await send_numbers(layer, "a", range(2000, 2010))
                await in_time(lambda: app.of("a")[-1] == 2009)
            # All that the worker had, and then what came.
            had = len(app.done) - 10
            assert had >= 501 + waiting
            assert app.of("a") == [*range(had), *range(2000, 2010)]
            await layers.close()

    run(main())


@pytest.mark.parametrize("forgets", [False, True], ids=["remembers", "forgets"])
def test_one_of_several_hosts_is_gone(cy, run, redis, own_redis, layers, eager, forgets):
    """What waits of it lets the messages of the others pass, and is processed in order as soon as it is back."""

    async def main():
        layer, go, numbers = layers([own_redis, redis]), asyncio.Event(), []

        async def application(scope, receive, send):
            while True:
                number = (await receive())["number"]
                if number == 300:
                    await go.wait()
                numbers.append(number)

        await write_numbers(layer, "a", range(600))
        async with working(cy, application, ["a"], layer) as worker:
            await in_time(lambda: len(numbers) == 300)
            stats = worker.server.stats
            # More than can be claimed.
            await in_time(lambda: stats()["waiting"] > 33)
            waiting = stats()["waiting"]
            await write_numbers(layer, "a", range(1000, 1100), index=1)
            await in_time(lambda: stats()["waiting"] > waiting)
            await layer.close_pools()
            await asyncio.to_thread(own_redis.kill)
            await in_time(lambda: stats()["reconnects"] == 1)
            go.set()
            await in_time(lambda: 1099 in numbers)
            left = stats()["waiting"]
            assert left > 0
            done = len(numbers) - 100
            if forgets:
                shutil.rmtree(own_redis.folder / "appendonlydir")
            await asyncio.to_thread(own_redis.start)
            await in_time(lambda: len(numbers) - 100 >= (done + left if forgets else 600))
        assert [number for number in numbers if number < 1000] == list(range(done + left if forgets else 600))
        assert [number for number in numbers if number >= 1000] == list(range(1000, 1100))
        await layers.close()

    run(main())


def test_redis_that_forgets_its_last_moments(cy, run, redis, layers, eager):
    """What is fetched from then on is claimed anew: it is put back if the worker is killed."""

    async def main():
        layer, other, go, numbers = layers(redis), Recorder(), asyncio.Event(), []
        connection, own = layer.connection(0), f"{layer.prefix}:cyasgi:"

        async def application(scope, receive, send):
            while True:
                number = (await receive())["number"]
                if number == 500:
                    await go.wait()
                numbers.append(number)

        async def held():
            return await connection.llen(f"{own}held:{name}:a") // 2

        await write_numbers(layer, "a", range(1000))
        async with working(cy, application, ["a"], layer) as worker:
            await in_time(lambda: len(numbers) == 500)
            name = (await connection.zrange(f"{own}workers", 0, -1))[0].decode()
            # As if the last one had not been fetched.
            content, score = await connection.rpop(f"{own}held:{name}:a", 2)
            await connection.zadd(f"{layer.prefix}a", {content: float(score)})
            waiting = await held() + 1
            await cut(layer)
            await in_time(lambda: worker.server.stats()["waiting"] > waiting)
            count = await held()
            assert await take_over(layer) == count > 0
            async with working(cy, other, ["a"], layer, alone=False):
                go.set()
                await in_time(lambda: {*numbers, *other.of("a")} == set(range(1000)))
        await layers.close()

    run(main())


@pytest.mark.parametrize("forgotten", ["workers", "both"])
def test_redis_that_forgets_who_is_at_work(cy, run, redis, layers, eager, forgotten):
    """A worker that has to make itself known again does each message once, and those whose answer was lost, too."""

    async def main():
        layer, go, numbers = layers(redis), asyncio.Event(), []
        connection, own = layer.connection(0), f"{layer.prefix}:cyasgi:"

        async def application(scope, receive, send):
            while True:
                number = (await receive())["number"]
                if number == 500:
                    await go.wait()
                numbers.append(number)

        await write_numbers(layer, "a", range(1000))
        async with working(cy, application, ["a"], layer) as worker:
            await in_time(lambda: len(numbers) == 500)
            (name,) = (one.decode() for one in await connection.zrange(f"{own}workers", 0, -1))
            pipeline = connection.pipeline()
            if forgotten == "workers":
                # As if one more had been fetched, and the answer was lost.
                ((content, score),) = await connection.zpopmin(f"{layer.prefix}a")
                pipeline.rpush(f"{own}held:{name}:a", score, content)
            else:
                pipeline.delete(f"{own}worker:{name}")
            await pipeline.delete(f"{own}workers").execute()
            await send_numbers(layer, "a", [1000])
            go.set()
            await in_time(lambda: len(numbers) >= 1001)
            await used_up(layer, "a", worker)
        assert sorted(numbers) == list(range(1001))
        assert not await connection.keys(f"{layer.prefix}*")
        await layers.close()

    run(main())


def test_paused_redis(cy, run, own_redis, layers):
    """A Redis that does not answer for a while is connected to again."""

    async def main():
        layer, app = layers(own_redis), Recorder()
        layer.hosts[0]["socket_timeout"] = 0.3
        sender = layers(own_redis, prefix=layer.prefix)
        async with working(cy, app, ["a"], layer) as worker:
            await send_numbers(sender, "a", range(10))
            await in_time(lambda: len(app.done) == 10)
            own_redis.pause()
            try:
                await in_time(lambda: worker.server.stats()["reconnects"] == 1)
            finally:
                own_redis.go_on()
            await send_numbers(sender, "a", range(10, 20))
            await in_time(lambda: len(app.done) == 20)
        assert app.of("a") == list(range(20))
        await layers.close()

    run(main())


@pytest.mark.few_combinations
def test_paused_host_of_which_messages_wait(cy, run, redis, own_redis, layers, eager, monkeypatch):
    """It holds back the others of its channel until the time for an answer is over, and no longer: that consumers wait
    longer for their own messages makes no difference."""
    monkeypatch.setattr(importlib.import_module(f"{sources(cy).__name__}.redis.link"), "ANSWER_TIMEOUT", 0.3)

    async def main():
        layer = layers([own_redis, redis])
        for _ in range(2):
            # The second run finds the hosts as the first one has left them.
            app = Recorder(waits=True)
            async with working(cy, app, ["a"], layer) as worker:
                await pass_a_paused_one(own_redis, layer, app, worker.server.stats)
            assert layer.hosts[0]["socket_timeout"] == 10
        await layers.close()

    run(main())


async def pass_a_paused_one(paused, layer, app, stats):
    """Has messages of the layer's second host begun while messages of the first one wait, which is paused."""
    await write_numbers(layer, "a", range(600))
    app.let(300)
    # More than can be claimed.
    await in_time(lambda: len(app.done) == 300 and stats()["waiting"] > 33)
    paused.pause()
    try:
        await write_numbers(layer, "a", [1000], index=1)
        app.let(301)
        await in_time(lambda: 1000 in app.of("a"))
    finally:
        paused.go_on()
    assert stats()["reconnects"] == 1
    await in_time(lambda: len(app.done) == 601)


@pytest.mark.few_combinations
def test_stall_that_is_shorter_than_the_time_for_an_answer(cy, run, redis, layers):
    """A connection for changes that is silent for several beats is a live one, and is not asked again meanwhile."""

    async def main():
        direct, app = layers(redis), Recorder()
        async with SilencingProxy(redis) as proxy:
            layer = layers(proxy, prefix=direct.prefix)
            async with working(cy, app, ["a"], layer, reconnect=False, worker_timeout=0.5) as worker:
                pings, scripts = proxy.pings, proxy.scripts
                proxy.silent = True
                # A beat runs three of them at most.
                await in_time(lambda: proxy.scripts >= scripts + 15 or worker.task.done())
                assert not worker.task.done()
                assert proxy.pings <= pings + 1
                proxy.speak()
                await send_numbers(direct, "a", range(10))
                await in_time(lambda: len(app.done) == 10)
            await layer.close_pools()
        await layers.close()

    run(main())


@pytest.mark.few_combinations
def test_connection_for_changes_that_has_died(cy, run, redis, layers):
    """Once it was silent for the time that an answer may take, both connections are made anew."""

    async def main():
        async with SilencingProxy(redis) as proxy:
            layer = layers(proxy)
            layer.hosts[0]["socket_timeout"] = 0.2
            async with working(cy, Recorder(), ["a"], layer, worker_timeout=0.5) as worker:
                proxy.silent = True
                await in_time(lambda: worker.server.stats()["reconnects"] == 1)
                proxy.speak()
            await layer.close_pools()
        await layers.close()

    run(main())


def test_failure_that_ends_the_server(cy, run, own_redis, layers):
    """Without `reconnect` the server ends with one line."""

    async def main():
        layer = layers(own_redis)
        server = sources(cy).ChannelLayerServer(Recorder(), ["a"], layer)
        server.reconnect = False
        running = asyncio.create_task(server.arun())
        await server.wait_started()
        await asyncio.to_thread(own_redis.kill)
        with pytest.raises(sources(cy).LayerError, match=f"cannot use Redis at {own_redis.url}: ") as raised:
            await running
        assert "\n" not in str(raised.value)
        await layers.close()

    run(main())

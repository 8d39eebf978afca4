"""Workers of channels on Redis that are killed or frozen: another one gets what they had; nothing is done twice."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import logging
import re
import signal
import threading

import pytest
from channels_redis.core import RedisChannelLayer

from support.channel_layers import (
    Recorder,
    cut,
    records,
    redis_layer,
    send_numbers,
    sources,
    take_over,
    used_up,
    working,
    write_numbers,
)
from support.loops import PATIENCE, passes
from support.redis_servers import CuttingProxy
from support.serving import in_time
from support.udp import Command

pytestmark = pytest.mark.slow


# What channels_redis does


class Dying(RedisChannelLayer):
    """A layer whose process dies when it has fetched a message, before it can say so."""

    async def _clean_receive_backup(self, index, channel):
        await asyncio.get_running_loop().create_future()


def test_shared_list_of_channels_redis_loses_messages(run, redis):
    """The reference: of two workers one dies with a message that it has fetched, and the other one takes it out of the
    list of both in place of its own: the message is nowhere."""

    async def main():
        dying = redis_layer(redis, Dying)
        other = redis_layer(redis, prefix=dying.prefix)
        connection = other.connection(0)

        async def waiting():
            return sum(client["cmd"] == "bzpopmin" for client in await connection.client_list())

        receiving = [asyncio.create_task(dying.receive("a"))]
        await until(waiting, 1)
        receiving.append(asyncio.create_task(other.receive("a")))
        await until(waiting, 2)
        await send_numbers(other, "a", [1])
        # It dies now, and its application has never seen the message.
        assert (await receiving[0])["number"] == 1
        await send_numbers(other, "a", [2])
        assert (await receiving[1])["number"] == 2
        await other.wait_received()
        left = [*await connection.zrange(f"{dying.prefix}a", 0, -1)]
        left += await connection.zrange(f"{dying.prefix}a$inflight", 0, -1)
        for cleaner in dying.receive_cleaners:
            cleaner.cancel()
        await asyncio.wait(dying.receive_cleaners)
        await asyncio.gather(dying.close_pools(), other.close_pools())
        # The message that was processed is left, and will be processed again; the other one is nowhere.
        assert [other.deserialize(content)["number"] for content in left] == [2]

    run(main())


async def until(count, wanted):
    """Asks again and again until there are so many."""
    async with asyncio.timeout(PATIENCE / 2):
        while await count() != wanted:
            await asyncio.sleep(0.005)


# Workers that die, and workers that freeze

APPLICATION = """
import asyncio, os
from cyasgi.sources.channels.redis import shard

# Many are fetched ahead, and are not put back, however slow this machine is at the moment.
shard.AHEAD = shard.HOLD = 60

async def application(scope, receive, send):
    while True:
        number = (await receive())["number"]
        with open("began", "a") as file:
            file.write(f"{number}\\n")
        if number == 500:
            while not os.path.exists("go"):
                await asyncio.sleep(0.01)
        with open("done", "a") as file:
            file.write(f"{number}\\n")
"""


class Process(Command):
    """`cyasgi work` with this application, in a directory of its own, for the channel `a`."""

    def __init__(self, folder, layer, redis, *arguments, cy):
        folder.mkdir()
        (folder / "app.py").write_text(APPLICATION, encoding="utf-8")
        self.folder = folder
        super().__init__(
            "work",
            "--layer",
            redis.url,
            "--prefix",
            layer.prefix,
            "--channel",
            "a",
            *arguments,
            "app:application",
            cwd=folder,
            backend=cy.backend,
        )

    def numbers(self, name):
        try:
            return [int(line) for line in (self.folder / name).read_text().splitlines()]
        except FileNotFoundError:
            return []


@contextlib.contextmanager
def stuck(folder, layer, redis, cy):
    """A worker in a process of its own that has begun message 500 of 1500, and holds others that it has not begun."""
    with Process(folder, layer, redis, "--worker-timeout", "1", cy=cy) as process:
        process.until("receiving from a")
        yield process


async def held(layer):
    """How many messages workers hold that they have not begun."""
    connection = layer.connection(0)
    keys = await connection.keys(f"{layer.prefix}:cyasgi:held:*")
    return sum([await connection.llen(key) for key in keys]) // 2


async def until_stuck(process, layer):
    """Sends, and waits until the process has begun message 500."""
    await write_numbers(layer, "a", range(1500))
    await in_time(lambda: 500 in process.numbers("began"))


@pytest.mark.few_combinations
def test_killed_worker(cy, run, redis, tmp_path, layers, caplog):
    """What it had not begun is put back in order and processed by another one; what it had begun is told of."""

    async def main():
        layer = layers(redis)
        with stuck(tmp_path / "one", layer, redis, cy) as process:
            await until_stuck(process, layer)
            process.process.kill()
            assert await held(layer) > 0
            app = Recorder()
            async with working(cy, app, ["a"], layer, worker_timeout=1.0) as worker:
                await in_time(lambda: worker.server.stats()["taken_over"])
                await used_up(layer, "a", worker)
            assert_put_back(process, app.of("a"), caplog)
        assert await held(layer) == 0
        await layers.close()

    with caplog.at_level(logging.WARNING, "cyasgi"):
        run(main())


def assert_put_back(process, numbers, caplog):
    """What the killed worker had begun, or was about to begin, is lost and told of; all that comes after is done."""
    assert process.numbers("done") == list(range(500))
    assert sorted(numbers) == list(range(min(numbers), 1500))
    lost = min(numbers) - 500
    (record,) = records(caplog, "was silent for too long")
    told = int(re.search(r"up to (\d+) that it had begun are lost", record.getMessage())[1])
    assert 1 <= lost <= told <= 33


@pytest.mark.few_combinations
def test_killed_worker_alone(cy, run, redis, tmp_path, layers, caplog):
    """Nobody else is there: its successor, started later, gets all that it had not begun, in order."""

    async def main():
        layer = layers(redis)
        with stuck(tmp_path / "one", layer, redis, cy) as process:
            await until_stuck(process, layer)
            process.process.kill()
            process.process.wait(PATIENCE)
        connection = layer.connection(0)
        # Its time is over before the next one begins.
        await connection.zadd(f"{layer.prefix}:cyasgi:workers", dict.fromkeys(await workers(layer), 1))
        app = Recorder()
        async with working(cy, app, ["a"], layer):
            await in_time(lambda: app.of("a")[-1:] == [1499])
        assert app.of("a") == sorted(app.of("a"))
        assert_put_back(process, app.of("a"), caplog)
        await layers.close()

    with caplog.at_level(logging.WARNING, "cyasgi"):
        run(main())


async def workers(layer):
    """The ids of all workers that are known."""
    return await layer.connection(0).zrange(f"{layer.prefix}:cyasgi:workers", 0, -1)


@pytest.mark.few_combinations
def test_frozen_worker(cy, run, redis, tmp_path, layers):
    """When it goes on, it finishes what it had begun, and leaves the rest to the one that has taken over: nothing is
    done twice, and it says so."""

    async def main():
        layer = layers(redis)
        with stuck(tmp_path / "one", layer, redis, cy) as process:
            await until_stuck(process, layer)
            process.process.send_signal(signal.SIGSTOP)
            assert await held(layer) > 0
            app = Recorder()
            async with working(cy, app, ["a"], layer, worker_timeout=1.0) as worker:
                await in_time(lambda: worker.server.stats()["taken_over"])
                await used_up(layer, "a", worker)
                (process.folder / "go").touch()
                process.process.send_signal(signal.SIGCONT)
                match = await asyncio.to_thread(process.until, r"another one has taken over: (\d+) messages")
                assert int(match[1]) > 0
                await send_numbers(layer, "a", range(1500, 1600))
                await in_time(lambda: len(app.done) + len(process.numbers("done")) == 1600)
            # It goes on as a worker.
            await send_numbers(layer, "a", [1600])
            await in_time(lambda: process.numbers("done")[-1:] == [1600])
        assert sorted([*app.of("a"), *process.numbers("done")]) == list(range(1601))
        await layers.close()

    run(main())


def test_worker_that_is_thought_dead(cy, run, redis, layers, caplog, eager):
    """A worker whose messages another one has taken over drops those that it has not begun, and goes on."""

    async def main():
        layer = layers(redis)
        other = Recorder()
        done = []

        async def application(scope, receive, send):
            while True:
                number = (await receive())["number"]
                done.append(number)
                if number == 500:
                    # Its time is over, and somebody takes over at once.
                    assert await take_over(layer) > 50
                    async with working(cy, other, ["a"], layer, alone=False):
                        await in_time(lambda: len(other.done) > 50)

        async with working(cy, application, ["a"], layer):
            await write_numbers(layer, "a", range(1500))
            await in_time(lambda: len(done) + len(other.done) >= 1500)
            await passes(50)
        assert sorted([*done, *other.of("a")]) == list(range(1500))
        assert len(other.done) > 50
        await layers.close()

    with caplog.at_level(logging.WARNING, "cyasgi"):
        run(main())
    assert records(caplog, "another one has taken over")


def test_claim_of_which_the_answer_was_lost(cy, run, redis, layers, caplog, eager, monkeypatch):
    """A worker that is taken over then begins what it holds of that, since nobody else has it."""
    monkeypatch.setattr(importlib.import_module(f"{sources(cy).__name__}.redis.shard"), "BEAT", 0.05)

    async def main():
        layer, other, go, numbers = layers(redis), Recorder(), asyncio.Event(), []
        connection, own = layer.connection(0), f"{layer.prefix}:cyasgi:"

        async def application(scope, receive, send):
            while True:
                numbers.append((await receive())["number"])
                if numbers[-1] == 500:
                    await go.wait()

        async with CuttingProxy(redis) as proxy:
            async with working(cy, application, ["a"], layers(proxy, prefix=layer.prefix)) as worker:
                await write_numbers(layer, "a", range(1000))
                await in_time(lambda: numbers[-1:] == [500])
                # More than can be claimed.
                await in_time(lambda: worker.server.stats()["waiting"] > 50)
                (name,) = (one.decode() for one in await connection.zrange(f"{own}workers", 0, -1))
                kept = []

                async def before_cut():
                    # As if this call had claimed all that has come but ten.
                    kept.extend(range(501 + worker.server.stats()["waiting"] - 10))
                    await connection.hset(f"{own}worker:{name}", "a:claimed", len(kept))
                    assert await take_over(layer) >= 10

                proxy.before_cut, proxy.cuts = before_cut, 1
                await in_time(lambda: records(caplog, "another one has taken over"))
                async with working(cy, other, ["a"], layer, alone=False):
                    go.set()
                    await in_time(lambda: len(numbers) + len(other.done) >= 1000)
                    await passes(50)
            assert sorted([*numbers, *other.of("a")]) == list(range(1000))
            assert numbers[: len(kept)] == kept
        await layers.close()

    with caplog.at_level(logging.WARNING, "cyasgi"):
        run(main())
    assert records(caplog, "10 messages that were not begun are left to it; 0 that were about to begin are lost")


@pytest.mark.parametrize("forgotten", ["all", "the last one"])
def test_new_beginning_of_which_the_answer_was_lost(cy, run, redis, layers, caplog, eager, forgotten):
    """What waits in a worker since Redis has forgotten it is done by that worker, although it is taken over before it
    learns that it has to."""
    scripts = importlib.import_module(f"{sources(cy).__name__}.redis.scripts")

    async def main():
        layer, app = layers(redis), Recorder(waits=True)
        connection, own = layer.connection(0), f"{layer.prefix}:cyasgi:"
        # What the connection in hand knows by its digest, or what the next one begins with.
        marker = hashlib.sha1(scripts.ENTER.encode()).hexdigest() if forgotten == "all" else scripts.RESUME
        async with CuttingProxy(redis, marker.encode()) as proxy:
            async with working(cy, app, ["a"], layers(proxy, prefix=layer.prefix)) as worker:
                await write_numbers(layer, "a", range(1000))
                app.let(500)
                # More than can be claimed.
                await in_time(lambda: len(app.done) == 500 and worker.server.stats()["waiting"] > 50)
                (name,) = (one.decode() for one in await connection.zrange(f"{own}workers", 0, -1))

                async def before_cut():
                    assert await take_over(layer) == 0

                proxy.before_cut, proxy.cuts = before_cut, 1
                if forgotten == "all":
                    await connection.delete(f"{own}workers", f"{own}worker:{name}", f"{own}held:{name}:a")
                else:
                    content, score = await connection.rpop(f"{own}held:{name}:a", 2)
                    await connection.zadd(f"{layer.prefix}a", {content: float(score)})
                    await cut(layer)
                await in_time(lambda: records(caplog, "another one has taken over"))
                app.let(501)
                await in_time(lambda: len(app.done) >= 1000)
                await used_up(layer, "a", worker)
            assert {*app.of("a")} == {*range(1000)}
            assert len(app.done) == 1000 + (forgotten != "all")
            assert not await connection.keys(f"{own}worker*")
        await layers.close()

    with caplog.at_level(logging.WARNING, "cyasgi"):
        run(main())
    assert records(caplog, "0 messages that were not begun are left to it; 0 that were about to begin are lost")


def test_worker_that_is_taken_over_while_it_comes_back(cy, run, redis, layers, caplog, eager):
    """It does not do what another one has by the time at which it asks what it holds."""
    scripts = importlib.import_module(f"{sources(cy).__name__}.redis.scripts")

    async def main():
        layer, app, other = layers(redis), Recorder(waits=True), Recorder()

        async def before_answer():
            assert await take_over(layer) > 50

        async with CuttingProxy(redis, scripts.ENTER.encode(), before_answer, passes=True) as proxy:
            async with working(cy, app, ["a"], layers(proxy, prefix=layer.prefix)) as worker:
                await write_numbers(layer, "a", range(1000))
                app.let(500)
                # More than can be claimed.
                await in_time(lambda: len(app.done) == 500 and worker.server.stats()["waiting"] > 90)
                proxy.cuts = 1
                await cut(layer)
                await in_time(lambda: records(caplog, "another one has taken over"))
                async with working(cy, other, ["a"], layer, alone=False):
                    app.let(501)
                    await in_time(lambda: len(app.done) + len(other.done) >= 1000)
                    await used_up(layer, "a", worker)
            assert sorted([*app.of("a"), *other.of("a")]) == list(range(1000))
            assert not await layer.connection(0).keys(f"{layer.prefix}:cyasgi:worker*")
        await layers.close()

    with caplog.at_level(logging.WARNING, "cyasgi"):
        run(main())
    assert records(caplog, "; 0 that were about to begin are lost")


def test_claimed_message_that_never_came(cy, run, redis, layers, caplog):
    """The worker that was to begin it, and was taken over, says that it is lost."""

    async def main():
        direct, app = layers(redis), Recorder()
        await send_numbers(direct, "a", [1])
        async with CuttingProxy(redis) as proxy:

            async def before_cut():
                if await direct.connection(0).exists(f"{direct.prefix}a"):
                    # It is still to be fetched.
                    proxy.cuts = 1
                else:
                    assert await take_over(direct) == 0

            proxy.before_cut, proxy.cuts = before_cut, 1
            async with working(cy, app, ["a"], layers(proxy, prefix=direct.prefix)):
                await in_time(lambda: records(caplog, "another one has taken over"))
                await send_numbers(direct, "a", [2])
                await in_time(lambda: app.done)
        assert app.of("a") == [2]
        await layers.close()

    with caplog.at_level(logging.WARNING, "cyasgi"):
        run(main())
    assert records(caplog, "0 messages that were not begun are left to it; 1 that were about to begin are lost")


def test_worker_that_stood_still_for_longer_than_redis_remembers(cy, run, redis, layers, caplog, eager, monkeypatch):
    """When Redis has forgotten that its messages were taken over, it does them no more than while Redis knew."""
    scripts = importlib.import_module(f"{sources(cy).__name__}.redis.scripts")
    monkeypatch.setattr(scripts, "GONE_SECONDS", 0.05)

    async def main():
        layer, done = layers(redis), []

        async def application(scope, receive, send):
            while True:
                done.append((await receive())["number"])
                if done[-1] == 500:
                    stand_still(redis, layer.prefix)

        await write_numbers(layer, "a", range(1500))
        async with working(cy, application, ["a"], layer):
            await in_time(lambda: len(done) >= 1500)
        assert done == list(range(1500))
        await layers.close()

    with caplog.at_level(logging.WARNING, "cyasgi"):
        run(main())
    assert records(caplog, "another one has taken over")
    assert records(caplog, "perhaps some that were about to begin are lost")


def stand_still(redis, prefix):
    """Blocks the loop until this worker's messages were taken over, and Redis has forgotten that."""

    async def elsewhere():
        layer = redis_layer(redis, prefix=prefix)
        connection = layer.connection(0)
        assert await take_over(layer) > 0

        async def remembered():
            return len(await connection.keys(f"{prefix}:cyasgi:gone:*"))

        await until(remembered, 0)
        await layer.close_pools()

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    thread.join()

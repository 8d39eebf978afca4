"""Many workers on one Redis that are killed, frozen, added and stopped, while it is restarted: a ledger of it all."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import re
import signal
import sys
import time

import pytest

from support.channel_layers import redis_layer
from support.loops import PATIENCE
from support.udp import Command

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.cluster]

CHANNELS = [f"channel{number}" for number in range(20)]
#: Messages, and how many are written at a time.
MESSAGES, BATCH = 10_000, 100
APPLICATION = """
import asyncio, os
from cyasgi.sources.channels.redis import shard

# Many are fetched ahead, however slow this machine is at the moment.
shard.AHEAD = 1

file = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def application(scope, receive, send):
    while True:
        number = (await receive())["number"]
        os.write(file, b"b %d %s\\n" % (number, scope["channel"].encode()))
        await asyncio.sleep(0.0005)
        os.write(file, b"d %d %s\\n" % (number, scope["channel"].encode()))
"""


class Worker(Command):
    """A worker in a process of its own, for all channels; each has a directory with its ledger."""

    def __init__(self, folder, redis, cy):
        folder.mkdir()
        (folder / "app.py").write_text(APPLICATION, encoding="utf-8")
        self.ledger = folder / "ledger"
        channels = [word for channel in CHANNELS for word in ("--channel", channel)]
        arguments = ("--layer", redis.url, *channels, "--worker-timeout", "2", "app:application")
        super().__init__("work", *arguments, cwd=folder, backend=cy.backend)
        self.until("receiving from")

    def entries(self):
        """What it has begun and done: of each (channel, number), in order."""
        found = {"b": [], "d": []}
        for line in self.ledger.read_text().splitlines() if self.ledger.exists() else ():
            kind, number, channel = line.split()
            found[kind].append((channel, int(number)))
        return found["b"], found["d"]


async def produce(layer, numbers):
    """Writes these messages as the layer does, each to its channel, many at a time."""
    connection = layer.connection(0)
    for start in range(numbers.start, numbers.stop, BATCH):
        pipeline = connection.pipeline(transaction=False)
        for number in range(start, min(start + BATCH, numbers.stop)):
            key = layer.prefix + CHANNELS[number % len(CHANNELS)]
            # Scores that no two messages share: within a channel they are in order.
            pipeline.zadd(key, {layer.serialize({"type": "work", "number": number}): time.time() + number * 1e-6})
        await pipeline.execute()
        await asyncio.sleep(0.01)


def total(workers, pattern):
    """The sum of the numbers that the workers have logged in lines that match."""
    return sum(int(match[1]) for worker in workers for line in worker.lines if (match := re.search(pattern, line)))


@pytest.mark.few_combinations(1)
def test_ledger(cy, run, own_redis, tmp_path):
    """Nothing is done twice, and nothing is lost but what a worker had in hand, or was about to begin, when it was
    killed, which is counted in a log."""
    workers = []

    def start():
        workers.append(Worker(tmp_path / f"worker{len(workers)}", own_redis, cy))
        return workers[-1]

    async def main():
        layer = redis_layer(own_redis, prefix="asgi")
        for _ in range(3):
            await asyncio.to_thread(start)
        part = MESSAGES // 5
        await produce(layer, range(part))
        workers[0].process.send_signal(signal.SIGKILL)
        await produce(layer, range(part, 2 * part))
        workers[1].process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(start)
        await produce(layer, range(2 * part, 3 * part))
        # All of it is in Redis, or in the hands of a worker.
        await layer.close_pools()
        await asyncio.to_thread(own_redis.restart)
        await produce(layer, range(3 * part, 4 * part))
        # Others have taken over what the killed one and the frozen one had.
        connection = layer.connection(0)
        async with asyncio.timeout(PATIENCE):
            while len(await connection.keys("asgi:cyasgi:gone:*")) < 2:
                await asyncio.sleep(0.05)
        workers[1].process.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(workers[2].stop, signal.SIGTERM) == 0
        await produce(layer, range(4 * part, MESSAGES))
        await finished(layer)
        for worker in (workers[1], workers[3]):
            assert await asyncio.to_thread(worker.stop, signal.SIGTERM) == 0
        await asyncio.to_thread(workers[0].wait)
        await layer.close_pools()

    async def finished(layer):
        """Waits until no message is in Redis, and none is in hand."""
        connection = layer.connection(0)
        async with asyncio.timeout(PATIENCE):
            while True:
                keys = await connection.keys("asgi*")
                left = [key for key in keys if b":cyasgi:" not in key or b":held:" in key]
                began = sum(len(worker.entries()[0]) for worker in workers)
                if not left and began >= MESSAGES - 5 * len(CHANNELS):
                    break
                await asyncio.sleep(0.1)

    with contextlib.ExitStack() as stack:
        try:
            run(main())
        finally:
            for worker in workers:
                stack.push(worker)
    begun = collections.Counter(entry for worker in workers for entry in worker.entries()[0])
    done = collections.Counter(entry for worker in workers for entry in worker.entries()[1])
    everything = {(CHANNELS[number % len(CHANNELS)], number) for number in range(MESSAGES)}
    # What was in hand at the kill, or about to be, is lost, and told of. Nothing else is.
    lost = everything - done.keys()
    told = total(workers, r"up to (\d+) that it had begun are lost")
    put_back = total(workers, r"silent for too long: (\d+) messages that it had not begun are put back")
    left = total(workers, r"another one has taken over: (\d+) messages that were not begun are left to it")
    sys.stdout.write(
        f"of {MESSAGES} messages, {len(done)} were done once, {sum(begun.values()) - len(begun)} twice; {len(lost)} "
        f"were lost, of {told} that logs told of; {put_back} were put back for workers that were silent, of which the "
        f"frozen one dropped {left}\n"
    )
    assert len(lost) <= 5 * len(CHANNELS)
    assert told >= len(lost)
    assert put_back > 0 < left
    # Nothing was done twice.
    assert set(begun.values()) == {1}
    # In order, for each channel and worker, but for what was put back.
    for channel in CHANNELS:
        numbers = [number for name, number in workers[0].entries()[0] if name == channel]
        assert numbers == sorted(numbers)

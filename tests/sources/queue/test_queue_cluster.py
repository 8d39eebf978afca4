"""A cluster: workers that are killed, frozen, stopped and added, a broker that restarts, and a ledger of it all.

python -m pytest --cluster -m cluster -s tests/sources/queue
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from support.cli import write_module
from support.serving import environment

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.cluster]

SCOPES = 10_000
#: Messages of each scope.
ROUNDS = 3
PARTITIONS, PREFETCH = 12, 5
#: Seconds for all of it.
PATIENCE = 240.0

APPLICATION = """
import asyncio, os, time

ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def application(scope, receive, send):
    while True:
        message = await receive()
        number, marked = int(message["body"]), int(message["redelivered"])
        line = f"{time.monotonic_ns()} {os.getpid()} {scope['scope_id']} {number} {marked}\\n"
        os.write(ledger, line.encode())
        await asyncio.sleep(0.05)
"""


class Cluster:
    """Worker processes of the command, and the ledger that they write."""

    def __init__(self, broker, directory):
        self._broker = broker
        self._directory = directory
        self.ledger = directory / "ledger"
        self.ledger.touch()
        self.workers = []
        write_module(directory, "work", APPLICATION)

    def start(self):
        number = len(self.workers)
        with (self._directory / f"worker-{number}.log").open("wb") as log:
            worker = subprocess.Popen(
                [
                    *(sys.executable, "-m", "cyasgi", "consume", "--name", "cluster"),
                    *("--partitions", str(PARTITIONS), "--prefetch", str(PREFETCH)),
                    *("--amqp", f"{self._broker.url}?heartbeat=2", "--shutdown-timeout", "20", "--lifespan", "off"),
                    "work:application",
                ],
                cwd=self._directory,
                env=environment(LEDGER=str(self.ledger)),
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        self.workers.append(worker)
        return worker

    def said(self):
        return "\n".join(path.read_text()[-3000:] for path in sorted(self._directory.glob("worker-*.log")))

    def lines(self):
        return [tuple(map(int, line.split())) for line in self.ledger.read_text().splitlines()]

    async def until(self, count):
        """Waits until so many different messages have been begun."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = len({(scope, number) for _, _, scope, number, _ in self.lines()})
            if found >= count:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{found} of {count} messages were begun: {self.said()}")

    async def takes(self, worker):
        """Waits until a worker has partitions."""
        log = self._directory / f"worker-{self.workers.index(worker)}.log"
        deadline = time.monotonic() + PATIENCE
        while "holds" not in log.read_text():
            assert time.monotonic() < deadline, self.said()
            await asyncio.sleep(0.2)

    def close(self):
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()


async def publish_round(broker, number):
    """One message for each scope, all of them confirmed."""
    import aiormq
    from aiormq import spec

    connection = await aiormq.connect(broker.url)
    channel = await connection.channel()
    for first in range(0, SCOPES, 500):
        published = [
            channel.basic_publish(
                b"%d" % number,
                exchange="cluster",
                routing_key=str(scope),
                properties=spec.Basic.Properties(delivery_mode=2),
                mandatory=True,
            )
            for scope in range(first, first + 500)
        ]
        await asyncio.gather(*published)
    await connection.close()


async def wait_for_queue(broker):
    """Until the first worker has made it."""
    import aiormq

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(aiormq.exceptions.AMQPError):
            connection = await aiormq.connect(broker.url)
            try:
                channel = await connection.channel()
                await channel.queue_declare("cluster.0", passive=True)
                return
            finally:
                await connection.close()
        await asyncio.sleep(0.2)
    raise AssertionError("no worker has made the queue")


def test_the_ledger(own_broker, tmp_path, record_property):
    """At least once: no message is lost, what was begun twice is marked, and each scope's order is kept."""
    pytest.importorskip("aiormq")
    cluster = Cluster(own_broker, tmp_path)
    began = time.monotonic()
    killed, frozen, _ = (cluster.start() for _ in range(3))
    thawed = 0

    async def main():
        nonlocal thawed
        await wait_for_queue(own_broker)
        publishing = asyncio.create_task(publish_round(own_broker, 0))
        await cluster.until(SCOPES // 5)
        killed.kill()
        stopped = cluster.start()
        await cluster.until(SCOPES // 2)
        os.kill(frozen.pid, signal.SIGSTOP)
        await publishing
        await publish_round(own_broker, 1)
        # Far longer than two heartbeats: the others work on what it has held.
        await cluster.until(SCOPES + SCOPES // 5)
        thawed = time.monotonic_ns()
        os.kill(frozen.pid, signal.SIGCONT)
        await cluster.until(SCOPES + SCOPES // 4)
        await asyncio.to_thread(own_broker.stop)
        await asyncio.to_thread(own_broker.start)
        await cluster.until(SCOPES + SCOPES // 2)
        publishing = asyncio.create_task(publish_round(own_broker, 2))
        stopped.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(stopped.wait, 60) == 0, cluster.said()
        added = cluster.start()
        await publishing
        await cluster.until(SCOPES * ROUNDS)
        await cluster.takes(added)

    try:
        asyncio.run(main())
        running = [worker for worker in cluster.workers if worker.poll() is None]
        for worker in running:
            worker.send_signal(signal.SIGTERM)
        assert [worker.wait(60) for worker in running] == [0] * len(running), cluster.said()
        lines = sorted(cluster.lines())
        by_message = collections.Counter((scope, number) for _, _, scope, number, _ in lines)
        unmarked = collections.Counter((scope, number) for _, _, scope, number, marked in lines if not marked)
        assert len(by_message) == SCOPES * ROUNDS, "some were lost"
        assert max(unmarked.values()) == 1, "some were begun twice, and not marked"
        latest = collections.defaultdict(lambda: -1)
        held_back = 0
        for when, worker, scope, number, marked in lines:
            if (worker, marked) == (frozen.pid, 0) and when > thawed and number <= latest[scope]:
                # Its application had it when it was frozen, and wrote the line only now: another worker's came first.
                held_back += 1
                continue
            # The next one, or one that is delivered again, and then those behind it again.
            assert number == latest[scope] + 1 or (number <= latest[scope] and marked), "some were begun out of order"
            latest[scope] = number
        assert held_back <= PREFETCH * PARTITIONS, "a worker went on after it was frozen"
        again = sum(by_message.values()) - len(by_message)
        assert again, "all went on while nothing was in hand"
        by_worker = collections.Counter(worker for _, worker, _, _, _ in lines)
        ledger = {
            "messages": len(by_message),
            "scopes": len(latest),
            "lost": SCOPES * ROUNDS - len(by_message),
            "begun again and marked": again,
            "begun again and not marked": sum(unmarked.values()) - len(unmarked),
            "by worker": sorted(by_worker.values()),
            "seconds": round(time.monotonic() - began),
        }
        for name, value in ledger.items():
            record_property(name, str(value))
        print("ledger:", ", ".join(f"{name} {value}" for name, value in ledger.items()))  # noqa: T201
    finally:
        cluster.close()

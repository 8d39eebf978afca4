"""From a client's send to the application's receive with a million live instances: the distribution, stalls and all.

The sender is a process of its own that writes (client, due time) records to a socket at a steady rate. It stamps the
time at which a message was due, not when it got rid of it, so that a loop that stands still is charged for every
message that had to wait.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from statistics import quantiles
from typing import Any

from benchmarks.bench_create import Create
from benchmarks.fresh import ROOT, command
from benchmarks.probing import collect, run
from benchmarks.question import Bar, Figure, Probed
from benchmarks.sides import FLOOR
from benchmarks.workload import Receive, Send, Workload, collector_off, passes

RECORD = struct.Struct("=qd")
TICK = 0.001


def send_steadily(descriptor: int, clients: int, rate: int, seconds: float) -> None:
    """The sender: so many messages a second to arbitrary clients; runs in a process of its own."""
    out = socket.socket(fileno=descriptor)
    per_tick = round(rate * TICK)
    choose = random.Random(1).randrange
    begun = time.monotonic()
    for tick in range(round(seconds / TICK)):
        due = begun + tick * TICK
        time.sleep(max(0.0, due - time.monotonic()))
        out.sendall(b"".join(RECORD.pack(choose(clients), due) for _ in range(per_tick)))
    out.close()


class Listening(Create):
    """Instances that note how long each message was on its way."""

    def __init__(self, side: str, size: int) -> None:
        super().__init__(side, size)
        self.delays: list[float] = []
        self.application = self.note

    async def note(self, scope: Any, receive: Receive, send: Send) -> None:
        append, now = self.delays.append, time.monotonic
        while True:
            due = await receive()
            append(now() - due)

    def deliver(self, client: int, due: float) -> None:
        self.server.get_or_create_application_instance(*self.pairs[client]).put_nowait(due)


class BareListening(Workload):
    """Bare tasks that note the same of the futures they wait on."""

    def __init__(self, side: str, size: int) -> None:
        super().__init__(side, size)
        self.delays: list[float] = []
        self.futures: list[asyncio.Future[float]] = []

    async def note(self, number: int) -> None:
        append, now = self.delays.append, time.monotonic
        create_future = asyncio.get_running_loop().create_future
        while True:
            self.futures[number] = future = create_future()
            due = await future
            append(now() - due)

    async def work(self) -> None:
        loop = asyncio.get_running_loop()
        self.futures = [loop.create_future()] * self.size
        self.tasks = [loop.create_task(self.note(number)) for number in range(self.size)]
        await passes(2)

    def deliver(self, client: int, due: float) -> None:
        future = self.futures[client]
        if not future.done():
            future.set_result(due)

    async def finish(self) -> None:
        for task in self.tasks:
            task.cancel()
        await passes(2)


async def listen(side: str, size: int, rate: int, seconds: float) -> dict[str, float]:
    listening = BareListening(side, size) if side == FLOOR else Listening(side, size)
    await listening.open()
    with collector_off():
        await listening.work()
    checker = None
    if isinstance(listening, Listening):
        checker = asyncio.ensure_future(listening.server.application_checker())
    collect()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    arguments = {"descriptor": theirs.fileno(), "clients": size, "rate": rate, "seconds": seconds}
    sender = subprocess.Popen(
        command(send_steadily, arguments), cwd=ROOT, pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL
    )
    theirs.close()
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    rest = b""

    def read() -> None:
        nonlocal rest
        data = rest + ours.recv(65_536)
        if data == rest:
            loop.remove_reader(ours)
            ended.set_result(None)
            return
        whole = len(data) - len(data) % RECORD.size
        rest = data[whole:]
        for client, due in RECORD.iter_unpack(data[:whole]):
            listening.deliver(client, due)

    loop.add_reader(ours, read)
    await ended
    await passes(4)
    ours.close()
    if sender.wait():
        print(f"the sender ended with {sender.returncode}", file=sys.stderr)
    if checker is not None:
        checker.cancel()
        await asyncio.wait([checker])
    await listening.finish()
    cuts = quantiles(listening.delays, n=1_000, method="inclusive")
    return {"p50": cuts[499], "p99": cuts[989], "p99.9": cuts[998], "worst": max(listening.delays)}


def probe(side: str, loop: str, size: int, rate: int, seconds: float) -> Mapping[str, float]:
    return run(loop, listen(side, size, rate, seconds))


QUESTION = Probed(
    name="latency",
    title="from a client's send to the application's receive",
    size_of="live instances",
    sizes={"quick": (10_000,), "usual": (100_000,), "full": (1_000, 100_000, 1_000_000)},
    probe=probe,
    figures={
        "p50": Figure("half of the messages within", "ms"),
        "p99": Figure("99 % within", "ms"),
        "p99.9": Figure("99.9 % within", "ms"),
        "worst": Figure("the worst", "ms"),
    },
    arguments={
        "quick": {"rate": 2_000, "seconds": 1.0},
        "usual": {"rate": 2_000, "seconds": 3.0},
        "full": {"rate": 2_000, "seconds": 5.0},
    },
    told=("p50", "p99", "p99.9"),
    floor_is="bare tasks that wait on bare futures, fed in the same way",
    bars=(Bar("reference", "pure", least=1.0, figure="p99.9"),),
    note="2,000 messages a second from a process of its own to arbitrary instances; the checker runs.",
)


def test_latency(benchmark: Any, case: Any) -> None:
    """Times messages on their way to one of very many instances."""
    case(benchmark)

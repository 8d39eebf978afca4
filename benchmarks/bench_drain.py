"""A thousand queued messages received and sent on: an instance that has fallen behind."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from benchmarks.question import PURE_NO_SLOWER, Bar, Timed
from benchmarks.workload import MESSAGE, SETTLE, Receive, Send, ServerWorkload, Workload, passes

QUEUED = 1_000


async def gated_echo(scope: Any, receive: Receive, send: Send) -> None:
    """Sends back all that is queued each time its gate opens."""
    while True:
        await scope["gate"]
        for _ in range(QUEUED):
            await send(await receive())
        scope["drained"].set_result(None)


class Drain(ServerWorkload):
    """Opens the gate of each application and waits until all of them have sent back what was queued."""

    application = staticmethod(gated_echo)

    def __init__(self, side: str, size: int) -> None:
        super().__init__(side, size)
        self.operations = size * QUEUED
        self.scopes: list[dict[str, Any]] = [{"type": "benchmark", "client": number} for number in range(size)]

    async def open(self) -> None:
        await super().open()
        self.shut()
        self.queues = await self.populate(enumerate(self.scopes))

    def shut(self) -> None:
        loop = asyncio.get_running_loop()
        for scope in self.scopes:
            scope["gate"] = loop.create_future()
            scope["drained"] = loop.create_future()

    async def prepare(self) -> None:
        for queue in self.queues:
            for _ in range(QUEUED):
                queue.put_nowait(MESSAGE)

    async def work(self) -> None:
        gates = [scope["gate"] for scope in self.scopes]
        drained = [scope["drained"] for scope in self.scopes]
        loop = asyncio.get_running_loop()
        for scope, gate in zip(self.scopes, gates, strict=True):
            scope["gate"] = loop.create_future()
            gate.set_result(None)
        for future in drained:
            await future

    async def finish(self) -> None:
        assert not any(queue.qsize() for queue in self.queues)
        for scope in self.scopes:
            scope["drained"] = asyncio.get_running_loop().create_future()


class Deques(Workload):
    """Pops everything from deques, in one coroutine."""

    def __init__(self, side: str, size: int) -> None:
        super().__init__(side, size)
        self.operations = size * QUEUED
        self.deques: list[deque[Any]] = [deque() for _ in range(size)]
        self.sent: deque[Any] = deque(maxlen=QUEUED)

    async def prepare(self) -> None:
        for messages in self.deques:
            messages.extend([MESSAGE] * QUEUED)

    async def work(self) -> None:
        send = self.sent.append
        for messages in self.deques:
            popleft = messages.popleft
            while messages:
                send(popleft())
        await passes(SETTLE)


QUESTION = Timed(
    name="drain",
    title="a queued message received and sent on",
    size_of="instances with 1,000 queued each",
    sizes={"quick": (10,), "usual": (1, 20), "full": (1, 20, 100)},
    workload=Drain,
    floor=Deques,
    floor_is="deque popleft and append in one coroutine",
    bars=(Bar("reference", "cython", least=2.5), PURE_NO_SLOWER),
    note="Putting the messages there is not included.",
)


def test_drain(benchmark: Any, case: Any) -> None:
    """Lets applications send back a thousand queued messages each."""
    case(benchmark)

"""Ten messages to each instance in one pass of the loop: a client that sends faster than its turn comes."""

from __future__ import annotations

from collections import deque
from typing import Any

from benchmarks.question import PURE_NO_SLOWER, Bar, Timed
from benchmarks.workload import MESSAGE, SETTLE, ServerWorkload, Workload, passes, scopes

BURST = 10


class Burst(ServerWorkload):
    """Puts ten messages into each queue and lets every application take them all."""

    def __init__(self, side: str, size: int) -> None:
        super().__init__(side, size)
        self.operations = size * BURST

    async def open(self) -> None:
        await super().open()
        self.queues = await self.populate(scopes(self.size))

    async def work(self) -> None:
        for queue in self.queues:
            put_nowait = queue.put_nowait
            for _ in range(BURST):
                put_nowait(MESSAGE)
        await passes(SETTLE)

    async def finish(self) -> None:
        assert not any(queue.qsize() for queue in self.queues)


class Deques(Workload):
    """Appends to deques and pops from them, all in one coroutine."""

    def __init__(self, side: str, size: int) -> None:
        super().__init__(side, size)
        self.operations = size * BURST
        self.deques: list[deque[Any]] = [deque() for _ in range(size)]

    async def work(self) -> None:
        for messages in self.deques:
            append = messages.append
            for _ in range(BURST):
                append(MESSAGE)
        for messages in self.deques:
            popleft = messages.popleft
            while messages:
                popleft()
        await passes(SETTLE)


QUESTION = Timed(
    name="burst",
    title="a message of ten put in one pass",
    size_of="waiting instances",
    sizes={"quick": (1_000,), "usual": (1_000,), "full": (100, 1_000, 10_000)},
    workload=Burst,
    floor=Deques,
    floor_is="deque append and popleft in one coroutine",
    bars=(Bar("reference", "cython", least=2.5, size=1_000), PURE_NO_SLOWER),
)


def test_burst(benchmark: Any, case: Any) -> None:
    """Puts ten messages into each of many queues."""
    case(benchmark)

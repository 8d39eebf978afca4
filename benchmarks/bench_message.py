"""The whole way of a message: its instance looked up, the message put, received and answered."""

from __future__ import annotations

from typing import Any

from benchmarks.bench_wake import WakeFutures
from benchmarks.question import PURE_NO_SLOWER, Bar, Timed
from benchmarks.workload import MESSAGE, SETTLE, ServerWorkload, echo, passes, scopes


class Message(ServerWorkload):
    """What a gateway does for one message from each of its clients."""

    application = staticmethod(echo)

    def __init__(self, side: str, size: int) -> None:
        super().__init__(side, size)
        self.operations = size
        self.pairs = scopes(size)

    async def open(self) -> None:
        await super().open()
        self.queues = await self.populate(self.pairs)

    async def work(self) -> None:
        get_or_create = self.server.get_or_create_application_instance
        for scope_id, scope in self.pairs:
            get_or_create(scope_id, scope).put_nowait(MESSAGE)
        await passes(SETTLE)

    async def finish(self) -> None:
        assert not any(queue.qsize() for queue in self.queues)


class LookUpAndWake(WakeFutures):
    """Looks each bare future up in a dict and sets it."""

    async def open(self) -> None:
        await super().open()
        self.keys = [scope_id for scope_id, _ in scopes(self.size)]
        self.numbers = {key: number for number, key in enumerate(self.keys)}

    async def work(self) -> None:
        numbers, futures = self.numbers, self.futures
        for key in self.keys:
            futures[numbers[key]].set_result(MESSAGE)
        await passes(SETTLE)


QUESTION = Timed(
    name="message",
    title="the whole way of a message: looked up, put, received, sent back",
    size_of="waiting instances",
    sizes={"quick": (1_000,), "usual": (1_000,), "full": (100, 1_000, 10_000, 100_000)},
    workload=Message,
    floor=LookUpAndWake,
    floor_is="a bare future looked up in a dict and set, its bare task woken and waiting on a new one",
    bars=(Bar("reference", "cython", least=2.0, size=1_000), PURE_NO_SLOWER),
)


def test_message(benchmark: Any, case: Any) -> None:
    """Looks up, feeds and lets answer each of many instances."""
    case(benchmark)

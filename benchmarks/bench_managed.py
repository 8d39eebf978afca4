"""A message to an instance of a ManagedServer: what statistics, and limits for each client, add to the plain server."""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.bench_message import LookUpAndWake, Message
from benchmarks.question import Timed, added
from benchmarks.sides import FLOOR, SIDES, load, stateless_server
from benchmarks.workload import make_server

PLAIN, MANAGED, LIMITED = "plain", "managed", "limited"
#: The server that each way is about.
WAYS = {
    PLAIN: "StatelessServer",
    MANAGED: "ManagedServer without limits",
    LIMITED: "ManagedServer with limits for each client",
}
OURS = ("pure", "cython")
ONLY = {PLAIN: (*SIDES, FLOOR), MANAGED: OURS, LIMITED: OURS}


def make(side: str, way: str, application: Any, limit: int) -> Any:
    """A server of the asked way; the limits are looked at for each message and instance, and never reached."""
    if way == PLAIN:
        return make_server(side, application, limit, stateless_server(side))
    server = make_server(side, application, limit, load(side).lifecycle.ManagedServer)
    if way == LIMITED:
        server.max_instances_per_key = 10
        server.max_messages_per_second = 1e9
        server.message_burst = 10**9
    return server


@functools.lru_cache(maxsize=1)
def clients(count: int) -> list[tuple[Any, dict[str, Any]]]:
    """Ids and scopes, each of a host of its own, the same for all sides and ways."""
    hosts = [f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}" for number in range(count)]
    return [(host, {"type": "benchmark", "client": (host, 50_000)}) for host in hosts]


class ManagedMessage(Message):
    """What a gateway does for one message from each of its clients, each at a host of its own."""

    def __init__(self, side: str, size: int) -> None:
        super().__init__(side, size)
        self.pairs = clients(size)
        self.rounds = 0

    async def open(self) -> None:
        self.server = make(self.side, self.way, self.application, self.limit)
        self.queues = await self.populate(self.pairs)

    async def finish(self) -> None:
        await super().finish()
        self.rounds += 1
        if self.way != PLAIN:
            counted = self.server.instance_statistics(self.pairs[-1][0])
            assert counted.messages_in == counted.messages_out == self.rounds
        if self.way == LIMITED:
            assert self.server.stats()["limit_keys"] == self.size
            assert not self.server.stats()["limited_messages"]


QUESTION = Timed(
    name="managed",
    title="a message to a managed instance: looked up, put, received, sent back",
    size_of="waiting instances",
    sizes={"quick": (1_000,), "usual": (1_000,), "full": (100, 1_000, 100_000)},
    ways=WAYS,
    base=PLAIN,
    told=(added(MANAGED), added(LIMITED)),
    only_ways=ONLY,
    workload=ManagedMessage,
    floor=LookUpAndWake,
    floor_is="a bare future looked up in a dict and set, its bare task woken and waiting on a new one",
    note="The work of `message`, each client at a host of its own. Limits for each client: instances at a time, and "
    "messages a second; none is reached. No hooks.",
)


def test_managed(benchmark: Any, case: Any) -> None:
    """Looks up, feeds and lets answer managed instances."""
    case(benchmark)

"""A request through a LoadBalancer over several applications, beside the same application called bare."""

from __future__ import annotations

from typing import Any

from benchmarks.applications import echo
from benchmarks.question import Timed
from benchmarks.sides import FLOOR, load
from benchmarks.workload import Workload

REQUESTS = 2_000
#: Hosts that requests come from in turn: consistent hashing gives them to different applications.
CLIENTS = 64
REQUEST = {"type": "http.request", "body": b"", "more_body": False}
HEADERS = [
    (b"host", b"127.0.0.1:8000"),
    (b"connection", b"keep-alive"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-GB,en;q=0.9"),
]


def scope_of(number: int) -> dict[str, Any]:
    """As an HTTP server makes it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/items",
        "raw_path": b"/items",
        "query_string": b"page=1",
        "root_path": "",
        "headers": HEADERS,
        "client": (f"192.0.2.{number % CLIENTS}", 50_000),
        "server": ("127.0.0.1", 8000),
    }


async def receive() -> Any:
    return REQUEST


class Requests(Workload):
    """Calls an application for one request after another; each is read, and answered in two messages."""

    operations = REQUESTS

    async def open(self) -> None:
        self.scopes = [scope_of(number) for number in range(REQUESTS)]
        self.application = self.make()
        self.answers = 0

    def make(self) -> Any:
        raise NotImplementedError

    async def send(self, message: Any) -> None:
        self.answers += message["type"] == "http.response.body"

    async def work(self) -> None:
        application, send = self.application, self.send
        for scope in self.scopes:
            await application(scope, receive, send)

    async def finish(self) -> None:
        assert self.answers == REQUESTS
        self.answers = 0


class Bare(Requests):
    """Calls the application itself."""

    def make(self) -> Any:
        return echo


class Balanced(Requests):
    """Calls a balancer over as many applications as the size says, all of them the same."""

    def make(self) -> Any:
        weights = [1 + number % 4 for number in range(self.size)] if self.way == "weighted" else None
        return load(self.side).balancing.LoadBalancer([echo] * self.size, self.way, weights=weights)

    async def finish(self) -> None:
        await super().finish()
        done = [one["started"] for one in self.application.stats()["applications"].values()]
        assert len(done) == self.size
        assert all(done)


SIDES = ("pure", "cython", FLOOR)
WAYS = ("round-robin", "least-running", "weighted", "consistent-hash")

QUESTION = Timed(
    name="balance",
    title="an HTTP request through a load balancer",
    size_of="applications behind it",
    sizes={"quick": (4,), "usual": (4,), "full": (1, 4, 16)},
    ways={way: f"time, {way}" for way in WAYS},
    only_ways=dict.fromkeys(WAYS, SIDES),
    told=WAYS,
    workload=Balanced,
    floor=Bare,
    floor_is="the same application called without a balancer; what the balancer costs is the difference",
    note=f"One request after another, no server and no network: a scope of {len(scope_of(0))} entries, one message "
    "received, two sent, circuit breaker and repetition as by default. The balancer is plain Python, with either back "
    "end. The reference has none.",
)


def test_balance(benchmark: Any, case: Any) -> None:
    """Sends requests through a balancer."""
    case(benchmark)

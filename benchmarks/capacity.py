"""A model of capacity: what ten million clients and a billion take, by what `capacity` and `engines` have measured.

It multiplies: clients by bytes, messages by CPU time. How far that holds is told first: what the small sizes of the run
predict of its larger ones, against what was measured there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from benchmarks.bench_capacity import QUESTION as CAPACITY
from benchmarks.bench_engines import QUESTION as ENGINES
from benchmarks.judge import SCALE, Answers, shown
from benchmarks.question import Probed

#: The side and the loop that are told of.
SIDE, LOOP = "cython", "uvloop"
#: How many clients are asked for, and how many messages each of them has in a second.
CLIENTS = (10_000_000, 1_000_000_000)
MESSAGES = 0.1
#: A machine, and the part of its cores that may be busy: the rest is for peaks, and for a machine that fails.
CORES, MEMORY, USED = 32, 128 * 2**30, 0.5


class Error(Exception):
    """The run does not have what the model is made from."""


class Prediction(NamedTuple):
    """A figure at one size, as smaller sizes predict it, and as it was measured."""

    title: str
    unit: str
    basis: str
    size: int
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


class Costs:
    """The medians of a run, in seconds and bytes, by size."""

    def __init__(self, answers: Answers) -> None:
        self.bytes = self._sizes(answers, CAPACITY, "bytes")
        self.udp = self._sizes(answers, CAPACITY, "udp_cpu")
        self.udp_rates = self._sizes(answers, CAPACITY, "udp_rate"), self._sizes(answers, CAPACITY, "udp_rate_two")
        self.engines = {figure: self._sizes(answers, ENGINES, figure) for figure in ENGINES.figures}

    @staticmethod
    def _sizes(answers: Answers, question: Probed, figure: str) -> dict[int, float]:
        found = sorted(
            (one.size, one.median)
            for one in answers.of(question.name)
            if (one.figure, one.side, one.loop) == (figure, SIDE, LOOP)
        )
        if not found:
            raise Error(f"the run has no {figure!r} of {question.name!r}: ask for capacity and engines")
        return dict(found)

    @property
    def largest(self) -> int:
        """The most clients of one worker that were measured: the model gives none more."""
        return max(self.bytes)

    def engine(self, figure: str) -> float:
        """What a message costs, where two workers share the work if that was measured."""
        sizes = self.engines[figure]
        return sizes[max(sizes)]


def predict(known: Mapping[int, float], size: int) -> float:
    """Return the figure at a size: as at the only one that is known, or along the last two over the size's logarithm.

    Caches miss more often among more clients, and never more than always.
    """
    sizes = sorted(known)
    if len(sizes) == 1:
        return known[sizes[0]]
    first, last = sizes[-2:]
    slope = (known[last] - known[first]) / math.log(last / first)
    return known[last] + slope * math.log(size / last)


def predictions(costs: Costs) -> Iterator[Prediction]:
    """Yield what smaller sizes predict of larger ones."""
    figures = CAPACITY.figures
    for name, sizes in (("bytes", costs.bytes), ("udp_cpu", costs.udp)):
        for number, size in enumerate(sizes):
            if number:
                known = {other: sizes[other] for other in list(sizes)[:number]}
                basis = " and ".join(f"{other:,}" for other in list(known)[-2:]) + " clients"
                predicted = predict(known, size)
                yield Prediction(figures[name].title, figures[name].unit, basis, size, predicted, sizes[size])
    one, two = costs.udp_rates
    for size in two:
        yield Prediction(figures["udp_rate_two"].title, "/s", "twice one worker", size, 2 * one[size], two[size])
    for name in ("redis_rate", "amqp_rate"):
        rates = costs.engines[name]
        if {1, 2} <= rates.keys():
            yield Prediction(ENGINES.figures[name].title, "/s", "twice one worker", 2, 2 * rates[1], rates[2])


class Limit(NamedTuple):
    """Something that is full at some rate of messages, or number of clients; and what to change then."""

    what: str
    messages: float
    change: str


def limits(costs: Costs) -> list[Limit]:
    """What is full first, each for a core or a machine of its own."""
    memory = MEMORY * USED / costs.bytes[costs.largest] * MESSAGES
    largest = costs.largest * MESSAGES
    redis = costs.engine("redis_server") + costs.engine("redis_sent")
    rabbit = costs.engine("amqp_server") + costs.engine("amqp_sent")
    return [
        Limit("a worker's clients: no more were measured", largest, "`--workers`, then machines"),
        Limit("a worker on UDP", USED / costs.udp[costs.largest], "`--workers`: the kernel keeps a client with one"),
        Limit("a worker on Redis", USED / costs.engine("redis_cpu"), "`--workers`, or workers on more machines"),
        Limit("a worker on RabbitMQ", USED / costs.engine("amqp_cpu"), "more `cyasgi consume`, up to one a partition"),
        Limit(
            "a Redis, whose scripts run one by one",
            USED / redis,
            "several `--layer`: the channel layer spreads messages over all of them",
        ),
        Limit(
            "a core of RabbitMQ",
            USED / rabbit,
            "cores, then queues of several names, each on brokers of its own: a quorum queue has one leader",
        ),
        Limit(
            "half of a machine's memory", memory, "machines, in front of which UDP is balanced by the client's address"
        ),
    ]


class Need(NamedTuple):
    """What so many clients take, by one source."""

    source: str
    clients: int
    workers: float
    engine: str
    machines: float
    bottleneck: str


def needs(costs: Costs, clients: int) -> Iterator[Need]:
    """Yield what so many clients take: over UDP, by channels on Redis, and by queues on RabbitMQ."""
    messages = clients * MESSAGES
    for source, cpu, engine, processes in (
        ("UDP", costs.udp[costs.largest], 0.0, "–"),
        (
            "Redis",
            costs.engine("redis_cpu"),
            costs.engine("redis_server") + costs.engine("redis_sent"),
            "Redis servers",
        ),
        (
            "RabbitMQ",
            costs.engine("amqp_cpu"),
            costs.engine("amqp_server") + costs.engine("amqp_sent"),
            "cores of RabbitMQ",
        ),
    ):
        busy, spent = messages * cpu / USED, messages * engine / USED
        # Channels have an instance each, and clients none.
        held = 0 if source == "Redis" else clients
        by_memory = held * costs.bytes[costs.largest] / (MEMORY * USED)
        workers = max(busy, held / costs.largest)
        by_cores = (workers + spent) / CORES
        share = {"the engine": spent, "messages in workers": busy, "clients of workers": held / costs.largest}
        bottleneck = max(share, key=lambda name: share[name]) if by_cores >= by_memory else "memory"
        told = processes if not engine else f"{_whole(spent)} {processes}"
        yield Need(source, clients, workers, told, max(by_cores, by_memory), bottleneck)


def _percent(value: float) -> str:
    return f"{value:+.0%}" if round(value, 2) else "0%"


def _whole(value: float) -> str:
    return f"{math.ceil(value):,}"


def told(answers: Answers) -> Iterator[str]:
    """Yield the lines of the model.

    Raises:
        Error: the run does not have what it is made from.
    """
    costs = Costs(answers)
    yield "| figure | predicted from | size | predicted | measured | error |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for one in predictions(costs):
        scale = SCALE.get(one.unit, 1.0)
        values = f"{shown(one.predicted * scale)} | {shown(one.measured * scale)}"
        yield f"| {one.title}, {one.unit} | {one.basis} | {one.size:,} | {values} | {_percent(one.error)} |"
    yield ""
    machine = f"{CORES} cores and {MEMORY // 2**30} GiB"
    yield f"With {MESSAGES:g} messages a second from each client, and machines of {machine}, {USED:.0%} of both in"
    yield "use; the application's own work is left out:"
    yield ""
    yield "| clients | by | workers | engine | machines | what is most of it |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for clients in CLIENTS:
        for need in needs(costs, clients):
            numbers = f"{_whole(need.workers)} | {need.engine} | {_whole(need.machines)}"
            yield f"| {need.clients:,} | {need.source} | {numbers} | {need.bottleneck} |"
    yield ""
    yield "| what is full | at messages per second | of clients | what to change |"
    yield "| --- | --- | --- | --- |"
    for limit in sorted(limits(costs), key=lambda limit: limit.messages):
        yield f"| {limit.what} | {_whole(limit.messages)} | {_whole(limit.messages / MESSAGES)} | {limit.change} |"
    moved = costs.engines["amqp_moved"]
    yield ""
    yield f"A worker that comes to RabbitMQ has its share of partitions after {shown(moved[max(moved)])} s; one that"
    yield "comes to Redis fetches at once."

"""What a question is: what it measures, at which sizes, and what cyasgi promises about the answer."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.sides import FLOOR, SIDES
from benchmarks.workload import Workload

#: How thorough a run is.
MODES = ("quick", "usual", "full")


@dataclass(frozen=True)
class Figure:
    """One number that a question answers with; smaller is better unless `more` says otherwise."""

    title: str
    unit: str
    more: bool = False
    #: Whether it can be better or worse at all; if not, it is told beside the others.
    judged: bool = True


@dataclass(frozen=True)
class Bar:
    """A promise: `of` divided by `by` (or `of` itself) is at least, or at most, so much."""

    of: str
    by: str | None = None
    least: float | None = None
    most: float | None = None
    figure: str = "time"
    size: int | None = None
    #: The size on the `by` side where it is another one: how flat a curve is.
    by_size: int | None = None
    loop: str | None = None
    #: The loop on the `by` side where it is another one.
    by_loop: str | None = None


#: Whether it was the server that had no time left, or the load generator: one of the figures of each server.
BUSY = {"busy": Figure("time in which the server ran or waited for its core", "%", judged=False)}
#: Below that part the rate says more about the load generator than about the server.
BUSY_ENOUGH = 0.9

#: What is promised of the pure twin everywhere.
PURE_NO_SLOWER = Bar("reference", "pure", least=1.0)


@dataclass(frozen=True)
class Question:
    """What the two kinds of question have in common."""

    name: str
    title: str
    #: Sizes in each mode, and what the size counts.
    sizes: Mapping[str, tuple[int, ...]]
    size_of: str
    bars: tuple[Bar, ...] = ()
    #: As little as does the same work, in words.
    floor_is: str = ""
    #: What must be said beside the figures.
    note: str = ""
    #: What a side is called, where it is not what it is in other questions.
    called: Mapping[str, str] = field(default_factory=dict)
    #: The figures that the README shows, where it is not the first one alone.
    told: tuple[str, ...] = ()

    def name_of(self, side: str) -> str:
        """The side, and in brackets what it is here if that is something else than usual."""
        return f"{side} ({self.called[side]})" if side in self.called else side


def added(way: str) -> str:
    """The figure for what a way of doing the work takes beyond the way that it is compared with."""
    return f"{way}.added"


@dataclass(frozen=True)
class Timed(Question):
    """A question answered by timing a workload in this process, the sides interleaved."""

    unit: str = "µs"
    workload: type[Workload] = Workload
    floor: type[Workload] | None = None
    #: Sizes that only these sides are measured at: the reference would take minutes.
    only: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    #: The ways in which the work is done, each a figure with this title; a workload finds its own in `way`.
    ways: Mapping[str, str] = field(default_factory=lambda: {"time": "time"})
    #: The way that the others are compared with: what each of them takes beyond it is a figure too.
    base: str = ""
    #: Ways that only these sides have.
    only_ways: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, Figure]:
        found = {way: Figure(title, self.unit) for way, title in self.ways.items()}
        for way, title in self.ways.items() if self.base else ():
            if way != self.base:
                found[added(way)] = Figure(f"{title}: added to {self.ways[self.base]}", self.unit)
        return found

    def make(self, side: str, size: int, way: str = "") -> Workload | None:
        """The workload of one side for one way (the first, if none is named), or None where there is none."""
        way = way or next(iter(self.ways))
        if (size in self.only and side not in self.only[size]) or side not in self.only_ways.get(way, (side,)):
            return None
        kind = self.floor if side == FLOOR else self.workload if side in SIDES else None
        if kind is None:
            return None
        made = kind(side, size)
        made.way = way
        return made


@dataclass(frozen=True)
class Probed(Question):
    """A question answered by a function that runs in a fresh interpreter for each side: `probe(side, loop, size)`.

    The probe gives back a mapping from the names in `figures` to numbers, in base units (seconds, bytes, ratios).
    """

    probe: Callable[..., Mapping[str, float]] = dict
    figures: Mapping[str, Figure] = field(default_factory=dict)
    sides: tuple[str, ...] = (*SIDES, FLOOR)
    loops: tuple[str, ...] | None = None
    rounds: Mapping[str, int] = field(default_factory=lambda: {"quick": 1, "usual": 7, "full": 7})
    only: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    #: Further arguments of the probe in each mode.
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Sides that only a full run asks.
    full_only: tuple[str, ...] = ()
    #: Why the question cannot be asked here, or an empty string.
    hindrance: Callable[[], str] = str
    #: Why a side cannot be asked here, or an empty string.
    lacking: Callable[[str], str] = lambda side: ""

    def asked(self, mode: str, size: int) -> tuple[str, ...]:
        """The sides that are asked, whatever they lack."""
        left_out = () if mode == "full" else self.full_only
        return tuple(side for side in self.only.get(size, self.sides) if side in self.sides and side not in left_out)


@dataclass
class Measurement:
    """All samples of one figure on one side."""

    question: str
    figure: str
    size: int
    side: str
    loop: str
    collector: str
    samples: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def least(self) -> float:
        return min(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile; the median twice where there are too few samples for them."""
        if len(self.samples) < 4:
            return self.median, self.median
        first, _, third = statistics.quantiles(self.samples, n=4, method="inclusive")
        return first, third

    def record(self) -> dict[str, Any]:
        """The raw samples and what is read off them, for results.json."""
        return {**asdict(self), "median": self.median, "min": self.least, "quartiles": list(self.quartiles)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Measurement:
        return cls(**{name: record[name] for name in cls.__dataclass_fields__})

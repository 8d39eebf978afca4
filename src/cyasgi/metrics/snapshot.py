"""What there is to show of all processes that serve, at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .._common.cells import BOUNDS, CELLS, FAILURES, HISTOGRAM, Histogram
from .overview import MOST_COUNTERS, MOST_SERVERS, MOST_TYPES, OTHER, Failure, Overview

#: What of `stats()` there is now, and was not counted since the start.
NOW = frozenset(
    ("live", "idle", "closing", "connections", "limit_keys", "partitions", "waiting", "waiting_bytes"),
)

#: What a process does, and what all of them together do.
STARTING, SERVING, STOPPING = "starting", "serving", "stopping"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One process that serves."""

    #: From 1 on; one that replaces another one has its number.
    number: int
    pid: int
    #: STARTING, SERVING or STOPPING.
    state: str
    #: Seconds since its start.
    age: float
    #: By how many seconds its event loop is late, or was in the last second.
    lag: float
    #: The values of all cells.
    cells: Sequence[int]
    overview: Overview


class Totals:
    """Counters of several processes, in sum."""

    def __init__(self) -> None:
        self.cells = [0] * CELLS
        #: The counters of each server, by its name.
        self.stats: dict[str, dict[str, int]] = {}
        self.failure_types: dict[str, int] = {}
        #: The types that are not counted as OTHER. They stay, since a counter must not go from one name to another.
        self.named_types: set[str] = set()

    def copy(self) -> Totals:
        """Return another one with the same values."""
        other = Totals()
        other.cells = self.cells.copy()
        other.stats = {name: dict(counts) for name, counts in self.stats.items()}
        other.failure_types = dict(self.failure_types)
        other.named_types = self.named_types.copy()
        return other

    def name_types(self, kinds: Iterable[str]) -> None:
        """Give each of these types of failures a count of its own, as long as there is room.

        Call it with whatever a process tells that goes on: in which order several are added later must not matter.
        """
        for kind in kinds:
            if kind != OTHER and len(self.named_types) < MOST_TYPES:
                self.named_types.add(kind)

    def add(self, cells: Sequence[int], overview: Overview) -> None:
        """Add the counters of a process."""
        self.cells = [one + other for one, other in zip(self.cells, cells, strict=True)]
        for name, server in overview.servers.items():
            if name not in self.stats and len(self.stats) >= MOST_SERVERS:
                continue
            counts = self.stats.setdefault(name, {})
            for key, count in server.stats.items():
                if key not in NOW and (key in counts or len(counts) < MOST_COUNTERS):
                    counts[key] = counts.get(key, 0) + count
        self.name_types(overview.failure_types)
        for kind, count in overview.failure_types.items():
            self._add_failures(kind if kind in self.named_types else OTHER, count)

    def add_ended(self, cells: Sequence[int], overview: Overview) -> None:
        """Add the counters of a process that has ended: failures that it came to tell no types of have other ones."""
        self.add(cells, overview)
        if (untold := cells[FAILURES] - sum(overview.failure_types.values())) > 0:
            self._add_failures(OTHER, untold)

    def _add_failures(self, kind: str, count: int) -> None:
        self.failure_types[kind] = self.failure_types.get(kind, 0) + count


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All processes, at one moment."""

    #: When it was taken, in seconds of the monotonic clock.
    moment: float
    #: STARTING, SERVING or STOPPING: what they do together.
    state: str
    workers: Sequence[WorkerView]
    #: The counters of those that have ended.
    ended: Totals = field(default_factory=Totals)
    #: How many were started, and how many of these in place of another one, by reason.
    started: int = 1
    restarts: dict[str, int] = field(default_factory=dict)
    #: The last failures, the latest first, and the number of the process of each.
    failures: Sequence[tuple[int, Failure]] = ()

    def totals(self) -> Totals:
        """Return the counters of all processes, those that have ended included."""
        totals = self.ended.copy()
        for worker in self.workers:
            totals.add(worker.cells, worker.overview)
        return totals

    def now(self) -> dict[str, dict[str, int]]:
        """Return what there is now of each server, by its name, in all processes."""
        found: dict[str, dict[str, int]] = {}
        for worker in self.workers:
            for name, server in worker.overview.servers.items():
                counts = found.setdefault(name, {})
                for key in NOW & server.stats.keys():
                    counts[key] = counts.get(key, 0) + server.stats[key]
        return found


class Source(Protocol):
    """Whoever knows the processes."""

    def snapshot(self) -> Snapshot:
        """Return what they do now."""


def histogram_in(cells: Sequence[int], first: int) -> Histogram:
    """Return the histogram that begins at this one of the cells."""
    end = first + HISTOGRAM - 1
    return Histogram(tuple(cells[first:end]), cells[end] / 1e9)


def quantile(histogram: Histogram, part: float) -> float | None:
    """Return the bound, in seconds, within which this part of all times was; infinity beyond the last bound.

    None if there were no times.
    """
    count = histogram.count
    if not count:
        return None
    passed = 0
    for bound, times in zip((*BOUNDS, float("inf")), histogram.buckets, strict=True):
        passed += times
        if passed >= part * count:
            return bound
    return float("inf")


def not_ready(snapshot: Snapshot, lag_bound: float) -> str | None:
    """Return why no more clients are to be sent here; None if they may be.

    Args:
        lag_bound: seconds by which the event loop of a process may be late.
    """
    if snapshot.state != SERVING:
        return snapshot.state
    serving = [worker for worker in snapshot.workers if worker.state == SERVING]
    if not serving:
        return "no worker serves"
    late = max(serving, key=lambda worker: worker.lag)
    if late.lag > lag_bound:
        return f"the event loop of worker {late.number} is late by {late.lag:.1f} s, accepted are {lag_bound:g} s"
    return None


def latest(failures: Iterable[tuple[int, Failure]], most: int) -> list[tuple[int, Failure]]:
    """Return the last ones of these failures, the latest first."""
    return sorted(failures, key=lambda one: one[1].moment, reverse=True)[:most]

"""What happened between two looks at the counters."""

from __future__ import annotations

import collections
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .._common.cells import CELLS, Histogram
from .snapshot import Snapshot, Totals, WorkerView, histogram_in

#: Seconds between two looks that are compared, at least; somebody else may have looked a moment ago.
APART = 1.0
#: Looks that are kept.
LOOKS = 8

_NOTHING = (0,) * CELLS


@dataclass(frozen=True, slots=True)
class Change:
    """What cells have counted within some seconds."""

    cells: Sequence[int]
    seconds: float

    def rate(self, *cells: int) -> float:
        """Return how often these have counted in a second."""
        return sum(self.cells[cell] for cell in cells) / self.seconds

    def times(self, first: int) -> Histogram:
        """Return the histogram that begins at this cell."""
        return histogram_in(self.cells, first)


@dataclass(frozen=True, slots=True)
class _Look:
    moment: float
    totals: Sequence[int]
    #: By process id.
    workers: Mapping[int, Sequence[int]]


class Looks:
    """The last looks, with the first of which a page compares what it shows."""

    def __init__(self) -> None:
        self._looks: collections.deque[_Look] = collections.deque(maxlen=LOOKS)
        self._looks.append(_Look(time.monotonic(), _NOTHING, {}))

    def take(self, snapshot: Snapshot, totals: Totals) -> Changes:
        """Look, and return what has changed since a look before."""
        apart = [look for look in self._looks if snapshot.moment - look.moment >= APART]
        before = apart[-1] if apart else self._looks[0]
        if before is self._looks[-1]:
            workers = {worker.pid: worker.cells for worker in snapshot.workers}
            self._looks.append(_Look(snapshot.moment, totals.cells, workers))
        return Changes(before, snapshot, totals)


class Changes:
    """What has changed since a look before."""

    def __init__(self, before: _Look, snapshot: Snapshot, totals: Totals) -> None:
        self._before = before
        #: How long ago that was.
        self.seconds = max(snapshot.moment - before.moment, 0.001)
        self.all = Change(_difference(totals.cells, before.totals), self.seconds)

    def of(self, worker: WorkerView) -> Change:
        """Return what one process has counted since; one that is younger, since its start."""
        before = self._before.workers.get(worker.pid, _NOTHING)
        return Change(_difference(worker.cells, before), max(min(self.seconds, worker.age), 0.001))


def _difference(now: Sequence[int], before: Sequence[int]) -> Sequence[int]:
    # A process may have the number of one that has ended.
    return [max(0, one - other) for one, other in zip(now, before, strict=True)]

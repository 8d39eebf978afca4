"""A page of counters that the process which counts shares with the one that watches it.

Every counter is a *cell*, an unsigned 64-bit integer which only one process writes. Another process reads it without
asking: also while the first one hangs, and after it was killed.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from bisect import bisect_left
from dataclasses import dataclass

#: Upper bounds of a histogram's buckets, in seconds; a last bucket has what took longer.
BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0),
)
_BOUNDS_NS = tuple(round(bound * 1e9) for bound in BOUNDS)

#: Cells of a histogram: one for each bucket, and the sum of all times in nanoseconds.
HISTOGRAM = len(BOUNDS) + 2
_SUM = len(BOUNDS) + 1

# The cells, by their index. `cells.pxi` has the same numbers for the compiled twins.
#: Histograms: from the head of a request to the end of its response, from the put of a message (one of
#: `SAMPLED_ONE_IN`) until the application takes it, and how late the event loop runs what is due.
REQUEST_TIME = 0
MESSAGE_TIME = HISTOGRAM
LOOP_LAG = 2 * HISTOGRAM
#: Requests that an application was run for; and responses by the first digit of their status, from 1 to 5, also those
#: that the server has made itself.
REQUESTS = 3 * HISTOGRAM
RESPONSES = REQUESTS + 1
WEBSOCKETS = RESPONSES + 5
DATAGRAMS_RECEIVED = WEBSOCKETS + 1
DATAGRAMS_SENT = DATAGRAMS_RECEIVED + 1
#: Applications that have raised, and messages that nobody has taken.
#: Streams begun; messages that applications have received from them, and sent; and bytes, frames included.
STREAMS = DATAGRAMS_SENT + 1
STREAM_MESSAGES_RECEIVED = STREAMS + 1
STREAM_MESSAGES_SENT = STREAMS + 2
STREAM_BYTES_RECEIVED = STREAMS + 3
STREAM_BYTES_SENT = STREAMS + 4
FAILURES = STREAM_BYTES_SENT + 1
UNDELIVERED = FAILURES + 1
CELLS = UNDELIVERED + 1

#: Of how many messages one is timed.
SAMPLED_ONE_IN = 16


@dataclass(frozen=True)
class Histogram:
    """Times that were observed: `buckets` counts them by `BOUNDS`, the last one what took longer."""

    buckets: tuple[int, ...]
    #: Of all times, in seconds.
    sum: float

    @property
    def count(self) -> int:
        """How many times were observed."""
        return sum(self.buckets)


def observe(cells: memoryview, histogram: int, nanoseconds: int) -> None:
    """Add a time to the histogram that begins at this cell. What is negative counts as nothing."""
    nanoseconds = max(nanoseconds, 0)
    cells[histogram + bisect_left(_BOUNDS_NS, nanoseconds)] += 1
    cells[histogram + _SUM] += nanoseconds


class Page:
    """The cells of one process.

    Args:
        descriptor: of the memory that another process has made with `shared`; None for memory of this process alone.

    Raises:
        OSError: the descriptor is of nothing that can be mapped.
        ValueError: what it is of is too short.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        #: Of the memory; None if no other process can have it.
        self.descriptor = descriptor
        self._memory = mmap.mmap(-1 if descriptor is None else descriptor, CELLS * 8)
        #: One unsigned 64-bit integer for each cell.
        self.cells = memoryview(self._memory).cast("Q")

    @classmethod
    def shared(cls) -> Page:
        """Make a page in memory that another process may inherit by `descriptor`, all zero.

        Raises:
            OSError: there is no memory, or no descriptor, to be had.
        """
        if sys.platform == "linux":
            descriptor = os.memfd_create("cyasgi-cells", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        try:
            os.ftruncate(descriptor, CELLS * 8)
            return cls(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def histogram(self, first: int) -> Histogram:
        """Return the histogram that begins at this cell."""
        values = self.cells[first : first + HISTOGRAM].tolist()
        return Histogram(tuple(values[:_SUM]), values[_SUM] / 1e9)

    def close(self) -> None:
        """Close the descriptor. The memory goes when nobody has a view of it any more."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def unmap(self) -> None:
        """Close the descriptor and give back the memory: the cells cannot be read any more.

        Raises:
            BufferError: somebody else has a view of the memory.
        """
        self.close()
        self.cells.release()
        # It has a duplicate of the descriptor, which it would keep until the collector finds it.
        self._memory.close()

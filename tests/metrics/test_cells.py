"""The page of counters that one process writes and another one reads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cyasgi._common.cells import BOUNDS, CELLS, LOOP_LAG, REQUEST_TIME, REQUESTS, Histogram, Page, observe
from support.serving import environment

WRITER = """
import sys
from cyasgi._common.cells import REQUESTS, Page
page = Page(int(sys.argv[1]))
page.cells[REQUESTS] += 7
page.close()
"""


def test_nothing_is_counted_at_first():
    page = Page()
    assert page.cells.tolist() == [0] * CELLS
    assert page.histogram(LOOP_LAG) == Histogram((0,) * (len(BOUNDS) + 1), 0.0) and page.histogram(LOOP_LAG).count == 0


@pytest.mark.parametrize(
    ("nanoseconds", "bucket"),
    [(0, 0), (99_999, 0), (100_000, 0), (100_001, 1), (1_000_000_000, 12), (60_000_000_000, 15), (10**12, 16)],
)
def test_buckets(nanoseconds, bucket):
    """A time that equals a bound is in the bucket of that bound, as Prometheus has it."""
    page = Page()
    observe(page.cells, REQUEST_TIME, nanoseconds)
    histogram = page.histogram(REQUEST_TIME)
    assert [place for place, count in enumerate(histogram.buckets) if count] == [bucket]
    assert histogram.count == 1 and histogram.sum == nanoseconds / 1e9
    assert sum(page.cells.tolist()) == 1 + nanoseconds


def test_a_clock_that_goes_back():
    page = Page()
    observe(page.cells, REQUEST_TIME, -5)
    assert page.histogram(REQUEST_TIME).buckets[0] == 1 and page.histogram(REQUEST_TIME).sum == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows passes on no descriptors")
@pytest.mark.slow
def test_another_process_counts():
    """What it has counted stays when it has ended, and closing the descriptor takes nothing away."""
    page = Page.shared()
    assert page.descriptor is not None and not os.get_inheritable(page.descriptor)
    words = [sys.executable, "-c", WRITER, str(page.descriptor)]
    subprocess.run(words, check=True, pass_fds=(page.descriptor,), env=environment())
    page.close()
    page.close()
    assert page.descriptor is None and page.cells[REQUESTS] == 7


def test_a_descriptor_of_something_else():
    reading, writing = os.pipe()
    try:
        with pytest.raises((OSError, ValueError)):
            Page(reading)
    finally:
        os.close(reading)
        os.close(writing)

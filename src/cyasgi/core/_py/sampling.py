"""How long messages wait in queues: of one in so many."""

from __future__ import annotations

import time
from typing import Any

from ..._common.cells import CELLS, MESSAGE_TIME, SAMPLED_ONE_IN, observe

FOLLOWED = 64
FORGET_AFTER = 60_000_000_000


class Sampler:
    """Observes how long messages wait in the queues of this process, from their put until an application takes them.

    One message in `cyasgi._common.cells.SAMPLED_ONE_IN` is followed, at most 64 at a time.
    """

    __slots__ = ("_followed", "_until_sample", "cells")

    def __init__(self) -> None:
        #: Where it counts; None while it does not.
        self.cells: memoryview | None = None
        self._until_sample = SAMPLED_ONE_IN
        #: By a place for each queue: a message that waits, where, and since when. Both are only compared, and not kept.
        self._followed: list[tuple[int, int, int] | None] = [None] * FOLLOWED

    def start(self, cells: memoryview) -> None:
        """Count in `MESSAGE_TIME` of these cells from now on, instead of any before.

        Raises:
            ValueError: it is shorter than `CELLS`.
        """
        if cells.nbytes < CELLS * 8:
            raise ValueError(f"cells: {cells.nbytes} bytes, accepted are {CELLS * 8} or more")
        self.stop()
        self.cells = cells

    def stop(self) -> None:
        """Count no more."""
        self.cells = None
        self._followed = [None] * FOLLOWED

    def put(self, queue: Any, item: Any) -> None:
        """Follow a message that was put, if it is its turn, and its place is free."""
        self._until_sample -= 1
        if self._until_sample <= 0:
            self._until_sample = SAMPLED_ONE_IN
            place, now = (id(queue) >> 5) % FOLLOWED, time.monotonic_ns()
            followed = self._followed[place]
            if followed is None or now - followed[2] > FORGET_AFTER:
                self._followed[place] = (id(queue), id(item), now)

    def taken(self, queue: Any, item: Any) -> None:
        """Note that a message was taken from a queue."""
        place = (id(queue) >> 5) % FOLLOWED
        followed = self._followed[place]
        if followed is not None and followed[0] == id(queue) and followed[1] == id(item):
            self._followed[place] = None
            if self.cells is not None:
                observe(self.cells, MESSAGE_TIME, time.monotonic_ns() - followed[2])

    def forget(self, queue: Any) -> None:
        """Follow none of a queue whose messages nobody takes."""
        place = (id(queue) >> 5) % FOLLOWED
        followed = self._followed[place]
        if followed is not None and followed[0] == id(queue):
            self._followed[place] = None


SAMPLER = Sampler()

"""Acknowledgements of one partition, in batches: one for all up to a tag, where none before it is still in hand."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable

#: Seconds that an acknowledgement may wait for others.
DELAY = 0.02
#: How many are sent together, at most.
BATCH = 50


class Acknowledgements:
    """Collects tags that are settled, in any order, and sends them in batches.

    Args:
        send: called with a tag, and whether it stands for all earlier ones too.
        batch: how many to collect; at most half of what may be in hand, or the broker would run dry.
    """

    def __init__(self, send: Callable[[int, bool], object], batch: int = BATCH) -> None:
        self._send = send
        self._batch = max(1, batch)
        #: Tags in their order, without those of which the broker was told: at most as many as may be in hand.
        self._outstanding: collections.OrderedDict[int, None] = collections.OrderedDict()
        #: Of these, the settled ones.
        self._settled: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return of how many deliveries the broker was not told."""
        return len(self._outstanding)

    def delivered(self, tag: int) -> None:
        """Note a delivery."""
        self._outstanding[tag] = None

    def settle(self, tag: int) -> None:
        """Acknowledge a delivery, within DELAY."""
        self._settled.add(tag)
        if len(self._settled) >= self._batch:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY, self.flush)

    def forget(self, tag: int) -> None:
        """Note that a delivery was settled in another way."""
        self._outstanding.pop(tag, None)

    def flush(self) -> None:
        """Send what is settled."""
        self.drop_timer()
        outstanding, settled = self._outstanding, self._settled
        last, count = 0, 0
        while outstanding and (tag := next(iter(outstanding))) in settled:
            del outstanding[tag]
            settled.discard(tag)
            last, count = tag, count + 1
        if count:
            self._send(last, count > 1)
        for tag in sorted(settled):
            # Behind one that is still in hand.
            self._send(tag, False)
            outstanding.pop(tag, None)
        settled.clear()

    def drop_timer(self) -> None:
        """Send nothing by itself any more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

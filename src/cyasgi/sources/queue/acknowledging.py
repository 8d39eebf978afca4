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
        batch: how many to collect; at most half of what may be in hand, or the engine would run dry.
    """

    def __init__(self, send: Callable[[int, bool], object], batch: int = BATCH) -> None:
        self._send = send
        self._batch = max(1, batch)
        #: Tags of deliveries in their order, up to the last one that is not sent.
        self._order: collections.deque[int] = collections.deque()
        #: Of these, the settled ones that were not sent, and those that were sent alone.
        self._settled: set[int] = set()
        self._sent: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None

    def delivered(self, tag: int) -> None:
        """Note a delivery."""
        self._order.append(tag)

    def settle(self, tag: int) -> None:
        """Acknowledge a delivery, within DELAY."""
        self._settled.add(tag)
        if len(self._settled) >= self._batch:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY, self.flush)

    def forget(self, tag: int) -> None:
        """Note that a delivery was settled in another way."""
        self._sent.add(tag)

    def flush(self) -> None:
        """Send what is settled."""
        self.drop_timer()
        order, settled, sent = self._order, self._settled, self._sent
        last, count = 0, 0
        while order and (order[0] in settled or order[0] in sent):
            tag = order.popleft()
            if tag in settled:
                last, count = tag, count + 1
                settled.discard(tag)
            sent.discard(tag)
        if count:
            self._send(last, count > 1)
        for tag in sorted(settled):
            # Behind one that is still in hand.
            self._send(tag, False)
        sent |= settled
        settled.clear()

    def drop_timer(self) -> None:
        """Send nothing by itself any more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

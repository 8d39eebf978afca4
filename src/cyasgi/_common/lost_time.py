"""Time in which the event loop stood still, because a handler blocked it or the process was stopped.

Timers and clocks go on meanwhile, so that deadlines pass which nobody had a chance to meet: lost time must not count
against anybody. It is measured by how late a timer is.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable
from contextvars import Context

#: Seconds by which a timer may be late because the loop is busy.
SLACK = 0.125
#: How many losses are remembered one by one.
REMEMBERED = 256
#: Seconds between two checks of a `Watch`.
INTERVAL = 0.25
#: Seconds for a pass of the loop that reads what has arrived. Not 0: uvloop calls such a timer before it reads.
PASS = 0.001


class LostTime:
    """The time that an event loop has lost, in seconds. All times are those of `time.monotonic`."""

    __slots__ = ("_due", "_recent", "_seen", "_total")

    def __init__(self) -> None:
        #: When the pending timer is due.
        self._due: float | None = None
        #: The time up to which losses were counted, so that two timers of the same loop count them once.
        self._seen = 0.0
        self._total = 0.0
        #: When each loss ended, and how long it was.
        self._recent: collections.deque[tuple[float, float]] = collections.deque()

    def expect(self, due: float) -> None:
        """Note that a timer is due at this time."""
        self._due = due

    def woke(self, due: float, now: float) -> float:
        """Note that the timer for `due` has fired, and return what was lost; 0 unless it was late."""
        self._due = None
        lost = self._late(due, now)
        if lost:
            self._seen = now
            self._total += lost
            recent = self._recent
            if len(recent) >= REMEMBERED:
                _, oldest = recent.popleft()
                moment, lost_then = recent.popleft()
                recent.appendleft((moment, lost_then + oldest))
            recent.append((now, lost))
        return lost

    def _late(self, due: float, now: float) -> float:
        return max(0.0, now - max(due, self._seen)) if now - due > SLACK else 0.0

    def pending(self, now: float) -> float:
        """Return what was lost since the last timer, if the loop has been standing still until now."""
        return 0.0 if self._due is None or self._due > now else self._late(self._due, now)

    def total(self, now: float) -> float:
        """Return all that was lost until now."""
        return self._total + self.pending(now)

    def within(self, now: float, seconds: float) -> float:
        """Return what was lost in blocks that ended within the last `seconds`."""
        lost = self.pending(now)
        for moment, one in reversed(self._recent):
            if moment < now - seconds:
                break
            lost += one
        return lost


class ServedTimer:
    """Calls a function after `seconds` in which the loop did not stand still, unless it is cancelled before."""

    __slots__ = ("_before", "_callback", "_handle", "_loop", "_lost")

    def __init__(
        self, lost: LostTime, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], object]
    ) -> None:
        self._lost = lost
        self._loop = loop
        self._callback = callback
        self._before = lost.total(time.monotonic())
        self._handle = loop.call_later(seconds, self._ring)

    def _ring(self) -> None:
        total = self._lost.total(time.monotonic())
        lost, self._before = total - self._before, total
        if lost > 0:
            self._handle = self._loop.call_later(lost, self._ring)
        else:
            self._callback()

    def cancel(self) -> None:
        self._handle.cancel()


class Watch:
    """Measures the lost time of an event loop by short timers, as long as somebody wants to know.

    Args:
        wanted: returns whether anybody still does.
    """

    __slots__ = ("_loop", "_timer", "_wanted", "lost")

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self.lost = LostTime()
        self._wanted = wanted
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Start to measure the running loop, unless that is done already."""
        loop = asyncio.get_running_loop()
        if self._timer is None or self._loop is not loop:
            self._loop = loop
            self._arm(loop)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        due = time.monotonic() + INTERVAL
        self.lost.expect(due)
        self._timer = loop.call_later(INTERVAL, self._look, loop, due, context=Context())

    def _look(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if loop is not self._loop:
            return
        self.lost.woke(due, time.monotonic())
        if self._wanted():
            self._arm(loop)
        else:
            self._timer = self._loop = None

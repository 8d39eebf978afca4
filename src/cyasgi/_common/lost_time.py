"""Time in which the event loop stood still: a handler blocked it, or the process was stopped. It counts against nobody.

Timers and clocks of the system go on meanwhile, and what somebody should have done by now he may have had no chance to
do. How long the loop stood still is seen by how late a timer is.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable
from contextvars import Context

#: Seconds by which a timer of a loop that is merely busy may be late.
SLACK = 0.125
#: Losses that are remembered one by one.
REMEMBERED = 256
#: Seconds between two looks of a `Watch`.
INTERVAL = 0.25
#: Seconds for a pass of the loop that reads what has come. Not 0: uvloop calls that before it reads.
PASS = 0.001


class LostTime:
    """What an event loop has lost, in seconds. All moments are those of `time.monotonic`."""

    __slots__ = ("_due", "_recent", "_seen", "_total")

    def __init__(self) -> None:
        #: When the timer that is waited for is due.
        self._due: float | None = None
        #: Up to when losses were counted: two who wait for the same loop count them once.
        self._seen = 0.0
        self._total = 0.0
        #: When losses ended, and how much each was.
        self._recent: collections.deque[tuple[float, float]] = collections.deque()

    def expect(self, due: float) -> None:
        """A timer was set to this moment."""
        self._due = due

    def woke(self, due: float, now: float) -> float:
        """The timer that was set to `due` has rung; gives what was lost, 0 unless it was late."""
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
        """What is being lost, the loop standing still until now."""
        return 0.0 if self._due is None or self._due > now else self._late(self._due, now)

    def total(self, now: float) -> float:
        """All that was lost until now."""
        return self._total + self.pending(now)

    def within(self, now: float, seconds: float) -> float:
        """What was lost by blocks that ended in the last so many seconds."""
        lost = self.pending(now)
        for moment, one in reversed(self._recent):
            if moment < now - seconds:
                break
            lost += one
        return lost


class ServedTimer:
    """Calls a function after so many seconds in which the loop did not stand still, unless it is cancelled before."""

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
    """Looks at a loop in short steps, while there is a reason to, to learn what it has lost.

    Args:
        wanted: whether there is.
    """

    __slots__ = ("_loop", "_timer", "_wanted", "lost")

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self.lost = LostTime()
        self._wanted = wanted
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """There is a reason now, in the running loop."""
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

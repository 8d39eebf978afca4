"""One coarse timer for all connections of a server.

A connection's deadlines move with every request; a timer of the event loop for each would cost more than all else that
the server does. Here moving a deadline means setting a number: each deadline is in the bucket of a tick at which it
might be over, is checked then, and put into a later bucket if it is not.

The clock of deadlines stops while the event loop is blocked: a handler that blocks it for eleven seconds, or a process
or machine that is suspended, takes that time from everybody, and no client must pay for it. After such a tick no
deadline is met before what has arrived meanwhile was read.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from ..._common.guarding import INTERRUPTS
from ...core.context import outside

logger = logging.getLogger("cyasgi.gateways.deadlines")

#: Seconds between two ticks. A deadline is met at most three of them late, and never early.
RESOLUTION = 0.25
#: How late a tick may be, as a fraction of that, before the loop counts as blocked.
SLACK = 0.5
#: Seconds for a pass of the loop that reads what has arrived. Not 0: uvloop calls such timers before it reads.
PASS = 0.001
#: How many times in a row meeting deadlines is postponed, at most: a loop that is always blocked still gets to it.
MAX_POSTPONED = 3


class Deadline:
    """A moment at which a function is called, unless it is moved or cancelled before."""

    __slots__ = ("_wheel", "callback", "due", "listed", "tick")

    def __init__(self, wheel: Deadlines, callback: Callable[[], object]) -> None:
        self._wheel: Deadlines | None = wheel
        self.callback: Callable[[], object] | None = callback
        #: When it is over, by the clock of the deadlines; infinite for never. After setting it to less than `listed`
        #: you must call `relist`.
        self.due = math.inf
        #: What `due` was when it was put into a bucket; infinite for none.
        self.listed = math.inf
        self.tick = 0

    def move(self, seconds: float | None) -> None:
        """Set it to so many seconds from now; None for never."""
        wheel = self._wheel
        if wheel is not None:
            self.due = math.inf if seconds is None else wheel.now + seconds
            if self.due < self.listed:
                self.relist()

    def relist(self) -> None:
        """Put it into the bucket of `due`."""
        wheel = self._wheel
        if wheel is not None:
            wheel._unlist(self)
            wheel._list(self)

    def cancel(self) -> None:
        """Never call the function, and drop the reference to it."""
        wheel, self._wheel = self._wheel, None
        if wheel is not None:
            wheel._unlist(self)
            wheel._live -= 1
        self.callback = None
        self.due = math.inf


class Deadlines:
    """The deadlines of one server. It ticks while there are any.

    Args:
        on_tick: called at each tick, before the deadlines.
    """

    def __init__(self, on_tick: Callable[[], object] | None = None) -> None:
        #: The time as of the last tick: that of the loop's clock, less the time for which the loop was blocked.
        self.now = 0.0
        #: The loop's clock at the last tick, and for how long the timer was set then.
        self._ticked = 0.0
        self._delay = RESOLUTION
        self._postponed = 0
        self._on_tick = on_tick
        self._buckets: dict[int, set[Deadline]] = {}
        #: The first tick whose bucket was not checked yet.
        self._next = 0
        self._live = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def at(self, seconds: float | None, callback: Callable[[], object]) -> Deadline:
        """Return a deadline that calls the function so many seconds from now; None: never, until it is moved.

        You must cancel it when it is no longer needed, also after it was met: until then it keeps the timer going.
        """
        loop = asyncio.get_running_loop()
        if self._timer is None or self._loop is not loop:
            self._start(loop)
        deadline = Deadline(self, callback)
        self._live += 1
        deadline.move(seconds)
        return deadline

    def close(self) -> None:
        """Stop the timer; deadlines that were not cancelled are forgotten."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._loop = None
        for bucket in self._buckets.values():
            for deadline in bucket:
                deadline._wheel = deadline.callback = None
        self._buckets.clear()
        self._live = 0

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self.close()
        self._loop = loop
        self.now = self._ticked = loop.time()
        self._postponed = 0
        self._next = int(self.now / RESOLUTION)
        if self._on_tick is not None:
            self._on_tick()
        self._arm(loop, RESOLUTION)

    def _arm(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        self._delay = delay
        self._timer = loop.call_later(delay, self._tick, context=outside())

    def _list(self, deadline: Deadline) -> None:
        if deadline.due < math.inf:
            # Since `now` may be a tick old, a deadline is met only when it has been over for that long.
            tick = deadline.tick = max(int(deadline.due / RESOLUTION) + 2, self._next)
            deadline.listed = deadline.due
            self._buckets.setdefault(tick, set()).add(deadline)
        else:
            deadline.listed = math.inf

    def _unlist(self, deadline: Deadline) -> None:
        if deadline.listed < math.inf:
            bucket = self._buckets.get(deadline.tick)
            if bucket is not None:
                bucket.discard(deadline)
                if not bucket:
                    del self._buckets[deadline.tick]
            deadline.listed = math.inf

    def _tick(self) -> None:
        loop = self._loop
        if loop is None:
            return
        time = loop.time()
        passed, self._ticked = time - self._ticked, time
        most = self._delay + RESOLUTION * SLACK
        self.now += min(passed, most)
        if self._on_tick is not None:
            self._on_tick()
        if passed > most and self._postponed < MAX_POSTPONED:
            self._postponed += 1
            self._arm(loop, PASS)
            return
        self._postponed = 0
        self._meet_all()
        if self._live > 0:
            self._arm(loop, RESOLUTION)
        else:
            self._timer = None

    def _meet_all(self) -> None:
        """Meet the deadlines that have been over for as long as `now` may have been behind when they were set."""
        margin = RESOLUTION * (1 + SLACK)
        current = int(self.now / RESOLUTION)
        due: list[Deadline] = []
        if current - self._next > len(self._buckets):
            # After a long pause: check the buckets that exist rather than every tick.
            ticks = sorted(tick for tick in self._buckets if tick <= current)
        else:
            ticks = [tick for tick in range(self._next, current + 1) if tick in self._buckets]
        self._next = current + 1
        for tick in ticks:
            for deadline in self._buckets.pop(tick):
                deadline.listed = math.inf
                if deadline.due + margin <= self.now:
                    due.append(deadline)
                else:
                    self._list(deadline)
        for deadline in due:
            self._meet(deadline)

    @staticmethod
    def _meet(deadline: Deadline) -> None:
        callback = deadline.callback
        # One that was met before it may have cancelled or moved it.
        if callback is None or deadline.listed < math.inf:
            return
        deadline.due = math.inf
        try:
            callback()
        except INTERRUPTS:
            raise
        except BaseException:
            logger.exception("the callback of a deadline raised")

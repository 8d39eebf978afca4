"""One coarse timer for all connections of a server.

A connection's deadlines move with every request; a timer of the event loop for each would cost more than the rest of
what the server does. Here to move a deadline is to write down a number: each deadline stands in the bucket of a tick at
which it might be over, and is looked at then, and moved on if it is not.

The clock of deadlines stands still while the event loop does: a handler that blocks it for eleven seconds, a process
that is stopped or a machine that is suspended takes that time from everybody, and no client must pay for it. After such
a tick nobody is judged before what has come meanwhile was read.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from ..._common.guarding import INTERRUPTS
from ...core.context import outside

logger = logging.getLogger("cyasgi.gateways.deadlines")

#: Seconds between two ticks. A deadline is met three of them late at most, and never early.
RESOLUTION = 0.25
#: How late a tick may be, as a part of that, before the loop counts as blocked.
SLACK = 0.5
#: Seconds for a pass of the loop that reads what has come. Not 0: uvloop calls that before it reads.
PASS = 0.001
#: How often in a row judging is put off: a loop that is blocked all the time still gets to it.
PUT_OFF = 3


class Deadline:
    """A moment at which a function is called, unless it is moved or cancelled before."""

    __slots__ = ("_wheel", "callback", "due", "listed", "tick")

    def __init__(self, wheel: Deadlines, callback: Callable[[], object]) -> None:
        self._wheel: Deadlines | None = wheel
        self.callback: Callable[[], object] | None = callback
        #: Seconds of the loop's clock; infinite for never. Who sets it to less than `listed` calls `relist`.
        self.due = math.inf
        #: What `due` was when it was put into a bucket; infinite for none.
        self.listed = math.inf
        self.tick = 0

    def move(self, seconds: float | None) -> None:
        """Sets it to so many seconds from now; None for never."""
        wheel = self._wheel
        if wheel is not None:
            self.due = math.inf if seconds is None else wheel.now + seconds
            if self.due < self.listed:
                self.relist()

    def relist(self) -> None:
        wheel = self._wheel
        if wheel is not None:
            wheel._unlist(self)
            wheel._list(self)

    def cancel(self) -> None:
        """The function will not be called any more, and is no longer referred to."""
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
        #: The time as of the last tick: that of the loop's clock, without what the loop has lost.
        self.now = 0.0
        #: The loop's clock at the last tick, and for how long the timer was set then.
        self._ticked = 0.0
        self._delay = RESOLUTION
        self._put_off = 0
        self._on_tick = on_tick
        self._buckets: dict[int, set[Deadline]] = {}
        #: The first tick not looked at yet.
        self._next = 0
        self._live = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def at(self, seconds: float | None, callback: Callable[[], object]) -> Deadline:
        """Calls the function so many seconds from now (never, for None, until the deadline is moved).

        Cancel it when it is no longer needed, also after it was met: until then it keeps the timer going.
        """
        loop = asyncio.get_running_loop()
        if self._timer is None or self._loop is not loop:
            self._start(loop)
        deadline = Deadline(self, callback)
        self._live += 1
        deadline.move(seconds)
        return deadline

    def close(self) -> None:
        """Stops the timer; deadlines that were not cancelled are forgotten."""
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
        self._put_off = 0
        self._next = int(self.now / RESOLUTION)
        if self._on_tick is not None:
            self._on_tick()
        self._arm(loop, RESOLUTION)

    def _arm(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        self._delay = delay
        self._timer = loop.call_later(delay, self._tick, context=outside())

    def _list(self, deadline: Deadline) -> None:
        if deadline.due < math.inf:
            # `now` may be a tick old, and it is not met before it is that much over.
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
        if passed > most and self._put_off < PUT_OFF:
            self._put_off += 1
            self._arm(loop, PASS)
            return
        self._put_off = 0
        self._judge()
        if self._live > 0:
            self._arm(loop, RESOLUTION)
        else:
            self._timer = None

    def _judge(self) -> None:
        """Meet the deadlines that are over, by as much as `now` may have been behind when they were set."""
        margin = RESOLUTION * (1 + SLACK)
        current = int(self.now / RESOLUTION)
        due: list[Deadline] = []
        if current - self._next > len(self._buckets):
            # After a long pause: look at the buckets that exist rather than at every tick.
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
        # Those met before it may have cancelled or moved it.
        if callback is None or deadline.listed < math.inf:
            return
        deadline.due = math.inf
        try:
            callback()
        except INTERRUPTS:
            raise
        except BaseException:
            logger.exception("what was to be done at a deadline raised")

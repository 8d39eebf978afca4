"""Closing runs, which go on after their entry has left the table: waiting for them, and cancelling them again."""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from functools import partial
from typing import Any

from .._common.lost_time import LostTime, ServedTimer
from .._types import ServerPort
from ..core import ApplicationInstance, FastPath, ForeignEntry
from ..core.constants import AUTO, NEW
from ..core.context import current_instance
from ..core.tasks import leave_pending, resolved
from .hooks import logger


class Closing:
    """A closing run for whose end somebody waits."""

    __slots__ = ("deadline", "successors", "timer", "waiters")

    def __init__(self, deadline: float) -> None:
        #: When it is cancelled again, in seconds of the monotonic clock.
        self.deadline = deadline
        self.waiters: list[asyncio.Future[None]] = []
        #: Instances of the same id, which start when it has ended.
        self.successors: list[ApplicationInstance] = []
        self.timer: ServedTimer | None = None


class ClosingRuns(FastPath):
    """Waits for closing runs, and cancels again those that take too long."""

    def __init__(self, base: type[ServerPort]) -> None:
        super().__init__(base)
        #: The time that the checker's loop has lost.
        self.lost = LostTime()
        #: The longest time in seconds from the cancellation of a run to its deadline.
        self._longest_cancel_delay = 0.0

    def _closing(self, entry: Any) -> Closing | None:
        """Return the record of a closing run, for whose end the caller is going to wait; None if it has ended."""
        closing: Closing | float | None = self.closing.get(entry)
        if isinstance(closing, float):
            closing = self.closing[entry] = Closing(closing)
        return closing

    def _follow(self, instance: ApplicationInstance, old: Any, timeout: float) -> None:
        closing = self._closing(old)
        assert closing is not None
        instance._predecessor = old
        closing.successors.append(instance)
        if closing.timer is None:
            loop = asyncio._get_running_loop()
            if loop is not None:
                closing.timer = ServedTimer(self.lost, loop, timeout, partial(self._release, closing))

    @staticmethod
    def _release(closing: Closing) -> None:
        """Let the successors start."""
        if closing.timer is not None:
            closing.timer.cancel()
        successors, closing.successors = closing.successors, []
        for instance in successors:
            instance._predecessor = None
            if instance._state in (NEW, AUTO):
                instance._open_gate()

    def _let_go(self, closing: Closing) -> None:
        """Wake those who wait for the end of a run, which has ended."""
        if closing.successors or closing.timer is not None:
            self._release(closing)
        for waiter in closing.waiters:
            resolved(waiter)

    async def wait_for_predecessor(self, instance: ApplicationInstance) -> None:
        if instance._predecessor is not None:
            await self.wait_closed(instance._predecessor, instance._server.shutdown_timeout)
        instance._predecessor = None

    def _own(self, entry: Any) -> bool:
        """Return whether the current task is part of the run of this entry."""
        if current_instance() is entry:
            return True
        call = getattr(entry, "_call", None)
        return call is not None and call.task is asyncio.current_task()

    async def _wait_unless_own(self, entry: Any, timeout: float) -> None:
        if not self._own(entry):
            await self.wait_closed(entry, timeout)

    async def wait_closed(self, entry: Any, timeout: float) -> None:
        """Wait for the end of a closing run; after `timeout` seconds, cancel it again and return."""
        closing = self._closing(entry)
        if closing is None:
            return
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        closing.waiters.append(waiter)
        timer = ServedTimer(self.lost, loop, timeout, partial(resolved, waiter))
        try:
            await waiter
        finally:
            timer.cancel()
            if waiter in closing.waiters:
                closing.waiters.remove(waiter)
        if entry in self.closing:
            self.cancel_again(entry)

    def _set_cancel_timer(self, loop: asyncio.AbstractEventLoop, deadline: float, lost: float = 0.0) -> None:
        """Set the one timer for all closing runs, which cancels again those that have not ended by their deadline.

        Time lost since a deadline was set is added to it.
        """
        timer = self._cancel_timer
        if timer is None or timer.cancelled() or loop is not self._cancel_timer_loop:
            self._cancel_timer_loop = loop
            # Weak, so that the timer does not keep a server alive.
            seconds = deadline + lost - time.monotonic()
            self._longest_cancel_delay = max(self._longest_cancel_delay, seconds)
            self._cancel_timer = loop.call_later(seconds, _cancel_overdue, weakref.ref(self))

    def cancel_overdue(self) -> None:
        self._cancel_timer, loop, self._cancel_timer_loop = None, self._cancel_timer_loop, None
        now = time.monotonic()
        lost = self.lost.within(now, self._longest_cancel_delay)
        due = []
        for entry, closing in self.closing.items():
            deadline = closing.deadline if type(closing) is Closing else closing
            if deadline + lost > now:
                if loop is not None and deadline != math.inf:
                    self._set_cancel_timer(loop, deadline, lost)
                break
            due.append((entry, closing))
        for entry, closing in due:
            # Move it behind the others, which are still to be looked at.
            if self.closing.pop(entry, None) is None:
                continue
            if type(closing) is Closing:
                closing.deadline = math.inf
            self.closing[entry] = closing if type(closing) is Closing else math.inf
            self.cancel_again(entry)

    def cancel_again(self, entry: Any) -> None:
        """Cancel once more a run that ignores its cancellation; it stays referenced, and counted, until it ends."""
        if entry in self.ignoring_cancel:
            return
        if type(entry) is ApplicationInstance and entry._loop is not None and entry._loop.is_closed():
            self._abandon(entry)
            return
        self.ignoring_cancel.add(entry)
        logger.warning("the application of scope_id %r goes on after it was cancelled", entry.scope_id)
        if type(entry) is ForeignEntry:
            if not entry.stale:
                entry._watched.cancel()
        elif entry._call is not None:
            entry._call.cancel_again()
        elif entry._task is not None:
            entry._task.cancel()

    def give_up_closing(self) -> None:
        """Leave the runs that still go on to themselves: asyncio does not complain of their tasks."""
        for entry in self.closing:
            task: Any = getattr(entry, "_task", None)
            if task is not None:
                leave_pending(task)

    @staticmethod
    def _abandon(instance: ApplicationInstance) -> None:
        """End an instance whose loop is closed, so that its task will take no further step."""
        if instance._task is not None:
            leave_pending(instance._task)
        instance._abandoned()
        if instance._placeholder is not None:
            instance._placeholder.cancel()


def _cancel_overdue(manager: weakref.ref[ClosingRuns]) -> None:
    there = manager()
    if there is not None:
        there.cancel_overdue()

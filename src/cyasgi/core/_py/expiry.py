"""Expiry: which entries are due to be looked at, and when."""

from __future__ import annotations

import time
from typing import Any

from ..constants import (
    FAR,
    PROBATION,
)
from .entry import (
    ForeignEntry,
)
from .order import OrderedEntries, seconds_of


class Expiry(OrderedEntries):
    """Finds entries that have been idle for longer than the timeout, at constant cost."""

    __slots__ = ()

    def keep(self, entry: Any, since: float) -> None:
        """Keep an entry that an override, called at `since` (wall clock), has refused to delete.

        That counts as a use, but does not promote the entry. A `last_used` of `since` or later stays, since the
        override may have assigned it.
        """
        if entry._table is not self:
            return
        self._reorder_foreign(entry)
        if entry._assigned is not None and entry._assigned[0] >= since:
            entry._active = time.monotonic()
        else:
            if entry._place & PROBATION:
                self._take_out(entry)
                self._link(entry, PROBATION)
                moment = time.time()
                self._latest = entry._used = self._after(moment) if moment < self._latest else moment
                entry._active = time.monotonic()
            else:
                self.touch(entry)
            if type(entry) is ForeignEntry and seconds_of(entry._details.get("last_used")) is not None:
                # Else it would be put back to where its dict says.
                entry._details["last_used"] = entry._used
        self._reschedule(entry)

    def set_timeout(self, timeout: float | None, unit: float) -> None:
        """Let entries expire when they are idle for `timeout` seconds, checked in steps of `unit` seconds."""
        if timeout == self._timeout and (timeout is None or unit == self._unit):
            return
        self._due.clear()
        for entry in self._entries.values():
            entry._bucket = -1
        self._timeout, self._unit = timeout, unit
        self._swept = int(time.monotonic() / unit)
        if timeout is not None:
            wall, now = time.time(), time.monotonic()
            for entry in self._entries.values():
                if entry._assigned is None:
                    entry._active = max(entry._active, now - max(0.0, wall - entry._used))
                self._schedule(entry, entry._active + timeout)

    def pop_expired(self, lost: float = 0.0) -> Any:
        """Return an entry that has been idle for longer than the timeout, not counting `lost` seconds; None if there is
        none yet."""
        timeout = self._timeout
        if timeout is None:
            return None
        now = time.monotonic() - lost
        current = int(now / self._unit)
        if current - self._swept > len(self._due) + 1:
            # After a long pause: look at the buckets that exist rather than at every step of time.
            self._swept = min((bucket for bucket in self._due if bucket <= current), default=current)
        while self._swept <= current:
            bucket = self._due.get(self._swept)
            while bucket:
                # Not next(reversed()): that would walk over the slots of all entries that were removed before.
                entry, _ = bucket.popitem()
                entry._bucket = -1
                if type(entry) is ForeignEntry and not self._reorder_foreign(entry):
                    # Its dict says otherwise: then it has been scheduled anew.
                    continue
                resting = entry.idle or entry.ended
                if entry._table is not self or entry._bucket != -1:
                    # Asking a plain dict's queue has removed or scheduled it.
                    continue
                due = (entry._active if resting else now) + timeout
                if due < now:
                    return entry
                self._schedule(entry, due)
            if bucket is not None:
                self._due.pop(self._swept, None)
            if self._swept == current:
                break
            self._swept += 1
        return None

    def _schedule(self, entry: Any, due: float) -> None:
        # Strictly after the current step, so that a sweep never meets an entry twice.
        number = self._swept + 1
        steps = due / self._unit
        if steps >= number:
            number = int(min(steps, FAR)) + 1
        self._due.setdefault(number, {})[entry] = None
        entry._bucket = number

    def _unschedule(self, entry: Any) -> None:
        bucket = self._due.get(entry._bucket)
        if bucket is not None:
            bucket.pop(entry, None)
            if not bucket:
                self._due.pop(entry._bucket, None)
        entry._bucket = -1

    def _reschedule(self, entry: Any) -> None:
        """Move an entry to the bucket of its changed `_active`. One that is just being expired is in no bucket."""
        if entry._bucket != -1:
            self._unschedule(entry)
        if self._timeout is not None:
            self._schedule(entry, entry._active + self._timeout)

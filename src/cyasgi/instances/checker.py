"""The rounds of the checker, which deletes what has ended, was idle for too long, or is no longer held by anybody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from .._common.guarding import INTERRUPTS
from .._common.lost_time import PASS
from .._types import ServerPort
from ..core import ApplicationInstance, Pass
from ..core.constants import IDLE, ORPHANED, SUCCESSOR
from ..core.settings import INTERVAL_LEAST, clamped_interval
from ..core.tasks import resolved
from .creation import Creation
from .hooks import logger
from .pacing import Pace, pace_of_round, share_of
from .succession import delete_with_successor

#: Seconds between two rounds of a checker that has to wait for ends of runs only: as cheap as an idle loop.
UNEVENTFUL = 1.0
#: Entries that the checker deletes between two looks at the clock.
ENTRIES_AT_ONCE = 16


class Checking(Creation):
    """Sleeps until something has to be deleted, and deletes it at a pace that leaves time to others."""

    def __init__(self, base: type[ServerPort]) -> None:
        super().__init__(base)
        self._sleepers: dict[asyncio.Future[None], None] = {}

    def wake(self) -> None:
        sleepers, self._sleepers = self._sleepers, {}
        for sleeper in sleepers:
            if not sleeper.get_loop().is_closed():
                resolved(sleeper)

    async def nap(self, server: ServerPort) -> None:
        """Sleep until a run has ended, or it is time to look for idle instances and orphans."""
        seconds = clamped_interval(server.application_checker_interval)
        if server.idle_timeout is None and not self.held.holders and not self.held.orphans:
            # There are none, but an idle_timeout may be set at any time.
            seconds = max(seconds, UNEVENTFUL)
        if self.table.finished_count():
            await Pass()
            return
        loop = asyncio.get_running_loop()
        sleeper = loop.create_future()
        self._sleepers[sleeper] = None
        self.table.on_finished = self.wake
        due = time.monotonic() + seconds
        self.lost.expect(due)
        timer = loop.call_later(seconds, resolved, sleeper)
        try:
            await sleeper
        finally:
            timer.cancel()
            self._sleepers.pop(sleeper, None)
            if not self._sleepers:
                self.table.on_finished = None
            late = self.lost.woke(due, time.monotonic())
        if late:
            # Read what has arrived meanwhile before finding anybody idle.
            await asyncio.sleep(PASS)

    async def sweep(self, server: ServerPort) -> None:
        """Run one round of the checker."""
        table = self.table
        interval = clamped_interval(server.application_checker_interval)
        idle_timeout = server.idle_timeout
        unit = interval if idle_timeout is None else max(INTERVAL_LEAST, min(interval, idle_timeout))
        table.set_timeout(idle_timeout, unit)
        # If the delete methods are not overridden, they need not be called.
        plain = self.is_plain(server)
        delete: Callable[[Any, Any], object] = self.end_entry if plain else self.dismiss
        if server.undelivered_to == SUCCESSOR:
            plain = False
            delete = partial(delete_with_successor, self, delete)
        seen = rounds = 0
        pace = self._pace(plain)
        # Only what has ended by now: what ends because of the calls below is left to the next round.
        for _ in range(table.finished_count()):
            entry = table.pop_finished()
            if entry is None:
                break
            try:
                delete(server, entry)
            except INTERRUPTS:
                raise
            except BaseException:
                # For example a plain dict, whose future and queue may raise anything.
                logger.exception("the end of scope_id %r could not be handled", entry.scope_id)
            seen += 1
            if seen % ENTRIES_AT_ONCE == 0 and pace.over(ENTRIES_AT_ONCE):
                await Pass()
                pace = self._pace(plain)
        lost = 0.0 if idle_timeout is None else self.lost.within(time.monotonic(), idle_timeout)
        while (entry := table.pop_expired(lost)) is not None:
            since = time.time()
            try:
                self.expire(server, entry, IDLE)
            except INTERRUPTS:
                raise
            except BaseException:
                logger.exception("scope_id %r could not be expired", entry.scope_id)
                if entry._table is table:
                    table.keep(entry, since)
            seen += 1
            if seen % ENTRIES_AT_ONCE == 0 and pace.over(ENTRIES_AT_ONCE):
                await Pass()
                rounds += 1
                pace = pace_of_round(rounds)
        now = time.monotonic()
        while (orphan := self.held.pop_orphan(now - interval)) is not None:
            self.dismiss(server, orphan, ORPHANED)
            self.counts["orphaned"] += orphan._table is None
            if pace.over(1):
                await Pass()
                pace = Pace(share_of(len(self.held.orphans)))

    def _pace(self, plain: bool) -> Pace:
        """Return the pace for instances that have ended.

        Without overrides, deleting an instance takes less time than creating it. So deleting a quarter of the waiting
        ones in each pass is no burden, and keeps up with any rate of new ones.
        """
        waiting = self.table.finished_count()
        return Pace(share_of(waiting), waiting // 4 if plain else 0)

    def is_listed(self, entry: Any) -> bool:
        """Return whether the entry is in the table."""
        return entry._table is self.table

    def expire(self, server: ServerPort, entry: Any, reason: int) -> None:
        """Dismiss an entry that was in the table for too long; `reason` is IDLE or AGE."""
        live = not entry.ended
        since = time.time()
        self.dismiss(server, entry, reason)
        if entry._table is not self.table:
            self.counts["expired"] += live
            return
        self.table.keep(entry, since)
        if live and self.observer is not None and type(entry) is ApplicationInstance:
            self.observer.kept(entry)

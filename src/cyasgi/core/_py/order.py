"""OrderedEntries: the fields of the table, and the orders that its entries stand in."""

from __future__ import annotations

import asyncio
import bisect
import collections
import itertools
import math
import sys
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from ..._types import ServerPort
from ..constants import (
    ASSIGNED,
    POLICIES,
    PROBATION,
    SCAN_LIMIT,
)
from .entry import (
    ForeignEntry,
    Order,
    unlink,
)

#: Without a loop every lookup takes the slow path.
NO_LOOP = {"_closed": True}
_sequence = itertools.count()


class OrderedEntries:
    """Entries in the order of their use, in one segment or two; see `README.md`."""

    __slots__ = (
        "__weakref__",
        "_assigned",
        "_due",
        "_entries",
        "_finished",
        "_foreign",
        "_guarded_loop",
        "_home",
        "_latest",
        "_loop",
        "_loop_dict",
        "_most_protected",
        "_on_probation",
        "_order",
        "_orders",
        "_peak_size",
        "_pending_deletions",
        "_plain_tasks",
        "_policy",
        "_segmented",
        "_swept",
        "_thread",
        "_timeout",
        "_unit",
        "_version",
        "application",
        "asgi3_app",
        "closing_ids",
        "created",
        "idle",
        "on_finished",
        "on_idle",
        "reused",
    )

    def __init__(self) -> None:
        self._entries: dict[Any, Any] = {}
        self._order = Order()
        self._orders = (self._order, Order())
        self._assigned: tuple[list[tuple[float, int, Any]], ...] = ([], [])
        #: The moment of the last use.
        self._latest = 0.0
        self._policy = POLICIES[0]
        self._segmented = False
        self._most_protected = sys.maxsize
        self._on_probation = 0
        self._finished: collections.OrderedDict[Any, None] = collections.OrderedDict()
        self._due: dict[int, dict[Any, None]] = {}
        self._timeout: float | None = None
        self._unit = 1.0
        self._swept = 0
        self._version = 0
        #: The most entries since the table was empty.
        self._peak_size = 0
        self._pending_deletions = 0
        #: In debug mode: the loop's thread, and the loop.
        self._thread = 0
        self._guarded_loop: asyncio.AbstractEventLoop | None = None
        #: The thread that the loop was set in: instances are created there.
        self._home = 0
        self.idle = 0
        self._foreign: dict[ForeignEntry, None] = {}
        self.reused = 0
        self.created = 0
        #: What `_create` needs, as the slow path has found it out: the application as the server has it and as it is
        #: called, the loop, if it is not in debug mode, and the ids whose previous run still cleans up.
        self.application: Any = None
        self.asgi3_app: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Where the loop keeps what its is_closed() returns, if that is asyncio's.
        self._loop_dict: dict[str, Any] | None = NO_LOOP
        #: Whether its create_task() is asyncio's own, or uvloop's.
        self._plain_tasks = False
        self.closing_ids: dict[Hashable, Any] = {}
        #: Called once when something has finished; set by the checker before it sleeps.
        self.on_finished: Callable[[], None] | None = None
        #: Called whenever an instance becomes idle; set while the server drains.
        self.on_idle: Callable[[], object] | None = None

    def follow(self, server: ServerPort) -> None:
        """Adopt the server's `eviction_policy`, and the size of the protected segment, a part of `max_applications`.

        When the policy becomes "slru", existing entries are protected, the most recently used first.
        """
        policy = server.eviction_policy
        if policy is not self._policy:
            if policy not in POLICIES:
                raise ValueError(f"eviction_policy={policy!r}: accepted are {' and '.join(map(repr, POLICIES))}")
            self._policy = policy
            if self._segmented != (policy == "slru"):
                self._segmented = not self._segmented
                if not self._segmented:
                    self._unite()
        if self._segmented:
            limit = server.max_applications
            self._most_protected = sys.maxsize if limit is None else limit * 4 // 5
            self._demote()

    @property
    def protected(self) -> int:
        """The number of entries in the protected segment; under "lru" all."""
        return len(self._entries) - self._on_probation

    def _after(self, moment: float) -> float:
        """Return the moment of a use, not before the latest one, though the clock was set back a little since.

        So the order of uses is that of their moments. A clock that is set back by a second or more is followed.
        """
        return self._latest if self._latest - moment < 1.0 else moment

    def touch(self, entry: Any) -> None:
        """Move an entry that was used again to the young end of the order."""
        moment = time.time()
        if moment < self._latest:
            moment = self._after(moment)
        self._latest = entry._used = moment
        entry._active = time.monotonic()
        if entry._table is not self:
            return
        if entry._place:
            self._promote(entry)
        else:
            unlink(entry)
            self._order.link(entry)

    def _reschedule(self, entry: Any) -> None:
        """Do nothing; overridden by Expiry."""

    def _link(self, entry: Any, segment: int) -> None:
        """Add an entry that is in no order at the young end of a natural order; `segment`: PROBATION or 0."""
        entry._place = segment
        if segment:
            self._on_probation += 1
        self._orders[segment >> 1].link(entry)

    def _link_assigned(self, entry: Any, assigned: tuple[float, int], segment: int) -> None:
        """Add an entry whose `last_used` was assigned."""
        entry._assigned = assigned
        entry._place = ASSIGNED | segment
        if segment:
            self._on_probation += 1
        bisect.insort(self._assigned[segment >> 1], (*assigned, entry))

    def _take_out(self, entry: Any) -> None:
        """Take an entry out of whichever order it is in."""
        place = entry._place
        if place & ASSIGNED:
            assigned = self._assigned[place >> 1]
            del assigned[bisect.bisect_left(assigned, entry._assigned)]
            entry._assigned = None
        else:
            unlink(entry)
        if place & PROBATION:
            self._on_probation -= 1
        entry._place = 0

    def _promote(self, entry: Any) -> None:
        """Note the use of an entry that was assigned a time, or is on probation."""
        self._take_out(entry)
        self._link(entry, 0)
        if self._segmented:
            self._demote()

    def _demote(self) -> None:
        """Put entries that the protected segment has no room for on probation."""
        while self.protected > self._most_protected:
            entry = next(self._in_order(0), None)
            if entry is None or self.protected <= self._most_protected:
                # Looking at it has put another one on probation.
                continue
            if entry._table is not self or entry._place & PROBATION:
                # Or it has removed this one.
                continue
            assigned = entry._assigned
            self._take_out(entry)
            if assigned is None:
                self._link(entry, PROBATION)
            else:
                self._link_assigned(entry, assigned, PROBATION)

    def _unite(self) -> None:
        """Merge both segments into one, by the time of use."""
        natural = sorted((*self._orders[1], *self._order), key=lambda entry: entry._used)
        assigned = sorted((*self._assigned[1], *self._assigned[0]))
        for entry in natural:
            entry._place = 0
            unlink(entry)
            self._order.link(entry)
        for _, _, entry in assigned:
            entry._place = ASSIGNED
        self._assigned[1].clear()
        self._assigned[0][:] = assigned
        self._on_probation = 0

    def _assign(self, entry: Any, moment: float) -> None:
        if entry._table is not self:
            entry._used = moment
            return
        segment = entry._place & PROBATION
        if self._segmented and moment < (entry._used if entry._assigned is None else entry._assigned[0]):
            # Whoever sets it back wants it to go before others.
            segment = PROBATION
        self._take_out(entry)
        self._link_assigned(entry, (moment, next(_sequence)), segment)
        entry._active = time.monotonic() - max(0.0, time.time() - moment)
        self._reschedule(entry)

    @property
    def foreign(self) -> int:
        """The number of entries that are plain dicts."""
        return len(self._foreign)

    def _reorder_few_foreign(self) -> None:
        """Notice a `last_used` that was set back in a plain dict, if such dicts are few.

        One that was set forward is noticed in any case, by `_reorder_foreign` when the entry's turn comes.
        """
        if 0 < len(self._foreign) <= SCAN_LIMIT:
            for entry in list(self._foreign):
                self._reorder_foreign(entry)

    def _reorder_foreign(self, entry: Any) -> bool:
        """Return whether a foreign entry is where its dict says; if not, move it there."""
        if type(entry) is ForeignEntry:
            moment = seconds_of(entry._details.get("last_used"))
            if (
                moment is not None
                and entry._table is self
                and (entry._assigned is None or entry._assigned[0] != moment)
            ):
                self._assign(entry, moment)
                return False
        return True

    def _in_order(self, segment: int) -> Iterator[Any]:
        """Yield a segment's entries, least recently used first; nothing else may change the order meanwhile."""
        order = self._orders[segment]
        assigned = self._assigned[segment]
        young = order._next
        index = 0
        moved = 0
        while True:
            first = assigned[index] if index < len(assigned) else None
            if first is not None and (young is order or first[0] <= young._used):
                entry = first[2]
                if moved < SCAN_LIMIT and not self._reorder_foreign(entry):
                    moved += 1
                    continue
                index += 1
                yield entry
            elif young is not order:
                following = young._next
                yield young
                if following is not order and (following._next is None or following._place >> 1 != segment):
                    # Asking a plain dict has moved it: start again.
                    following = order._next
                young = following
            else:
                return

    def walk(self, after: Any, count: int) -> list[Any]:
        """Return up to `count` entries in their natural order, the least recently used first, without a look at others.

        Those whose `last_used` was assigned are left out.

        Args:
            after: the entry that they follow. The walk begins anew for None, and for one that has left its order.
        """
        segment = 1
        entry = self._orders[1]._next
        if after is not None and after._table is self and not after._place & ASSIGNED:
            segment = after._place >> 1
            entry = after._next
        found: list[Any] = []
        while len(found) < count:
            if entry is not self._orders[segment]:
                found.append(entry)
                entry = entry._next
            elif segment:
                segment = 0
                entry = self._order._next
            else:
                break
        return found

    def _oldest(self) -> Any:
        """Return the first entry in order, or None."""
        return next(itertools.chain(self._in_order(1), self._in_order(0)), None)

    def _keys_in_order(self) -> list[Any]:
        for foreign in list(self._foreign):
            self._reorder_foreign(foreign)
        return self._keys_of(1) + self._keys_of(0)

    def _keys_of(self, segment: int) -> list[Any]:
        natural = list(self._orders[segment])
        if not self._assigned[segment]:
            return [entry.scope_id for entry in natural]
        merged: list[Any] = []
        index = 0
        for moment, _, entry in self._assigned[segment]:
            while index < len(natural) and natural[index]._used < moment:
                merged.append(natural[index].scope_id)
                index += 1
            merged.append(entry.scope_id)
        merged.extend(entry.scope_id for entry in natural[index:])
        return merged


def seconds_of(value: Any) -> float | None:
    """Return the `last_used` of a plain dict; None if it is not a time."""
    if not isinstance(value, (int, float)):
        return None
    try:
        moment = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    return None if math.isnan(moment) else moment

"""InstanceTable: the ordered table, with what makes room, what has finished and what is due."""

from __future__ import annotations

import asyncio
import bisect
import collections
import heapq
import itertools
import math
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping
from threading import get_ident
from typing import Any

from ..._types import ServerPort
from ..constants import (
    ASSIGNED,
    DONE,
    FAR,
    POLICIES,
    PROBATION,
    SCAN_LIMIT,
    SHRINK_THRESHOLD,
)
from ..context import PendingDeletion, deleting
from ..tasks import has_plain_tasks, runs_elsewhere
from .entry import (
    Entry,
    ForeignEntry,
    Order,
    unlink,
)
from .instance import ApplicationInstance

#: Without a loop every lookup takes the slow path.
_NO_LOOP = {"_closed": True}
_sequence = itertools.count()


class InstanceTable(MutableMapping[Any, Any]):
    """`StatelessServer.application_instances`: from scope_id to ApplicationInstance, least recently used first; under
    the policy "slru" those on probation, then the protected ones.

    Plain dicts may be written into it and come back as they are. Removing an entry cancels nothing.
    """

    __slots__ = (
        "__weakref__",
        "_assigned",
        "_due",
        "_entries",
        "_finished",
        "_foreign",
        "_guarded_loop",
        "_home",
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

    def __init__(self, initial: Mapping[Any, Any] | None = None) -> None:
        self._entries: dict[Any, Any] = {}
        self._order = Order()
        self._orders = (self._order, Order())
        self._assigned: tuple[list[tuple[float, int, Any]], ...] = ([], [])
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
        #: The thread that the loop was set in: instances are made there.
        self._home = 0
        self.idle = 0
        self._foreign: dict[ForeignEntry, None] = {}
        self.reused = 0
        self.created = 0
        #: What `create` needs and the slow path finds out: the application as the server has it and as it is called,
        #: the loop, if it is not in debug mode, and the ids whose old run still cleans up.
        self.application: Any = None
        self.asgi3_app: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Where the loop keeps what its is_closed() returns, if that is asyncio's.
        self._loop_dict: dict[str, Any] | None = _NO_LOOP
        #: Whether its create_task() is asyncio's own, or uvloop's.
        self._plain_tasks = False
        self.closing_ids: dict[Hashable, Any] = {}
        #: Called once when something has finished; set by the checker before it sleeps.
        self.on_finished: Callable[[], None] | None = None
        #: Called whenever an instance becomes idle; set while the server drains.
        self.on_idle: Callable[[], object] | None = None
        if initial is not None:
            self.update(initial)

    # Used by the server

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        return self._loop

    @loop.setter
    def loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop
        self._home = get_ident()
        plain = isinstance(loop, asyncio.BaseEventLoop) and type(loop).is_closed is asyncio.BaseEventLoop.is_closed
        self._loop_dict = vars(loop) if plain else None if loop is not None else _NO_LOOP
        self._plain_tasks = has_plain_tasks(loop)

    @property
    def home(self) -> int:
        """The thread of the loop, 0 while there is none."""
        return self._home

    def _create(self, server: ServerPort, scope_id: Hashable, scope: Any) -> ApplicationInstance | None:
        """A fresh instance, where nothing stands in the way of it; None where the slow path has to see."""
        loop = self._loop
        if loop is None or scope_id in self._entries or self._home != get_ident() or not loop.is_running():
            return None
        if server.application is not self.application or scope_id in self.closing_ids:
            return None
        if self._segmented:
            self.follow(server)
        instance = ApplicationInstance(server, self.asgi3_app, scope_id, scope, server.max_queue_size)
        instance._start_in(loop, self._plain_tasks and loop.get_task_factory() is None)
        limit = server.max_applications
        if limit is not None and len(self._entries) >= limit:
            # Built: only now somebody may lose its place for it.
            try:
                server._cyasgi.make_room(server, limit)
            except BaseException:
                instance._state = DONE
                raise
        if scope_id in self._entries or scope_id in self.closing_ids:
            # A task factory or an override has asked for the same id: the task finds it done at its first step.
            instance._state = DONE
            return None
        self.add(instance)
        self.created += 1
        return instance

    def entry(self, scope_id: Hashable) -> Any:
        """The entry, or None, without counting as a use."""
        return self._entries.get(scope_id)

    def follow(self, server: ServerPort) -> None:
        """Adopts the server's `eviction_policy` and the bound that `max_applications` sets to the protected segment.

        Entries that are there when the policy becomes "slru" are protected, the most recently used first.
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
        """How many entries are in the protected segment; under "lru" all."""
        return len(self._entries) - self._on_probation

    def touch(self, entry: Any) -> None:
        """Moves an entry that was used again to the young end of the order."""
        entry._used = time.time()
        entry._active = time.monotonic()
        if entry._table is not self:
            return
        if entry._place:
            self._promote(entry)
        else:
            unlink(entry)
            self._order.link(entry)

    def add(self, entry: Any) -> None:
        """Enters an entry whose id is free, as the youngest; on probation if there is such a segment.

        Raises:
            RuntimeError: the id is not free.
            ValueError: the entry is in a table already.
        """
        table = entry._table
        if table is not None:
            raise ValueError(f"{entry!r} is in a table already")
        entry._used = time.time()
        entry._active = time.monotonic()
        # An id's own methods may enter something meanwhile.
        if self._entries.setdefault(entry._scope_id, entry) is not entry:
            raise RuntimeError(f"scope_id {entry._scope_id!r} belongs to another instance by now")
        if entry._table is not None:
            return
        self._peak_size = max(self._peak_size, len(self._entries))
        entry._table = self
        self._version += 1
        if self._segmented:
            self._link(entry, PROBATION)
        else:
            self._order.link(entry)
        if type(entry) is ApplicationInstance:
            if entry._state == DONE:
                self._finished[entry] = None
        else:
            self._foreign[entry] = None
            if entry.ended and entry._table is self:
                self._finished[entry] = None
        if self._timeout is not None and entry._table is self:
            self._schedule(entry, entry._active + self._timeout)
        if type(entry) is ApplicationInstance and entry._idle and entry._table is self:
            self._now_idle()

    def remove(self, entry: Any) -> bool:
        """Takes out this very entry; False if it was not in the table."""
        if entry._table is not self:
            return False
        # First what may raise, or do anything: an id's own methods.
        found = self._entries.pop(entry._scope_id, None)
        if found is not entry:
            if found is not None:
                self._entries.setdefault(found._scope_id, found)
            if entry._table is not self:
                return False
            raise KeyError(entry._scope_id)
        entry._table = None
        self._version += 1
        if entry._assigned is not None:
            entry._used = entry._assigned[0]
        self._take_out(entry)
        self._finished.pop(entry, None)
        if entry._bucket != -1:
            self._unschedule(entry)
        if type(entry) is ApplicationInstance:
            if entry._idle:
                self.idle -= 1
        else:
            self._foreign.pop(entry, None)
            entry.unwatch()
        if self._peak_size > SHRINK_THRESHOLD and not self._entries:
            self._peak_size = 0
            for emptied in (self._entries, self._finished, self._due, self._foreign):
                shrink(emptied)
        return True

    def victim(self, spared: Any = None) -> Any:
        """The entry that is to make room: a finished one; else, of those on probation if there are any, the least
        recently used idle one, looking past a bounded number of busy ones; else the least recently used. Never
        `spared`, while there is another."""
        for entry in self._finished:
            if entry is not spared:
                return entry
        self._reorder_few_foreign()
        found = self._victim_in(1, spared) if self._on_probation else None
        if found is None:
            found = self._victim_in(0, spared)
        if found is not None and found._table is not self:
            # To ask a plain dict's queue has removed it. Now nobody is asked.
            found = self._first(spared)
        if found is None and isinstance(spared, Entry) and spared._table is self:
            return spared
        return found

    def _victim_in(self, segment: int, spared: Any) -> Any:
        first = None
        busy = 0
        for entry in self._in_order(segment):
            if entry is spared:
                continue
            if entry.idle:
                return entry
            if first is None:
                first = entry
            if busy >= SCAN_LIMIT:
                break
            busy += 1
        return first

    def _first(self, spared: Any) -> Any:
        """The first one in order, where plain dicts stand now."""
        for segment in (1, 0):
            entries = heapq.merge(
                ((moment, 0, entry) for moment, _, entry in self._assigned[segment]),
                ((entry._used, 1, entry) for entry in self._orders[segment]),
                key=lambda place: place[:2],
            )
            for _, _, entry in entries:
                if entry is not spared:
                    return entry
        return None

    def pop_finished(self) -> Any:
        """An entry whose run has ended, no longer listed as such; None if there is none."""
        while self._finished:
            entry, _ = self._finished.popitem(last=False)
            return entry
        return None

    def size(self) -> int:
        """How many entries there are, whoever asks."""
        return len(self._entries)

    def finished_count(self) -> int:
        return len(self._finished)

    def entries(self) -> list[Any]:
        """All entries, in no particular order."""
        return list(self._entries.values())

    def keep(self, entry: Any, since: float) -> None:
        """An override that was called at `since` (wall clock) refused to delete this entry: that counts as a use, but
        promotes nobody. A `last_used` that is no earlier stands: the override may have assigned it."""
        if entry._table is not self:
            return
        self._reorder_foreign(entry)
        if entry._assigned is not None and entry._assigned[0] >= since:
            entry._active = time.monotonic()
        else:
            if entry._place & PROBATION:
                self._take_out(entry)
                self._link(entry, PROBATION)
                entry._used = time.time()
                entry._active = time.monotonic()
            else:
                self.touch(entry)
            if type(entry) is ForeignEntry and _seconds(entry._details.get("last_used")) is not None:
                # Else it would be put back to where its dict says.
                entry._details["last_used"] = entry._used
        self._reschedule(entry)

    def set_timeout(self, timeout: float | None, unit: float) -> None:
        """From now on entries expire when idle for `timeout` seconds, found in steps of `unit` seconds."""
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
        """An entry that has been idle for longer than the timeout; None if there is none (yet). Of that time `lost`
        seconds do not count."""
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
                # Not next(reversed()): that would pass over the places of all that were removed before it.
                entry, _ = bucket.popitem()
                entry._bucket = -1
                if type(entry) is ForeignEntry and not self._reorder_foreign(entry):
                    # Its dict says otherwise: then it has been scheduled anew.
                    continue
                resting = entry.idle or entry.ended
                if entry._table is not self or entry._bucket != -1:
                    # To ask a plain dict's queue has removed or scheduled it.
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
        """Its `_active` was changed. An entry that is just being expired stands in no bucket."""
        if entry._bucket != -1:
            self._unschedule(entry)
        if self._timeout is not None:
            self._schedule(entry, entry._active + self._timeout)

    def _add_finished(self, entry: Any) -> None:
        if entry._table is not self:
            return
        self._finished[entry] = None
        notify, self.on_finished = self.on_finished, None
        if notify is not None:
            notify()

    def _now_idle(self) -> None:
        self.idle += 1
        if self.on_idle is not None:
            self.on_idle()

    # Order

    def _link(self, entry: Any, segment: int) -> None:
        """Enters what stands nowhere at the young end of a natural order; `segment`: PROBATION or 0."""
        entry._place = segment
        if segment:
            self._on_probation += 1
        self._orders[segment >> 1].link(entry)

    def _link_assigned(self, entry: Any, assigned: tuple[float, int], segment: int) -> None:
        """The same where its `last_used` was assigned."""
        entry._assigned = assigned
        entry._place = ASSIGNED | segment
        if segment:
            self._on_probation += 1
        bisect.insort(self._assigned[segment >> 1], (*assigned, entry))

    def _take_out(self, entry: Any) -> None:
        """Out of whichever order it stands in."""
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
        """A use of what was assigned, or is on probation."""
        self._take_out(entry)
        self._link(entry, 0)
        if self._segmented:
            self._demote()

    def _demote(self) -> None:
        """Those that the protected segment has no room for go on probation."""
        while self.protected > self._most_protected:
            entry = next(self._in_order(0), None)
            if entry is None or self.protected <= self._most_protected:
                # The look at it has put one on probation.
                continue
            if entry._table is not self or entry._place & PROBATION:
                # Or removed it.
                continue
            assigned = entry._assigned
            self._take_out(entry)
            if assigned is None:
                self._link(entry, PROBATION)
            else:
                self._link_assigned(entry, assigned, PROBATION)

    def _unite(self) -> None:
        """One segment, ordered by the time of use, which both had in common."""
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
        """How many entries are plain dicts."""
        return len(self._foreign)

    def _reorder_few_foreign(self) -> None:
        """Notice a `last_used` that was set back in a plain dict, if such dicts are few.

        One that was set forward is noticed in any case, by `_reorder_foreign` when the entry's turn comes.
        """
        if 0 < len(self._foreign) <= SCAN_LIMIT:
            for entry in list(self._foreign):
                self._reorder_foreign(entry)

    def _reorder_foreign(self, entry: Any) -> bool:
        """Whether a foreign entry stands where its dict says; if not, moves it there."""
        if type(entry) is ForeignEntry:
            moment = _seconds(entry._details.get("last_used"))
            if (
                moment is not None
                and entry._table is self
                and (entry._assigned is None or entry._assigned[0] != moment)
            ):
                self._assign(entry, moment)
                return False
        return True

    def _in_order(self, segment: int) -> Iterator[Any]:
        """A segment's entries, least recently used first, for as long as nothing but this changes the order."""
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
                    # Who was asked has moved it: then from the beginning.
                    following = order._next
                young = following
            else:
                return

    def _oldest(self) -> Any:
        """The first entry in order, or None."""
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

    # The mapping

    def check_thread(self) -> None:
        """Raise RuntimeError if the loop is in debug mode and of another thread than this one."""
        if self._thread and self._thread != get_ident() and runs_elsewhere(self._guarded_loop):
            raise RuntimeError("application_instances was used from another thread than its event loop's")

    def _find(self, scope_id: Any) -> Any:
        """The entry as the current task is to see it; None if there is none."""
        self.check_thread()
        if self._pending_deletions:
            pending = deleting.get()
            if pending is not None and pending.matches(self, scope_id):
                return pending.entry if pending.visible else None
        return self._entries.get(scope_id)

    def __getitem__(self, scope_id: Any) -> Any:
        entry = self._find(scope_id)
        if entry is None:
            raise KeyError(scope_id)
        return entry.public

    def __setitem__(self, scope_id: Any, value: Any) -> None:
        old = self._find(scope_id)
        if isinstance(value, ApplicationInstance):
            if value.scope_id != scope_id:
                raise ValueError(f"{value!r} cannot be entered under another scope_id, {scope_id!r}")
            if value._table is self:
                return
            if value._table is not None:
                raise ValueError(f"{value!r} is in the table of another server")
            entry: Any = value
        elif isinstance(value, MutableMapping):
            entry = ForeignEntry(scope_id, value)
        else:
            raise TypeError(
                f"application_instances[{scope_id!r}] = {value!r}: accepted are an ApplicationInstance and a dict"
                " with the keys input_queue, future, scope and last_used"
            )
        if old is not None:
            self._vanish(old)
        last_used = entry.last_used if type(entry) is ApplicationInstance else 0.0
        self.add(entry)
        if type(entry) is ForeignEntry:
            self._reorder_foreign(entry)
            entry.watch()
        elif last_used:
            self._assign(entry, last_used)

    def __delitem__(self, scope_id: Any) -> None:
        entry = self._find(scope_id)
        if entry is None or not self._vanish(entry):
            raise KeyError(scope_id)

    def _vanish(self, entry: Any) -> bool:
        """Takes out an entry by hand, or hides one that is being deleted from its override."""
        if self.remove(entry):
            if type(entry) is ApplicationInstance and entry._state == DONE:
                entry._server._cyasgi.report(entry._server, entry)
            return True
        pending: PendingDeletion | None = deleting.get()
        if pending is None or pending.entry is not entry:
            return False
        pending.visible = False
        return True

    def __contains__(self, scope_id: object) -> bool:
        return self._find(scope_id) is not None

    def _pending_deletion(self) -> Any:
        """The entry that only the current task still sees, or None."""
        pending = deleting.get()
        if pending is not None and pending.visible and pending.matches(self, pending.entry.scope_id):
            return pending.entry
        return None

    def __len__(self) -> int:
        self.check_thread()
        pending = self._pending_deletion() if self._pending_deletions else None
        return len(self._entries) + (pending is not None and pending.scope_id not in self._entries)

    def __iter__(self) -> Iterator[Any]:
        self.check_thread()
        pending = self._pending_deletion() if self._pending_deletions else None
        if pending is None:
            return self._iterate()
        rest = (key for key in self._iterate() if key != pending.scope_id)
        return itertools.chain((pending.scope_id,), rest)

    def _iterate(self) -> Iterator[Any]:
        version = self._version
        self._reorder_few_foreign()
        first = self._oldest()
        if first is None:
            return
        # The oldest one is had for nothing; only who goes on pays for a list.
        yield first.scope_id
        for scope_id in self._keys_in_order() if version == self._version else ():
            if version != self._version:
                break
            if self._entries[scope_id] is not first:
                yield scope_id
        if version != self._version:
            raise RuntimeError("application_instances changed while it was iterated over")

    def __reversed__(self) -> Iterator[Any]:
        self.check_thread()
        return iter(self._keys_in_order()[::-1])

    def popitem(self) -> tuple[Any, Any]:
        """Removes and returns the least recently used entry; KeyError if the table is empty."""
        self.check_thread()
        entry = self._oldest()
        if entry is None:
            raise KeyError("popitem(): the table is empty")
        self._vanish(entry)
        return entry.scope_id, entry.public

    def clear(self) -> None:
        self.check_thread()
        for entry in self.entries():
            self._vanish(entry)

    def copy(self) -> dict[Any, Any]:
        """A plain dict with the same entries, least recently used first."""
        return dict(self)

    def __repr__(self) -> str:
        return f"<cyasgi.InstanceTable of {len(self._entries)}, {self.idle} idle>"

    def __reduce__(self) -> Any:
        return InstanceTable, (self.copy(),)


def shrink(emptied: Any) -> None:
    """Has a dict that was large give its memory back, which it does not do by itself."""
    if not emptied:
        emptied.clear()


def _seconds(value: Any) -> float | None:
    """What the `last_used` of a plain dict says; None if it is no point of time."""
    if not isinstance(value, (int, float)):
        return None
    try:
        moment = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    return None if math.isnan(moment) else moment

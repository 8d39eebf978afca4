"""InstanceTable: who is in the table, who is to make room, and what has finished."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Hashable, Iterator, Mapping, MutableMapping
from threading import get_ident
from typing import Any

from ..._types import ServerPort
from ..constants import (
    DONE,
    PROBATION,
    SCAN_LIMIT,
    SHRINK_THRESHOLD,
)
from ..context import PendingDeletion, deleting
from ..tasks import has_plain_tasks, runs_elsewhere
from .entry import (
    Entry,
    ForeignEntry,
)
from .expiry import Expiry
from .instance import ApplicationInstance
from .order import NO_LOOP


class InstanceTable(Expiry, MutableMapping[Any, Any]):
    """`StatelessServer.application_instances`: a mapping from scope_id to ApplicationInstance, the least recently used
    first; under the policy "slru" those on probation come before the protected ones.

    Plain dicts may be written into it, and are returned unchanged. Removing an entry cancels nothing.
    """

    __slots__ = ()

    def __init__(self, initial: Mapping[Any, Any] | None = None) -> None:
        super().__init__()
        if initial is not None:
            self.update(initial)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        return self._loop

    @loop.setter
    def loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop
        self._home = get_ident()
        plain = isinstance(loop, asyncio.BaseEventLoop) and type(loop).is_closed is asyncio.BaseEventLoop.is_closed
        self._loop_dict = vars(loop) if plain else None if loop is not None else NO_LOOP
        self._plain_tasks = has_plain_tasks(loop)

    @property
    def home(self) -> int:
        """The thread of the loop; 0 if there is none."""
        return self._home

    def _create(self, server: ServerPort, scope_id: Hashable, scope: Any) -> ApplicationInstance | None:
        """Return a new instance in the usual case; None if the slow path has to decide."""
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
            # It is complete: only now may another one lose its place for it.
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
        """Return the entry or None; this does not count as a use."""
        return self._entries.get(scope_id)

    def add(self, entry: Any) -> None:
        """Add an entry whose id is free, as the youngest; on probation if there is such a segment.

        Raises:
            RuntimeError: the id is not free.
            ValueError: the entry is in a table already.
        """
        table = entry._table
        if table is not None:
            raise ValueError(f"{entry!r} is in a table already")
        moment = time.time()
        if moment < self._latest:
            moment = self._after(moment)
        self._latest = entry._used = moment
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
        """Remove the entry, and no other one of its id; return False if it is not in the table."""
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
        """Return the entry that has to make room: a finished one; else the least recently used idle one, skipping a
        bounded number of busy ones; else the least recently used one. Entries on probation come first, if there are
        any. `spared` is returned only if there is no other."""
        for entry in self._finished:
            if entry is not spared:
                return entry
        self._reorder_few_foreign()
        found = self._victim_in(1, spared) if self._on_probation else None
        if found is None:
            found = self._victim_in(0, spared)
        if found is not None and found._table is not self:
            # Asking a plain dict's queue has removed it. Now nobody is asked.
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
        """Return the first entry in order, once plain dicts are where they belong."""
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
        """Return an entry whose run has ended, and remove it from the list of these; None if there is none."""
        while self._finished:
            entry, _ = self._finished.popitem(last=False)
            return entry
        return None

    def size(self) -> int:
        """Return the number of entries, regardless of who asks."""
        return len(self._entries)

    def finished_count(self) -> int:
        return len(self._finished)

    def entries(self) -> list[Any]:
        """Return all entries, in no particular order."""
        return list(self._entries.values())

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

    # The mapping

    def check_thread(self) -> None:
        """Raise RuntimeError if the loop is in debug mode and of another thread than this one."""
        if self._thread and self._thread != get_ident() and runs_elsewhere(self._guarded_loop):
            raise RuntimeError("application_instances was used from another thread than its event loop's")

    def _find(self, scope_id: Any) -> Any:
        """Return the entry as the current task has to see it; None if there is none."""
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
        """Remove an entry by hand, or hide one that is being deleted from its override."""
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
        """Return the entry that only the current task still sees, or None."""
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
        # The oldest one costs nothing; only those who go on pay for a list.
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
        """Remove and return the least recently used entry; raise KeyError if the table is empty."""
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
        """Return a plain dict with the same entries, least recently used first."""
        return dict(self)

    def __repr__(self) -> str:
        return f"<cyasgi.InstanceTable of {len(self._entries)}, {self.idle} idle>"

    def __reduce__(self) -> Any:
        return InstanceTable, (self.copy(),)


def shrink(emptied: Any) -> None:
    """Make an empty dict give its memory back, which it does not do by itself."""
    if not emptied:
        emptied.clear()

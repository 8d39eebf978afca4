"""FastPath: the usual course of evictions and of ends of runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from ..._types import Observer, ServerPort
from ..constants import (
    DELETED,
    DONE,
    EVICTED,
    FAILED,
    OUTCOMES,
    REFUSE,
    RETURNED,
    SHRINK_THRESHOLD,
)
from ..context import current_instance
from ..full import TableFull
from .instance import ApplicationInstance
from .table import InstanceTable, shrink


class FastPath:
    """Base of InstanceManager: the usual course of evictions and of ends of runs."""

    def __init__(self, base: type[ServerPort]) -> None:
        #: StatelessServer, which tells what is overridden. Its module imports this one.
        self.base = base
        self.table = InstanceTable()
        self.observer: Observer | None = None
        self.counts = dict.fromkeys(
            ("evicted", "expired", "finished", "failed", "cancelled", "orphaned", "undelivered", "interrupted"), 0
        )
        #: Runs that go on after their entry has left the table: when each is cancelled once more, in seconds of the
        #: monotonic clock; or a Closing, where somebody waits for its end.
        self.closing: dict[Any, Any] = {}
        #: The youngest closing run of an id.
        self.closing_ids: dict[Hashable, Any] = self.table.closing_ids
        #: Runs that were cancelled twice and go on.
        self.ignoring_cancel: set[Any] = set()
        self.unstarted: dict[ApplicationInstance, None] = {}
        #: Of `note_overrides`: whether the delete methods are the base's, and whether the hook for ends is overridden.
        self.plain = self.hears = False
        #: Set while the server stops: called when a run has ended.
        self.on_ended: Callable[[], object] | None = None
        self._cancel_timer: asyncio.TimerHandle | None = None
        self._cancel_timer_loop: asyncio.AbstractEventLoop | None = None
        #: The most closing runs since there were none.
        self._peak_size = 0

    if TYPE_CHECKING:
        # InstanceManager has the unusual courses.

        def _make_room_slow(self, server: ServerPort, limit: int) -> None: ...

        def _end_slow(self, server: ServerPort, entry: Any) -> None: ...

        def _ended_slow(self, instance: ApplicationInstance) -> None: ...

        def report(self, server: ServerPort, entry: Any) -> None: ...

        def _connection_failed(self, instance: ApplicationInstance) -> None: ...

        def _set_cancel_timer(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None: ...

        def _let_go(self, closing: Any) -> None: ...

    # What is usual

    def make_room(self, server: ServerPort, limit: int) -> None:
        """Evict until there is room for one more.

        Raises:
            TableFull: the policy is "refuse", and no instance has ended.
        """
        table = self.table
        table.follow(server)
        if not self.is_plain(server):
            self._make_room_slow(server, limit)
            return
        # The delete methods need not be called if they are not overridden.
        asking = current_instance()
        if asking is not None and asking._server is not server:
            asking = None
        while len(table._entries) >= limit:
            victim = table.victim(asking)
            if victim is None:
                return
            live = not victim.ended
            if live and server.eviction_policy == REFUSE:
                raise TableFull(limit)
            if live:
                victim._reason = EVICTED
            self.end_entry(server, victim)
            self.counts["evicted"] += live

    def is_plain(self, server: ServerPort) -> bool:
        """Return whether the delete methods are not overridden."""
        cls = type(server)
        base = self.base
        return (
            cls.delete_oldest_application_instance is base.delete_oldest_application_instance
            and cls.delete_application_instance is base.delete_application_instance
            and "delete_oldest_application_instance" not in server.__dict__
            and "delete_application_instance" not in server.__dict__
        )

    def hears_of_ends(self, server: ServerPort) -> bool:
        """Return whether the hook for ends of runs is overridden."""
        return (
            type(server).application_ended is not self.base.application_ended or "application_ended" in server.__dict__
        )

    def note_overrides(self, server: ServerPort) -> None:
        """Note for `connected_ended` what of the server is overridden."""
        self.plain = self.is_plain(server)
        self.hears = self.hears_of_ends(server)

    def end_entry(self, server: ServerPort, entry: Any) -> None:
        """Remove the entry, cancel its run and report it. Does not wait; see `delete_entry()`."""
        self.table.remove(entry)
        if type(entry) is ApplicationInstance and entry._state == DONE and self.observer is None:
            self._tell(server, entry)
            return
        if not entry._reason and not entry.ended:
            entry._reason = DELETED
        if (
            type(entry) is not ApplicationInstance
            or self.observer is not None
            or (loop := entry._loop) is None
            or loop.is_closed()
            or entry in self.closing
        ):
            self._end_slow(server, entry)
            return
        self._close(server, entry, loop)

    def _close(self, server: ServerPort, instance: ApplicationInstance, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel the run of an instance that has left the table."""
        self.closing[instance] = deadline = float(time.monotonic() + server.shutdown_timeout)
        self._peak_size = max(self._peak_size, len(self.closing))
        timer = self._cancel_timer
        if timer is None or loop is not self._cancel_timer_loop or timer.cancelled():
            self._set_cancel_timer(loop, deadline)
        if instance._predecessor is None:
            self.closing_ids[instance._scope_id] = instance
        if instance._call is not None:
            instance._call.cancel()
        if instance._task is not None:
            instance._task.cancel()

    def ended(self, instance: ApplicationInstance) -> None:
        """Count and report the end of a run; called by each run of an instance in its last step."""
        outcome = instance._outcome
        if outcome == FAILED or self.observer is not None:
            self._ended_slow(instance)
            return
        self.counts[OUTCOMES[outcome]] += 1
        if instance._table is not None:
            instance._table._add_finished(instance)
        else:
            self._closed(instance._server, instance)
        if self.on_ended is not None:
            self.on_ended()

    def connected_ended(self, instance: ApplicationInstance) -> None:
        """Do as `ended` where scopes have a `Connection`: it is told, and the instance leaves the table at once."""
        connection = getattr(instance.scope, "connection", None)
        if connection is not None:
            try:
                connection.application_ended(instance)
            except Exception:
                # Whatever is wrong with the connection, the instance must leave the table.
                self._connection_failed(instance)
        table = instance._table
        if table is not None and self.plain:
            table.remove(instance)
            quiet = self.observer is None and self.on_ended is None
            if quiet and instance._outcome == RETURNED and not instance.qsize() and not self.hears:
                # All that `ended` does for a run with nothing to report.
                self.counts["finished"] += 1
                instance._reported = True
                return
        FastPath.ended(self, instance)

    def _closed(self, server: ServerPort, entry: Any) -> None:
        """Note the end of a closing run."""
        closing = self.closing.pop(entry, None)
        if self.ignoring_cancel:
            self.ignoring_cancel.discard(entry)
        if closing is not None:
            scope_id = entry._scope_id
            if self.closing_ids.get(scope_id) is entry:
                del self.closing_ids[scope_id]
            if not isinstance(closing, float):
                self._let_go(closing)
            if self._peak_size > SHRINK_THRESHOLD and not self.closing:
                self._peak_size = 0
                shrink(self.closing)
                shrink(self.closing_ids)
        self._tell(server, entry)
        if self.on_ended is not None:
            self.on_ended()

    def _tell(self, server: ServerPort, entry: Any) -> None:
        """Report an entry that has ended and left the table, if there is anything to tell of it."""
        if (
            type(entry) is ApplicationInstance
            and not entry._items
            and entry._error is None
            and entry._joiners is None
            and entry._watchers is None
            and not entry._interrupted
            and self.observer is None
            and not self.hears_of_ends(server)
        ):
            entry._unfinished = 0
            entry._reported = True
        else:
            self.report(server, entry)

"""How entries leave the table: evicted or deleted, through overrides of the delete methods, plain and asynchronous."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Any

from .._common.guarding import INTERRUPTS, Guard
from .._types import ServerPort
from ..core import ApplicationInstance, ForeignEntry
from ..core.constants import DELETED, EVICTED, REASONS, REFUSE
from ..core.context import PendingDeletion, current_instance, deleting, outside
from ..core.full import TableFull
from ..core.tasks import leave_pending
from .deletion import Deletion
from .hooks import logger
from .reporting import look_at
from .threads import Feeding

#: How many refusals of overrides are accepted before making room ignores the overrides.
REFUSALS = 16


class Removal(Feeding):
    """Makes room and deletes entries, through overrides of the delete methods."""

    def __init__(self, base: type[ServerPort]) -> None:
        super().__init__(base)
        #: The tasks of asynchronous overrides of delete methods, with what ends each; and overrides that wait for a
        #: loop.
        self.overrides: dict[asyncio.Task[None], Callable[[], None]] = {}
        #: Entries that have left the table and whose runs go on, since an asynchronous override has yet to delete them.
        self.spared: set[Any] = set()
        self._deferred: list[Callable[[], Any]] = []
        self._victim: Any = None
        self._making_room = 0
        self._refusals = 0
        self._warned_of_refusal = False

    def _make_room_slow(self, server: ServerPort, limit: int) -> None:
        """Make room when delete methods are overridden."""
        table = self.table
        # An override may itself create instances, and so make room again: the refusals of all count together.
        if not self._making_room:
            self._refusals = 0
        self._making_room += 1
        try:
            while table.size() >= limit:
                victim = table.victim(self.asking(server))
                if victim is None:
                    return
                before = table.size()
                live = not victim.ended
                if live and server.eviction_policy == REFUSE:
                    raise TableFull(limit)
                if live:
                    victim._reason = EVICTED
                since = time.time()
                if self._refusals >= REFUSALS or self._making_room > REFUSALS:
                    self.end_entry(server, victim)
                else:
                    self._evict(server, victim)
                if table.size() < before:
                    self.counts["evicted"] += live
                    continue
                if victim._table is not None:
                    victim._reason = 0
                self._refusals += 1
                self._warn_of_refusal(victim.scope_id)
                table.keep(victim, since)
        finally:
            self._making_room -= 1

    def _warn_of_refusal(self, scope_id: Hashable) -> None:
        if not self._warned_of_refusal:
            self._warned_of_refusal = True
            logger.warning(
                "making room: an override of delete_application_instance or delete_oldest_application_instance"
                " did not delete scope_id %r, which is passed over",
                scope_id,
            )

    @staticmethod
    def asking(server: ServerPort) -> ApplicationInstance | None:
        """Return the instance of this server whose application is running now."""
        instance = current_instance()
        return instance if instance is not None and instance._server is server else None

    def _evict(self, server: ServerPort, victim: Any) -> None:
        self._victim = victim
        try:
            result: Any = server.delete_oldest_application_instance()
        except INTERRUPTS:
            raise
        except BaseException:
            logger.exception("delete_oldest_application_instance raised, making room")
            return
        finally:
            self._victim = None
        if type(result) is not Deletion and inspect.isawaitable(result):
            self.table.remove(victim)
            self._override(server, result, victim, oldest=True)

    def delete_oldest(self, server: ServerPort) -> Deletion:
        """Do what delete_oldest_application_instance does unless it is overridden."""
        self.table.check_thread()
        pending = deleting.get()
        if pending is not None and pending.oldest and not pending.over and pending.table is self.table:
            pending.oldest = False
            return self.dismiss(server, pending.entry, EVICTED)
        victim, self._victim = self._victim, None
        if victim is not None:
            return self.dismiss(server, victim, EVICTED)
        self.table.follow(server)
        victim = self.table.victim(self.asking(server))
        if victim is None:
            return Deletion(False)
        live = not victim.ended
        deletion = self.dismiss(server, victim, EVICTED)
        if victim._table is None:
            self.counts["evicted"] += live
        return deletion

    def dismiss(self, server: ServerPort, entry: Any, reason: int = DELETED) -> Deletion:
        """Remove an entry by `delete_application_instance`, overridden or not.

        A plain override may refuse, and so leave it in the table.
        """
        if not entry.ended:
            entry._reason = reason
        try:
            result: Any = server.delete_application_instance(entry.scope_id)
        except INTERRUPTS:
            raise
        except BaseException:
            logger.exception("delete_application_instance(%r) raised", entry.scope_id)
            result = None
        if type(result) is not Deletion and result is not None and inspect.isawaitable(result):
            self.table.remove(entry)
            return self._override(server, result, entry, oldest=False)
        gone = entry._table is None
        if not gone:
            entry._reason = 0
        return result if type(result) is Deletion else Deletion(gone)

    def _override(self, server: ServerPort, awaitable: Awaitable[Any], entry: Any, oldest: bool) -> Deletion:
        """Run an asynchronous override for an entry that has just left the table."""
        pending = PendingDeletion(self.table, entry, oldest)
        self.table._pending_deletions += 1
        self.spared.add(entry)
        context = outside()
        context.run(deleting.set, pending)
        started: list[asyncio.Task[None]] = []

        def start() -> None:
            finishing = self._finish_override(server, awaitable, pending)
            task = context.run(asyncio.get_running_loop().create_task, finishing)
            self.overrides[task] = partial(self._override_over, server, pending)
            task.add_done_callback(partial(self._override_ended, server, awaitable, pending))
            started.append(task)

        if asyncio._get_running_loop() is None:
            self._deferred.append(start)
        else:
            start()

        async def wait() -> None:
            for task in started:
                if task in self.overrides and task is not asyncio.current_task() and not self._own(entry):
                    await asyncio.wait({task}, timeout=server.shutdown_timeout)

        return Deletion(True, wait)

    async def _finish_override(self, server: ServerPort, awaitable: Awaitable[Any], pending: PendingDeletion) -> None:
        guard = Guard()
        try:
            await awaitable
        except BaseException as error:
            if guard.interrupted(error):
                raise
            logger.exception("an asynchronous override that deletes scope_id %r raised", pending.entry.scope_id)
        finally:
            self._override_over(server, pending)

    def _override_ended(
        self, server: ServerPort, awaitable: Awaitable[Any], pending: PendingDeletion, task: asyncio.Task[None]
    ) -> None:
        self.overrides.pop(task, None)
        if task.cancelled():
            close = getattr(awaitable, "close", None)
            if close is not None:
                close()
            logger.error("an asynchronous override that deletes scope_id %r was cancelled", pending.entry.scope_id)
        else:
            look_at(task)
        # A task that is cancelled before its first step runs nothing of its coroutine.
        self._override_over(server, pending)

    def _override_over(self, server: ServerPort, pending: PendingDeletion) -> None:
        if pending.over:
            return
        pending.over = True
        self.spared.discard(pending.entry)
        pending.table._pending_deletions -= 1
        if not pending.deleted:
            self.delete_entry(server, pending.entry)

    def delete(self, server: ServerPort, scope_id: Hashable) -> Deletion:
        """Do what delete_application_instance does unless it is overridden."""
        self.table.check_thread()
        pending = deleting.get()
        if pending is not None and pending.matches(self.table, scope_id):
            if pending.deleted:
                return Deletion(False)
            pending.deleted = True
            self.spared.discard(pending.entry)
            pending.visible = False
            return self.delete_entry(server, pending.entry)
        entry = self.table.entry(scope_id)
        if entry is None:
            return Deletion(False)
        return self.delete_entry(server, entry)

    def delete_entry(self, server: ServerPort, entry: Any) -> Deletion:
        """Remove the entry, cancel its run and report it. Does not wait, but what it returns does if awaited."""
        self.end_entry(server, entry)
        if entry not in self.closing:
            return Deletion(True)
        return Deletion(True, partial(self._wait_unless_own, entry, server.shutdown_timeout))

    def dismiss_all(self, server: ServerPort, reason: int) -> None:
        """Dismiss all that are in the table now."""
        for entry in self.table.entries():
            if entry._table is not None:
                self.dismiss(server, entry, reason)

    def delete_all(self, server: ServerPort, reason: int) -> set[asyncio.Task[Any]]:
        """Delete all that are in the table now, whatever overrides say; return the tasks that still run."""
        tasks = set()
        for entry in self.table.entries():
            if not entry.ended:
                entry._reason = reason
            self.delete_entry(server, entry)
            task: asyncio.Task[Any] | None = getattr(entry, "_task", None)
            if task is not None and not task.done():
                tasks.add(task)
        return tasks

    def _end_slow(self, server: ServerPort, entry: Any) -> None:
        """End the run of an entry that has just left the table."""
        own = type(entry) is ApplicationInstance
        if own and self.observer is not None:
            self.observer.left(entry, REASONS[entry._reason])
        if entry.ended:
            self.report(server, entry)
        elif entry in self.closing:
            return
        elif not own:
            self._close_foreign(server, entry)
        elif entry._loop is None:
            self.unstarted.pop(entry, None)
            if entry._placeholder is not None:
                entry._placeholder.cancel()
            entry._finish(asyncio.CancelledError(), None)
        elif entry._loop.is_closed():
            self._abandon(entry)
        else:
            self._close(server, entry, entry._loop)

    def _close_foreign(self, server: ServerPort, entry: ForeignEntry) -> None:
        future = entry.details.get("future")
        if not asyncio.isfuture(future) or future.get_loop().is_closed():
            cancel = getattr(future, "cancel", None)
            if callable(cancel) and not asyncio.isfuture(future):
                cancel()
            self.report(server, entry)
            return
        self.closing[entry] = deadline = float(time.monotonic() + server.shutdown_timeout)
        self._set_cancel_timer(future.get_loop(), deadline)
        self.closing_ids[entry.scope_id] = entry
        entry._watched = future
        future.add_done_callback(lambda _: self._closed(server, entry))
        future.cancel()

    def _end_stale_overrides(self) -> None:
        """End the overrides whose loop was closed before they ended."""
        for task, over in list(self.overrides.items()):
            if task.get_loop().is_closed():
                del self.overrides[task]
                leave_pending(task)
                over()

    def _begin_deferred(self) -> None:
        """Start the overrides that waited for a loop."""
        deferred, self._deferred = self._deferred, []
        for start in deferred:
            start()

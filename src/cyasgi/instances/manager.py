"""The manager of a server's entries: made, evicted, deleted, renewed, seen off, reported."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Hashable
from concurrent import futures
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from .._common.guarding import INTERRUPTS, Guard
from .._common.lost_time import (
    PASS,
    LostTime,
    ServedTimer,
)
from ..asgi_compat import as_single_callable
from ..core import ApplicationInstance, FastPath, ForeignEntry, InstanceTable, Pass
from ..core.constants import (
    AUTO,
    CANCELLED,
    DELETED,
    DONE,
    EVICTED,
    FAILED,
    HELD,
    IDLE,
    NEW,
    ORPHANED,
    OUTCOMES,
    REASONS,
    RETURNED,
    SUCCESSOR,
)
from ..core.context import (
    PendingDeletion,
    current_instance,
    deleting,
    origin,
    outside,
)
from ..core.placeholder import follow
from ..core.settings import INTERVAL_LEAST, clamped_interval
from ..core.tasks import resolved
from ..serving.control import Control
from .deletion import Deletion
from .held import HeldInstances
from .hooks import Reports, logger
from .pacing import (
    Pace,
    pace_of_round,
    share_of,
)
from .succession import (
    delete_with_successor,
    hand_over,
    heir_of,
    left_to_successor,
)
from .untold import LoopEnd

if TYPE_CHECKING:
    from .._types import Application
    from ..server import StatelessServer
    from ..serving.running import ServerRun


class Observer(Protocol):
    """Who is told of every own instance, by calls from within: `ManagedServer`'s records."""

    def counted(self, application: Application) -> Application:
        """The application, as it is to be called instead."""

    def left(self, instance: Any) -> None:
        """It has left the table by the server's hand; its `_reason` says why, if its run has not ended."""

    def kept(self, instance: Any) -> None:
        """It was idle, or there, for too long, and an override has refused to delete it."""

    def ended(self, instance: Any) -> None:
        """Its run has ended."""

    def closed(self, instance: Any) -> None:
        """Both: nothing more will happen to it."""

    def begins_again(self, instance: Any) -> None:
        """A caller calls it again after its end."""


#: Victims whose override may refuse before making room goes over its head.
REFUSALS = 16
#: Seconds between two rounds of a checker that nothing but the end of a run concerns: it costs what an idle loop costs.
UNEVENTFUL = 1.0
#: Entries that the checker sees off between two looks at the time.
ENTRIES_AT_ONCE = 16


class Closing:
    """A run that goes on after its entry has left the table, and for whose end somebody waits."""

    __slots__ = ("deadline", "successors", "timer", "waiters")

    def __init__(self, deadline: float) -> None:
        #: When it is cancelled once more, in seconds of the monotonic clock.
        self.deadline = deadline
        self.waiters: list[asyncio.Future[None]] = []
        #: Instances of the same id that start when it has ended.
        self.successors: list[ApplicationInstance] = []
        self.timer: ServedTimer | None = None


class InstanceManager(FastPath):
    """All that a StatelessServer keeps about its instances, the table aside. Refers to no server: instances do."""

    def __init__(self) -> None:
        super().__init__()
        self.loop_end = LoopEnd(self)
        self.reports = Reports(self.loop_end)
        self.held = HeldInstances()
        #: Tasks in which asynchronous overrides of delete methods run, with what ends each, and overrides that wait for
        #: a loop.
        self.overrides: dict[asyncio.Task[None], Callable[[], None]] = {}
        self._deferred: list[Callable[[], Any]] = []
        #: The loop that instances were last made in.
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._victim: Any = None
        self._making_room = 0
        self._refusals = 0
        self._warned_of_refusal = False
        #: Messages from other threads that wait for room, by what tells of them.
        self._fed: dict[futures.Future[None], tuple[ApplicationInstance, Any]] = {}
        self._sleepers: dict[asyncio.Future[None], None] = {}
        #: What the loop of the checker has lost.
        self.lost = LostTime()
        #: Seconds between the moment when a run was cancelled and its deadline, at most.
        self._longest_cancel_delay = 0.0
        #: What other threads ask of the server.
        self.control = Control()
        #: The arun() at work.
        self.server_run: ServerRun | None = None

    def __reduce__(self) -> Any:
        """Copy or pickle the entries alone, as a copy of the reference does; nothing that is under way."""
        return _restored, (self.table,)

    # Making

    def obtain(self, server: StatelessServer, scope_id: Hashable, scope: Any) -> Any:
        """The slow half of get_or_create: whatever a touch does not settle."""
        table = self.table
        table.check_thread()
        self._check_run(scope_id)
        entry = table.entry(scope_id)
        loop = asyncio._get_running_loop()
        if loop is not None and self.unstarted:
            self.adopt(loop)
        if entry is not None:
            queue = self._usable(entry, loop)
            if queue is not None:
                return queue
        self._check_home(scope_id, loop)
        single = self._asgi3_app(server)
        table.follow(server)
        instance = ApplicationInstance(server, single, scope_id, scope, server.max_queue_size)
        if self.closing_ids and scope_id in self.closing_ids:
            self._follow(instance, self.closing_ids[scope_id], server.shutdown_timeout)
        if loop is not None:
            self._be_at_home(server, loop)
            instance._start(loop)
        # Built: only now somebody may lose its place for it.
        left: list[Any] = []
        try:
            if entry is not None and entry._table is table:
                left = left_to_successor(server, entry)
                self.dismiss(server, entry)
                self.delete_entry(server, entry)
            limit = server.max_applications
            if limit is not None and table.size() >= limit:
                self.make_room(server, limit)
            # An override may have asked for the same id.
            other = table.entry(scope_id)
            queue = None if other is None else self._usable(other, loop)
        except BaseException:
            self._unmake(instance)
            hand_over(self, server, entry, left)
            raise
        if queue is not None:
            self._unmake(instance)
        else:
            if other is not None:
                self.delete_entry(server, other)
            queue = instance
            table.add(instance)
            table.created += 1
            if loop is None:
                self.unstarted[instance] = None
                # The next instance that a loop asks for comes this way, and has this one started.
                table.loop = None
        hand_over(self, server, entry, left)
        return queue

    def _asgi3_app(self, server: StatelessServer) -> Application:
        """The server's application as it is called."""
        table = self.table
        single: Application | None = table.asgi3_app
        if single is None or server.application is not table.application:
            single = as_single_callable(server.application, server.tells_asgi_version)
            if self.observer is not None:
                single = self.observer.counted(single)
            table.asgi3_app, table.application = single, server.application
        return single

    def _be_at_home(self, server: StatelessServer, loop: asyncio.AbstractEventLoop) -> None:
        """Instances are made in this loop and this thread from now on."""
        table = self.table
        if self._loop is None or self._loop() is not loop:
            self._loop = weakref.ref(loop)
            self.end_stale(server)
        if table.loop is not loop or table.home != threading.get_ident():
            table.loop = None if loop.get_debug() else loop
        table._thread, table._guarded_loop = (threading.get_ident(), loop) if loop.get_debug() else (0, None)

    def _check_home(self, scope_id: Hashable, loop: asyncio.AbstractEventLoop | None) -> None:
        """Refuse to make an instance in another thread than the one that the server's event loop runs in."""
        run = self.server_run
        homes = (None if self._loop is None else self._loop(), None if run is None else run.loop)
        if any(home is not None and home is not loop and home.is_running() for home in homes):
            raise RuntimeError(
                f"scope_id {scope_id!r} has no instance, and is asked for in another thread than that of the server's"
                " event loop: make it there, by loop.call_soon_threadsafe(server.get_or_create_application_instance,"
                " scope_id, scope); an instance that is there is fed from any thread by its put_threadsafe(message)"
            )

    def _check_run(self, scope_id: Hashable) -> None:
        source = origin.get()
        if source is None or not source.intake.over or not source.intake.belongs_to(self):
            return
        if self.server_run is None or self.server_run.intake is source.intake:
            raise RuntimeError(
                f"the server's run is over: scope_id {scope_id!r} was asked for by a task that handle() had started and"
                " that goes on after it, and nobody would run the application"
            )

    def _usable(self, entry: Any, loop: asyncio.AbstractEventLoop | None) -> Any:
        """What get_or_create returns for an entry that is there; None if it has to be renewed."""
        if entry.ended:
            return None
        table = self.table
        if type(entry) is ForeignEntry:
            queue = entry.details.get("input_queue")
            if queue is not None:
                table.touch(entry)
                entry.details["last_used"] = entry._used
                table.reused += 1
            return queue
        if entry._loop is None:
            if entry._placeholder is not None and entry._placeholder.cancelled():
                self.unstarted.pop(entry, None)
                entry._finish(asyncio.CancelledError(), None)
            elif loop is not None:
                self.adopt(loop)
        elif entry._loop is not loop and entry._loop.is_closed():
            self._abandon(entry)
        if entry.ended:
            return None
        table.touch(entry)
        table.reused += 1
        return entry

    @staticmethod
    def _unmake(instance: ApplicationInstance) -> None:
        """An instance that was never entered: its task finds it done at its first step."""
        instance._state = DONE
        instance._open_gate()

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """A loop of this server's runs: starts what waits for one, and ends what belongs to a closed one."""
        if self.unstarted:
            waiting, self.unstarted = self.unstarted, {}
            for instance in waiting:
                placeholder = instance._placeholder
                if placeholder is not None and placeholder.cancelled():
                    instance._finish(asyncio.CancelledError(), None)
                else:
                    instance._start(loop)
                    if placeholder is not None and instance._task is not None:
                        follow(placeholder, instance._task)
        deferred, self._deferred = self._deferred, []
        for start in deferred:
            start()
        self.reports.kick()

    def is_over(self) -> None:
        """An arun() has ended: what it left behind is noticed when it asks for an instance, see `obtain`."""
        self._loop = self.table.loop = None

    def end_stale(self, server: StatelessServer) -> None:
        """End what belongs to a closed loop: the records, also of runs that were closing, asynchronous overrides, and
        messages from other threads that waited for room."""
        for entry in (*self.table.entries(), *self.closing):
            if type(entry) is ForeignEntry:
                if entry.stale and entry in self.closing:
                    self._closed(server, entry)
                elif entry.stale:
                    self.table._add_finished(entry)
            elif not entry.ended and entry._loop is not None and entry._loop.is_closed():
                self._abandon(entry)
        for task, over in list(self.overrides.items()):
            if task.get_loop().is_closed():
                del self.overrides[task]
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                over()
        for accepted, (instance, message) in list(self._fed.items()):
            if instance._loop is not None and instance._loop.is_closed():
                del self._fed[accepted]
                self.put_after_end(instance, message)
                accepted.set_result(None)

    @staticmethod
    def _abandon(instance: ApplicationInstance) -> None:
        """Its loop is closed: the task will never take another step."""
        if instance._task is not None:
            instance._task._log_destroy_pending = False  # type: ignore[attr-defined]
        instance._abandoned()
        if instance._placeholder is not None:
            instance._placeholder.cancel()

    # Ids whose old run still cleans up

    def _closing(self, entry: Any) -> Closing | None:
        """Of a run that is closing, somebody being about to wait for its end; None if it has ended."""
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
        """The successors' wait is over."""
        if closing.timer is not None:
            closing.timer.cancel()
        successors, closing.successors = closing.successors, []
        for instance in successors:
            instance._predecessor = None
            if instance._state in (NEW, AUTO):
                instance._open_gate()

    async def wait_for_predecessor(self, instance: ApplicationInstance) -> None:
        if instance._predecessor is not None:
            await self.wait_closed(instance._predecessor, instance._server.shutdown_timeout)
        instance._predecessor = None

    # Making room and deleting

    def _make_room_slow(self, server: StatelessServer, limit: int) -> None:
        """Where delete methods are overridden."""
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
    def asking(server: StatelessServer) -> ApplicationInstance | None:
        """The instance of this server whose application is at work now."""
        instance = current_instance()
        return instance if instance is not None and instance._server is server else None

    def _evict(self, server: StatelessServer, victim: Any) -> None:
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

    def delete_oldest(self, server: StatelessServer) -> Deletion:
        """The base of delete_oldest_application_instance."""
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

    def dismiss(self, server: StatelessServer, entry: Any, reason: int = DELETED) -> Deletion:
        """An entry leaves by the server's hand: through `delete_application_instance`, overridden or not.

        A plain override that refuses leaves it in the table.
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

    def _override(self, server: StatelessServer, awaitable: Awaitable[Any], entry: Any, oldest: bool) -> Deletion:
        """Runs an asynchronous override for an entry that has just left the table."""
        pending = PendingDeletion(self.table, entry, oldest)
        self.table._pending_deletions += 1
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

    async def _finish_override(
        self, server: StatelessServer, awaitable: Awaitable[Any], pending: PendingDeletion
    ) -> None:
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
        self, server: StatelessServer, awaitable: Awaitable[Any], pending: PendingDeletion, task: asyncio.Task[None]
    ) -> None:
        self.overrides.pop(task, None)
        if task.cancelled():
            close = getattr(awaitable, "close", None)
            if close is not None:
                close()
            logger.error("an asynchronous override that deletes scope_id %r was cancelled", pending.entry.scope_id)
        else:
            _look_at(task)
        # A task that is cancelled before its first step runs nothing of its coroutine.
        self._override_over(server, pending)

    def _override_over(self, server: StatelessServer, pending: PendingDeletion) -> None:
        if pending.over:
            return
        pending.over = True
        pending.table._pending_deletions -= 1
        if not pending.deleted:
            self.delete_entry(server, pending.entry)

    def delete(self, server: StatelessServer, scope_id: Hashable) -> Deletion:
        """The base of delete_application_instance."""
        self.table.check_thread()
        pending = deleting.get()
        if pending is not None and pending.matches(self.table, scope_id):
            if pending.deleted:
                return Deletion(False)
            pending.deleted = True
            pending.visible = False
            return self.delete_entry(server, pending.entry)
        entry = self.table.entry(scope_id)
        if entry is None:
            return Deletion(False)
        return self.delete_entry(server, entry)

    def delete_entry(self, server: StatelessServer, entry: Any) -> Deletion:
        """Takes this very entry out of the table, ends its run and reports it."""
        self.end_entry(server, entry)
        if entry not in self.closing:
            return Deletion(True)
        return Deletion(True, partial(self._wait_unless_own, entry, server.shutdown_timeout))

    def _end_slow(self, server: StatelessServer, entry: Any) -> None:
        """For an entry that has just left the table."""
        own = type(entry) is ApplicationInstance
        if own and self.observer is not None:
            self.observer.left(entry)
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

    def _close_foreign(self, server: StatelessServer, entry: ForeignEntry) -> None:
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

    # The end of a run

    def _ended_slow(self, instance: ApplicationInstance) -> None:
        """A run that failed, or one that is observed, has ended."""
        self.counts[OUTCOMES[instance._outcome]] += 1
        if self.observer is not None:
            self.observer.ended(instance)
        if instance._outcome == FAILED and instance._begun and instance._task is not None:
            # A hook is told of it, if it is no KeyboardInterrupt or SystemExit: these go their own way.
            loop = instance._task.get_loop()
            loop.call_soon(_look_at, instance._task)
            self.loop_end.expect(loop)
        if instance._table is not None:
            instance._table._add_finished(instance)
        else:
            self._closed(instance._server, instance)
        if self.on_ended is not None:
            self.on_ended()

    def _let_go(self, closing: Closing) -> None:
        """Those who wait for the end of a run that has ended."""
        if closing.successors or closing.timer is not None:
            self._release(closing)
        for waiter in closing.waiters:
            resolved(waiter)

    def report(self, server: StatelessServer, entry: Any, *, again: bool = False) -> None:
        """Tells the hooks of an entry that has ended and left the table, or (`again`) begins again."""
        if entry._reported:
            return
        entry._reported = True
        interrupted: tuple[Any, ...] = ()
        if type(entry) is ForeignEntry:
            outcome, error, messages = _foreign_outcome(entry)
            if error is not None:
                self.counts["failed"] += 1
        else:
            outcome, error, messages = entry._outcome, entry._error, entry._leftover()
            if error is not None:
                entry._error = None
            interrupted = entry.in_flight
            if interrupted:
                self.counts["interrupted"] += len(interrupted)
                entry.setdefault("in_flight", interrupted)
        if error is not None:
            self.reports.exception(server, error, entry.public)
        if messages:
            self.undelivered(server, messages, entry)
        if not again:
            untold = interrupted and error is None and not messages
            if untold or self._hears_of_ends(server):
                self.reports.ended(server, entry.public, REASONS[entry._reason or outcome])
        if self.observer is not None and not again and type(entry) is ApplicationInstance:
            self.observer.closed(entry)

    def undelivered(self, server: StatelessServer, messages: list[Any], entry: Any) -> None:
        self.counts["undelivered"] += len(messages)
        self.reports.undelivered(server, messages, entry.public)

    def put_after_end(self, instance: ApplicationInstance, message: Any) -> None:
        """A message put on an instance that has ended."""
        if instance._reported:
            heir = heir_of(self, instance)
            if heir is not None:
                heir._inherit([message], first=False)
                return
            self.counts["undelivered"] += 1
            self.reports.undelivered_late(instance._server, message, instance)
        else:
            instance._keep(message)

    def call_again(self, instance: ApplicationInstance) -> None:
        """A caller's run has ended and the caller calls again: the record is live again."""
        table = self.table
        here = table.entry(instance.scope_id)
        if here is not None and here is not instance:
            raise RuntimeError(f"scope_id {instance.scope_id!r} belongs to a newer instance by now")
        if instance._begun:
            raise RuntimeError(f"the application of scope_id {instance.scope_id!r} was run by the server and has ended")
        server = instance._server
        table.follow(server)
        if here is None:
            limit = server.max_applications
            if limit is not None and table.size() >= limit:
                self.make_room(server, limit)
        else:
            table.remove(instance)
        self.report(server, instance, again=True)
        instance._reported = False
        instance._reason = 0
        instance._state = HELD
        if instance._task is None or instance._task.done():
            instance._start(asyncio.get_running_loop())
        table.add(instance)
        # Not a newcomer.
        table.touch(instance)
        if self.observer is not None:
            self.observer.begins_again(instance)

    # Waiting

    def _own(self, entry: Any) -> bool:
        """Whether the current task is part of the run of this entry."""
        if current_instance() is entry:
            return True
        call = getattr(entry, "_call", None)
        return call is not None and call.task is asyncio.current_task()

    async def _wait_unless_own(self, entry: Any, timeout: float) -> None:
        if not self._own(entry):
            await self.wait_closed(entry, timeout)

    async def wait_closed(self, entry: Any, timeout: float) -> None:
        """Waits for the end of a run that is closing; when the time is over it is cancelled once more."""
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
        """One timer for all that are closing: what has not ended by its deadline is cancelled once more.

        Deadlines are later by what was lost since they were set.
        """
        timer = self._cancel_timer
        if timer is None or timer.cancelled() or loop is not self._cancel_timer_loop:
            self._cancel_timer_loop = loop
            # Weak: the loop keeps the timer, and a server that is dropped meanwhile need not wait for it.
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
            # Behind all the others, who are still to be looked at.
            if self.closing.pop(entry, None) is None:
                continue
            if type(closing) is Closing:
                closing.deadline = math.inf
            self.closing[entry] = closing if type(closing) is Closing else math.inf
            self.cancel_again(entry)

    def cancel_again(self, entry: Any) -> None:
        """For a run that resists: one more cancellation; it stays referenced, and counted, until it ends."""
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

    # The end of a loop

    async def tell_rest(self) -> None:
        """The loop is about to end: tells the hooks what is still to be told, within `shutdown_timeout`."""
        for instance, error in self._take_failures():
            self.reports.exception(instance._server, error, instance)
        await self.reports.finish()

    def log_rest(self) -> None:
        """There is no loop to come: logs what is still to be told."""
        for instance, error in self._take_failures():
            self.reports.add(instance._server, error, instance)
        if self.counts["failed"]:
            for entry in self.table.entries():
                # A next loop's checker would have told of these, or handed them to a successor.
                if type(entry) is ApplicationInstance and entry.ended and entry._outcome == FAILED:
                    messages = entry._leftover()
                    if messages:
                        self.counts["undelivered"] += len(messages)
                        self.reports.add_undelivered(entry._server, messages, entry)
        self.reports.log_rest()

    def _take_failures(self) -> list[tuple[Any, BaseException]]:
        """Instances in the table that have failed, with the errors that no hook has heard of: one has from now on."""
        failures = []
        if self.counts["failed"]:
            for entry in self.table.entries():
                if type(entry) is ApplicationInstance and entry._error is not None:
                    failures.append((entry, entry._error))
                    entry._error = None
        return failures

    def __del__(self) -> None:
        self.log_rest()

    # The checker

    def wake(self) -> None:
        sleepers, self._sleepers = self._sleepers, {}
        for sleeper in sleepers:
            if not sleeper.get_loop().is_closed():
                resolved(sleeper)

    async def nap(self, server: StatelessServer) -> None:
        """Sleeps until a run has ended, or it is time to look for what only time brings about."""
        seconds = clamped_interval(server.application_checker_interval)
        if server.idle_timeout is None and not self.held.holders and not self.held.orphans:
            # There is nothing of the kind; but an idle_timeout may be set at any time.
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
            # What has come meanwhile is read before anybody is found idle.
            await asyncio.sleep(PASS)

    async def sweep(self, server: StatelessServer) -> None:
        """One round of the checker."""
        table = self.table
        interval = clamped_interval(server.application_checker_interval)
        idle_timeout = server.idle_timeout
        unit = interval if idle_timeout is None else max(INTERVAL_LEAST, min(interval, idle_timeout))
        table.set_timeout(idle_timeout, unit)
        # Nobody has overridden what an entry that is deleted passes through: then there is nothing to pass through.
        plain = self._is_plain(server)
        delete: Callable[[Any, Any], object] = self.end_entry if plain else self.dismiss
        if server.undelivered_to == SUCCESSOR:
            plain = False
            delete = partial(delete_with_successor, self, delete)
        seen = rounds = 0
        pace = self._pace(plain)
        # Only what has ended by now: what the hooks below bring about is the next round's.
        for _ in range(table.finished_count()):
            entry = table.pop_finished()
            if entry is None:
                break
            try:
                delete(server, entry)
            except INTERRUPTS:
                raise
            except BaseException:
                # A dict of somebody else's, whose future and queue do what they like.
                logger.exception("the end of scope_id %r could not be seen to", entry.scope_id)
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
        """For those that have ended. To see one off that no override takes its time with costs less than it did to make
        it: a quarter of those that wait, in each pass, is no burden, and keeps up with as many as are made."""
        waiting = self.table.finished_count()
        return Pace(share_of(waiting), waiting // 4 if plain else 0)

    def expire(self, server: StatelessServer, entry: Any, reason: int) -> None:
        """Dismisses an entry that was in the table for too long: IDLE or AGE."""
        live = not entry.ended
        since = time.time()
        self.dismiss(server, entry, reason)
        if entry._table is not self.table:
            self.counts["expired"] += live
            return
        self.table.keep(entry, since)
        if live and self.observer is not None and type(entry) is ApplicationInstance:
            self.observer.kept(entry)

    # From other threads

    def put_threadsafe(self, instance: ApplicationInstance, message: Any) -> futures.Future[None]:
        """The future may be cancelled until the message is in hand where it is queued, and not from then on."""
        accepted: futures.Future[None] = futures.Future()
        loop = instance._loop
        if loop is None:
            self._accept(instance, message, accepted)
        else:
            loop.call_soon_threadsafe(self._accept, instance, message, accepted)
        return accepted

    def _accept(self, instance: ApplicationInstance, message: Any, accepted: futures.Future[None]) -> None:
        if not accepted.set_running_or_notify_cancel():
            return
        try:
            instance.put_nowait(message)
        except asyncio.QueueFull as error:
            if instance._loop is None:
                accepted.set_exception(error)
                raise
            # At once, and not in a task's first step: so those who come later stay behind.
            place = instance._line_up()
            self._fed[accepted] = (instance, message)
            place.add_done_callback(partial(self._accept_in_line, instance, message, accepted))
        else:
            accepted.set_result(None)

    def _accept_in_line(
        self, instance: ApplicationInstance, message: Any, accepted: futures.Future[None], place: asyncio.Future[None]
    ) -> None:
        if self._fed.pop(accepted, None) is None:
            return
        if not instance._fill(place, message):
            # It has ended meanwhile.
            instance.put_nowait(message)
        accepted.set_result(None)

    def stats(self) -> dict[str, int]:
        return {
            "live": self.table.size(),
            "idle": self.table.idle,
            "created": self.table.created,
            "reused": self.table.reused,
            **{name: count for name, count in self.counts.items() if name not in ("undelivered", "interrupted")},
            "closing": len(self.closing),
            "undelivered": self.counts["undelivered"],
            "interrupted": self.counts["interrupted"],
        }


def _restored(table: InstanceTable) -> InstanceManager:
    manager = InstanceManager()
    manager.table = table
    manager.closing_ids = table.closing_ids
    return manager


def _cancel_overdue(manager: weakref.ref[InstanceManager]) -> None:
    there = manager()
    if there is not None:
        there.cancel_overdue()


def _look_at(task: asyncio.Task[Any]) -> None:
    """So that asyncio does not complain that nobody ever looked at its exception."""
    if task.done() and not task.cancelled():
        task.exception()


def _foreign_outcome(entry: ForeignEntry) -> tuple[int, BaseException | None, list[Any]]:
    """What became of a plain dict's future, its error, and what is left in the queue."""
    future = entry._watched
    error = None
    outcome = CANCELLED
    messages: list[Any] = []
    try:
        if future is not None and future.done() and not future.cancelled():
            error = future.exception()
            outcome = RETURNED if error is None else FAILED
        queue = entry.details.get("input_queue")
        if isinstance(queue, asyncio.Queue):
            while not queue.empty():
                messages.append(queue.get_nowait())
    except INTERRUPTS:
        raise
    except BaseException:
        logger.exception("what was left of scope_id %r, a plain dict, could not be read", entry.scope_id)
    return outcome, error, messages

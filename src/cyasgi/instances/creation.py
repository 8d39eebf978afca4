"""How instances enter the table: created, adopted by a loop, renewed, or called again."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Hashable
from typing import Any

from .._types import Application, ServerPort
from ..asgi_compat import as_single_callable
from ..core import ApplicationInstance, ForeignEntry
from ..core.constants import DONE, HELD
from ..core.context import origin
from ..core.placeholder import follow
from .held import HeldInstances
from .removal import Removal
from .succession import hand_over, left_to_successor


class Creation(Removal):
    """Creates the instances that the fast path does not create."""

    def __init__(self, base: type[ServerPort]) -> None:
        super().__init__(base)
        self.held = HeldInstances()
        #: The loop in which instances were last created.
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None

    def obtain(self, server: ServerPort, scope_id: Hashable, scope: Any) -> Any:
        """Return the instance of this id, or create one; for all cases that the fast path leaves."""
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
        # The instance is complete, so another one may be evicted for it now.
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
                # Leave the fast path, so that the next instance asked for in a loop has this one started.
                table.loop = None
        hand_over(self, server, entry, left)
        return queue

    def _asgi3_app(self, server: ServerPort) -> Application:
        """Return the server's application as an ASGI 3 callable."""
        table = self.table
        single: Application | None = table.asgi3_app
        if single is None or server.application is not table.application:
            single = as_single_callable(server.application, server.tells_asgi_version)
            if self.observer is not None:
                single = self.observer.counted(single)
            table.asgi3_app, table.application = single, server.application
        return single

    def _be_at_home(self, server: ServerPort, loop: asyncio.AbstractEventLoop) -> None:
        """Create instances in this loop and this thread from now on."""
        table = self.table
        if self._loop is None or self._loop() is not loop:
            self._loop = weakref.ref(loop)
            self.end_stale(server)
        if table.loop is not loop or table.home != threading.get_ident():
            table.loop = None if loop.get_debug() else loop
        table._thread, table._guarded_loop = (threading.get_ident(), loop) if loop.get_debug() else (0, None)

    def _check_home(self, scope_id: Hashable, loop: asyncio.AbstractEventLoop | None) -> None:
        """Refuse to create an instance in another thread than the one that runs the server's event loop."""
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
        """Return what get_or_create returns for an existing entry; None if it has to be renewed."""
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
        """Discard an instance that never entered the table: its task finds it done at its first step."""
        instance._state = DONE
        instance._open_gate()

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start in this loop, which is running, what has waited for one."""
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
        self._begin_deferred()
        self.reports.kick()

    def is_over(self) -> None:
        """Leave the fast path after an arun(), so that `obtain` notices tasks of it that still ask for instances."""
        self._loop = self.table.loop = None

    def end_stale(self, server: ServerPort) -> None:
        """End what belongs to closed loops: instances, closing runs, asynchronous overrides, and messages from other
        threads that wait for room."""
        for entry in (*self.table.entries(), *self.closing):
            if type(entry) is ForeignEntry:
                if entry.stale and entry in self.closing:
                    self._closed(server, entry)
                elif entry.stale:
                    self.table._add_finished(entry)
            elif not entry.ended and entry._loop is not None and entry._loop.is_closed():
                self._abandon(entry)
        self._end_stale_overrides()
        self._end_stale_feeding()

    def call_again(self, instance: ApplicationInstance) -> None:
        """Revive an instance whose caller calls its application again after the run has ended."""
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
        # It is not a new instance.
        table.touch(instance)
        if self.observer is not None:
            self.observer.begins_again(instance)

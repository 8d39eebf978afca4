"""Track the tasks that a server's handle() starts, and end them when the server stops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from ..core import ForeignEntry, Run
from ..core.caller import Call
from ..core.context import at_work, origin
from ..core.stopping import Reason
from ..core.tasks import leave_pending
from ..instances.manager import InstanceManager

#: Seconds between two checks of what does not announce changes: listeners, queues of plain dicts, cancelled tasks.
POLL = 0.05
#: Seconds that a task has to end after it has swallowed its cancellation and waits somewhere else than before.
PAUSE = 1.0

#: Seconds that a task has to pass its own cancellation on to the tasks that it waits for.
HEADWAY = 0.02

#: What a task of a handle() does: receive messages, call an application, or serve a connection.
TAKES, CALLS, CONNECTED = range(3)


class Origin:
    """Which arun() has started a piece of code: a context variable, which all that the code starts inherits."""

    __slots__ = ("by_listener", "intake")

    def __init__(self, intake: Intake, by_listener: bool) -> None:
        self.intake = intake
        #: Whether the code is a listener's protocol, or was started by one.
        self.by_listener = by_listener


class Request:
    """How often, where and by whom a task of the intake was cancelled."""

    __slots__ = ("before", "others", "positions", "reason", "since")

    def __init__(self, task: asyncio.Task[Any], now: float) -> None:
        #: When the task was found, or cancelled last.
        self.since = now
        #: The last cancellation's message; None before the first.
        self.reason: weakref.ref[Reason] | None = None
        #: Where the task was waiting when it was cancelled; at first, when it was found.
        self.positions = [position_of(task)]
        #: How often others had cancelled it by then.
        self.before = task.cancelling()
        #: Whether another task, which waits for this one, has cancelled it.
        self.others = False


class Intake:
    """All tasks and listeners that the handle() of one arun() has started, by whatever means.

    Tasks are recognised by their context, which inherits `origin` from the code that creates them. Tasks of
    applications, of hooks and of the server itself are not included.
    """

    def __init__(self, manager: InstanceManager, loop: asyncio.AbstractEventLoop) -> None:
        self._manager = weakref.ref(manager)
        self._loop = loop
        self.listeners: list[Any] = []
        #: The known tasks that have to end.
        self._requests: dict[asyncio.Task[Any], Request] = {}
        #: Tasks of connections, which carry answers as well: they end after the instances.
        self._connections: set[asyncio.Task[Any]] = set()
        #: Tasks that end when the instances are dismissed, and may then take care of their clients.
        self._callers: set[asyncio.Task[Any]] = set()
        self._callers_end = False
        #: PAUSE, or less if `shutdown_timeout` is short.
        self.pause = PAUSE
        #: Whether the arun() has ended.
        self.over = False

    # Made for each use: if they were kept, they and the intake would form a cycle.

    @property
    def by_handle(self) -> Origin:
        return Origin(self, False)

    @property
    def by_listeners(self) -> Origin:
        return Origin(self, True)

    def belongs_to(self, manager: InstanceManager) -> bool:
        return self._manager() is manager

    def create_task(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> asyncio.Task[Any]:
        """Start a task as a part of the intake; `context` is changed."""
        context.run(origin.set, self.by_handle)
        return context.run(self._loop.create_task, coroutine)

    def scan(self) -> bool:
        """Look for tasks of this intake among all tasks of the loop; return whether there were new ones."""
        manager = self._manager()
        foreign = set()
        if manager is not None and manager.table.foreign:
            foreign = {entry.details.get("future") for entry in manager.table.entries() if type(entry) is ForeignEntry}
        known = len(self._requests) + len(self._connections)
        for task in asyncio.all_tasks(self._loop):
            if type(task.get_coro()) is Run or task in foreign or task in self._requests:
                continue
            role = self._role(task)
            if role == CONNECTED or (role == CALLS and self._by_listener(task)):
                self._connections.add(task)
            elif role is not None:
                self._requests[task] = Request(task, self._loop.time())
        return len(self._requests) + len(self._connections) > known

    def _by_listener(self, task: asyncio.Task[Any]) -> bool:
        context = context_of(task)
        source = None if context is None else context.get(origin)
        return source is not None and source.by_listener

    def _role(self, task: asyncio.Task[Any]) -> int | None:
        """Return what a task of this intake does now; None for tasks of others."""
        context = context_of(task)
        source = None if context is None else context.get(origin)
        if context is None or source is None or source.intake is not self:
            return None
        cell = context.get(at_work)
        if cell is not None:
            # Either it calls an application, or an application has started it, and owns it.
            return CALLS if cell.instance is not None and cell.instance.caller_task is task else None
        manager = self._manager()
        holder = None if manager is None else manager.held.holders.get(task)
        if holder is not None and holder.serves():
            return CALLS
        if getattr(task.get_coro(), "cr_code", None) is Call.run.__code__:
            # A call that has not made its first step.
            return CALLS
        return CONNECTED if source.by_listener else TAKES

    def tasks(self) -> set[asyncio.Task[Any]]:
        """Return the known tasks that have not ended."""
        return {task for task in (*self._requests, *self._connections) if not task.done()}

    def spare_callers(self) -> set[asyncio.Task[Any]]:
        """Return the tasks that call an application, or are about to, and spare them until `end_all`."""
        self._callers = {task for task in self.tasks() if self._role(task) == CALLS}
        return self._callers

    def press(self) -> set[asyncio.Task[Any]]:
        """Cancel the known tasks that have to end by now, or again if they have swallowed that; return all of them."""
        waiting = set()
        for task in list(self._requests):
            role = None if task.done() else self._role(task)
            if role is None:
                del self._requests[task]
            elif self._callers_end or (role != CALLS and task not in self._callers):
                waiting.add(task)
        now = self._loop.time()
        depending = dependants(waiting)
        for task in waiting:
            if self._is_due(task, now, task in depending):
                reason = Reason("the server stops")
                # What it waits for is cancelled with it, for the same reason.
                for one in (task, *waited_for(task)):
                    request = self._requests.get(one)
                    if request is not None:
                        request.positions.append(position_of(one))
                        request.since = now
                        request.reason = weakref.ref(reason)
                task.cancel(reason)
        return waiting

    def _is_due(self, task: asyncio.Task[Any], now: float, depends: bool) -> bool:
        """Return whether a task is to be cancelled now, for the first time or again."""
        request = self._requests[task]
        if request.reason is None:
            # A second cancellation would interrupt what the task does about the first: a task that waits for this one,
            # and passes its own cancellation on, gets the time to do so.
            request.others = request.others or task.cancelling() > request.before
            if request.others:
                # Its effect is not known, but a task that cleans up waits somewhere else.
                return now >= request.since + self.pause and position_of(task) in request.positions
            return not depends or now >= request.since + HEADWAY
        with contextlib.suppress(AttributeError):
            # A task that was cancelled just before a step keeps the message even after it has handled the error.
            if not task._must_cancel:  # type: ignore[attr-defined]
                task._cancel_message = None  # type: ignore[attr-defined]
        if request.reason() is not None or not waited_for(task).isdisjoint(self._requests):
            return False
        # The task has handled the error. If it waits where it did before, it has swallowed it; otherwise it may be
        # cleaning up.
        return position_of(task) in request.positions or now >= request.since + self.pause

    def hurry(self) -> None:
        """Cancel the tasks that are cleaning up."""
        for task, request in self._requests.items():
            if request.reason is not None or request.others:
                task.cancel()

    def end_all(self) -> None:
        """End callers and connections as well from now on."""
        self._callers_end = True
        for task in self._connections:
            self._requests.setdefault(task, Request(task, self._loop.time()))
        self._connections.clear()

    async def ended(self) -> None:
        """Wait until all tasks that have to end by now have ended, including those started meanwhile."""
        while True:
            waiting = self.press()
            if waiting:
                await asyncio.wait(waiting, timeout=POLL)
            elif not self.scan():
                return
            elif self._callers_end:
                self.end_all()

    async def follow(self) -> None:
        """Keep cancelling while any task is known, also callers whose call has ended meanwhile."""
        while self._requests or self._connections:
            self.press()
            await asyncio.sleep(POLL)

    def close(self) -> set[asyncio.Task[Any]]:
        """Forget everything, since the arun() has ended; return the tasks that are still running."""
        self.over = True
        self.listeners.clear()
        self._callers.clear()
        left = self.tasks()
        for task in left:
            leave_pending(task)
        return left


def context_of(task: asyncio.Task[Any]) -> Context | None:
    """Return the context that a task runs in; None if that cannot be found out."""
    get_context = getattr(task, "get_context", None)
    if get_context is not None:
        return get_context()  # type: ignore[no-any-return]
    context = getattr(task, "_context", None)
    if context is not None:
        return context  # type: ignore[no-any-return]
    # Up to 3.11 there is no way to ask, but a task shows the collector what it refers to, its context included.
    return next((one for one in gc.get_referents(task) if type(one) is Context), None)


def position_of(task: asyncio.Task[Any]) -> list[tuple[Any, int]]:
    """Return where the coroutines of a suspended task are, outermost first."""
    position = []
    coroutine: Any = task.get_coro()
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        position.append((frame.f_code, frame.f_lasti))
        coroutine = coroutine.cr_await
    return position


def waited_for(task: asyncio.Task[Any]) -> set[asyncio.Task[Any]]:
    """Return the tasks that a task has awaited or gathered, and that are cancelled when it is, and theirs."""
    found: set[asyncio.Task[Any]] = set()
    waits_for = getattr(task, "_fut_waiter", None)
    for one in (waits_for, *getattr(waits_for, "_children", ())):
        if isinstance(one, asyncio.Task) and not one.done():
            found |= {one, *waited_for(one)}
    return found


def dependants(tasks: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """Return the tasks that are cancelled by another one when that is: awaited, gathered, in a group, in wait_for."""
    found: set[asyncio.Task[Any]] = set()
    for task in tasks:
        found |= waited_for(task)
        for callback, _ in getattr(task, "_callbacks", None) or ():
            owner, function = getattr(callback, "__self__", None), getattr(callback, "func", None)
            # Up to 3.11 wait_for() makes a task.
            if isinstance(owner, asyncio.TaskGroup) or getattr(function, "__name__", "") == "_release_waiter":
                found.add(task)
    return found

"""ApplicationInstance: the life of one instance, the mapping of its details, and an awaitable."""

from __future__ import annotations

import asyncio
import itertools
from asyncio import QueueEmpty, QueueFull
from collections.abc import (
    Coroutine,
    Generator,
    Hashable,
    MutableMapping,
)
from concurrent import futures
from threading import get_ident
from typing import Any

from ..._types import Application, ServerPort
from ..caller import (
    Call,
    HeldApplication,
    InstanceDeleted,
)
from ..constants import (
    CALLER,
    CANCELLED,
    DONE,
    FAILED,
    HELD,
    NEW,
    REASONS,
    RETURNED,
    STATES,
    YIELD_EVERY,
)
from ..in_flight import TakenByTasks
from ..stopping import is_stop
from ..tasks import (
    name_of,
    resolved,
    takes_names,
)
from ..tracking import CANCELLED as CANCELLED_IN_FLIGHT, message_of, tell_all
from .awaitables import Pass, error_of
from .details import Details
from .run import Run
from .sampling import SAMPLER

_MISSING: Any = object()
_puts = itertools.count(1)


class ApplicationInstance(Details):
    """One application instance: its input queue, its details as a mapping, and an awaitable that returns itself.

    Created only by `StatelessServer.get_or_create_application_instance`.

    As a queue it has the methods of `asyncio.Queue`. As a mapping it has the keys `application`, `future`,
    `input_queue`, `last_used` and `scope`, which are attributes as well, and any that callers add. `get()` is the
    queue's, `get(key[, default])` the mapping's. Equality and hash are by identity; it is always true.
    """

    __slots__ = (
        "_application",
        "_begun",
        "_call",
        "_error",
        "_holder",
        "_interrupted",
        "_outcome",
        "_predecessor",
        "_reported",
        "_run",
        "_taken",
    )

    def __init__(
        self, server: ServerPort, application: Application, scope_id: Hashable, scope: Any, maxsize: int
    ) -> None:
        super().__init__(server, scope_id, scope, maxsize)
        self._application = application
        #: 1: its run has begun; 2: and has taken a message from `receive()`, which is known once it has ended.
        self._begun = 0
        self._call: Call | None = None
        self._holder: Any = None
        self._predecessor: ApplicationInstance | None = None
        self._outcome = 0
        self._error: BaseException | None = None
        self._reported = False
        #: What child tasks of the application have in flight, once one of them has called `receive()`.
        self._taken: TakenByTasks | None = None
        #: What was in flight when the run ended, other than by returning.
        self._interrupted: tuple[Any, ...] = ()
        #: The Run, where a task factory made a task of something around it.
        self._run: Run | None = None

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Create the task; raise whatever the loop's task factory raises, with nothing changed."""
        self._start_in(loop, takes_names(loop))
        self._thread = get_ident() if loop.get_debug() else 0

    def _start_in(self, loop: asyncio.AbstractEventLoop, named: bool) -> None:
        run: Any = Run(self)
        if named:
            run._trusted = True
            self._task = loop.create_task(run, name=name_of(self._scope_id))
        else:
            self._task = task = loop.create_task(run)
            if getattr(task, "get_coro", bool)() is not run:
                self._run = run
        self._loop = loop

    def _hold(self, holder: bool) -> None:
        """Hold the instance for whoever awaits it; `holder`: for the current task, which is going to call it."""
        if self._state == NEW:
            self._state = HELD
        if holder and self._state == HELD:
            self._server._cyasgi.held.hold(self)

    def _take_over(self, call: Call) -> None:
        """Leave the run of the application to its caller."""
        if self._state == DONE:
            self._server._cyasgi.call_again(self)
        elif self._begun or self._state == CALLER:
            who = "the server" if self._begun else "another call"
            raise RuntimeError(f"the application of scope_id {self.scope_id!r} is already run by {who}")
        self._state = CALLER
        self._call = call

    async def _predecessor_ended(self) -> None:
        if self._predecessor is not None:
            await self._server._cyasgi.wait_for_predecessor(self)

    def _call_ended(self, call: Call, error: BaseException | None) -> None:
        if self._call is call:
            self._call = None
            self._finish(error, None)
            self._open_gate()

    def _run_of_task(self) -> Run | None:
        """Return the run that the task drives; None if it does not, or not any more."""
        run: Any = self._run
        if run is None:
            run = getattr(self._task, "get_coro", bool)()
        return run if type(run) is Run and run.instance is self else None

    def _interrupt(self, run: Run, error: BaseException | None) -> tuple[Any, ...]:
        """Keep what is in flight in a run that is about to end with this error, or None; return it as it was put."""
        if run._in_flight is not None or (self._taken is not None and self._taken.ever):
            self._begun = 2
        items = self._in_flight(run)
        # Messages that come from `scope.connection` are the connection's affair.
        if error is not None and not self._pulls:
            self._interrupted = tuple(map(message_of, items))
        run._in_flight = self._taken = None
        return items

    def _in_flight(self, run: Run) -> tuple[Any, ...]:
        own = run._in_flight or ()
        return own if self._taken is None else (*own, *self._taken.messages())

    @property
    def _taking(self) -> bool:
        """Whether the application has received any message; known when it has ended."""
        return self._begun == 2

    def _abandoned(self) -> None:
        """End the instance, whose task will take no further step since its loop is closed."""
        run = self._run_of_task()
        items: tuple[Any, ...] = ()
        error = asyncio.CancelledError()
        if run is not None and (run._in_flight is not None or self._taken is not None):
            items = self._interrupt(run, error)
        self._call = None
        self._finish(error, None)
        tell_all(items, CANCELLED_IN_FLIGHT, error)

    def forget(self) -> None:
        """Drop queued messages and those in flight; for callers who learn of the end in another way."""
        self.take_all()
        self._interrupted = ()

    def _run_ended(self, error: BaseException) -> None:
        """End the run of the task; the instance goes on if its caller runs the application."""
        if self._state == CALLER:
            if self._call is not None:
                self._call.cancel()
        elif self._state != DONE:
            self._finish(None if isinstance(error, StopIteration) else error, error)

    def _finish(self, error: BaseException | None, reported: BaseException | None) -> None:
        """End the run. `reported`: the error, if application_exception is to be told of it."""
        self._state = DONE
        if error is None:
            self._outcome = RETURNED
        elif isinstance(error, (asyncio.CancelledError, InstanceDeleted)):
            self._outcome = CANCELLED
        else:
            self._outcome = FAILED
            if reported is not None and not isinstance(error, (KeyboardInterrupt, SystemExit)):
                self._error = error
        self._run = None
        self._set_busy()
        line, self._line = self._line, None
        if line is not None:
            for place in line.places:
                resolved(place)
        # Child tasks wait there, which nobody serves any more.
        while self._getters:
            self._wake_getter()
        if self._holder is not None:
            self._holder.drop(self)
        self._server._cyasgi.ended(self)

    @property
    def server(self) -> Any:
        """The server of the instance."""
        return self._server

    @property
    def outcome(self) -> str | None:
        """How its run has ended: "returned", "failed" or "cancelled"; None while it has not."""
        return REASONS[self._outcome] or None

    @property
    def error(self) -> BaseException | None:
        """The error that it has failed with; None again once a hook is told of it."""
        return self._error

    def take_error(self) -> BaseException | None:
        """Return the error that it has failed with, or None; no hook will be told of it."""
        error = self._error
        if error is not None:
            self._error = None
        return error

    @property
    def caller_task(self) -> asyncio.Task[Any] | None:
        """The task in which a caller runs the application; None if none does."""
        call = self._call
        return None if call is None else call.task

    @property
    def end_reason(self) -> str | None:
        """Why it has ended: "returned", "failed", "cancelled", "idle", "age", "evicted", "deleted", "stopping" or
        "orphaned"; see `StatelessServer.application_ended`. None while it has not."""
        return REASONS[self._reason or self._outcome] if self._state == DONE else None

    @property
    def in_flight(self) -> tuple[Any, ...]:
        """The messages that its application has received but not finished: a message is finished when the application,
        or the child task that has received it, calls `receive()` again. When the application has returned there are
        none; if it has failed or was cancelled they stay here. Usually there is at most one."""
        if self._state == DONE:
            return self._interrupted
        run = self._run_of_task()
        return () if run is None or self._pulls else tuple(map(message_of, self._in_flight(run)))

    @property
    def public(self) -> ApplicationInstance:
        return self

    @property
    def application(self) -> HeldApplication:
        """The server's application as an ASGI 3 callable, for callers that run it themselves."""
        return HeldApplication(self)

    # The queue. These stand here, and not in InputQueue, because inherited C methods are called more slowly.

    def qsize(self) -> int:
        """Return the number of messages in the queue."""
        return len(self._items)

    def empty(self) -> bool:
        return not self._items

    def peek(self) -> Any:
        """Return the oldest message without taking it; None if there is none."""
        return self._items[0] if self._items else None

    def waiting(self) -> int:
        """Return how many wait for a message."""
        return len(self._getters)

    def full(self) -> bool:
        """Return whether `put_nowait` would raise: `maxsize` messages are queued, or somebody who has waited for room
        has yet to put. Never with a `maxsize` of 0."""
        return self._maxsize > 0 and (
            len(self._items) >= self._maxsize or (self._line is not None and self._is_occupied())
        )

    def put_nowait(self, item: Any) -> None:
        """Queue a message.

        On an instance that has ended it goes to `StatelessServer.application_undelivered`.

        Raises:
            asyncio.QueueFull: `maxsize` messages are queued, or somebody who has waited for room has yet to put.
        """
        if self._thread:
            self._check_thread()
        if self._state == DONE:
            self._server._cyasgi.put_after_end(self, item)
            return
        if self._maxsize > 0 and self.full():
            raise QueueFull
        self._items.append(item)
        self._unfinished += 1
        if SAMPLER.cells is not None:
            SAMPLER.put(self, item)
        if self._state <= HELD:
            self._fed()
        if self._getters:
            self._wake_getter()

    def connect(self, direct: bool, pulls: bool = True) -> None:
        """Have the server run the application, fed by the connection of its scope: see `Connection`.

        Args:
            direct: what the application sends goes to the connection, rather than to the server's `application_send`.
            pulls: `receive` asks the connection where the queue is empty; else all messages come through the queue.
        """
        self._pulls = pulls
        self._direct = direct
        if self._state <= HELD:
            self._fed()

    async def put(self, item: Any) -> None:
        """Queue a message, waiting for room if the queue is full; later messages do not overtake it.

        On a queue without a bound it lets the event loop turn once in 64 messages, and queues the message even if it is
        cancelled meanwhile. One that waits for room when a stopping server cancels its handle() is queued as well.
        """
        if self._maxsize <= 0:
            if self._yielding or next(_puts) % YIELD_EVERY == 0:
                # Whoever puts meanwhile does the same, and so stays behind.
                self._yielding += 1
                try:
                    await Pass()
                except asyncio.CancelledError:
                    # Nobody has to make room for the message: it must not be lost for a turn of the loop.
                    self.put_nowait(item)
                    raise
                finally:
                    self._yielding -= 1
        else:
            while self._state != DONE and self.full():
                place = self._line_up()
                try:
                    await place
                except BaseException as error:
                    # A coroutine that is thrown away after its loop was closed has nobody to make room for.
                    if place.cancelled() or not place.get_loop().is_closed():
                        self._leave_line(place)
                    if is_stop(error):
                        self._put_anyway(item)
                    raise
                if self._fill(place, item):
                    return
        self.put_nowait(item)

    def _put_anyway(self, item: Any) -> None:
        """Queue a message, full or not."""
        maxsize, self._maxsize = self._maxsize, 0
        try:
            self.put_nowait(item)
        finally:
            self._maxsize = maxsize

    def get_nowait(self) -> Any:
        """Take the oldest message.

        Raises:
            asyncio.QueueEmpty: there is none.
        """
        if self._thread:
            self._check_thread()
        if not self._items:
            raise QueueEmpty
        return self._take()

    def task_done(self) -> None:
        """Tell `join` that one message taken from the queue has been dealt with.

        Raises:
            ValueError: called more often than messages were put.
        """
        if self._unfinished <= 0:
            raise ValueError("task_done() called too many times")
        self._unfinished -= 1
        if self._unfinished == 0:
            self._release_joiners()

    async def join(self, received: bool = False) -> None:
        """Wait until `task_done` was called for every message put, or until the instance has ended and the rest of its
        queue was handed to `application_undelivered`.

        Args:
            received: wait for the application instead, which need not call `task_done`: until the queue is empty and
                it waits in `receive` for more.
        """
        if received:
            await self._all_received()
        elif self._unfinished > 0:
            joiner = asyncio.get_running_loop().create_future()
            if self._joiners is None:
                self._joiners = []
            self._joiners.append(joiner)
            await joiner

    async def _all_received(self) -> None:
        if self._idle or (self._state == DONE and not self._items):
            return
        watcher = asyncio.get_running_loop().create_future()
        if self._watchers is None:
            self._watchers = []
        self._watchers.append(watcher)
        try:
            await watcher
        finally:
            watchers = self._watchers_now()
            if watcher in watchers:
                watchers.remove(watcher)

    def put_threadsafe(self, item: Any) -> futures.Future[None]:
        """Queue a message from another thread.

        Returns:
            A concurrent.futures.Future, which is done when the message is in the queue; if `maxsize` messages are
            queued, that is when a slot becomes free. If it is cancelled before the event loop handles the message, the
            message is not queued; after that it cannot be cancelled.

        Raises:
            RuntimeError: the instance's event loop is closed; the message was not accepted.
        """
        return self._server._cyasgi.put_threadsafe(self, item)

    def get(self, key: Any = _MISSING, default: Any = None) -> Any:
        """`get()`: return an awaitable that takes the oldest message, and waits if there is none.

        `get(key[, default])`: return the value of a key, as mappings do.
        """
        if key is _MISSING:
            return self._get()
        try:
            return self[key]
        except KeyError:
            return default

    def __repr__(self) -> str:
        state = STATES[self._state]
        return (
            f"<cyasgi.ApplicationInstance {self.scope_id!r} {state}{', idle' if self._idle else ''},"
            f" {len(self._items)} queued>"
        )

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot pickle or copy {self!r}: it belongs to a running task")

    # The awaitable. send, throw and close make a coroutine of it for create_task, gather and TaskGroup.

    def __await__(self) -> Generator[Any, None, ApplicationInstance]:
        return _held(self)

    def send(self, value: None) -> None:
        # A task made of the instance ends at once: it is not the one that is going to call the application.
        self._hold(False)
        raise StopIteration(self)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> None:
        raise error_of(kind, value)

    def close(self) -> None:
        """Do nothing; part of the coroutine protocol."""


MutableMapping.register(ApplicationInstance)
Coroutine.register(ApplicationInstance)


def _held(instance: ApplicationInstance) -> Generator[Any, None, ApplicationInstance]:
    """Yield nothing and return the instance, holding it once the iteration starts."""
    instance._hold(True)
    yield from ()
    return instance

"""ApplicationInstance: the input queue of one application, the mapping of its details, and an awaitable."""

from __future__ import annotations

import asyncio
import collections
import itertools
import math
import time
from asyncio import QueueEmpty, QueueFull
from collections.abc import (
    Coroutine,
    Generator,
    Hashable,
    ItemsView,
    Iterator,
    KeysView,
    MutableMapping,
    ValuesView,
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
    AUTO,
    CALLER,
    CANCELLED,
    DONE,
    FAILED,
    HELD,
    KEYS,
    NEW,
    REASONS,
    RETURNED,
    STATES,
    YIELD_EVERY,
)
from ..in_flight import TakenByTasks
from ..placeholder import make_placeholder
from ..stopping import is_stop
from ..tasks import (
    name_of,
    resolved,
    runs_elsewhere,
    takes_names,
)
from .awaitables import Pass, error_of
from .entry import Entry
from .line import Line
from .run import Run

_MISSING: Any = object()
_puts = itertools.count(1)


class ApplicationInstance(Entry):
    """One application instance: its input queue, its details as a mapping, and an awaitable that gives itself.

    Made by `StatelessServer.get_or_create_application_instance` only.

    As a queue it has what `asyncio.Queue` has; as a mapping the keys `application`, `future`, `input_queue`,
    `last_used` and `scope`, each an attribute too, and any that callers add. `get()` is the queue's,
    `get(key[, default])` the mapping's. Equality and hash are by identity; it is always true.
    """

    __slots__ = (
        "_application",
        "_begun",
        "_call",
        "_direct",
        "_error",
        "_extra",
        "_gate",
        "_getters",
        "_holder",
        "_idle",
        "_interrupted",
        "_items",
        "_joiners",
        "_line",
        "_loop",
        "_maxsize",
        "_outcome",
        "_placeholder",
        "_predecessor",
        "_pulls",
        "_reported",
        "_run",
        "_server",
        "_state",
        "_taken",
        "_task",
        "_thread",
        "_unfinished",
        "_yielding",
        "scope",
    )

    def __init__(
        self, server: ServerPort, application: Application, scope_id: Hashable, scope: Any, maxsize: int
    ) -> None:
        super().__init__(scope_id)
        self._server = server
        self._application = application
        self.scope = scope
        self._maxsize = maxsize
        self._items: collections.deque[Any] = collections.deque()
        self._getters: collections.deque[asyncio.Future[None]] = collections.deque()
        self._line: Line | None = None
        self._joiners: list[asyncio.Future[None]] | None = None
        self._unfinished = 0
        self._state = NEW
        #: 2: it has begun, and has taken a message from `receive()`; known when it has ended.
        self._begun = 0
        self._yielding = 0
        self._idle = False
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._gate: asyncio.Future[None] | None = None
        self._call: Call | None = None
        self._holder: Any = None
        self._predecessor: ApplicationInstance | None = None
        self._outcome = 0
        #: Whether `scope.connection.next_message()` is asked for a message where the queue has none: it gives one, or
        #: None for nothing but to wait.
        self._pulls = False
        #: Whether what the application sends goes to `scope.connection.application_send` rather than to the server's.
        self._direct = False
        self._error: BaseException | None = None
        self._reported = False
        self._placeholder: futures.Future[Any] | None = None
        self._extra: dict[str, Any] | None = None
        #: What child tasks of the application have in flight, once one of them has called `receive()`.
        self._taken: TakenByTasks | None = None
        #: What was in flight when the run ended, other than by returning.
        self._interrupted: tuple[Any, ...] = ()
        #: The Run, where a task factory made a task of something around it.
        self._run: Run | None = None

    # The life of the instance

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Makes the task. Raises whatever the loop's task factory raises, with nothing changed."""
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

    def _open_gate(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            resolved(gate)

    def _hold(self, holder: bool) -> None:
        """Somebody awaits the instance; `holder`: as a part of the current task, which is going to call it."""
        if self._state == NEW:
            self._state = HELD
        if holder and self._state == HELD:
            self._server._cyasgi.held.hold(self)

    def _take_over(self, call: Call) -> None:
        """The caller is going to run the application itself."""
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
        """What the task drives, while it does."""
        run: Any = self._run
        if run is None:
            run = getattr(self._task, "get_coro", bool)()
        return run if type(run) is Run and run.instance is self else None

    def _interrupt(self, run: Run, returned: bool) -> None:
        """A run in which messages were taken is about to end."""
        if run._in_flight is not None or (self._taken is not None and self._taken.ever):
            self._begun = 2
        # Messages that come from `scope.connection` are the connection's affair.
        if not (returned or self._pulls):
            self._interrupted = self._in_flight(run)
        run._in_flight = self._taken = None

    def _in_flight(self, run: Run) -> tuple[Any, ...]:
        own = run._in_flight or ()
        return own if self._taken is None else (*own, *self._taken.messages())

    @property
    def _taking(self) -> bool:
        """Whether the application took a message from `receive()`; known when it has ended."""
        return self._begun == 2

    def _abandoned(self) -> None:
        """The loop is closed: the task will never take another step."""
        run = self._run_of_task()
        if run is not None and (run._in_flight is not None or self._taken is not None):
            self._interrupt(run, False)
        self._call = None
        self._finish(asyncio.CancelledError(), None)

    def _forget(self) -> None:
        """Drops what is queued, and what was in flight: whoever is to hear of the end is told in another way."""
        self._leftover()
        self._interrupted = ()

    def _run_ended(self, error: BaseException) -> None:
        """The task's run is over; not the instance's, if its caller runs the application."""
        if self._state == CALLER:
            if self._call is not None:
                self._call.cancel()
        elif self._state != DONE:
            self._finish(None if isinstance(error, StopIteration) else error, error)

    def _finish(self, error: BaseException | None, reported: BaseException | None) -> None:
        """The one end of every run. `reported`: the error if application_exception is to hear of it."""
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
        # Those in child tasks, whom nobody serves any more.
        while self._getters:
            self._wake_getter()
        if self._holder is not None:
            self._holder.drop(self)
        self._server._cyasgi.ended(self)

    def _last_message(self) -> Any:
        """What `receive()` gives after the end, by the word of the scope's connection; None for nothing."""
        last_message = getattr(getattr(self.scope, "connection", None), "last_message", None)
        return None if last_message is None else last_message()

    def _set_idle(self) -> None:
        if not self._idle and self._state != DONE:
            self._idle = True
            self._active = time.monotonic()
            if self._table is not None:
                self._table._now_idle()

    def _set_busy(self) -> None:
        if self._idle:
            self._idle = False
            if self._table is not None:
                self._table.idle -= 1

    def _keep(self, item: Any) -> None:
        """A message put between the end of the run and the removal of the record."""
        self._items.append(item)
        self._unfinished += 1

    def _leftover(self) -> list[Any]:
        """What is still queued, taken out for application_undelivered; whoever waits in join() is let go."""
        messages = list(self._items)
        self._items.clear()
        self._unfinished = 0
        self._release_joiners()
        return messages

    def _inherit(self, messages: list[Any], first: bool) -> None:
        """Accepts what was put into an instance that has ended, bound or not: `first`, before all that waits here."""
        if first:
            self._items.extendleft(reversed(messages))
        else:
            self._items.extend(messages)
        self._unfinished += len(messages)
        if self._state <= HELD:
            self._fed()
        for _ in messages:
            if self._getters:
                self._wake_getter()

    @property
    def idle(self) -> bool:
        """The queue is empty and somebody waits in `receive`."""
        return self._idle

    @property
    def ended(self) -> bool:
        """Whether its run is over: nothing that is put into the queue from now on will be received."""
        return self._state == DONE

    @property
    def end_reason(self) -> str | None:
        """Why it has ended: "returned", "failed", "cancelled", "idle", "age", "evicted", "deleted", "stopping" or
        "orphaned"; see `StatelessServer.application_ended`. None while it has not."""
        return REASONS[self._reason or self._outcome] if self._state == DONE else None

    @property
    def in_flight(self) -> tuple[Any, ...]:
        """The messages that its application has begun and not finished: taken from `receive()` by the application, or
        by a child task of it, that has not called `receive()` again. When the application has returned there are none;
        when it failed or was cancelled they stay here. Usually there is one at most."""
        if self._state == DONE:
            return self._interrupted
        run = self._run_of_task()
        return () if run is None or self._pulls else self._in_flight(run)

    @property
    def public(self) -> ApplicationInstance:
        return self

    def _check_thread(self) -> None:
        if self._thread != get_ident() and runs_elsewhere(self._loop):
            raise RuntimeError(
                f"the input queue of scope_id {self.scope_id!r} was used from another thread than its event loop's; "
                "use put_threadsafe()"
            )

    @property
    def maxsize(self) -> int:
        """How many messages the queue takes; 0 stands for any number."""
        return self._maxsize

    @property
    def pulls(self) -> bool:
        """Whether `receive` asks the connection of the scope when the queue is empty."""
        return self._pulls

    @property
    def direct(self) -> bool:
        """Whether `send` is the connection's own, and not `application_send`."""
        return self._direct

    # The queue

    def qsize(self) -> int:
        """How many messages are queued."""
        return len(self._items)

    def empty(self) -> bool:
        return not self._items

    def _waiting(self) -> int:
        """How many wait for a message."""
        return len(self._getters)

    def full(self) -> bool:
        """Whether `put_nowait` would raise: `maxsize` messages are queued, or somebody who waited for room has yet to
        put. Never with a `maxsize` of 0."""
        return self._maxsize > 0 and (
            len(self._items) >= self._maxsize or (self._line is not None and self._is_occupied())
        )

    def put_nowait(self, item: Any) -> None:
        """Queues a message.

        On an instance that has ended it goes to `StatelessServer.application_undelivered`.

        Raises:
            asyncio.QueueFull: `maxsize` messages are queued, or somebody who waited for room has yet to put.
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
        if self._state <= HELD:
            self._fed()
        if self._getters:
            self._wake_getter()

    def _connect(self, direct: bool) -> None:
        """The server runs the application, for the connection of its scope: see `pulls` and `direct`."""
        self._pulls = True
        self._direct = direct
        if self._state <= HELD:
            self._fed()

    def _fed(self) -> None:
        self._state = AUTO
        if self._gate is not None:
            self._open_gate()

    def _wake_getter(self) -> None:
        if self._idle:
            self._set_busy()
        getters = self._getters
        while getters and not resolved(getters.popleft()):
            pass

    async def put(self, item: Any) -> None:
        """Queues a message, waiting for room if the queue is full; nobody who puts later overtakes it.

        On a queue without a bound it lets the event loop turn once in 64 messages, and queues the message even if it is
        cancelled meanwhile. One that waits for a slot when a stopping server cancels its handle() is queued as well.
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

    def _line_up(self) -> asyncio.Future[None]:
        """A place in line for who finds the queue full: resolved when it owns a slot, or the instance has ended. Then
        `_fill` is to be called, or `_leave_line` at any time before."""
        if self._thread:
            self._check_thread()
        loop = self._loop
        place = (asyncio.get_running_loop() if loop is None else loop).create_future()
        if self._line is None:
            self._line = Line()
        self._line.places.append(place)
        return place

    def _fill(self, place: asyncio.Future[None], item: Any) -> bool:
        """Queues a message in the slot that the place owns. False where it owns none, because the instance has ended
        meanwhile: then the queue is to be looked at anew."""
        line = self._line
        if line is None or not line.leave(place):
            return False
        self._items.append(item)
        self._unfinished += 1
        if self._state <= HELD:
            self._fed()
        self._advance()
        if self._getters:
            self._wake_getter()
        return True

    def _leave_line(self, place: asyncio.Future[None]) -> None:
        """The place is given up; a slot that it owned is the next one's."""
        place.cancel()
        if self._line is not None:
            self._line.leave(place)
            self._advance()

    def _advance(self) -> None:
        """Those in line get what room there is."""
        line = self._line
        if line is not None:
            line.advance(self._maxsize - len(self._items))
            if not line.places:
                self._line = None

    def _is_occupied(self) -> bool:
        """Whether somebody stands in line. Not those whose loop has been closed, who will never put."""
        while self._line is not None and (place := self._line.places[0]).get_loop().is_closed():
            self._line.leave(place)
            self._advance()
        return self._line is not None

    def get_nowait(self) -> Any:
        """Takes the oldest message.

        Raises:
            asyncio.QueueEmpty: there is none.
        """
        if self._thread:
            self._check_thread()
        if not self._items:
            raise QueueEmpty
        return self._take()

    def _take(self) -> Any:
        item = self._items.popleft()
        if self._line is not None:
            self._advance()
        return item

    def get(self, key: Any = _MISSING, default: Any = None) -> Any:
        """`get()`: an awaitable that takes the oldest message, waiting for one if there is none.

        `get(key[, default])`: the mapping's.
        """
        if key is _MISSING:
            return self._get()
        try:
            return self[key]
        except KeyError:
            return default

    async def _get(self, taker: Any = None) -> Any:
        """`taker`: for `receive()`, the run in whose task it was called, or a Child."""
        # What the application has left is not for a child task that outlives it.
        while not self._items or (taker is not None and taker.instance is None):
            if taker is not None and taker.instance is None:
                last = self._last_message()
                if last is None:
                    raise asyncio.CancelledError
                return last
            if self._pulls:
                message = self.scope.connection.next_message()
                if message is not None:
                    return message
            loop = self._loop
            getter = (asyncio.get_running_loop() if loop is None else loop).create_future()
            self._getters.append(getter)
            if not self._idle:
                self._set_idle()
            try:
                await getter
            except BaseException:
                # A coroutine that is thrown away after its loop was closed has nobody to make room for.
                if getter.cancelled() or not getter.get_loop().is_closed():
                    self._give_up(getter)
                # This frame is part of the traceback, which the task keeps.
                del self, getter, taker
                raise
        item = self._items.popleft()
        if self._line is not None:
            self._advance()
        if taker is not None:
            taker._in_flight = (item,)
        return item

    def _give_up(self, getter: asyncio.Future[None]) -> None:
        """A `get` that waited was cancelled."""
        getter.cancel()
        if getter in self._getters:
            self._getters.remove(getter)
        if self._items and not getter.cancelled():
            self._wake_getter()
        elif not self._getters:
            self._set_busy()

    def task_done(self) -> None:
        """Tells `join` that one message taken from the queue has been dealt with.

        Raises:
            ValueError: called more often than messages were put.
        """
        if self._unfinished <= 0:
            raise ValueError("task_done() called too many times")
        self._unfinished -= 1
        if self._unfinished == 0:
            self._release_joiners()

    def _release_joiners(self) -> None:
        joiners, self._joiners = self._joiners, None
        for joiner in joiners or ():
            resolved(joiner)

    async def join(self) -> None:
        """Waits until `task_done` was called for every message put, or the instance has ended and what was left in
        its queue was handed to `application_undelivered`."""
        if self._unfinished > 0:
            joiner = asyncio.get_running_loop().create_future()
            if self._joiners is None:
                self._joiners = []
            self._joiners.append(joiner)
            await joiner

    def put_threadsafe(self, item: Any) -> futures.Future[None]:
        """Queues a message from another thread.

        Returns:
            A concurrent.futures.Future, done when the message is in the queue; with `maxsize` messages queued that
            is when a slot becomes free. Cancelled before the event loop has taken the message in hand, the message is
            not queued; after that it cannot be cancelled.

        Raises:
            RuntimeError: the instance's event loop is closed; the message was not accepted.
        """
        return self._server._cyasgi.put_threadsafe(self, item)

    # The mapping

    @property
    def application(self) -> HeldApplication:
        """The server's application as a single callable, for callers that run it themselves."""
        return HeldApplication(self)

    @property
    def future(self) -> Any:
        """The task; a concurrent.futures.Future in its place until an event loop has started the instance."""
        if self._task is not None:
            return self._task
        if self._placeholder is None:
            self._placeholder = make_placeholder()
            if self._state == DONE:
                self._placeholder.cancel()
        return self._placeholder

    @property
    def input_queue(self) -> ApplicationInstance:
        return self

    @property
    def last_used(self) -> float:
        """When the instance was last asked for, in seconds since the epoch. What is assigned decides its place in the
        order of eviction, until it is asked for again."""
        return self._used if self._assigned is None else self._assigned[0]

    @last_used.setter
    def last_used(self, value: float) -> None:
        moment = _moment(value)
        if self._table is not None:
            self._table._assign(self, moment)
        else:
            self._used = moment

    def __getitem__(self, key: str) -> Any:
        if key == "input_queue":
            return self
        if key in KEYS:
            return getattr(self, key)
        if self._extra is None:
            raise KeyError(key)
        return self._extra[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key in ("application", "future", "input_queue"):
            raise TypeError(f"{key!r} of an application instance cannot be assigned; 'last_used' and 'scope' can")
        if key == "last_used":
            self.last_used = value
        elif key == "scope":
            self.scope = value
        else:
            if self._extra is None:
                self._extra = {}
            self._extra[key] = value

    def __delitem__(self, key: str) -> None:
        if key in KEYS:
            raise TypeError(f"{key!r} of an application instance cannot be deleted; keys added by callers can")
        if self._extra is None:
            raise KeyError(key)
        del self._extra[key]

    def __iter__(self) -> Iterator[str]:
        return iter((*KEYS, *(self._extra or ())))

    def __len__(self) -> int:
        return len(KEYS) + len(self._extra or ())

    def __contains__(self, key: object) -> bool:
        return key in KEYS or (self._extra is not None and key in self._extra)

    def __bool__(self) -> bool:
        return True

    def keys(self) -> KeysView[str]:
        return KeysView(self)

    def values(self) -> ValuesView[Any]:
        return ValuesView(self)

    def items(self) -> ItemsView[str, Any]:
        return ItemsView(self)

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        if key not in KEYS and (self._extra is None or key not in self._extra):
            if default is _MISSING:
                raise KeyError(key)
            return default
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Removes the key that was added last by a caller; KeyError if there is none."""
        if not self._extra:
            raise KeyError("popitem(): no key was added to this application instance")
        return self._extra.popitem()

    def clear(self) -> None:
        """Removes the keys that callers added."""
        self._extra = None

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *others: Any, **values: Any) -> None:
        for key, value in dict(*others, **values).items():
            self[key] = value

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
        """Nothing to be done: the coroutine protocol's."""


MutableMapping.register(ApplicationInstance)
Coroutine.register(ApplicationInstance)


def _held(instance: ApplicationInstance) -> Generator[Any, None, ApplicationInstance]:
    """An iterator that gives the instance, holding it when it is driven."""
    instance._hold(True)
    yield from ()
    return instance


def _moment(value: Any) -> float:
    """A point of time as `last_used` takes it."""
    try:
        moment = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"last_used={value!r}: accepted is a number of seconds since the epoch") from None
    if isinstance(value, str) or math.isnan(moment):
        raise (TypeError if isinstance(value, str) else ValueError)(
            f"last_used={value!r}: accepted is a number of seconds since the epoch"
        )
    return moment

"""The pure-Python twin of the core: ApplicationInstance and InstanceTable.

Theory of operation
===================

*Instances.* An ApplicationInstance is three things at once: the input queue of one application, the mapping that
details of it are read from, and an awaitable that gives itself. It is in one of five states::

    NEW -----> AUTO -----> DONE        the server runs the application, in `_task`
     |          ^ |
     |      fed | | called, not begun
     v          | v
    HELD ----> CALLER ---> DONE        who awaited the instance runs it
     ^                      |
     +--- CALLER <----------+          a call may be repeated (keep-alive)

NEW: created by a plain call. HELD: awaited before anything was put. AUTO: fed, or one loop pass went by; `_begun` tells
whether the application's first step was made. The task exists from the creation on, so that the first step of an
instance that was fed comes exactly when `asyncio.ensure_future` in the reference would have made it. What the task
drives is a Run: it decides at its first step who runs the application, and sees the end of the run at once, without a
done callback. NEW at the first step: it lets one pass go by, in which `gather` or `create_task` may await the
instance. HELD, CALLER, or a predecessor under the same id still cleaning up: it waits at `_gate`, a future.

*The table.* A dict from scope_id to entry; an entry is an ApplicationInstance or a ForeignEntry, the wrapping of a
plain dict that somebody wrote into the table. Beside the dict:

* `_orders`: natural orders: entries in the order of their use, oldest first. A use moves an entry to the end; no clock
  is involved.
* `_assigned`: the few whose `last_used` was assigned (every foreign dict's was), sorted by that value. A use takes an
  entry back into a natural order. The table's order is the merge of both by `last_used`.
* `_finished`: entries whose run has ended, oldest end first, still in one of the above.
* `_due`: only with an idle timeout: from a point of (monotonic) time, in units of `_unit`, to the entries to be looked
  at then. An entry found to be busy, or idle for less than the timeout, is put where it will be due next, so that a
  sweep looks at those whose time has come and each entry is looked at once per timeout.

*Segments.* Under the policy "lru" there is one segment, number 0: one natural order, one list of assigned. Under "slru"
that one is the protected segment, and number 1 the probation segment; the table's order is the probation segment's
followed by the protected one's, and that is the order in which making room takes entries that are otherwise alike:

* A new entry is the youngest on probation. Used again, that is found alive by a later lookup, it is promoted: it is the
  youngest of the protected segment from then on.
* At most four fifths of `max_applications` are protected: what a promotion has beyond that goes, oldest first, back to
  the young end of the probation segment. So at the limit somebody is on probation, and a newcomer costs no protected
  entry its place, unless that one has ended.
* An assigned `last_used` orders an entry within its segment; one that is set back puts it on probation.

`_place` tells where an entry stands: 0 in the natural order of segment 0, and flags for all the rest, so that the
lookup of a live id asks one question whatever the policy is.

Invariants: an entry is in the dict if and only if its `_table` is the table, and then in exactly one of the `_orders`
and `_assigned`, the one that its `_place` says. `_finished` and `_due` hold only entries that are in the dict. `idle`
counts instances in the dict whose queue is empty while somebody waits in `receive`, `_on_probation` entries in the dict
that are on probation: none under "lru".

*Lifetime.* A run's end severs what refers from the application's side to the instance (its `receive`, the context of
its tasks); then an instance that has left the table is freed by reference counts alone, even while somebody keeps its
task, its exception or that exception's traceback.

*Ends.* Endings is the base of a server's Life: what every eviction passes through, and every end of a run. Here stands
what they come to in the usual case: no method of the server is overridden, nobody observes, the instance is an own one
of a loop that runs, nobody waits for its end. All else is Life's.

*Messages.* Accepted messages leave the queue by `get`, or, once the record has been removed, in one list for the hook
`application_undelivered`. What is put behind that goes to the hook by `_life.late`.
"""

from __future__ import annotations

import asyncio
import bisect
import collections
import itertools
import math
import sys
import time
import types
from asyncio import QueueEmpty, QueueFull
from collections.abc import (
    Callable,
    Coroutine,
    Generator,
    Hashable,
    ItemsView,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    ValuesView,
)
from concurrent import futures
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar

from ._calling import Application, Call, HeldApplication, InstanceDeleted
from ._context import Ghost, current_instance, haunted, running
from ._tasks import has_plain_tasks, name_of, takes_names

if TYPE_CHECKING:
    from ._holding import Holder
    from ._life import Observer
    from .server import StatelessServer

NEW, HELD, AUTO, CALLER, DONE = range(5)
RETURNED, FAILED, CANCELLED = range(1, 4)
_STATES = ("new", "held", "running", "called", "done")
#: What `stats()` calls an outcome.
OUTCOMES = ("", "finished", "failed", "cancelled")

#: The keys that every instance has, each an attribute too.
KEYS = ("application", "future", "input_queue", "last_used", "scope")
#: Busy instances that making room looks past before it takes the least recently used one.
LOOK_PAST = 32
#: `put` lets the loop turn once in so many messages.
BREATH = 64
#: How many a dict must have had to be worth shrinking when it is empty.
CROWD = 1024
#: What `eviction_policy` may be.
POLICIES = ("lru", "slru")
#: Flags of an entry's `_place`.
ASSIGNED, PROBATION = 1, 2

_MISSING: Any = object()
#: Without a loop every lookup takes the slow path.
_NO_LOOP = {"_closed": True}
_time = time.time
_breath = itertools.count(1)
_sequence = itertools.count()


class Pass:
    """Awaited: lets the loop turn once."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield


class Sent:
    """Awaited: done at once. What a `send` gives that had nothing to wait for."""

    __slots__ = ()

    def __await__(self) -> Iterator[None]:
        return _NOTHING

    def send(self, value: None) -> None:
        raise StopIteration

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> None:
        raise _error_of(kind, value)

    def close(self) -> None:
        pass


#: An iterator that is exhausted: it has no state.
_NOTHING: Iterator[None] = iter(())

Coroutine.register(Sent)
SENT = Sent()


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


async def _send_there(server: Any, scope: Any, message: Any) -> None:
    """Called in another thread than the event loop's, which is the one that awaits it."""
    await server.application_send(scope, message)


class Receive:
    """The `receive` of an application that the server runs. The run's end severs it from the instance."""

    __slots__ = ("instance",)

    def __init__(self, instance: ApplicationInstance) -> None:
        self.instance: ApplicationInstance | None = instance

    def __call__(self) -> Coroutine[Any, Any, Any]:
        return _never() if self.instance is None else self.instance._get()


async def _never() -> None:
    """For a child task that outlives its application: nothing will ever come."""
    await asyncio.get_running_loop().create_future()


def _error_of(kind: Any, value: Any) -> BaseException:
    """The exception that the arguments of a coroutine's throw() stand for."""
    error: BaseException = kind if isinstance(kind, BaseException) else (kind() if value is None else value)
    return error


class Run:
    """What an instance's task drives: decides who runs the application, then passes everything through to it."""

    __slots__ = ("_coroutine", "_entered", "_receive", "_step", "instance")

    def __init__(self, instance: ApplicationInstance) -> None:
        self.instance: ApplicationInstance | None = instance
        self._step: Callable[[None], Any] | None = None
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._receive: Receive | None = None
        self._entered = False

    def __await__(self) -> Run:
        return self

    def __iter__(self) -> Run:
        return self

    def __next__(self) -> Any:
        try:
            if self._step is None:
                waits_for = self._start()
                if waits_for is not self:
                    return waits_for
            assert self._step is not None
            return self._step(None)
        except BaseException as error:
            self._ended(error)
            raise

    def send(self, value: None) -> Any:
        return self.__next__()

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        try:
            if self._coroutine is None:
                raise _error_of(kind, value)
            return self._coroutine.throw(_error_of(kind, value))
        except BaseException as raised:
            self._ended(raised)
            raise
        finally:
            # This frame is part of the exception's traceback.
            del kind, value

    def close(self) -> None:
        if self._coroutine is not None:
            self._coroutine.close()
        self._ended(asyncio.CancelledError())

    def _start(self) -> Any:
        """Before the application has begun: what the task is to wait for, None for one pass; self once it has."""
        instance = self.instance
        if instance is None:
            raise RuntimeError("cannot reuse the run of an instance")
        if not self._entered:
            self._entered = True
            running.set(self)
            if instance._state == NEW:
                return None
        if instance._state == NEW:
            instance._state = AUTO
        if instance._state == DONE:
            raise StopIteration
        if instance._state != AUTO or instance._predecessor is not None:
            gate = instance._gate = asyncio.get_running_loop().create_future()
            gate._asyncio_future_blocking = True
            return gate
        instance._begun = True
        self._receive = receive = Receive(instance)
        scope, application = instance.scope, instance._application
        server = scope.connection if instance.direct else instance._server
        # A callable that raises leaves this frame in its traceback.
        del instance
        thread = get_ident()

        def send(message: Any) -> Any:
            if get_ident() != thread:
                return _send_there(server, scope, message)
            return server.application_send(scope, message)

        coroutine = application(scope, receive, send)
        if type(coroutine) is not types.CoroutineType:
            coroutine = _awaited(coroutine)
        self._coroutine = coroutine
        self._step = coroutine.send
        return self

    def _ended(self, error: BaseException) -> None:
        instance, self.instance = self.instance, None
        if self._receive is not None:
            self._receive.instance = None
        if instance is not None:
            instance._run_ended(error)

    # What asyncio's repr of a task and its get_stack() look for.
    @property
    def cr_await(self) -> Any:
        return self._coroutine

    @property
    def cr_code(self) -> Any:
        return getattr(self._coroutine, "cr_code", Run.send.__code__)

    @property
    def cr_frame(self) -> Any:
        return getattr(self._coroutine, "cr_frame", None)

    @property
    def cr_running(self) -> bool:
        return bool(getattr(self._coroutine, "cr_running", False))

    @property
    def __name__(self) -> str:
        return str(getattr(self._coroutine, "__qualname__", "Run"))


Coroutine.register(Run)


class Entry:
    """What the table holds: its place in the table's orders."""

    __slots__ = ("__weakref__", "_active", "_assigned", "_bucket", "_place", "_scope_id", "_table", "_used")

    def __init__(self, scope_id: Hashable) -> None:
        self._scope_id = scope_id
        self._table: InstanceTable | None = None
        self._used = 0.0
        self._active = 0.0
        self._assigned: tuple[float, int] | None = None
        self._place = 0
        self._bucket = -1

    @property
    def scope_id(self) -> Hashable:
        """The key under which it was entered."""
        return self._scope_id


class ForeignEntry(Entry):
    """A plain dict that somebody wrote into the table, with the reference's four keys or some of them."""

    __slots__ = ("_reported", "_watched", "details")

    def __init__(self, scope_id: Hashable, details: MutableMapping[str, Any]) -> None:
        super().__init__(scope_id)
        self.details = details
        self._reported = False
        self._watched: Any = None

    @property
    def public(self) -> MutableMapping[str, Any]:
        return self.details

    @property
    def idle(self) -> bool:
        """Nothing queued, and somebody waits in the queue's `get`, as far as that can be seen."""
        queue = self.details.get("input_queue")
        try:
            return bool(queue.empty() and getattr(queue, "_getters", True))  # type: ignore[union-attr]
        except Exception:
            # Not a queue: then nothing can wait in it.
            return True

    @property
    def ended(self) -> bool:
        future = self._watched
        return future is not None and bool(future.done())

    def watch(self) -> None:
        future = self.details.get("future")
        if asyncio.isfuture(future):
            self._watched = future
            if future.done():
                self._future_done(future)
            else:
                future.add_done_callback(self._future_done)

    def unwatch(self) -> None:
        if self._watched is not None:
            self._watched.remove_done_callback(self._future_done)

    def _future_done(self, _: object) -> None:
        if self._table is not None:
            self._table._add_finished(self)


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
        "_breathing",
        "_call",
        "_error",
        "_extra",
        "_gate",
        "_getters",
        "_holder",
        "_idle",
        "_items",
        "_joiners",
        "_loop",
        "_outcome",
        "_placeholder",
        "_predecessor",
        "_putters",
        "_reported",
        "_server",
        "_state",
        "_task",
        "_thread",
        "_unfinished",
        "direct",
        "maxsize",
        "pulls",
        "scope",
    )

    def __init__(
        self, server: StatelessServer, application: Application, scope_id: Hashable, scope: Any, maxsize: int
    ) -> None:
        super().__init__(scope_id)
        self._server = server
        self._application = application
        self.scope = scope
        self.maxsize = maxsize
        self._items: collections.deque[Any] = collections.deque()
        self._getters: collections.deque[asyncio.Future[None]] = collections.deque()
        self._putters: collections.deque[asyncio.Future[None]] | None = None
        self._joiners: list[asyncio.Future[None]] | None = None
        self._unfinished = 0
        self._state = NEW
        self._begun = False
        self._breathing = 0
        self._idle = False
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._gate: asyncio.Future[None] | None = None
        self._call: Call | None = None
        self._holder: Holder | None = None
        self._predecessor: ApplicationInstance | None = None
        self._outcome = 0
        #: Whether `scope.connection.next_message()` is asked for a message where the queue has none: it gives one, or
        #: None for nothing but to wait.
        self.pulls = False
        #: Whether what the application sends goes to `scope.connection.application_send` rather than to the server's.
        self.direct = False
        self._error: BaseException | None = None
        self._reported = False
        self._placeholder: futures.Future[Any] | None = None
        self._extra: dict[str, Any] | None = None

    # The life of the instance

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Makes the task. Raises whatever the loop's task factory raises, with nothing changed."""
        self._start_in(loop, takes_names(loop))
        self._thread = get_ident() if loop.get_debug() else 0

    def _start_in(self, loop: asyncio.AbstractEventLoop, named: bool) -> None:
        run: Any = Run(self)
        self._task = loop.create_task(run, name=name_of(self._scope_id)) if named else loop.create_task(run)
        self._loop = loop

    def _open_gate(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None and not gate.done():
            gate.set_result(None)

    def _hold(self, holder: bool) -> None:
        """Somebody awaits the instance; `holder`: as a part of the current task, which is going to call it."""
        if self._state == NEW:
            self._state = HELD
        if holder and self._state == HELD:
            self._server._cyasgi.holding.hold(self)

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
        self._set_busy()
        if self._putters:
            for putter in self._putters:
                if not putter.done():
                    putter.set_result(None)
            self._putters = None
        if self._holder is not None:
            self._holder.drop(self)
        self._server._cyasgi.ended(self)

    def _set_idle(self) -> None:
        if not self._idle and self._state != DONE:
            self._idle = True
            table = self._table
            if table is not None:
                if table._timeout is not None:
                    self._active = time.monotonic()
                table._now_idle()

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

    @property
    def idle(self) -> bool:
        """The queue is empty and somebody waits in `receive`."""
        return self._idle

    @property
    def ended(self) -> bool:
        return self._state == DONE

    @property
    def public(self) -> ApplicationInstance:
        return self

    def _check_thread(self) -> None:
        if self._thread != get_ident():
            raise RuntimeError(
                f"the input queue of scope_id {self.scope_id!r} was used from another thread than its event loop's; "
                "use put_threadsafe()"
            )

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
        """Whether `maxsize` messages are queued; never with a `maxsize` of 0."""
        return 0 < self.maxsize <= len(self._items)

    def put_nowait(self, item: Any) -> None:
        """Queues a message.

        On an instance that has ended it goes to `StatelessServer.application_undelivered`.

        Raises:
            asyncio.QueueFull: `maxsize` messages are queued.
        """
        if self._thread:
            self._check_thread()
        if self._state == DONE:
            self._server._cyasgi.late(self, item)
            return
        if 0 < self.maxsize <= len(self._items):
            raise QueueFull
        self._items.append(item)
        self._unfinished += 1
        if self._state <= HELD:
            self._fed()
        if self._getters:
            self._wake_getter()

    def _connect(self, direct: bool) -> None:
        """The server runs the application, for the connection of its scope: see `pulls` and `direct`."""
        self.pulls = True
        self.direct = direct
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
        while getters and not _resolved(getters.popleft()):
            pass

    async def put(self, item: Any) -> None:
        """Queues a message, waiting for a free slot if `maxsize` are queued.

        On a queue without a bound it lets the event loop turn once in 64 messages.
        """
        if self.maxsize <= 0 and (self._breathing or next(_breath) % BREATH == 0):
            # Whoever puts meanwhile does the same, and so stays behind.
            self._breathing += 1
            try:
                await Pass()
            finally:
                self._breathing -= 1
        while 0 < self.maxsize <= len(self._items) and self._state != DONE:
            putter = asyncio.get_running_loop().create_future()
            if self._putters is None:
                self._putters = collections.deque()
            self._putters.append(putter)
            try:
                await putter
            except BaseException:
                putter.cancel()
                if self._putters is not None:
                    if putter in self._putters:
                        self._putters.remove(putter)
                    if not self.full() and not putter.cancelled():
                        self._wake_putter()
                raise
        self.put_nowait(item)

    def _wake_putter(self) -> None:
        putters = self._putters
        while putters and not _resolved(putters.popleft()):
            pass

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
        if self._putters:
            self._wake_putter()
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

    async def _get(self) -> Any:
        while not self._items:
            if self.pulls:
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
                del self, getter
                raise
        item = self._items.popleft()
        if self._putters:
            self._wake_putter()
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
            if not joiner.done():
                joiner.set_result(None)

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
            is when a slot becomes free.

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
            self._placeholder = futures.Future()
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
        state = _STATES[self._state]
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
        raise _error_of(kind, value)

    def close(self) -> None:
        """Nothing to be done: the coroutine protocol's."""


MutableMapping.register(ApplicationInstance)
Coroutine.register(ApplicationInstance)


def _resolved(future: asyncio.Future[None]) -> bool:
    """Resolves a waiter; False if it was cancelled meanwhile, or its loop was closed."""
    if future.done():
        return False
    try:
        future.set_result(None)
    except RuntimeError:
        if not future.get_loop().is_closed():
            raise
        return False
    return True


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


class Setting:
    """A checked attribute with a default, kept in the instance's `__dict__` under its own name. `changed` is called
    with the instance after a change."""

    __slots__ = ("changed", "check", "default", "name")

    def __init__(
        self, default: Any, check: Callable[[str, Any], None], changed: Callable[[Any], None] | None = None
    ) -> None:
        self.default = default
        self.check = check
        self.changed = changed
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self.default
        return instance.__dict__.get(self.name, self.default)

    def __set__(self, instance: Any, value: Any) -> None:
        self.check(self.name, value)
        instance.__dict__[self.name] = value
        if self.changed is not None:
            self.changed(instance)

    def __delete__(self, instance: Any) -> None:
        if self.name not in instance.__dict__:
            raise AttributeError(self.name)
        del instance.__dict__[self.name]
        if self.changed is not None:
            self.changed(instance)


def get_or_create_application_instance(self: StatelessServer, scope_id: Hashable, scope: Any) -> ApplicationInstance:
    """The live instance of this id, or a fresh one made for `scope`, as the youngest of the table.

    Called plainly, the server runs the application, and the result is its input queue. Awaited before anything was
    put into it, the caller runs it: `await instance["application"](scope, receive, send)`.

    Raises:
        TypeError: `scope_id` is not hashable, or the application cannot be called with (scope, receive, send).
            Nothing was evicted.
    """
    table = self._cyasgi_table
    instance: ApplicationInstance | None = table._entries.get(scope_id)
    if (
        type(instance) is ApplicationInstance
        and instance._state != DONE
        and (loop := instance._loop) is table._loop
        # Asking the loop is cheaper than asking which one runs, which is a system call up to 3.11; cheaper still, where
        # is_closed() is asyncio's, is to look at what it returns.
        and not (loop.is_closed() if table._loop_dict is None else table._loop_dict["_closed"])  # type: ignore[union-attr]
    ):
        instance._used = _time()
        if table._timeout is not None:
            instance._active = time.monotonic()
        if instance is not table._youngest:
            table._renew(instance)
        table.reused += 1
        return instance
    instance = table.create(self, scope_id, scope)
    return self._cyasgi.obtain(self, scope_id, scope) if instance is None else instance


class InstanceTable(MutableMapping[Any, Any]):
    """`StatelessServer.application_instances`: from scope_id to ApplicationInstance, least recently used first; under
    the policy "slru" those on probation, then the protected ones.

    Plain dicts may be written into it and come back as they are. Removing an entry cancels nothing.
    """

    __slots__ = (
        "__weakref__",
        "_assigned",
        "_crowd",
        "_due",
        "_entries",
        "_finished",
        "_foreign",
        "_ghosts",
        "_loop",
        "_loop_dict",
        "_most_protected",
        "_natural",
        "_on_probation",
        "_orders",
        "_plain_tasks",
        "_policy",
        "_segmented",
        "_swept",
        "_thread",
        "_timeout",
        "_unit",
        "_version",
        "_youngest",
        "application",
        "closing_ids",
        "created",
        "idle",
        "on_finished",
        "on_idle",
        "reused",
        "single",
    )

    def __init__(self, initial: Mapping[Any, Any] | None = None) -> None:
        self._entries: dict[Any, Any] = {}
        self._natural: collections.OrderedDict[Any, None] = collections.OrderedDict()
        self._orders: tuple[collections.OrderedDict[Any, None], ...] = (self._natural, collections.OrderedDict())
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
        self._crowd = 0
        self._ghosts = 0
        self._thread = 0
        self.idle = 0
        self._foreign: dict[ForeignEntry, None] = {}
        self.reused = 0
        self.created = 0
        #: What `create` needs and the slow path finds out: the application as the server has it and as it is called,
        #: the loop, if it is not in debug mode, and the ids whose old run still cleans up.
        self.application: Any = None
        self.single: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Where the loop keeps what its is_closed() returns, if that is asyncio's.
        self._loop_dict: dict[str, Any] | None = _NO_LOOP
        #: Whether its create_task() is asyncio's own, or uvloop's.
        self._plain_tasks = False
        #: The last in `_natural`, if it is known.
        self._youngest: Any = None
        self.closing_ids: dict[Hashable, Any] = {}
        #: Called once when something has finished; set by the checker before it sleeps.
        self.on_finished: Callable[[], None] | None = None
        #: Called whenever an instance becomes idle; set while the server drains.
        self.on_idle: Callable[[], None] | None = None
        if initial is not None:
            self.update(initial)

    # Used by the server

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        return self._loop

    @loop.setter
    def loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop
        plain = isinstance(loop, asyncio.BaseEventLoop) and type(loop).is_closed is asyncio.BaseEventLoop.is_closed
        self._loop_dict = vars(loop) if plain else None if loop is not None else _NO_LOOP
        self._plain_tasks = has_plain_tasks(loop)

    def _renew(self, entry: Any) -> None:
        """Moves an entry that was used again to the young end of the order."""
        if entry._place:
            self._promote(entry)
        else:
            self._natural.move_to_end(entry)
            self._youngest = entry

    def create(self, server: StatelessServer, scope_id: Hashable, scope: Any) -> ApplicationInstance | None:
        """A fresh instance, where nothing stands in the way of it; None where the slow path has to see."""
        loop = self._loop
        if loop is None or scope_id in self._entries or not loop.is_running():
            return None
        if server.application is not self.application or scope_id in self.closing_ids:
            return None
        if self._segmented:
            self.follow(server)
        instance = ApplicationInstance(server, self.single, scope_id, scope, server.max_queue_size)
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

    def follow(self, server: StatelessServer) -> None:
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
        self._renew(entry)

    def add(self, entry: Any) -> None:
        """Enters an entry whose id is free, as the youngest; on probation if there is such a segment."""
        entry._used = time.time()
        entry._active = time.monotonic()
        self._entries[entry._scope_id] = entry
        self._crowd = max(self._crowd, len(self._entries))
        entry._table = self
        self._version += 1
        if self._segmented:
            self._link(entry, PROBATION)
        else:
            self._natural[entry] = None
            self._youngest = entry
        if entry._state == DONE if type(entry) is ApplicationInstance else entry.ended:
            self._finished[entry] = None
        if self._timeout is not None:
            self._schedule(entry, entry._active + self._timeout)
        if type(entry) is ApplicationInstance:
            if entry._idle:
                self._now_idle()
        else:
            self._foreign[entry] = None

    def remove(self, entry: Any) -> bool:
        """Takes out this very entry; False if it was not in the table."""
        if entry._table is not self:
            return False
        del self._entries[entry._scope_id]
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
            del self._foreign[entry]
            entry.unwatch()
        if self._crowd > CROWD and not self._entries:
            self._crowd = 0
            for emptied in (self._entries, self._finished, self._due, self._foreign, *self._orders):
                _shrink(emptied)
        return True

    def victim(self, spared: Any = None) -> Any:
        """The entry that is to make room: a finished one; else, of those on probation if there are any, the least
        recently used idle one, looking past a bounded number of busy ones; else the least recently used. Never
        `spared`, while there is another."""
        for entry in self._finished:
            if entry is not spared:
                return entry
        self._settle_few()
        found = self._victim_in(1, spared) if self._on_probation else None
        if found is None:
            found = self._victim_in(0, spared)
        return spared if found is None and spared is not None and spared._table is self else found

    def _victim_in(self, segment: int, spared: Any) -> Any:
        first = None
        for looked, entry in enumerate(self._in_order(segment)):
            if entry is spared:
                continue
            if entry.idle:
                return entry
            if first is None:
                first = entry
            if looked >= LOOK_PAST:
                break
        return first

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

    def keep(self, entry: Any) -> None:
        """An override refused to delete this entry: that counts as a use, but promotes nobody."""
        if entry._table is self:
            if entry._place & PROBATION:
                self._take_out(entry)
                self._link(entry, PROBATION)
                entry._used = time.time()
                entry._active = time.monotonic()
            else:
                self.touch(entry)
            if self._timeout is not None:
                if entry._bucket != -1:
                    self._unschedule(entry)
                self._schedule(entry, entry._active + self._timeout)

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

    def pop_expired(self) -> Any:
        """An entry that has been idle for longer than the timeout; None if there is none (yet)."""
        timeout = self._timeout
        if timeout is None:
            return None
        now = time.monotonic()
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
                due = entry._active + timeout if entry.idle or entry.ended else now + timeout
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
        number = max(int(due / self._unit) + 1, self._swept + 1)
        self._due.setdefault(number, {})[entry] = None
        entry._bucket = number

    def _unschedule(self, entry: Any) -> None:
        bucket = self._due[entry._bucket]
        del bucket[entry]
        if not bucket:
            del self._due[entry._bucket]
        entry._bucket = -1

    def _add_finished(self, entry: Any) -> None:
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
            self._orders[1][entry] = None
        else:
            self._natural[entry] = None
            self._youngest = entry

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
            del self._orders[place >> 1][entry]
            if entry is self._youngest:
                self._youngest = None
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
            assigned = entry._assigned
            self._take_out(entry)
            if assigned is None:
                self._link(entry, PROBATION)
            else:
                self._link_assigned(entry, assigned, PROBATION)

    def _unite(self) -> None:
        """One segment, ordered by the time of use, which both had in common."""
        natural = sorted((*self._orders[1], *self._natural), key=lambda entry: entry._used)
        assigned = sorted((*self._assigned[1], *self._assigned[0]))
        for entry in natural:
            entry._place = 0
        for _, _, entry in assigned:
            entry._place = ASSIGNED
        self._orders[1].clear()
        self._natural.clear()
        self._natural.update(dict.fromkeys(natural))
        self._assigned[1].clear()
        self._assigned[0][:] = assigned
        self._on_probation = 0
        self._youngest = None

    def _assign(self, entry: Any, moment: float) -> None:
        segment = entry._place & PROBATION
        if self._segmented and moment < (entry._used if entry._assigned is None else entry._assigned[0]):
            # Whoever sets it back wants it to go before others.
            segment = PROBATION
        self._take_out(entry)
        self._link_assigned(entry, (moment, next(_sequence)), segment)
        entry._active = time.monotonic() - max(0.0, time.time() - moment)
        if self._timeout is not None:
            self._unschedule(entry)
            self._schedule(entry, entry._active + self._timeout)

    @property
    def foreign(self) -> int:
        """How many entries are plain dicts."""
        return len(self._foreign)

    def _settle_few(self) -> None:
        """A `last_used` set back in a plain dict is seen if such dicts are few; one set forward always, by `_settled`
        when the entry's turn comes."""
        if 0 < len(self._foreign) <= LOOK_PAST:
            for entry in self._foreign:
                self._settled(entry)

    def _settled(self, entry: Any) -> bool:
        """Whether a foreign entry stands where its dict says; if not, moves it there."""
        if type(entry) is ForeignEntry:
            value = entry.details.get("last_used")
            if _is_moment(value) and (entry._assigned is None or entry._assigned[0] != value):
                self._assign(entry, float(value))  # type: ignore[arg-type]
                return False
        return True

    def _in_order(self, segment: int) -> Iterator[Any]:
        """A segment's entries, least recently used first, for as long as nothing but this changes the order."""
        natural = iter(self._orders[segment])
        assigned = self._assigned[segment]
        young = next(natural, None)
        index = 0
        moved = 0
        while True:
            first = assigned[index] if index < len(assigned) else None
            if first is not None and (young is None or first[0] <= young._used):
                entry = first[2]
                if moved < LOOK_PAST and not self._settled(entry):
                    moved += 1
                    continue
                index += 1
                yield entry
            elif young is not None:
                yield young
                young = next(natural, None)
            else:
                return

    def _oldest(self) -> Any:
        """The first entry in order, or None."""
        return next(itertools.chain(self._in_order(1), self._in_order(0)), None)

    def _keys_in_order(self) -> list[Any]:
        for foreign in self._foreign:
            self._settled(foreign)
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

    def _find(self, scope_id: Any) -> Any:
        """The entry as the current task is to see it; None if there is none."""
        if self._thread and self._thread != get_ident():
            raise RuntimeError("application_instances was used from another thread than its event loop's")
        if self._ghosts:
            ghost = haunted.get()
            if ghost is not None and ghost.haunts(self, scope_id):
                return ghost.entry if ghost.visible else None
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
            self._settled(entry)
            entry.watch()
        elif last_used:
            self._assign(entry, last_used)

    def __delitem__(self, scope_id: Any) -> None:
        entry = self._find(scope_id)
        if entry is None or not self._vanish(entry):
            raise KeyError(scope_id)

    def _vanish(self, entry: Any) -> bool:
        """Takes out an entry by hand, or a ghost out of its override's sight."""
        if self.remove(entry):
            if type(entry) is ApplicationInstance and entry._state == DONE:
                entry._server._cyasgi.report(entry._server, entry)
            return True
        ghost: Ghost | None = haunted.get()
        if ghost is None or ghost.entry is not entry:
            return False
        ghost.visible = False
        return True

    def __contains__(self, scope_id: object) -> bool:
        return self._find(scope_id) is not None

    def _ghost(self) -> Any:
        """The entry that only the current task still sees, or None."""
        ghost = haunted.get()
        if ghost is not None and ghost.visible and ghost.haunts(self, ghost.entry.scope_id):
            return ghost.entry
        return None

    def __len__(self) -> int:
        ghost = self._ghost() if self._ghosts else None
        return len(self._entries) + (ghost is not None and ghost.scope_id not in self._entries)

    def __iter__(self) -> Iterator[Any]:
        ghost = self._ghost() if self._ghosts else None
        if ghost is None:
            return self._iterate()
        rest = (key for key in self._iterate() if key != ghost.scope_id)
        return itertools.chain((ghost.scope_id,), rest)

    def _iterate(self) -> Iterator[Any]:
        version = self._version
        self._settle_few()
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
        return iter(self._keys_in_order()[::-1])

    def popitem(self) -> tuple[Any, Any]:
        """Removes and returns the least recently used entry; KeyError if the table is empty."""
        entry = self._oldest()
        if entry is None:
            raise KeyError("popitem(): the table is empty")
        self._vanish(entry)
        return entry.scope_id, entry.public

    def clear(self) -> None:
        for entry in self.entries():
            self._vanish(entry)

    def copy(self) -> dict[Any, Any]:
        """A plain dict with the same entries, least recently used first."""
        return dict(self)

    def __repr__(self) -> str:
        return f"<cyasgi.InstanceTable of {len(self._entries)}, {self.idle} idle>"

    def __reduce__(self) -> Any:
        return InstanceTable, (self.copy(),)


def _shrink(emptied: Any) -> None:
    """Has a dict that was large give its memory back, which it does not do by itself."""
    if not emptied:
        emptied.clear()


class Endings:
    """The base of a server's Life: what every eviction passes through, and every end of a run, in the usual case."""

    #: StatelessServer itself, whose module imports this one.
    base: ClassVar[Any] = None

    def __init__(self) -> None:
        self.table = InstanceTable()
        self.observer: Observer | None = None
        self.counts = dict.fromkeys(
            ("evicted", "expired", "finished", "failed", "cancelled", "orphaned", "undelivered"), 0
        )
        #: Runs that go on after their entry has left the table: when each is cancelled once more, in seconds of the
        #: monotonic clock; or a Closing, where somebody waits for its end.
        self.closing: dict[Any, Any] = {}
        #: The youngest closing run of an id.
        self.closing_ids: dict[Hashable, Any] = self.table.closing_ids
        #: Runs that were cancelled twice and go on.
        self.stubborn: set[Any] = set()
        self.unstarted: dict[ApplicationInstance, None] = {}
        #: Set while the server stops: called when a run has ended.
        self.on_ended: Callable[[], None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._patience_loop: asyncio.AbstractEventLoop | None = None
        #: The most closing runs since there were none.
        self._crowd = 0

    # What is unusual

    def _make_room_otherwise(self, server: StatelessServer, limit: int) -> None:
        raise NotImplementedError

    def _end_otherwise(self, server: StatelessServer, entry: Any) -> None:
        raise NotImplementedError

    def _ended_otherwise(self, instance: ApplicationInstance) -> None:
        raise NotImplementedError

    def report(self, server: StatelessServer, entry: Any) -> None:
        raise NotImplementedError

    def _set_patience(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        raise NotImplementedError

    def _let_go(self, closing: Any) -> None:
        raise NotImplementedError

    # What is usual

    def make_room(self, server: StatelessServer, limit: int) -> None:
        """Evicts until there is room for one more."""
        table = self.table
        table.follow(server)
        if not self._is_plain(server):
            self._make_room_otherwise(server, limit)
            return
        # Nobody has overridden what an eviction passes through: then there is nothing to pass through.
        asking = current_instance()
        if asking is not None and asking._server is not server:
            asking = None
        while len(table._entries) >= limit:
            victim = table.victim(asking)
            if victim is None:
                return
            live = not victim.ended
            self.end_entry(server, victim)
            self.counts["evicted"] += live

    def _is_plain(self, server: StatelessServer) -> bool:
        """Whether nobody has overridden the delete methods."""
        cls = type(server)
        base = self.base
        return (
            cls.delete_oldest_application_instance is base.delete_oldest_application_instance
            and cls.delete_application_instance is base.delete_application_instance
            and "delete_oldest_application_instance" not in server.__dict__
            and "delete_application_instance" not in server.__dict__
        )

    def end_entry(self, server: StatelessServer, entry: Any) -> None:
        """Takes this very entry out of the table, ends its run and reports it; for who waits for nothing."""
        self.table.remove(entry)
        if type(entry) is ApplicationInstance and entry._state == DONE and self.observer is None:
            self._tell(server, entry)
            return
        if (
            type(entry) is not ApplicationInstance
            or self.observer is not None
            or (loop := entry._loop) is None
            or loop.is_closed()
            or entry in self.closing
        ):
            self._end_otherwise(server, entry)
            return
        self._close(server, entry, loop)

    def _close(self, server: StatelessServer, instance: ApplicationInstance, loop: asyncio.AbstractEventLoop) -> None:
        """Cancels the run of an instance that has left the table."""
        self.closing[instance] = deadline = float(time.monotonic() + server.shutdown_timeout)
        self._crowd = max(self._crowd, len(self.closing))
        timer = self._patience
        if timer is None or loop is not self._patience_loop or timer.cancelled():
            self._set_patience(loop, deadline)
        if instance._predecessor is None:
            self.closing_ids[instance._scope_id] = instance
        if instance._call is not None:
            instance._call.cancel()
        if instance._task is not None:
            instance._task.cancel()

    def ended(self, instance: ApplicationInstance) -> None:
        """Called by every run of an own instance at its end, from within its last step."""
        outcome = instance._outcome
        if outcome == FAILED or self.observer is not None:
            self._ended_otherwise(instance)
            return
        self.counts[OUTCOMES[outcome]] += 1
        if instance._table is not None:
            instance._table._add_finished(instance)
        else:
            self._closed(instance._server, instance)
        if self.on_ended is not None:
            self.on_ended()

    def _closed(self, server: StatelessServer, entry: Any) -> None:
        """The run of an entry that has left the table has ended."""
        closing = self.closing.pop(entry, None)
        if self.stubborn:
            self.stubborn.discard(entry)
        if closing is not None:
            scope_id = entry._scope_id
            if self.closing_ids.get(scope_id) is entry:
                del self.closing_ids[scope_id]
            if not isinstance(closing, float):
                self._let_go(closing)
            if self._crowd > CROWD and not self.closing:
                self._crowd = 0
                _shrink(self.closing)
                _shrink(self.closing_ids)
        self._tell(server, entry)
        if self.on_ended is not None:
            self.on_ended()

    def _tell(self, server: StatelessServer, entry: Any) -> None:
        """Reports an entry that has ended and left the table, if there is anything to tell of it."""
        if (
            type(entry) is ApplicationInstance
            and not entry._unfinished
            and not entry._items
            and entry._error is None
            and self.observer is None
        ):
            entry._reported = True
        else:
            self.report(server, entry)


def _is_moment(value: Any) -> bool:
    return isinstance(value, (int, float)) and not math.isnan(value)

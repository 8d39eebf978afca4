# ApplicationInstance: the life of one instance, the mapping of its details, and an awaitable.

@cython.final
@cython.collection_type("mapping")
cdef class ApplicationInstance(Details):
    """One application instance: its input queue, its details as a mapping, and an awaitable that returns itself.

    Created only by `StatelessServer.get_or_create_application_instance`.

    As a queue it has the methods of `asyncio.Queue`. As a mapping it has the keys `application`, `future`,
    `input_queue`, `last_used` and `scope`, which are attributes as well, and any that callers add. `get()` is the
    queue's, `get(key[, default])` the mapping's. Equality and hash are by identity; it is always true.
    """

    def __dealloc__(self):
        _unlink_dying(self)

    @property
    def _call(self):
        return _cold(self).call

    @property
    def _holder(self):
        return _cold(self).holder

    @_holder.setter
    def _holder(self, value):
        if value is not _cold(self).holder:
            self._ensure_cold().holder = value

    @property
    def _predecessor(self):
        return _cold(self).predecessor

    @_predecessor.setter
    def _predecessor(self, value):
        if value is not _cold(self).predecessor:
            self._ensure_cold().predecessor = value

    @property
    def _error(self):
        return _cold(self).error

    @_error.setter
    def _error(self, value):
        if value is not _cold(self).error:
            self._ensure_cold().error = value

    @property
    def _placeholder(self):
        return _cold(self).placeholder

    def _start(self, loop):
        """Create the task; raise whatever the loop's task factory raises, with nothing changed."""
        cdef Run run
        if takes_names(loop):
            run = Run.__new__(Run)
            run.instance = self
            run._trusted = True
            self._task = loop.create_task(run, name=name_of(self.scope_id))
            self._loop = loop
        else:
            self._start_in(loop)
        self._guarded = bool(loop.get_debug())
        if self._guarded:
            self._ensure_cold().thread = PyThread_get_thread_ident()

    cdef _start_in(self, loop):
        cdef Run run = Run.__new__(Run)
        run.instance = self
        task = loop.create_task(run)
        if getattr(task, "get_coro", bool)() is not run:
            self._ensure_cold().run = run
        self._task = task
        self._loop = loop

    cdef _start_plainly(self, loop):
        """Create the task without the frame of loop.create_task(), if that would do nothing else."""
        cdef Run run = Run.__new__(Run)
        run.instance = self
        run._trusted = True
        self._task = new_task(
            _Task, run, loop, self.scope_id if isinstance(self.scope_id, str) else _NAME, _LOOP_AND_NAME
        )
        self._loop = loop

    cdef _hold(self, bint holder):
        """Hold the instance for whoever awaits it; `holder`: for the current task, which is going to call it."""
        if self._state == C_NEW:
            self._state = C_HELD
        if holder and self._state == C_HELD:
            self._server._cyasgi.held.hold(self)

    def _take_over(self, call):
        """Leave the run of the application to its caller."""
        if self._state == C_DONE:
            self._server._cyasgi.call_again(self)
        elif self._begun or self._state == C_CALLER:
            who = "the server" if self._begun else "another call"
            raise RuntimeError(f"the application of scope_id {self.scope_id!r} is already run by {who}")
        self._state = C_CALLER
        self._ensure_cold().call = call

    async def _predecessor_ended(self):
        if _cold(self).predecessor is not None:
            await self._server._cyasgi.wait_for_predecessor(self)

    def _call_ended(self, call, error):
        if _cold(self).call is call:
            _cold(self).call = None
            self._finish(error, None)
            self._open_gate()

    cdef Run _run_of_task(self):
        """Return the run that the task drives; None if it does not, or not any more."""
        run = _cold(self).run
        if run is None:
            run = getattr(self._task, "get_coro", bool)()
        return run if type(run) is Run and (<Run>run).instance is self else None

    cdef object _taken_by(self, taker, item):
        """Note that a `receive()` other than the Receive itself has got this, and return the message."""
        if type(taker) is Run:
            return _take_in_hand(<Run>taker, item)
        taken = _cold(self).taken
        if taken is not None:
            taken.took(taker, item)
        return message_of(item)

    cdef tuple _interrupt(self, Run run, error):
        """Keep what is in flight in a run that is about to end with this error, or None; return it as it was put."""
        if run._holds != C_NEVER or (_cold(self).taken is not None and _cold(self).taken.ever):
            self._begun = 2
        cdef tuple items = self._in_flight(run)
        # Messages that come from `scope.connection` are the connection's affair.
        if items and error is not None and not self.pulls:
            self._ensure_cold().interrupted = tuple([message_of(item) for item in items])
        if run._holds == C_HOLDS:
            run._holds = C_SETTLED
            run._context = None
        _cold(self).taken = None
        return items

    cdef tuple _in_flight(self, Run run):
        own = (run._context,) if run._holds == C_HOLDS else ()
        return own if _cold(self).taken is None else (*own, *_cold(self).taken.messages())

    @property
    def _taking(self):
        """Whether the application has received any message; known when it has ended."""
        return self._begun == 2

    def _abandoned(self):
        """End the instance, whose task will take no further step since its loop is closed."""
        cdef Run run = self._run_of_task()
        cdef tuple items = ()
        error = asyncio.CancelledError()
        if run is not None and (run._holds != C_NEVER or _cold(self).taken is not None):
            items = self._interrupt(run, error)
        _cold(self).call = None
        self._finish(error, None)
        tell_all(items, outcome_of(error), error)

    cpdef forget(self):
        """Drop queued messages and those in flight; for callers who learn of the end in another way."""
        self.take_all()
        _cold(self).interrupted = None

    cdef _run_ended(self, object error):
        """End the run of the task; the instance goes on if its caller runs the application."""
        if self._state == C_CALLER:
            if _cold(self).call is not None:
                _cold(self).call.cancel()
        elif self._state != C_DONE:
            self._finish(error, error)

    cpdef _finish(self, error, reported):
        """End the run. `reported`: the error, if application_exception is to be told of it."""
        self._state = C_DONE
        if error is None:
            self._outcome = 1
        elif type(error) is _CancelledError or isinstance(error, (_CancelledError, InstanceDeleted)):
            self._outcome = 3
        else:
            self._outcome = 2
            if reported is not None and not isinstance(error, (KeyboardInterrupt, SystemExit)):
                self._ensure_cold().error = error
        _cold(self).run = None
        self._set_busy()
        cdef Line line = _cold(self).line
        if line is not None:
            _cold(self).line = None
            for place in line.places:
                _resolved(place)
        # Child tasks wait there, which nobody serves any more.
        while self._getter is not None or _cold(self).getters is not None:
            self._wake_getter()
        if _cold(self).holder is not None:
            _cold(self).holder.drop(self)
        self._server._cyasgi.ended(self)

    @property
    def server(self):
        """The server of the instance."""
        return self._server

    @property
    def outcome(self):
        """How its run has ended: "returned", "failed" or "cancelled"; None while it has not."""
        return _REASONS[self._outcome] or None

    @property
    def error(self):
        """The error that it has failed with; None again once a hook is told of it."""
        return _cold(self).error

    def take_error(self):
        """Return the error that it has failed with, or None; no hook will be told of it."""
        error = _cold(self).error
        if error is not None:
            self._error = None
        return error

    @property
    def caller_task(self):
        """The task in which a caller runs the application; None if none does."""
        call = _cold(self).call
        return None if call is None else call.task

    @property
    def end_reason(self):
        """Why it has ended: "returned", "failed", "cancelled", "idle", "age", "evicted", "deleted", "stopping" or
        "orphaned"; see `StatelessServer.application_ended`. None while it has not."""
        return _REASONS[self._reason or self._outcome] if self._state == C_DONE else None

    @property
    def in_flight(self):
        """The messages that its application has received but not finished: a message is finished when the application,
        or the child task that has received it, calls `receive()` again. When the application has returned there are
        none; if it has failed or was cancelled they stay here. Usually there is at most one."""
        cdef Run run
        if self._state == C_DONE:
            return _cold(self).interrupted or ()
        run = self._run_of_task()
        return () if run is None or self.pulls else tuple([message_of(item) for item in self._in_flight(run)])

    @property
    def public(self):
        return self

    @property
    def application(self):
        """The server's application as an ASGI 3 callable, for callers that run it themselves."""
        return HeldApplication(self)

    # The queue. These stand here, and not in InputQueue, because the interpreter calls inherited C methods more slowly.

    cpdef qsize(self):
        """Return the number of messages in the queue."""
        return self._count

    cpdef bint empty(self):
        return self._count == 0

    def peek(self):
        """Return the oldest message without taking it; None if there is none."""
        return self._first if self._count else None

    cpdef Py_ssize_t waiting(self):
        """Return how many wait for a message."""
        getters = _cold(self).getters
        return (self._getter is not None) + (0 if getters is None else len(getters))

    cpdef bint full(self) except -1:
        """Return whether `put_nowait` would raise: `maxsize` messages are queued, or somebody who has waited for room
        has yet to put. Never with a `maxsize` of 0."""
        return self.maxsize > 0 and (
            self._count >= self.maxsize or (_cold(self).line is not None and self._is_occupied())
        )

    cpdef put_nowait(self, item):
        """Queue a message.

        On an instance that has ended it goes to `StatelessServer.application_undelivered`.

        Raises:
            asyncio.QueueFull: `maxsize` messages are queued, or somebody who has waited for room has yet to put.
        """
        if self._guarded:
            self._check_thread()
        if self._state == C_DONE:
            self._server._cyasgi.put_after_end(self, item)
            return
        if self.maxsize > 0 and self.full():
            raise QueueFull
        self._append(item)
        if self._state <= C_HELD:
            self._fed()
        if self._getter is not None or _cold(self).getters is not None:
            self._wake_getter()

    cpdef connect(self, bint direct, bint pulls=True):
        """Have the server run the application, fed by the connection of its scope: see `Connection`.

        Args:
            direct: what the application sends goes to the connection, rather than to the server's `application_send`.
            pulls: `receive` asks the connection where the queue is empty; else all messages come through the queue.
        """
        self.pulls = pulls
        self.direct = direct
        if self._state <= C_HELD:
            self._fed()

    def put(self, item):
        """Queue a message, waiting for room if the queue is full; later messages do not overtake it. To be awaited.

        On a queue without a bound it lets the event loop turn once in 64 messages, and queues the message even if it is
        cancelled meanwhile. One that waits for room when a stopping server cancels its handle() is queued as well.
        """
        cdef Put put = Put.__new__(Put)
        put._instance = self
        put._item = item
        return put

    cdef _put_anyway(self, item):
        """Queue a message, full or not."""
        maxsize, self.maxsize = self.maxsize, 0
        try:
            self.put_nowait(item)
        finally:
            self.maxsize = maxsize

    def get_nowait(self):
        """Take the oldest message.

        Raises:
            asyncio.QueueEmpty: there is none.
        """
        if self._guarded:
            self._check_thread()
        if not self._count:
            raise QueueEmpty
        return self._take_for_others()

    def task_done(self):
        """Tell `join` that one message taken from the queue has been dealt with.

        Raises:
            ValueError: called more often than messages were put.
        """
        if self._unfinished <= 0:
            raise ValueError("task_done() called too many times")
        self._unfinished -= 1
        if self._unfinished == 0:
            self._release_joiners()

    def join(self, bint received=False):
        """Wait until `task_done` was called for every message put, or until the instance has ended and the rest of its
        queue was handed to `application_undelivered`. To be awaited.

        Args:
            received: wait for the application instead, which need not call `task_done`: until the queue is empty and
                it waits in `receive` for more.
        """
        cdef Join join = Join.__new__(Join)
        join._instance = self
        join._received = received
        return join

    def put_threadsafe(self, item):
        """Queue a message from another thread.

        Returns:
            A concurrent.futures.Future, which is done when the message is in the queue; if `maxsize` messages are
            queued, that is when a slot becomes free. If it is cancelled before the event loop handles the message, the
            message is not queued; after that it cannot be cancelled.

        Raises:
            RuntimeError: the instance's event loop is closed; the message was not accepted.
        """
        return self._server._cyasgi.put_threadsafe(self, item)

    def get(self, key=_MISSING, default=None):
        """`get()`: return an awaitable that takes the oldest message, and waits if there is none.

        `get(key[, default])`: return the value of a key, as mappings do.
        """
        if key is _MISSING:
            return _make_get(self)
        try:
            return self[key]
        except KeyError:
            return default

    def __repr__(self):
        state = _STATES[self._state]
        return (
            f"<cyasgi.ApplicationInstance {self.scope_id!r} {state}{', idle' if self._idle else ''},"
            f" {self._count} queued>"
        )

    def __reduce__(self):
        raise TypeError(f"cannot pickle or copy {self!r}: it belongs to a running task")

    # The awaitable. send, throw and close make a coroutine of it for create_task, gather and TaskGroup.

    def __await__(self):
        return _held(self)

    def send(self, value):
        # A task made of the instance ends at once: it is not the one that is going to call the application.
        self._hold(False)
        raise StopIteration(self)

    def throw(self, kind, value=None, traceback=None):
        raise _error_of(kind, value)

    def close(self):
        """Do nothing; part of the coroutine protocol."""


MutableMapping.register(ApplicationInstance)
Coroutine.register(ApplicationInstance)


def _held(ApplicationInstance instance):
    """Yield nothing and return the instance, holding it once the iteration starts."""
    instance._hold(True)
    if instance is not None:
        return instance
    yield


cdef double _moment(value) except? -1.0:
    """Check and convert a value for `last_used`."""
    cdef double moment
    try:
        moment = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"last_used={value!r}: accepted is a number of seconds since the epoch") from None
    if isinstance(value, str) or moment != moment:
        raise (TypeError if isinstance(value, str) else ValueError)(
            f"last_used={value!r}: accepted is a number of seconds since the epoch"
        )
    return moment

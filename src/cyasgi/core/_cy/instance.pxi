# ApplicationInstance: the input queue of one application, the mapping of its details, and an awaitable.

@cython.final
cdef class ColdFields:
    """What few instances have, apart, so that all the others are smaller."""

    cdef object getters
    #: What the Receive waits for, if that is a future.
    cdef object received
    cdef Line line
    cdef object joiners
    cdef object gate
    cdef object call
    cdef object holder
    cdef object predecessor
    cdef object error
    #: What child tasks of the application have in flight, once one of them has called `receive()`.
    cdef object taken
    #: What was in flight when the run ended, other than by returning.
    cdef tuple interrupted
    #: The Run, where a task factory made a task of something around it.
    cdef Run run
    cdef object placeholder
    cdef dict extra
    #: The loop's, in debug mode: the instance is `_guarded`.
    cdef unsigned long thread


#: Stands for those that have nothing of the kind: nothing but None is ever assigned to its attributes.
cdef ColdFields _NOTHING = ColdFields()


cdef inline ColdFields _cold(ApplicationInstance instance):
    """For reading, and for assigning None."""
    return _NOTHING if instance._seldom is None else instance._seldom


@cython.final
@cython.collection_type("mapping")
cdef class ApplicationInstance(Entry):
    """One application instance: its input queue, its details as a mapping, and an awaitable that gives itself.

    Made by `StatelessServer.get_or_create_application_instance` only.

    As a queue it has what `asyncio.Queue` has; as a mapping the keys `application`, `future`, `input_queue`,
    `last_used` and `scope`, each an attribute too, and any that callers add. `get()` is the queue's,
    `get(key[, default])` the mapping's. Equality and hash are by identity; it is always true.
    """

    cdef readonly object _server
    cdef readonly object _application
    cdef public object scope
    cdef readonly Py_ssize_t maxsize
    #: The queue: a ring of owned references, its size a power of two; the first message is in `_first` while it is the
    #: only one, so that an instance that is fed and drained one by one never needs a ring.
    cdef object _first
    cdef list _ring
    cdef Py_ssize_t _count
    cdef object _getter
    cdef Py_ssize_t _unfinished
    cdef public object _task
    cdef public object _loop
    cdef ColdFields _seldom
    #: Where the ring begins.
    cdef unsigned int _head
    #: Putters that let the loop turn before they put.
    cdef unsigned short _yielding
    #: Whether `scope.connection.next_message()` is asked for a message where the queue has none: it gives one, or None
    #: for nothing but to wait.
    cdef readonly signed char pulls
    #: Whether what the application sends goes to `scope.connection.application_send` rather than to the server's.
    cdef readonly signed char direct

    def __init__(self, server, application, scope_id, scope, maxsize):
        self.scope_id = scope_id
        self._bucket = -1
        self._server = server
        self._application = application
        self.scope = scope
        self.maxsize = _size(maxsize)

    def __dealloc__(self):
        _unlink_dying(self)

    cdef ColdFields _ensure_cold(self):
        """For assigning."""
        cdef ColdFields fresh
        if self._seldom is None:
            fresh = ColdFields.__new__(ColdFields)
            # The collector, which may have run, can have had one made.
            if self._seldom is None:
                self._seldom = fresh
        return self._seldom

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

    # The life of the instance

    def _start(self, loop):
        """Makes the task. Raises whatever the loop's task factory raises, with nothing changed."""
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
        """The same where all that loop.create_task() would do is this, without its frame."""
        cdef Run run = Run.__new__(Run)
        run.instance = self
        run._trusted = True
        self._task = new_task(
            _Task, run, loop, self.scope_id if isinstance(self.scope_id, str) else _NAME, _LOOP_AND_NAME
        )
        self._loop = loop

    cpdef _open_gate(self):
        gate, _cold(self).gate = _cold(self).gate, None
        if gate is not None:
            _resolved(gate)

    cdef _hold(self, bint holder):
        """Somebody awaits the instance; `holder`: as a part of the current task, which is going to call it."""
        if self._state == C_NEW:
            self._state = C_HELD
        if holder and self._state == C_HELD:
            self._server._cyasgi.held.hold(self)

    def _take_over(self, call):
        """The caller is going to run the application itself."""
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
        """What the task drives, while it does."""
        run = _cold(self).run
        if run is None:
            run = getattr(self._task, "get_coro", bool)()
        return run if type(run) is Run and (<Run>run).instance is self else None

    cdef _taken_by(self, taker, message):
        """What `receive()` was called for, other than by the Receive itself, has come."""
        if type(taker) is Run:
            _take_in_hand(<Run>taker, message)
        else:
            _cold(self).taken.took(taker, message)

    cdef _interrupt(self, Run run, bint returned):
        """A run in which messages were taken is about to end."""
        if run._holds != C_NEVER or (_cold(self).taken is not None and _cold(self).taken.ever):
            self._begun = 2
        # Messages that come from `scope.connection` are the connection's affair.
        if not (returned or self.pulls):
            messages = self._in_flight(run)
            if messages:
                self._ensure_cold().interrupted = messages
        _settle(run)
        _cold(self).taken = None

    cdef tuple _in_flight(self, Run run):
        own = (run._context,) if run._holds == C_HOLDS else ()
        return own if _cold(self).taken is None else (*own, *_cold(self).taken.messages())

    @property
    def _taking(self):
        """Whether the application took a message from `receive()`; known when it has ended."""
        return self._begun == 2

    def _abandoned(self):
        """The loop is closed: the task will never take another step."""
        cdef Run run = self._run_of_task()
        if run is not None and (run._holds != C_NEVER or _cold(self).taken is not None):
            self._interrupt(run, False)
        _cold(self).call = None
        self._finish(asyncio.CancelledError(), None)

    cpdef _forget(self):
        """Drops what is queued, and what was in flight: whoever is to hear of the end is told in another way."""
        self._leftover()
        _cold(self).interrupted = None

    cdef _run_ended(self, object error):
        """The task's run is over; not the instance's, if its caller runs the application."""
        if self._state == C_CALLER:
            if _cold(self).call is not None:
                _cold(self).call.cancel()
        elif self._state != C_DONE:
            self._finish(error, error)

    cpdef _finish(self, error, reported):
        """The one end of every run. `reported`: the error if application_exception is to hear of it."""
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
        # Those in child tasks, whom nobody serves any more.
        while self._getter is not None or _cold(self).getters is not None:
            self._wake_getter()
        if _cold(self).holder is not None:
            _cold(self).holder.drop(self)
        self._server._cyasgi.ended(self)

    cdef object _last_message(self):
        """What `receive()` gives after the end, by the word of the scope's connection; None for nothing."""
        last_message = getattr(getattr(self.scope, "connection", None), "last_message", None)
        return None if last_message is None else last_message()

    cdef inline _set_idle(self):
        cdef InstanceTable table
        if not self._idle and self._state != C_DONE:
            self._idle = True
            self._active = mono()
            table = self._table
            if table is not None:
                table._now_idle()

    cdef inline _set_busy(self):
        if self._idle:
            self._idle = False
            if self._table is not None:
                self._table.idle -= 1

    cpdef _keep(self, item):
        """A message put between the end of the run and the removal of the record."""
        self._append(item)

    def _leftover(self):
        """What is still queued, taken out for application_undelivered; whoever waits in join() is let go."""
        if self._unfinished == 0 and self._count == 0:
            return None
        messages = []
        while self._count:
            messages.append(self._pop())
        self._unfinished = 0
        self._release_joiners()
        return messages

    def _inherit(self, list messages, bint first):
        """Accepts what was put into an instance that has ended, bound or not: `first`, before all that waits here."""
        cdef list waiting = []
        if first:
            while self._count:
                waiting.append(self._pop())
        for message in messages:
            self._append(message)
        for message in waiting:
            self._append(message)
            # They have been counted.
            self._unfinished -= 1
        if self._state <= C_HELD:
            self._fed()
        for message in messages:
            if self._getter is not None or _cold(self).getters is not None:
                self._wake_getter()

    @property
    def idle(self):
        """The queue is empty and somebody waits in `receive`."""
        return self._idle != 0

    @property
    def ended(self):
        """Whether its run is over: nothing that is put into the queue from now on will be received."""
        return self._state == C_DONE

    @property
    def end_reason(self):
        """Why it has ended: "returned", "failed", "cancelled", "idle", "age", "evicted", "deleted", "stopping" or
        "orphaned"; see `StatelessServer.application_ended`. None while it has not."""
        return _REASONS[self._reason or self._outcome] if self._state == C_DONE else None

    @property
    def in_flight(self):
        """The messages that its application has begun and not finished: taken from `receive()` by the application, or
        by a child task of it, that has not called `receive()` again. When the application has returned there are none;
        when it failed or was cancelled they stay here. Usually there is one at most."""
        cdef Run run
        if self._state == C_DONE:
            return _cold(self).interrupted or ()
        run = self._run_of_task()
        return () if run is None or self.pulls else self._in_flight(run)

    @property
    def public(self):
        return self

    cdef _check_thread(self):
        if _cold(self).thread != PyThread_get_thread_ident() and runs_elsewhere(self._loop):
            raise RuntimeError(
                f"the input queue of scope_id {self.scope_id!r} was used from another thread than its event loop's; "
                "use put_threadsafe()"
            )

    # The queue

    cdef int _append(self, item) except -1:
        if self._count and self._count - 1 == self._room():
            self._grow()
        if self._count == 0:
            self._first = item
        else:
            self._ring[(<Py_ssize_t>self._head + self._count - 1) & (len(self._ring) - 1)] = item
        self._count += 1
        self._unfinished += 1
        return 0

    cdef inline Py_ssize_t _room(self) except -1:
        return 0 if self._ring is None else len(self._ring)

    cdef int _grow(self) except -1:
        cdef list larger
        cdef Py_ssize_t size, place
        while self._count - 1 == self._room():
            size = self._room()
            larger = [None] * max(4, 2 * size)
            if self._count - 1 != size or self._room() != size:
                # The collector, which may have run, has had something put or taken.
                continue
            for place in range(size):
                larger[place] = self._ring[(<Py_ssize_t>self._head + place) & (size - 1)]
            self._ring = larger
            self._head = 0
        return 0

    cdef object _pop(self):
        item = self._first
        self._count -= 1
        if self._count == 0:
            self._first = None
            if self._ring is not None and len(self._ring) > 64:
                # A burst is over: give its memory back.
                self._ring = None
                self._head = 0
        else:
            self._first = self._ring[self._head]
            self._ring[self._head] = None
            self._head = (self._head + 1) & <unsigned int>(len(self._ring) - 1)
        return item

    cpdef qsize(self):
        """How many messages are queued."""
        return self._count

    cpdef bint empty(self):
        return self._count == 0

    cpdef Py_ssize_t _waiting(self):
        """How many wait for a message."""
        getters = _cold(self).getters
        return (self._getter is not None) + (0 if getters is None else len(getters))

    cpdef bint full(self) except -1:
        """Whether `put_nowait` would raise: `maxsize` messages are queued, or somebody who waited for room has yet to
        put. Never with a `maxsize` of 0."""
        return self.maxsize > 0 and (
            self._count >= self.maxsize or (_cold(self).line is not None and self._is_occupied())
        )

    cpdef put_nowait(self, item):
        """Queues a message.

        On an instance that has ended it goes to `StatelessServer.application_undelivered`.

        Raises:
            asyncio.QueueFull: `maxsize` messages are queued, or somebody who waited for room has yet to put.
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

    def _connect(self, bint direct):
        """The server runs the application, for the connection of its scope: see `pulls` and `direct`."""
        self.pulls = True
        self.direct = direct
        if self._state <= C_HELD:
            self._fed()

    cdef _fed(self):
        self._state = C_AUTO
        if _cold(self).gate is not None:
            self._open_gate()

    cdef _wake_getter(self):
        self._set_busy()
        while True:
            getter, self._getter = self._getter, None
            if getter is None:
                if not _cold(self).getters:
                    _cold(self).getters = None
                    return
                getter = _cold(self).getters.popleft()
            if _resolved(getter):
                return

    cdef object _wait(self):
        """A future that the next message resolves."""
        future = _new_future(self)
        if self._count:
            # Making the future had something put.
            _resolved(future)
        elif self._getter is None and _cold(self).getters is None:
            self._getter = future
        else:
            if _cold(self).getters is None:
                self._ensure_cold().getters = _deque()
            _cold(self).getters.append(future)
        if not self._count:
            self._set_idle()
        setattr(future, _blocking, True)
        return future

    cdef _getter_gone(self, future):
        future.cancel()
        if self._getter is future:
            self._getter = None
        elif _cold(self).getters is not None and future in _cold(self).getters:
            _cold(self).getters.remove(future)
        if self._count and not future.cancelled():
            self._wake_getter()
        elif self._getter is None and not _cold(self).getters:
            self._set_busy()

    def put(self, item):
        """Queues a message, waiting for room if the queue is full; nobody who puts later overtakes it. To be awaited.

        On a queue without a bound it lets the event loop turn once in 64 messages, and queues the message even if it is
        cancelled meanwhile. One that waits for a slot when a stopping server cancels its handle() is queued as well.
        """
        cdef Put put = Put.__new__(Put)
        put._instance = self
        put._item = item
        return put

    cpdef _line_up(self):
        """A place in line for who finds the queue full: resolved when it owns a slot, or the instance has ended. Then
        `_fill` is to be called, or `_leave_line` at any time before."""
        if self._guarded:
            self._check_thread()
        cdef Line line = _cold(self).line
        place = _new_future(self)
        if line is None:
            line = Line()
            # Meanwhile there may be one.
            if _cold(self).line is None:
                self._ensure_cold().line = line
        line = _cold(self).line
        line.places.append(place)
        return place

    cpdef bint _fill(self, place, item) except -1:
        """Queues a message in the slot that the place owns. False where it owns none, because the instance has ended
        meanwhile: then the queue is to be looked at anew."""
        cdef Line line = _cold(self).line
        if line is None or not line.leave(place):
            return False
        self._append(item)
        if self._state <= C_HELD:
            self._fed()
        self._advance()
        if self._getter is not None or _cold(self).getters is not None:
            self._wake_getter()
        return True

    cdef _put_anyway(self, item):
        """Queue a message, full or not."""
        maxsize, self.maxsize = self.maxsize, 0
        try:
            self.put_nowait(item)
        finally:
            self.maxsize = maxsize

    cpdef _leave_line(self, place):
        """The place is given up; a slot that it owned is the next one's."""
        cdef Line line
        place.cancel()
        line = _cold(self).line
        if line is not None:
            line.leave(place)
            self._advance()

    cdef _advance(self):
        """Those in line get what room there is."""
        cdef Line line = _cold(self).line
        if line is not None:
            line.advance(self.maxsize - self._count)
            if not line.places:
                _cold(self).line = None

    cdef bint _is_occupied(self) except -1:
        """Whether somebody stands in line. Not those whose loop has been closed, who will never put."""
        cdef Line line = _cold(self).line
        while line is not None:
            place = line.places[0]
            if not place.get_loop().is_closed():
                return True
            line.leave(place)
            self._advance()
            line = _cold(self).line
        return False

    def get_nowait(self):
        """Takes the oldest message.

        Raises:
            asyncio.QueueEmpty: there is none.
        """
        if self._guarded:
            self._check_thread()
        if not self._count:
            raise QueueEmpty
        return self._take()

    cdef object _take(self):
        item = self._pop()
        if _cold(self).line is not None:
            self._advance()
        return item

    def get(self, key=_MISSING, default=None):
        """`get()`: an awaitable that takes the oldest message, waiting for one if there is none.

        `get(key[, default])`: the mapping's.
        """
        if key is _MISSING:
            return _make_get(self)
        try:
            return self[key]
        except KeyError:
            return default

    def task_done(self):
        """Tells `join` that one message taken from the queue has been dealt with.

        Raises:
            ValueError: called more often than messages were put.
        """
        if self._unfinished <= 0:
            raise ValueError("task_done() called too many times")
        self._unfinished -= 1
        if self._unfinished == 0:
            self._release_joiners()

    cdef _release_joiners(self):
        joiners, _cold(self).joiners = _cold(self).joiners, None
        if joiners is not None:
            for joiner in joiners:
                _resolved(joiner)

    def join(self):
        """Waits until `task_done` was called for every message put, or the instance has ended and what was left in
        its queue was handed to `application_undelivered`. To be awaited."""
        cdef Join join = Join.__new__(Join)
        join._instance = self
        return join

    def put_threadsafe(self, item):
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
    def application(self):
        """The server's application as a single callable, for callers that run it themselves."""
        return HeldApplication(self)

    @property
    def future(self):
        """The task; a concurrent.futures.Future in its place until an event loop has started the instance."""
        if self._task is not None:
            return self._task
        if _cold(self).placeholder is None:
            self._ensure_cold().placeholder = make_placeholder()
            if self._state == C_DONE:
                _cold(self).placeholder.cancel()
        return _cold(self).placeholder

    @property
    def input_queue(self):
        return self

    @property
    def last_used(self):
        """When the instance was last asked for, in seconds since the epoch. What is assigned decides its place in the
        order of eviction, until it is asked for again."""
        return self._used if self._assigned is None else self._assigned[0]

    @last_used.setter
    def last_used(self, value):
        cdef double moment = _moment(value)
        cdef InstanceTable table = self._table
        if table is not None:
            table._assign(self, moment)
        else:
            self._used = moment

    def __getitem__(self, key):
        if key == "input_queue":
            return self
        if key in _KEYS:
            return getattr(self, key)
        cdef dict extra = _cold(self).extra
        if extra is None:
            raise KeyError(key)
        return extra[key]

    def __setitem__(self, key, value):
        cdef dict extra
        if key in ("application", "future", "input_queue"):
            raise TypeError(f"{key!r} of an application instance cannot be assigned; 'last_used' and 'scope' can")
        if key == "last_used":
            self.last_used = value
        elif key == "scope":
            self.scope = value
        else:
            extra = _cold(self).extra
            if extra is None:
                extra = {}
                if _cold(self).extra is None:
                    self._ensure_cold().extra = extra
                extra = _cold(self).extra
            extra[key] = value

    def __delitem__(self, key):
        if key in _KEYS:
            raise TypeError(f"{key!r} of an application instance cannot be deleted; keys added by callers can")
        cdef dict extra = _cold(self).extra
        if extra is None:
            raise KeyError(key)
        del extra[key]

    def __iter__(self):
        cdef dict extra = _cold(self).extra
        return iter((*_KEYS, *(extra or ())))

    def __len__(self):
        cdef dict extra = _cold(self).extra
        return len(_KEYS) + (0 if extra is None else len(extra))

    def __contains__(self, key):
        cdef dict extra = _cold(self).extra
        return key in _KEYS or (extra is not None and key in extra)

    def __bool__(self):
        return True

    def keys(self):
        return KeysView(self)

    def values(self):
        return ValuesView(self)

    def items(self):
        return ItemsView(self)

    def pop(self, key, default=_MISSING):
        if key not in self:
            if default is _MISSING:
                raise KeyError(key)
            return default
        value = self[key]
        del self[key]
        return value

    def popitem(self):
        """Removes the key that was added last by a caller; KeyError if there is none."""
        cdef dict extra = _cold(self).extra
        if not extra:
            raise KeyError("popitem(): no key was added to this application instance")
        return extra.popitem()

    def clear(self):
        """Removes the keys that callers added."""
        _cold(self).extra = None

    def setdefault(self, key, default=None):
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *others, **values):
        for key, value in dict(*others, **values).items():
            self[key] = value

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
        """Nothing to be done: the coroutine protocol's."""


MutableMapping.register(ApplicationInstance)
Coroutine.register(ApplicationInstance)


cdef Py_ssize_t _size(value) except -1:
    """An int as a size; what is beyond every size is the largest."""
    try:
        return value
    except OverflowError:
        return PY_SSIZE_T_MAX


def _held(ApplicationInstance instance):
    """An iterator that gives the instance, holding it when it is driven."""
    instance._hold(True)
    if instance is not None:
        return instance
    yield


cdef bint _resolved(object future) except -1:
    """Resolves a waiter; False if it was cancelled meanwhile, or its loop was closed."""
    try:
        if type(future) is Run:
            return _resolve_run(<Run>future)
        future.set_result(None)
    except _InvalidStateError:
        return False
    except RuntimeError:
        if not future.get_loop().is_closed():
            raise
        return False
    return True


cdef double _moment(value) except? -1.0:
    """A point of time as `last_used` takes it."""
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

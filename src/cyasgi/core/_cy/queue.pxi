# InputQueue: what an instance is made of, and its input queue.

@cython.final
cdef class ColdFields:
    """What few instances have, apart, so that all the others are smaller."""

    cdef object getters
    #: What the Receive waits for, if that is a future.
    cdef object received
    cdef Line line
    cdef object joiners
    #: Those who wait until the application has received and finished all.
    cdef list watchers
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


cdef inline ColdFields _cold(InputQueue instance):
    """Return the cold fields, for reading and for assigning None."""
    return _NOTHING if instance._seldom is None else instance._seldom


cdef class InputQueue(Entry):
    """The input queue of an instance, and all fields that an instance has."""

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

    @cython.final
    cdef ColdFields _ensure_cold(self):
        """Return the cold fields, for assigning."""
        cdef ColdFields fresh
        if self._seldom is None:
            fresh = ColdFields.__new__(ColdFields)
            # The collector, which may have run, can have had one made.
            if self._seldom is None:
                self._seldom = fresh
        return self._seldom

    cpdef _open_gate(self):
        gate, _cold(self).gate = _cold(self).gate, None
        if gate is not None:
            _resolved(gate)

    @cython.final
    cdef object _last_message(self):
        """Return what `receive()` returns after the end, from the scope's connection; None for nothing."""
        last_message = getattr(getattr(self.scope, "connection", None), "last_message", None)
        return None if last_message is None else last_message()

    @cython.final
    cdef inline _set_idle(self):
        cdef InstanceTable table
        if not self._idle and self._state != C_DONE:
            self._idle = True
            self._active = mono()
            table = self._table
            if table is not None:
                table._now_idle()
            if self._seldom is not None and self._seldom.watchers is not None:
                self._release_watchers()

    @cython.final
    cdef inline _set_busy(self):
        if self._idle:
            self._idle = False
            if self._table is not None:
                self._table.idle -= 1

    cpdef _keep(self, item):
        """Keep a message that was put after the end of the run and before the instance is reported."""
        self._append(item)

    def take_all(self):
        """Remove and return all queued messages, which will not be received any more, and end every wait in `join`."""
        return undelivered(self._take_items())

    def _take_items(self):
        """Do as `take_all`, for those who put the messages elsewhere: tracked ones stay tracked."""
        cdef list items = []
        if self._unfinished == 0 and self._count == 0 and _cold(self).watchers is None:
            return items
        _forget_sample(self)
        while self._count:
            items.append(self._pop())
        self._unfinished = 0
        self._release_joiners()
        self._release_watchers()
        return items

    def _inherit(self, list messages, bint first):
        """Accept messages put into an ended instance, whatever the bound; `first`: before those that wait here."""
        cdef list waiting = []
        if first:
            _forget_sample(self)
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

    @cython.final
    cdef _check_thread(self):
        if _cold(self).thread != PyThread_get_thread_ident() and runs_elsewhere(self._loop):
            raise RuntimeError(
                f"the input queue of scope_id {self.scope_id!r} was used from another thread than its event loop's; "
                "use put_threadsafe()"
            )

    @property
    def idle(self):
        """Whether the queue is empty and somebody waits in `receive`."""
        return self._idle != 0

    @property
    def ended(self):
        """Whether its run is over: nothing that is put into the queue from now on will be received."""
        return self._state == C_DONE

    @cython.final
    cdef int _append(self, item) except -1:
        if self._count and self._count - 1 == self._room():
            self._grow()
        if self._count == 0:
            self._first = item
        else:
            self._ring[(<Py_ssize_t>self._head + self._count - 1) & (len(self._ring) - 1)] = item
        self._count += 1
        self._unfinished += 1
        if _sampled is not None:
            _sample_put(self, item)
        return 0

    @cython.final
    cdef inline Py_ssize_t _room(self) except -1:
        return 0 if self._ring is None else len(self._ring)

    @cython.final
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

    @cython.final
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
        if _sampled is not None:
            _sample_taken(self, item)
        return item

    @cython.final
    cdef _fed(self):
        self._state = C_AUTO
        if _cold(self).gate is not None:
            self._open_gate()

    @cython.final
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

    @cython.final
    cdef object _wait(self):
        """Return a future that the next message resolves."""
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

    @cython.final
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

    cpdef _line_up(self):
        """Return a place in line, for callers who find the queue full. It is resolved when it owns a slot or the
        instance has ended: then call `_fill`. Whoever gives up before that calls `_leave_line`."""
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
        """Queue a message in the slot that the place owns. Return False if it owns none, because the instance has ended
        meanwhile; then check the queue again."""
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

    cpdef _leave_line(self, place):
        """Give up a place; a slot that it owns goes to the next one."""
        cdef Line line
        place.cancel()
        line = _cold(self).line
        if line is not None:
            line.leave(place)
            self._advance()

    @cython.final
    cdef _advance(self):
        """Give free slots to those in line."""
        cdef Line line = _cold(self).line
        if line is not None:
            line.advance(self.maxsize - self._count)
            if not line.places:
                _cold(self).line = None

    @cython.final
    cdef bint _is_occupied(self) except -1:
        """Return whether anybody is in line, except those whose loop was closed, who will never put."""
        cdef Line line = _cold(self).line
        while line is not None:
            place = line.places[0]
            if not place.get_loop().is_closed():
                return True
            line.leave(place)
            self._advance()
            line = _cold(self).line
        return False

    @cython.final
    cdef object _take(self):
        """Take a message; a tracked one as it was put."""
        item = self._pop()
        if _cold(self).line is not None:
            self._advance()
        return item

    @cython.final
    cdef object _take_for_others(self):
        """Take a message for somebody who is not the application."""
        item = self._take()
        if type(item) is _Tracked:
            item.tell(_TAKEN)
            item.tell(_DONE)
            return item.message
        return item

    @cython.final
    cdef _release_joiners(self):
        joiners, _cold(self).joiners = _cold(self).joiners, None
        if joiners is not None:
            for joiner in joiners:
                _resolved(joiner)

    @cython.final
    cdef _release_watchers(self):
        cdef list watchers = _cold(self).watchers
        _cold(self).watchers = None
        if watchers is not None:
            for watcher in watchers:
                _resolved(watcher)


cyasgi_set_abstract(InputQueue)


cdef Py_ssize_t _size(value) except -1:
    """Convert an int to a size; larger ones become the largest size."""
    try:
        return value
    except OverflowError:
        return PY_SSIZE_T_MAX


cdef bint _resolved(object future) except -1:
    """Resolve a waiter; return False if it was cancelled meanwhile, or its loop was closed."""
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

# What `get`, `put` and `join` of a queue give.

# Awaitables over the queue. `_step` gives True with `result` the outcome, or False with `result` the future to wait
# for; it raises what the await is to raise.

cdef class Waiting:
    cdef ApplicationInstance _instance
    cdef object _future
    cdef object result

    cdef bint _step(self) except -1:
        raise NotImplementedError

    cdef _cut(self, error):
        """Note that an error was thrown in instead of the outcome."""
        self._give_up()

    cdef object _abandoned(self, object future):
        """Note that the wait for `future` was given up."""

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self._step():
            result, self.result = self.result, None
            if result is None:
                raise StopIteration
            raise StopIteration(result)
        result, self.result = self.result, None
        return result

    def send(self, value):
        return self.__next__()

    # throw() is _throw_waiting.

    def close(self):
        self._give_up()

    cdef _give_up(self):
        future, self._future = self._future, None
        # A coroutine that is thrown away after its loop was closed has nobody to make room for.
        if future is not None and (future.cancelled() or not future.get_loop().is_closed()):
            self._abandoned(future)
        self._over()

    cdef _over(self):
        self._instance = None


cdef PySendResult _send_waiting(PyObject *self, PyObject *value, PyObject **result) noexcept:
    cdef Waiting waiting = <Waiting>self
    cdef bint done
    try:
        done = waiting._step()
    except BaseException as error:
        set_raised(error)
        result[0] = NULL
        return PYGEN_ERROR
    outcome, waiting.result = waiting.result, None
    result[0] = _given(outcome)
    return PYGEN_RETURN if done else PYGEN_NEXT


cdef PyObject *_throw_waiting(PyObject *self, PyObject *const *args, Py_ssize_t count) noexcept:
    cdef Waiting waiting = <Waiting>self
    error = _thrown(args, count)
    try:
        waiting._cut(error)
    except BaseException as failure:
        error = failure
    set_raised(error)
    return NULL


@cython.final
cdef class Get(Waiting):
    """One call of `get()`, or of `receive()` in a child task."""

    #: For `receive()`, the run in whose task it was called, or another task; see TakenByTasks.
    cdef object _taker

    cdef bint _step(self) except -1:
        cdef ApplicationInstance instance = self._instance
        if instance is None:
            raise RuntimeError("cannot reuse already awaited get()")
        if self._future is not None and not self._future.done():
            raise RuntimeError("get() is being awaited already")
        # What the application has left is not for a child task that outlives it.
        if instance._count and (self._taker is None or instance._state != C_DONE):
            self._future = None
            self._instance = None
            if self._taker is None:
                self.result = instance._take_for_others()
                return True
            taker, self._taker = self._taker, None
            self.result = instance._taken_by(taker, instance._take())
            return True
        if self._taker is not None and instance._state == C_DONE:
            self._future = None
            self._instance = None
            self.result = _last_or_cancelled(instance._last_message())
            return True
        if instance.pulls:
            message = instance.scope.connection.next_message()
            if message is not None:
                self._future = None
                self._instance = None
                self.result = message
                return True
        self.result = self._future = instance._wait()
        return False

    cdef object _abandoned(self, object future):
        cdef ApplicationInstance instance = self._instance
        instance._getter_gone(future)


cdef Get _make_get(ApplicationInstance instance):
    cdef Get get = Get.__new__(Get)
    get._instance = instance
    return get


@cython.final
cdef class Put(Waiting):
    """One call of `put(item)`."""

    cdef object _item
    cdef bint _begun
    cdef bint _yielding

    def __dealloc__(self):
        if not self._begun and self._instance is not None:
            warnings.warn("coroutine 'ApplicationInstance.put' was never awaited", RuntimeWarning)
        elif self._future is not None:
            # Driven by hand and thrown away: its place in line is not to be waited for.
            self._give_up()

    cdef bint _step(self) except -1:
        global _puts
        cdef ApplicationInstance instance = self._instance
        if instance is None:
            raise RuntimeError("cannot reuse already awaited put()")
        if not self._begun:
            self._begun = True
            if instance.maxsize <= 0:
                _puts += 1
                if (_puts >= _YIELD_EVERY or instance._yielding) and instance._yielding < 65535:
                    # Whoever puts meanwhile does the same, and so stays behind.
                    _puts = 0
                    self._yielding = True
                    instance._yielding += 1
                    self.result = None
                    return False
        elif self._yielding:
            self._yielding = False
            instance._yielding -= 1
        elif self._future is not None:
            if not self._future.done():
                raise RuntimeError("put() is being awaited already")
            future, self._future = self._future, None
            if instance._fill(future, self._item):
                self._instance = None
                self.result = None
                return True
        if instance.maxsize > 0 and instance._state != C_DONE and instance.full():
            self.result = self._future = instance._line_up()
            setattr(self._future, _blocking, True)
            return False
        self._instance = None
        instance.put_nowait(self._item)
        self.result = None
        return True

    cdef object _abandoned(self, object future):
        cdef ApplicationInstance instance = self._instance
        instance._leave_line(future)

    cdef _cut(self, error):
        cdef ApplicationInstance instance = self._instance
        # While the loop turns nobody has to make room for the message: it must not be lost for that.
        accepted = isinstance(error, asyncio.CancelledError) if self._yielding else (
            self._future is not None and is_stop(error)
        )
        self._give_up()
        if accepted:
            instance._put_anyway(self._item)

    cdef _over(self):
        self._begun = True
        if self._yielding:
            self._yielding = False
            self._instance._yielding -= 1
        self._instance = None


@cython.final
cdef class Join(Waiting):
    """One call of `join()`."""

    cdef bint _waited
    cdef bint _received

    cdef bint _step(self) except -1:
        cdef ApplicationInstance instance = self._instance
        if instance is None:
            raise RuntimeError("cannot reuse already awaited join()")
        self.result = None
        if self._received:
            return self._step_received(instance)
        if instance._unfinished <= 0 or self._waited:
            self._instance = None
            return True
        self._waited = True
        future = _new_future(instance)
        if instance._unfinished <= 0:
            # Meanwhile it has come.
            self._instance = None
            return True
        joiners = _cold(instance).joiners
        if joiners is None:
            joiners = []
            if _cold(instance).joiners is None:
                instance._ensure_cold().joiners = joiners
            joiners = _cold(instance).joiners
        joiners.append(future)
        setattr(future, _blocking, True)
        self.result = future
        return False

    cdef bint _step_received(self, ApplicationInstance instance) except -1:
        cdef ColdFields cold
        future, self._future = self._future, None
        if future is not None and not future.done():
            self._future = future
            raise RuntimeError("join() is being awaited already")
        if future is None:
            # What allocates comes first: it may have anything happen.
            future = _new_future(instance)
            cold = instance._ensure_cold()
            fresh = []
            if not instance._idle and not (instance._state == C_DONE and instance._count == 0):
                if cold.watchers is None:
                    cold.watchers = fresh
                cold.watchers.append(future)
                setattr(future, _blocking, True)
                self.result = self._future = future
                return False
        self._instance = None
        return True

    cdef object _abandoned(self, object future):
        cdef list watchers = _cold(self._instance).watchers
        future.cancel()
        if watchers is not None and future in watchers:
            watchers.remove(future)

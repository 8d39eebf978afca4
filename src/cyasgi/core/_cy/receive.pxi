# The `receive` of an application.

@cython.final
cdef class Receive:
    """The `receive` of an application that the server runs, and what calling it gives.

    It owns nothing that the garbage collector need know of: its run owns it, and severs it at the end.
    """

    #: Borrowed; NULL when severed. When `_over`, what comes last instead, again and again, owned; NULL for nothing.
    cdef PyObject *_run
    #: Called, and not awaited to its end yet.
    cdef bint _out
    cdef unsigned char _waits
    cdef unsigned char _over

    def __dealloc__(self):
        if self._over and self._run is not NULL:
            # Taken by _end_receive.
            Py_DECREF(<object>self._run)

    def __call__(self):
        cdef Run run
        if self._over or self._run is NULL:
            return _after_end(_last_of(self))
        run = <Run>self._run
        if self._out or not run._stepping:
            return _call_in(self, run)
        _settle(run)
        self._out = True
        return self

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        cdef bint done = False
        outcome = _step_receive(self, &done)
        if not done:
            return outcome
        if outcome is None:
            raise StopIteration
        raise StopIteration(outcome)

    def send(self, value):
        return self.__next__()

    # throw() is _throw_receive.

    def close(self):
        _give_up_receive(self)


cdef object _call_in(Receive receive, Run run):
    """Call `receive()` while another call is in progress, or in what may be a child task."""
    cdef ApplicationInstance instance = run.instance
    cdef Get get
    cdef bint own
    taker = None
    if instance.pulls:
        own = True
    else:
        taker = instance._task if run._stepping else calling_task()
        own = taker is instance._task
        if not own and _cold(instance).taken is None:
            taken = TakenByTasks()
            if _cold(instance).taken is None:
                instance._ensure_cold().taken = taken
            # From now on every call has to be noted.
            run._trusted = run._stepping = False
        if _cold(instance).taken is not None:
            _cold(instance).taken.called(taker)
        if own:
            taker = run
            _settle(run)
    if own and not receive._out:
        receive._out = True
        return receive
    get = _make_get(instance)
    get._taker = taker
    return get


cdef enum:
    #: What a Receive waits for: nothing, its run, or a future, because the run was not free or others wait before it.
    FOR_NOTHING = 0
    FOR_RUN = 1
    FOR_FUTURE = 2


cdef inline ApplicationInstance _instance_of(Receive receive):
    return None if receive._over or receive._run is NULL else (<Run>receive._run).instance


cdef _end_receive(Receive receive, last):
    """Detach it from the run, which has ended while somebody keeps its `receive`."""
    receive._over = True
    if last is not None:
        # Given back by __dealloc__.
        Py_INCREF(last)
        receive._run = <PyObject *>last


cdef object _last_of(Receive receive):
    """Return what comes after the end; None for nothing."""
    return <object>receive._run if receive._over and receive._run is not NULL else None


cdef object _step_receive(Receive receive, bint *done):
    """Return a message with `done` set, or else what has to be waited for."""
    cdef ApplicationInstance instance = _instance_of(receive)
    cdef Run run
    if instance is None:
        # A child task that outlives its application.
        receive._waits = FOR_NOTHING
        receive._out = False
        done[0] = True
        return _last_or_cancelled(_last_of(receive))
    if not receive._out:
        raise RuntimeError("cannot reuse already awaited receive()")
    if receive._waits != FOR_NOTHING and not _woken(receive, instance):
        raise RuntimeError("receive() is being awaited already")
    run = <Run>receive._run
    _waited(receive, instance)
    if instance._count:
        receive._out = False
        done[0] = True
        return _take_in_hand(run, instance._take())
    if instance.pulls:
        message = instance.scope.connection.next_message()
        if message is not None:
            receive._out = False
            done[0] = True
            return message
    if receive._over or receive._run is NULL:
        # The run has ended while its connection was asked.
        receive._out = False
        done[0] = True
        return _last_or_cancelled(_last_of(receive))
    if run._wait < PENDING and instance._getter is None and _cold(instance).getters is None:
        receive._waits = FOR_RUN
        run._wait = PENDING
        run._asyncio_future_blocking = True
        instance._getter = run
        instance._set_idle()
        return run
    receive._waits = FOR_FUTURE
    future = instance._wait()
    instance._ensure_cold().received = future
    return future


cdef bint _woken(Receive receive, ApplicationInstance instance) except -1:
    """Return whether what it has waited for is there."""
    if receive._waits == FOR_RUN:
        return (<Run>receive._run)._wait != PENDING
    return _cold(instance).received.done()


cdef inline _waited(Receive receive, ApplicationInstance instance):
    if receive._waits == FOR_FUTURE:
        _cold(instance).received = None
    receive._waits = FOR_NOTHING


cdef _give_up_receive(Receive receive):
    cdef ApplicationInstance instance = _instance_of(receive)
    if instance is not None and receive._waits != FOR_NOTHING:
        future = <object>receive._run if receive._waits == FOR_RUN else _cold(instance).received
        _waited(receive, instance)
        # A coroutine that is thrown away after its loop was closed has nobody to make room for.
        if future.cancelled() or not instance._loop.is_closed():
            instance._getter_gone(future)
    receive._out = False


cdef PySendResult _send_receive(PyObject *self, PyObject *value, PyObject **result) noexcept:
    cdef Receive receive = <Receive>self
    cdef ApplicationInstance instance = _instance_of(receive)
    cdef Run run
    cdef bint done = False
    if (
        instance is not None
        and instance._count
        and receive._out
        and receive._waits != FOR_FUTURE
        and _cold(instance).line is None
    ):
        # Without the setting up of a handler, where a message is there.
        receive._waits = FOR_NOTHING
        receive._out = False
        run = <Run>receive._run
        item = instance._pop()
        if type(item) is _Tracked or run._holds == C_HOLDS:
            try:
                item = _take_in_hand(run, item)
            except BaseException as error:
                set_raised(error)
                result[0] = NULL
                return PYGEN_ERROR
        elif run._wait != PENDING:
            run._holds = C_HOLDS
            run._context = item
        result[0] = _given(item)
        return PYGEN_RETURN
    try:
        outcome = _step_receive(receive, &done)
    except BaseException as error:
        set_raised(error)
        result[0] = NULL
        return PYGEN_ERROR
    result[0] = _given(outcome)
    return PYGEN_RETURN if done else PYGEN_NEXT


cdef PyObject *_throw_receive(PyObject *self, PyObject *const *args, Py_ssize_t count) noexcept:
    error = _thrown(args, count)
    try:
        _give_up_receive(<Receive>self)
    except BaseException as failure:
        error = failure
    set_raised(error)
    return NULL


cdef object _last_or_cancelled(last):
    if last is None:
        raise _CancelledError
    return dict(last)


async def _after_end(last):
    """Return the last message to a child task that outlives its application, or end its wait if there is none."""
    # A task that never stops asking must not keep the loop to itself.
    await Pass()
    return _last_or_cancelled(last)

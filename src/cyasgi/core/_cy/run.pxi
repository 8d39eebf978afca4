# What an instance's task drives; `send`; and whom its application waits for in `receive`.

cdef enum:
    #: What became of a Run that is waited for: not waited for yet; resolved, or cancelled, and that was read; waited for;
    #: resolved, or cancelled, and not read yet.
    UNUSED = 0
    WAS_RESOLVED = 1
    WAS_CANCELLED = 2
    PENDING = 3
    RESOLVED = 4
    IS_CANCELLED = 5

cdef enum:
    #: What the step of a batch has left to the task, in `_callback`: nothing; what the application waits for; what it has
    #: raised; that it has returned.
    LEFT_NOTHING = 0
    LEFT_WAITING = 1
    LEFT_ERROR = 2
    LEFT_RETURN = 3


@cython.final
@cython.freelist(64)
cdef class Run:
    """What an instance's task drives: decides who runs the application, then passes everything through to it.

    It is three things more, each an object less for every instance, and for the garbage collector. Called, it is the
    application's `send`. To its task it is the future that an application waits for in `receive`: what asyncio asks of
    one (`_asyncio_future_blocking`, `get_loop`, `add_done_callback`, `cancel`, `result`) it has, and other than a future
    it can be waited for again, once its result was read. And it is what `current_instance()` finds the instance by.
    """

    cdef readonly ApplicationInstance instance
    cdef object _coroutine
    #: Owned, but without references of its own; see Receive.
    cdef PyObject *_receive
    cdef object _server
    cdef object _scope
    cdef unsigned long _thread
    #: Whom to tell, and in which context; a list of pairs where there is more than one; the message of a cancellation.
    cdef object _callback
    #: While nobody waits, the message in flight that the application has received in its own task, if it `_holds` any:
    #: an application that waits in `receive` has finished all.
    cdef object _context
    cdef vectorcallfunc _vectorcall
    cdef signed char _wait
    cdef signed char _entered
    cdef signed char _holds
    #: Whether the code that runs now is certainly in the run's own task: within its step, where no task factory can
    #: have begun a child task.
    cdef signed char _stepping
    cdef signed char _trusted
    cdef public signed char _asyncio_future_blocking
    #: What a step of a batch has left to the task; and whether the task was cancelled other than in a wait for the run,
    #: since it was woken in a batch.
    cdef signed char _left
    cdef signed char _cancel_asked

    def __cinit__(self):
        self._vectorcall = _call_run

    def __dealloc__(self):
        _sever(self)

    def __call__(self, message):
        # Found by name only; _call_run is what a call comes to.
        if PyThread_get_thread_ident() == self._thread:
            return self._server.application_send(self._scope, message)
        return _send_there(self._server, self._scope, message)

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        cdef PyObject *result = NULL
        cdef PySendResult status = _send_run(<PyObject *>self, <PyObject *>None, &result)
        if status == PYGEN_ERROR:
            raise get_raised()
        outcome = _taken(result)
        if status == PYGEN_NEXT:
            return outcome
        raise StopIteration(outcome)

    # throw() is _throw_run, result() is _result_run.

    def close(self):
        if self._coroutine is not None:
            self._coroutine.close()
        _end_run(self, asyncio.CancelledError())

    def get_loop(self):
        return asyncio.get_running_loop() if self.instance is None else self.instance._loop

    def add_done_callback(self, callback, *, context=None):
        if context is None:
            context = contextvars.copy_context()
        if self._wait != PENDING:
            _tell_waiter(self, callback, context)
        elif self._callback is None:
            self._callback = callback
            self._context = context
        elif type(self._callback) is list:
            self._callback.append((callback, context))
        else:
            self._callback = [(self._callback, self._context), (callback, context)]

    def cancel(self, msg=None):
        if self._wait != PENDING:
            self._cancel_asked = True
            return False
        self._wait = IS_CANCELLED
        _tell_waiters(self)
        self._callback = msg
        return True

    def cancelled(self):
        return self._wait == IS_CANCELLED or self._wait == WAS_CANCELLED

    def done(self):
        return self._wait != PENDING

    @property
    def cr_await(self):
        return self._coroutine

    @property
    def cr_code(self):
        return getattr(self._coroutine, "cr_code", _awaited_code)

    @property
    def cr_frame(self):
        return getattr(self._coroutine, "cr_frame", None)

    @property
    def cr_running(self):
        return bool(getattr(self._coroutine, "cr_running", False))

    @property
    def __name__(self):
        return str(getattr(self._coroutine, "__qualname__", "Run"))


cdef PyObject *_call_run(PyObject *self, PyObject *const *args, size_t count, PyObject *names) noexcept:
    """send(message), or send(message=message)."""
    cdef Run run = <Run>self
    cdef Py_ssize_t named = 0 if names is NULL else len(<tuple>names)
    if PyVectorcall_NARGS(count) + named != 1 or (named and (<tuple>names)[0] != "message"):
        set_raised(TypeError("send() takes one argument, the message"))
        return NULL
    if PyThread_get_thread_ident() == run._thread:
        return application_send(run._server, run._scope, <object>args[0])
    try:
        return _given(_send_there(run._server, run._scope, <object>args[0]))
    except BaseException as error:
        set_raised(error)
        return NULL


cdef object _awaited_code = (lambda: None).__code__


cdef object _start_run(Run run):
    """Return what the task waits for until the application begins, or None for one pass; with `_coroutine` set, there
    is nothing to wait for."""
    cdef ApplicationInstance instance = run.instance
    if instance is None:
        raise RuntimeError("cannot reuse the run of an instance")
    if not run._entered:
        run._entered = True
        PyContextVar_Set(_at_work, run)
        # If only the table and this run refer to it, nobody is left who could await it. Then the pass of the loop is
        # spared, a fifth of the cost of creating an instance.
        if instance._state == C_NEW and (Py_REFCNT(instance) > 2 + 1 or instance._table is None):
            return None
    if instance._state == C_NEW:
        instance._state = C_AUTO
    if instance._state == C_DONE:
        return run
    if instance._state != C_AUTO or _cold(instance).predecessor is not None:
        instance._ensure_cold().gate = gate = _new_future(instance)
        setattr(gate, _blocking, True)
        return gate
    if instance._begun:
        raise RuntimeError(f"the application of scope_id {instance.scope_id!r} is already run by the server")
    instance._begun = True
    cdef Receive receive = Receive.__new__(Receive)
    receive._run = <PyObject *>run
    # Given back by _sever.
    Py_INCREF(receive)
    run._receive = <PyObject *>receive
    scope = instance.scope
    run._server = instance._server
    if instance.direct:
        run._server = scope.connection
    run._scope = scope
    run._thread = PyThread_get_thread_ident()
    coroutine = instance._application(scope, receive, run)
    if not PyCoro_CheckExact(coroutine):
        coroutine = _awaited(coroutine)
    run._coroutine = coroutine
    return run


cdef void _sever(Run run) noexcept:
    """Nothing is received any more."""
    cdef PyObject *receive = run._receive
    if receive is not NULL:
        run._receive = NULL
        (<Receive>receive)._run = NULL
        # Taken by _start_run.
        Py_DECREF(<object>receive)


cdef _end_run(Run run, object error):
    """`error`: None for a run that returned."""
    cdef ApplicationInstance instance = run.instance
    cdef Receive receive = None
    cdef tuple items = None
    run.instance = None
    # Only the run refers to it, if the application has not given it to somebody.
    if run._receive is not NULL and Py_REFCNT(<object>run._receive) > 1:
        receive = <Receive>run._receive
    _sever(run)
    if instance is not None:
        if run._holds != C_NEVER or _cold(instance).taken is not None:
            items = instance._interrupt(run, error)
        instance._run_ended(error)
        if receive is not None:
            _end_receive(receive, instance._last_message())
        if items:
            # Last: who is told may ask for another instance.
            tell_all(items, outcome_of(error), error)


cdef object _take_in_hand(Run run, item):
    """Note what the application has received in its own task, and return the message."""
    if run._holds == C_HOLDS:
        # Received by another call in the same task, which has not asked for more since.
        _settle(run)
    if run._wait != PENDING:
        # The message last: what it replaces may do anything as it goes.
        run._holds = C_HOLDS
        run._context = item
    if type(item) is not _Tracked:
        return item
    item.tell(_TAKEN)
    if run._wait == PENDING and run._context is not item:
        # Another call of the same task waits for more.
        item.tell(_DONE)
    return item.message


cdef inline _settle(Run run):
    """Note that the application has come back from what it has received in its own task."""
    if run._holds == C_HOLDS:
        run._holds = C_SETTLED
        item = run._context
        run._context = None
        if type(item) is _Tracked:
            item.tell(_DONE)


cdef void _end_failed(Run run, object error) noexcept:
    # noexcept: what goes wrong in here is printed, and the task still gets the error.
    _end_run(run, error)


cdef _tell_waiter(Run run, callback, context):
    cdef ApplicationInstance instance = run.instance
    cdef InstanceTable table = None if instance is None else instance._table
    # Once the run has ended only a child task can wait, which knows its loop.
    loop = callback.__self__.get_loop() if instance is None else instance._loop
    if table is not None and table._plain_calls and loop is table._loop and runs_here(loop):
        # All that loop.call_soon() does, without its three frames.
        table._loop_dict["_ready"].append(_make_handle(callback, (run,), loop, context))
    else:
        call_soon("call_soon", loop, callback, run, context, _CONTEXT)


cdef tuple _HANDLE_SLOTS = ("_context", "_loop", "_callback", "_args", "_cancelled", "_repr", "_source_traceback")
cdef Py_ssize_t _handle_offsets[7]


cdef object _make_handle(callback, tuple args, loop, context):
    """Return what asyncio.Handle(callback, args, loop, context) is outside debug mode; see _handles_are_known."""
    handle = bare_handle(_Handle)
    fill_slot(handle, _handle_offsets[0], context)
    fill_slot(handle, _handle_offsets[1], loop)
    fill_slot(handle, _handle_offsets[2], callback)
    fill_slot(handle, _handle_offsets[3], args)
    fill_slot(handle, _handle_offsets[4], False)
    fill_slot(handle, _handle_offsets[5], None)
    fill_slot(handle, _handle_offsets[6], None)
    return handle


class _NoDebug:
    def get_debug(self):
        return False


cdef bint _handles_are_known() except -1:
    """Return whether an asyncio.Handle has the attributes that _make_handle sets, and no others."""
    slots = set(getattr(_Handle, "__slots__", ())) - {"__weakref__"}
    if slots != set(_HANDLE_SLOTS) or _Handle.__mro__ != (_Handle, object):
        return False
    for index, name in enumerate(_HANDLE_SLOTS):
        _handle_offsets[index] = slot_offset(_Handle, name)
        if _handle_offsets[index] == 0:
            return False
    loop = _NoDebug()
    theirs, ours = _Handle(len, (), loop, contextvars.copy_context()), _make_handle(len, (), loop, None)
    return all(getattr(theirs, name) is getattr(ours, name) for name in _HANDLE_SLOTS[1:])


cdef bint _known_handles = _handles_are_known()


cdef _tell_waiters(Run run):
    callback, run._callback = run._callback, None
    context, run._context = run._context, None
    if type(callback) is list:
        for callback, context in callback:
            _tell_waiter(run, callback, context)
    elif callback is not None:
        _tell_waiter(run, callback, context)


cdef bint _resolve_run(Run run) except -1:
    """False if nobody waits any more."""
    global _batch_first
    if run._wait != PENDING:
        return False
    run._wait = RESOLVED
    if _batch_loop is not None and _steps_in_batch(run):
        run._cancel_asked = False
        if _batch_first is None:
            _batch_first = run
        else:
            _batch_woken.append(run)
    else:
        _tell_waiters(run)
    return True


cdef PyObject *_result_run(PyObject *self, PyObject *const *args, Py_ssize_t count) noexcept:
    cdef Run run = <Run>self
    if run._left != LEFT_NOTHING:
        return _given(None)
    if run._wait == RESOLVED:
        run._wait = WAS_RESOLVED
        return _given(None)
    if run._wait == IS_CANCELLED:
        run._wait = WAS_CANCELLED
        message, run._callback = run._callback, None
        error = _CancelledError() if message is None else _CancelledError(message)
    else:
        error = _InvalidStateError("nobody waits, or what is waited for has not come")
    set_raised(error)
    return NULL


cdef PySendResult _send_run(PyObject *self, PyObject *value, PyObject **result) noexcept:
    cdef Run run = <Run>self
    cdef PySendResult status
    result[0] = NULL
    try:
        if run._coroutine is None:
            waits_for = _start_run(run)
            if waits_for is not run:
                result[0] = _given(waits_for)
                return PYGEN_NEXT
            if run._coroutine is None:
                # The caller's run is over, or there was nothing to run.
                _end_run(run, None)
                result[0] = _given(None)
                return PYGEN_RETURN
        if run._left != LEFT_NOTHING:
            status = _take_left(run, result)
        else:
            run._stepping = run._trusted
            status = PyIter_Send(run._coroutine, None, result)
            run._stepping = False
        if status == PYGEN_NEXT:
            return status
        if status == PYGEN_RETURN:
            _end_run(run, None)
            return status
        error = get_raised()
        _end_run(run, error)
    except BaseException as failure:
        # Before the application's first step, or in the bookkeeping of its end.
        error = failure
        _end_failed(run, error)
    if result[0] is not NULL:
        _taken(result[0])
        result[0] = NULL
    set_raised(error)
    return PYGEN_ERROR


cdef PyObject *_throw_run(PyObject *self, PyObject *const *args, Py_ssize_t count) noexcept:
    cdef Run run = <Run>self
    cdef PyObject *result
    error = _thrown(args, count)
    if run._left != LEFT_NOTHING:
        return _throw_left(run, error)
    if run._coroutine is not None:
        result = PyObject_CallMethodOneArg(run._coroutine, "throw", error)
        if result is not NULL:
            return result
        error = get_raised()
    try:
        _end_run(run, None if isinstance(error, StopIteration) else error)
    except BaseException as failure:
        error = failure
    set_raised(error)
    return NULL

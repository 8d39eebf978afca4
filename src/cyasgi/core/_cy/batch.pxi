# Batches: what a gateway has read in one go is put into many instances, whose applications then go on at once.
#
# Usually an application that waits in `receive` is woken by way of the loop and of its task: a handle is made and run, the
# task reads the result of what it has waited for, makes the step, and waits again. That costs more than most steps do. In
# a batch the instances that were woken are noted, and when all is put each step is made right here: with the task as the
# current one, in its context, and nothing else at work. If the application then waits in `receive` again, the task is
# where it was, and need not know. Whatever else the step comes to is left to the task, which is woken in the usual way and
# finds that instead of making a step of its own: it waits for another future, or ends.
#
# Only a callback of the loop may do this, in which no task is at work. A batch is bounded by whoever puts it.

cdef extern from *:
    """
    typedef struct {
        /* Begins a batch in this loop; 0 if its steps have to be left to the loop. */
        int (*begin)(PyObject *loop);
        /* Puts a message into the instance of this id, which is made for this scope if there is none; returns whether it
           was, or -1 with an error set. */
        int (*deliver)(PyObject *server, PyObject *scope_id, PyObject *scope, PyObject *message);
        /* Makes the steps. Returns -1 with an error set for KeyboardInterrupt and SystemExit, when all were made. */
        int (*finish)(void);
    } cyasgi_batch_api;
    """
    ctypedef struct cyasgi_batch_api:
        int (*begin)(PyObject *loop) noexcept
        int (*deliver)(PyObject *server, PyObject *scope_id, PyObject *scope, PyObject *message) noexcept
        int (*finish)() noexcept


cdef bint _steps_in_batch(Run run):
    """Return whether this run's step can be made without its task."""
    cdef ApplicationInstance instance = run.instance
    return (
        run._trusted
        and instance is not None
        and instance._loop is _batch_loop
        and type(instance._task) is _Task
        and run._callback is not None
        and type(run._callback) is not list
    )


cdef int _begin_batch(PyObject *loop) noexcept:
    global _batch_loop
    if _current_tasks is None or _batch_loop is not None:
        return 0
    try:
        if <object>loop in _current_tasks or (<object>loop).get_debug():
            return 0
        _batch_loop = <object>loop
    except BaseException:
        return 0
    return 1


cdef int _deliver_in_batch(PyObject *server, PyObject *scope_id, PyObject *scope, PyObject *message) noexcept:
    try:
        return _deliver(<object>server, <object>scope_id, <object>scope, <object>message)
    except BaseException as error:
        set_raised(error)
        return -1


cdef bint _deliver(server, scope_id, scope, message) except -1:
    instance = _get_or_create(server, scope_id, scope)
    if type(instance) is not ApplicationInstance:
        # Somebody's plain dict.
        instance.put_nowait(message)
        return False
    (<ApplicationInstance>instance).put_nowait(message)
    return (<ApplicationInstance>instance).scope is scope


cdef int _finish_batch() noexcept:
    global _batch_loop, _batch_first, _batch_woken
    cdef list woken = _batch_woken
    cdef Py_ssize_t index
    loop, _batch_loop = _batch_loop, None
    first, _batch_first = _batch_first, None
    if first is None:
        return 0
    interrupt = None
    try:
        if not woken:
            _step_in_batch(<Run>first, loop)
            return 0
        _batch_woken = []
        woken.insert(0, first)
        for index in range(len(woken)):
            try:
                _step_in_batch(<Run>woken[index], loop)
            except BaseException as error:
                if interrupt is None:
                    interrupt = error
    except BaseException as error:
        interrupt = error
    if interrupt is not None:
        set_raised(interrupt)
        return -1
    return 0


cdef int _put_and_step(PyObject *loop, PyObject *instance, PyObject *message) noexcept:
    """A batch of one message, if it may be one; else put it. Return 0 if the queue is full; -1 with an error set as
    `finish` says, and for whatever putting raises."""
    cdef ApplicationInstance entry
    cdef bint begun
    try:
        if type(<object>instance) is not ApplicationInstance:
            if (<object>instance).full():
                return 0
            (<object>instance).put_nowait(<object>message)
            return 1
        entry = <ApplicationInstance>instance
        if entry.full():
            return 0
        begun = _begin_batch(loop)
        try:
            entry.put_nowait(<object>message)
        finally:
            if begun and _finish_batch() < 0:
                raise get_raised()
        return 1
    except BaseException as error:
        set_raised(error)
        return -1


cdef int _waits_idle(PyObject *instance) noexcept:
    """Return whether this is an instance that waits in `receive`, with an empty queue whose places nobody owns."""
    return (
        type(<object>instance) is ApplicationInstance
        and (<ApplicationInstance>instance)._idle != 0
        and _cold(<ApplicationInstance>instance).line is None
    )


cdef int _step_in_batch(Run run, loop) except -1:
    cdef ApplicationInstance instance = run.instance
    cdef PyObject *result = NULL
    cdef PySendResult status
    if run._wait != RESOLVED:
        return 0
    callback, context = run._callback, run._context
    if instance is None or run._cancel_asked or run._coroutine is None or callback is None or type(callback) is list:
        _tell_waiters(run)
        return 0
    task = instance._task
    try:
        PyContext_Enter(context)
    except RuntimeError:
        # Somebody has given the task the very context that this is called in.
        _tell_waiters(run)
        return 0
    run._callback = run._context = None
    run._wait = WAS_RESOLVED
    run._asyncio_future_blocking = False
    _current_tasks[loop] = task
    run._stepping = run._trusted
    status = PyIter_Send(run._coroutine, None, &result)
    run._stepping = False
    left = get_raised() if status == PYGEN_ERROR else _taken(result)
    _current_tasks.pop(loop, None)
    PyContext_Exit(context)
    if status == PYGEN_NEXT:
        if left is run and run._wait == PENDING and run._callback is None and not run._cancel_asked:
            # The task waits for this very run, as far as it knows.
            run._asyncio_future_blocking = False
            run._callback = callback
            run._context = context
            return 0
        run._left = LEFT_WAITING
    elif status == PYGEN_RETURN:
        run._left = LEFT_RETURN
    else:
        run._left = LEFT_ERROR
    run._callback = left
    # Not kept in this frame: what is left may be an error, whose traceback would refer to it.
    left = None
    PyContext_Enter(context)
    try:
        callback(run)
    finally:
        PyContext_Exit(context)
    return 0


cdef PySendResult _take_left(Run run, PyObject **result) noexcept:
    """Give the task what a step of a batch has left to it, as if it had made the step."""
    cdef int kind = run._left
    run._left = LEFT_NOTHING
    left, run._callback = run._callback, None
    if kind == LEFT_ERROR:
        set_raised(left)
        return PYGEN_ERROR
    if left is run:
        # The task is about to wait for it, as if it had not been told of the step.
        run._asyncio_future_blocking = True
    result[0] = _given(left)
    return PYGEN_NEXT if kind == LEFT_WAITING else PYGEN_RETURN


cdef PyObject *_throw_left(Run run, error) noexcept:
    """Cancel the task, as it was asked during the step of a batch."""
    cdef PyObject *result
    cdef int kind = run._left
    run._left = LEFT_NOTHING
    left, run._callback = run._callback, None
    ended_by = error
    if kind == LEFT_WAITING:
        try:
            # A future is cancelled, and its own cancellation reaches the application.
            if left is not None and left is not run and left.cancel(*error.args[:1]):
                return _given(left)
        except BaseException as failure:
            error = failure
        result = PyObject_CallMethodOneArg(run._coroutine, "throw", error)
        if result is not NULL:
            return result
        error = ended_by = get_raised()
    elif kind == LEFT_ERROR:
        error = ended_by = left
    else:
        ended_by = None
    try:
        _end_run(run, None if isinstance(ended_by, StopIteration) else ended_by)
    except BaseException as failure:
        error = failure
    set_raised(error)
    return NULL


cdef cyasgi_batch_api _batch_api
_batch_api.begin = _begin_batch
_batch_api.deliver = _deliver_in_batch
_batch_api.finish = _finish_batch
BATCH_API = PyCapsule_New(&_batch_api, "cyasgi.core._core.BATCH_API", NULL)
#: For a gateway that has one message for one instance: `_put_and_step`.
PUT_AND_STEP = PyCapsule_New(<void *>&_put_and_step, "cyasgi.core._core.PUT_AND_STEP", NULL)
#: Whether it would make a step: `_waits_idle`.
IS_IDLE = PyCapsule_New(<void *>&_waits_idle, "cyasgi.core._core.IS_IDLE", NULL)

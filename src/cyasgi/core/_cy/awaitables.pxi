# What is awaited besides the loop's own futures, and what makes and resolves these.

cdef object _new_future(ApplicationInstance instance):
    """Return a future of the instance's loop."""
    cdef InstanceTable table = instance._table
    loop = instance._loop
    if loop is None:
        loop = asyncio.get_running_loop()
    if table is not None and table._plain_futures and loop is table._loop:
        # All that loop.create_future() does, without its frame.
        return with_loop(_Future, loop, _LOOP)
    return loop.create_future()


cdef inline PyObject *_given(object value):
    """Return a new reference for a result slot, which whoever reads the slot owns."""
    Py_INCREF(value)
    return <PyObject *>value


cdef object _error_of(kind, value):
    if isinstance(kind, BaseException):
        return kind
    return kind() if value is None else value


cdef object _thrown(PyObject *const *args, Py_ssize_t count):
    """Return the exception that the arguments of a coroutine's throw() stand for; never raise."""
    if count == 1 and isinstance(<object>args[0], BaseException):
        return <object>args[0]
    try:
        if not 1 <= count <= 3:
            raise TypeError(f"throw() takes one to three arguments, not {count}")
        error = _error_of(<object>args[0], <object>args[1] if count > 1 else None)
        if not isinstance(error, BaseException):
            raise TypeError(f"throw() takes an exception, not {error!r}")
    except BaseException as failure:
        return failure
    return error


@cython.final
cdef class Pass:
    """Let the event loop turn once when awaited."""

    cdef bint _turned

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self._turned:
            self._turned = False
            raise StopIteration
        self._turned = True
        return None

    def send(self, value):
        return self.__next__()

    def throw(self, kind, value=None, traceback=None):
        raise _error_of(kind, value)

    def close(self):
        pass


async def _awaited(awaitable):
    return await awaitable


async def _send_there(server, scope, message):
    """Send a message when called in another thread than the event loop's, which is the one that awaits it."""
    return await server.application_send(scope, message)


@cython.final
cdef class Sent:
    """Be done at once when awaited: what a `send` returns that has nothing to wait for."""

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration

    def send(self, value):
        raise StopIteration

    def throw(self, kind, value=None, traceback=None):
        raise _error_of(kind, value)

    def close(self):
        pass


cdef PySendResult _send_sent(PyObject *self, PyObject *value, PyObject **result) noexcept:
    result[0] = _given(None)
    return PYGEN_RETURN

# What these awaitables are given by hand, as Cython would make it slower or not at all.

cdef PyObject *_next_sent(PyObject *self) noexcept:
    return NULL


cdef PyObject *_next_waiting(PyObject *self) noexcept:
    cdef PyObject *result = NULL
    cdef PySendResult status = _send_waiting(self, <PyObject *>None, &result)
    return iterated(status, result)


cdef PyObject *_next_receive(PyObject *self) noexcept:
    cdef PyObject *result = NULL
    cdef PySendResult status = _send_receive(self, <PyObject *>None, &result)
    return iterated(status, result)


cdef PyObject *_next_run(PyObject *self) noexcept:
    cdef PyObject *result = NULL
    cdef PySendResult status = _send_run(self, <PyObject *>None, &result)
    return iterated(status, result)


Coroutine.register(Run)
Coroutine.register(Waiting)
Coroutine.register(Pass)
Coroutine.register(Sent)
Coroutine.register(Receive)
cyasgi_set_method(Run, "throw", _throw_run)
cyasgi_set_method(Run, "result", _result_run)
cyasgi_set_method(Waiting, "throw", _throw_waiting)
cyasgi_set_method(Receive, "throw", _throw_receive)

cdef Run _a_run = Run.__new__(Run)
cyasgi_set_vectorcall(Run, <char *>&_a_run._vectorcall - <char *><PyObject *>_a_run)
cyasgi_set_am_send(Sent, _send_sent)
cyasgi_set_am_send(Run, _send_run)
cyasgi_set_am_send(Receive, _send_receive)
cyasgi_set_am_send(Get, _send_waiting)
cyasgi_set_am_send(Put, _send_waiting)
cyasgi_set_am_send(Join, _send_waiting)
cyasgi_set_iternext(Sent, _next_sent)
cyasgi_set_iternext(Run, _next_run)
cyasgi_set_iternext(Receive, _next_receive)
for waiting in (Get, Put, Join):
    cyasgi_set_iternext(waiting, _next_waiting)

SENT = Sent()

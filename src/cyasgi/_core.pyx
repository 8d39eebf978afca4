# cython: language_level=3, binding=False, boundscheck=False, wraparound=False, initializedcheck=False
"""The Cython twin of the core. The theory of operation stands at the top of `_core_py.py`; here is what differs.

* The entries of a natural order of the table form a doubly linked list through `_prev` and `_next`. The dict owns the
  entries; the list borrows them: an entry is linked if and only if it is in the dict (and has no assigned place). Where
  the garbage collector takes a whole server apart, in an order of its own, that does not hold: an entry that dies
  linked unlinks itself, and a table that dies cuts all links, so that no borrowed pointer outlives what it points to.
* `get`, `put` and `join` are awaitable objects rather than coroutines. They are driven through `am_send` where the
  interpreter asks for it (await up to 3.11, a task's step in every version) and through `tp_iternext` elsewhere; both are
  functions set by hand, since what Cython makes of `__next__` ends with a traceback, which costs more than all the rest.
* An application that waits in `receive` waits for its own Run, which can be waited for again and again; whoever waits in
  `get`, `put` or `join` waits for an exact `asyncio.Future`, without an iterator around it.
* `send` is the Run, too.
* Receive is its own awaitable: `receive()` returns the callable itself unless one call is under way already. It owns
  nothing, and the garbage collector does not see it.
* Where the loop's own methods are asyncio's, futures, tasks and wake-ups are made as these would make them, without their
  frames.
* What few instances have is kept apart, in a Seldom of their own, so that all the others are smaller.
"""

import asyncio
import bisect
import collections
import contextvars
import itertools
import math

import time
import types
import warnings
from asyncio import QueueEmpty, QueueFull
from collections.abc import Coroutine, ItemsView, KeysView, MutableMapping, ValuesView
from concurrent import futures

from cpython.object cimport PyObject, Py_TYPE, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF
cimport cython

from ._calling import HeldApplication, InstanceDeleted
from ._context import haunted, running
from ._tasks import NAME, has_plain_tasks, name_of, takes_names

cdef extern from *:
    """
    #include <time.h>
    #include <string.h>
    #include <structmember.h>

    #if !defined(Py_T_OBJECT_EX)
    #define Py_T_OBJECT_EX T_OBJECT_EX
    #endif

    #if defined(_WIN32)
    #include <windows.h>
    #endif

    /* The wall clock as time.time() reads it, and a cheap monotonic one. */
    static double cyasgi_wall(void) {
    #if defined(_WIN32)
        FILETIME ft; ULARGE_INTEGER u;
        GetSystemTimePreciseAsFileTime(&ft);
        u.LowPart = ft.dwLowDateTime; u.HighPart = ft.dwHighDateTime;
        return (double)(long long)((u.QuadPart - 116444736000000000ULL) * 100) / 1e9;
    #else
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        return (double)((long long)t.tv_sec * 1000000000LL + t.tv_nsec) / 1e9;
    #endif
    }
    static double cyasgi_mono(void) {
    #if defined(_WIN32)
        return (double)GetTickCount64() / 1e3;
    #else
        struct timespec t;
    #if defined(CLOCK_MONOTONIC_COARSE)
        clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    #else
        clock_gettime(CLOCK_MONOTONIC, &t);
    #endif
        return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
    #endif
    }

    /* Whether this event loop runs in this thread, at a fraction of the cost of asking for the running one, or of calling
       a method of the loop. A running loop has the thread's hooks for asynchronous generators be methods of its own;
       where somebody has set other ones, the answer is no, and the loop has to be asked. */
    static int cyasgi_runs_here(PyObject *loop) {
    #if PY_VERSION_HEX < 0x03100000
        PyObject *hook = PyThreadState_Get()->async_gen_firstiter;
    #else
        PyObject *hook = NULL;
    #endif
        return hook != NULL && PyMethod_Check(hook) && PyMethod_GET_SELF(hook) == loop;
    }

    /* Takes the current error, traceback attached; and makes an exception the current error, as it is. No Python
       frame is added either way. */
    static PyObject *cyasgi_get_raised(void) {
    #if PY_VERSION_HEX >= 0x030c0000
        return PyErr_GetRaisedException();
    #else
        PyObject *kind, *value, *traceback;
        PyErr_Fetch(&kind, &value, &traceback);
        PyErr_NormalizeException(&kind, &value, &traceback);
        if (traceback != NULL) {
            PyException_SetTraceback(value, traceback);
        }
        Py_XDECREF(kind);
        Py_XDECREF(traceback);
        return value;
    #endif
    }
    static void cyasgi_set_raised(PyObject *error) {
    #if PY_VERSION_HEX >= 0x030c0000
        Py_INCREF(error);
        PyErr_SetRaisedException(error);
    #else
        Py_INCREF((PyObject *)Py_TYPE(error));
        Py_INCREF(error);
        PyErr_Restore((PyObject *)Py_TYPE(error), error, PyException_GetTraceback(error));
    #endif
    }
    /* Hands a reference that a result slot owns over to Cython. */
    static PyObject *cyasgi_taken(PyObject *result) { return result; }

    /* Gives a type a method of positional arguments that adds no frame to a traceback, which every method of Cython's
       does. It is there for as long as the type. */
    typedef PyObject *(*cyasgi_method)(PyObject *, PyObject *const *, Py_ssize_t);
    static int cyasgi_set_method(PyObject *type, const char *name, cyasgi_method function) {
        PyObject *method;
        int failed;
        PyMethodDef *definition = (PyMethodDef *)PyMem_Calloc(1, sizeof(PyMethodDef));
        if (definition == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        definition->ml_name = name;
        definition->ml_meth = (PyCFunction)(void (*)(void))function;
        definition->ml_flags = METH_FASTCALL;
        method = PyDescr_NewMethod((PyTypeObject *)type, definition);
        if (method == NULL) {
            return -1;
        }
        failed = PyDict_SetItemString(((PyTypeObject *)type)->tp_dict, name, method);
        Py_DECREF(method);
        PyType_Modified((PyTypeObject *)type);
        return failed;
    }

    /* Makes the calls of a type's objects go through the vectorcall that each has at this offset: no tuple of the
       arguments. The type has to be new: nobody has derived one from it. */
    static int cyasgi_set_vectorcall(PyObject *type, Py_ssize_t offset) {
        PyTypeObject *t = (PyTypeObject *)type;
        t->tp_vectorcall_offset = offset;
        t->tp_call = PyVectorcall_Call;
        t->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
        PyType_Modified(t);
        return 0;
    }

    /* Has iterating over objects of a type end in as few steps as there are: what an await is from Python 3.12 on. */
    static int cyasgi_set_iternext(PyObject *type, iternextfunc function) {
        ((PyTypeObject *)type)->tp_iternext = function;
        PyType_Modified((PyTypeObject *)type);
        return 0;
    }
    /* What such an iteration gives, from what am_send gave: a result that is none ends it with a StopIteration, which is
       made without the parsing of arguments, and raised without a traceback. */
    static PyObject *cyasgi_iterated(PySendResult status, PyObject *result) {
        PyObject *stop, *nothing;
        if (status != PYGEN_RETURN) {
            return result;
        }
        if (result == Py_None) {
            Py_DECREF(result);
            return NULL;
        }
        nothing = PyTuple_New(0);
        stop = nothing == NULL ? NULL : ((PyTypeObject *)PyExc_StopIteration)->tp_new(
            (PyTypeObject *)PyExc_StopIteration, nothing, NULL);
        Py_XDECREF(nothing);
        if (stop == NULL) {
            Py_DECREF(result);
            return NULL;
        }
        Py_XSETREF(((PyStopIterationObject *)stop)->value, result);
        cyasgi_set_raised(stop);
        Py_DECREF(stop);
        return NULL;
    }

    /* Sets am_send of a type that has __await__, which Cython does not offer. */
    static int cyasgi_set_am_send(PyObject *type, sendfunc function) {
        PyTypeObject *t = (PyTypeObject *)type;
        if (t->tp_as_async == NULL) {
            PyErr_SetString(PyExc_SystemError, "type without tp_as_async");
            return -1;
        }
        t->tp_as_async->am_send = function;
        PyType_Modified(t);
        return 0;
    }
    """
    object get_raised "cyasgi_get_raised"()
    void set_raised "cyasgi_set_raised"(object error)
    object _taken "cyasgi_taken"(PyObject *result)
    double wall "cyasgi_wall"() nogil
    double mono "cyasgi_mono"() nogil
    bint runs_here "cyasgi_runs_here"(object loop)
    ctypedef int PySendResult
    int PYGEN_RETURN
    int PYGEN_ERROR
    int PYGEN_NEXT
    ctypedef PySendResult (*sendfunc)(PyObject *, PyObject *, PyObject **)
    int cyasgi_set_am_send(object type, sendfunc function) except -1
    ctypedef PyObject *(*iternextfunc)(PyObject *)
    int cyasgi_set_iternext(object type, iternextfunc function) except -1
    PyObject *iterated "cyasgi_iterated"(PySendResult status, PyObject *result)
    ctypedef PyObject *(*vectorcallfunc)(PyObject *, PyObject *const *, size_t, PyObject *)
    int cyasgi_set_vectorcall(object type, Py_ssize_t offset) except -1
    Py_ssize_t PyVectorcall_NARGS(size_t)
    ctypedef PyObject *(*cyasgi_method)(PyObject *, PyObject *const *, Py_ssize_t)
    int cyasgi_set_method(object type, const char *name, cyasgi_method function) except -1
    # What it raises stays the current error: get_raised() takes it.
    PyObject *PyObject_CallMethodOneArg(object o, object name, object arg)
    PySendResult PyIter_Send(object iterator, object value, PyObject **result)
    int PyCoro_CheckExact(object o)

cdef extern from *:
    """
    /* factory(loop=loop) */
    static PyObject *cyasgi_with_loop(PyObject *factory, PyObject *loop, PyObject *names) {
        PyObject *args[2] = {NULL, loop};
        return PyObject_Vectorcall(factory, args + 1, 0 | PY_VECTORCALL_ARGUMENTS_OFFSET, names);
    }
    """
    object with_loop "cyasgi_with_loop"(object factory, object loop, tuple names)

cdef extern from *:
    """
    /* factory(coroutine, loop=loop, name=name) */
    static PyObject *cyasgi_new_task(PyObject *factory, PyObject *coroutine, PyObject *loop, PyObject *name,
                                     PyObject *names) {
        PyObject *args[4] = {NULL, coroutine, loop, name};
        return PyObject_Vectorcall(factory, args + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, names);
    }
    """
    object new_task "cyasgi_new_task"(object factory, object coroutine, object loop, object name, tuple names)

cdef extern from *:
    """
    /* server.application_send(scope, message); no frame of ours is in a traceback. */
    static PyObject *cyasgi_application_send(PyObject *server, PyObject *scope, PyObject *message) {
        static PyObject *name = NULL;
        PyObject *args[4] = {NULL, server, scope, message};
        if (name == NULL && (name = PyUnicode_InternFromString("application_send")) == NULL) {
            return NULL;
        }
        return PyObject_VectorcallMethod(name, args + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    /* Where objects of a type keep the attribute of this name of its __slots__; 0 if it is no such attribute. */
    static Py_ssize_t cyasgi_slot_offset(PyObject *type, PyObject *name) {
        Py_ssize_t offset = 0;
        PyObject *descriptor = PyObject_GetAttr(type, name);
        if (descriptor == NULL) {
            return -1;
        }
        if (Py_IS_TYPE(descriptor, &PyMemberDescr_Type)) {
            PyMemberDef *member = ((PyMemberDescrObject *)descriptor)->d_member;
            if (member->type == Py_T_OBJECT_EX && member->flags == 0) {
                offset = member->offset;
            }
        }
        Py_DECREF(descriptor);
        return offset;
    }
    /* An object of a type with nothing but __slots__, and a value for one of them that has none. */
    static PyObject *cyasgi_bare_handle(PyObject *type) {
        return ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
    }
    static void cyasgi_fill_slot(PyObject *o, Py_ssize_t offset, PyObject *value) {
        Py_INCREF(value);
        *(PyObject **)((char *)o + offset) = value;
    }
    /* loop.call_soon(callback, arg, context=context) */
    static PyObject *cyasgi_call_soon(PyObject *name, PyObject *loop, PyObject *callback, PyObject *arg,
                                      PyObject *context, PyObject *names) {
        PyObject *args[4] = {loop, callback, arg, context};
        return PyObject_VectorcallMethod(name, args, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, names);
    }
    """
    PyObject *application_send "cyasgi_application_send"(object server, object scope, object message)
    Py_ssize_t slot_offset "cyasgi_slot_offset"(object type, object name) except -1
    object bare_handle "cyasgi_bare_handle"(object type)
    void fill_slot "cyasgi_fill_slot"(object o, Py_ssize_t offset, object value)
    object call_soon "cyasgi_call_soon"(
        object name, object loop, object callback, object arg, object context, tuple names
    )

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil
    Py_ssize_t Py_REFCNT(object o)
    Py_ssize_t PY_SSIZE_T_MAX
    object PyObject_GenericGetDict(object o, void *context)
    object PyContextVar_Set(object var, object value)
    int PyContextVar_Get(object var, PyObject *default, PyObject **value) except -1

NEW, HELD, AUTO, CALLER, DONE = range(5)
RETURNED, FAILED, CANCELLED = range(1, 4)

cdef enum:
    C_NEW = 0
    C_HELD = 1
    C_AUTO = 2
    C_CALLER = 3
    C_DONE = 4

KEYS = ("application", "future", "input_queue", "last_used", "scope")
LOOK_PAST = 32
BREATH = 64
CROWD = 1024
POLICIES = ("lru", "slru")
ASSIGNED, PROBATION = 1, 2

cdef enum:
    C_ASSIGNED = 1
    C_PROBATION = 2

cdef tuple _KEYS = KEYS
cdef tuple _STATES = ("new", "held", "running", "called", "done")
OUTCOMES = ("", "finished", "failed", "cancelled")
cdef tuple _OUTCOMES = OUTCOMES
cdef object _MISSING = object()
cdef object _sequence = itertools.count()
cdef object _Future = asyncio.Future
cdef object _Task = asyncio.Task
cdef tuple _LOOP = ("loop",)
cdef tuple _LOOP_AND_NAME = ("loop", "name")
cdef object _NAME = NAME
cdef tuple _CONTEXT = ("context",)
cdef object _deque = collections.deque
cdef object _OrderedDict = collections.OrderedDict
cdef object _InvalidStateError = asyncio.InvalidStateError
cdef object _CancelledError = asyncio.CancelledError
cdef object _TimerHandle = asyncio.TimerHandle
cdef object _Handle = asyncio.Handle
cdef object _get_task_factory = asyncio.BaseEventLoop.get_task_factory
cdef object _running = running
cdef object _haunted = haunted
cdef object _monotonic = time.monotonic
cdef int _breath = 0
cdef object _blocking = "_asyncio_future_blocking"


cdef object _new_future(ApplicationInstance instance):
    """A future of the instance's loop."""
    cdef InstanceTable table = instance._table
    loop = instance._loop
    if loop is None:
        loop = asyncio.get_running_loop()
    if table is not None and table._plain_futures and loop is table._loop:
        # All that loop.create_future() does, without its frame.
        return with_loop(_Future, loop, _LOOP)
    return loop.create_future()


cdef inline PyObject *_given(object value):
    """A new reference for a result slot; whoever reads the slot owns it."""
    Py_INCREF(value)
    return <PyObject *>value


cdef object _error_of(kind, value):
    if isinstance(kind, BaseException):
        return kind
    return kind() if value is None else value


cdef object _thrown(PyObject *const *args, Py_ssize_t count):
    """The exception that the arguments of a coroutine's throw() stand for; never raises."""
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
    """Awaited: lets the loop turn once."""

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
    """Called in another thread than the event loop's, which is the one that awaits it."""
    return await server.application_send(scope, message)


@cython.final
cdef class Sent:
    """Awaited: done at once. What a `send` gives that had nothing to wait for."""

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


# Awaitables over the queue. `_step` gives True with `result` the outcome, or False with `result` the future to wait
# for; it raises what the await is to raise.

cdef class Waiting:
    cdef ApplicationInstance _instance
    cdef object _future
    cdef object result

    cdef bint _step(self) except -1:
        raise NotImplementedError

    cdef object _abandoned(self, object future):
        """The wait for `future` was given up."""

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
        waiting._give_up()
    except BaseException as failure:
        error = failure
    set_raised(error)
    return NULL


@cython.final
cdef class Receive:
    """The `receive` of an application that the server runs, and what calling it gives.

    It owns nothing, so that the garbage collector need not know it: its run owns it, and severs it at the end.
    """

    #: Borrowed; NULL when severed.
    cdef PyObject *_run
    #: Called, and not awaited to its end yet.
    cdef bint _out
    cdef int _waits

    def __call__(self):
        if self._out:
            # One call is under way, in another task: this one gets an awaitable of its own.
            instance = _instance_of(self)
            return _never() if instance is None else _make_get(instance)
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


cdef enum:
    #: What a Receive waits for: nothing, its run, or a future, because the run was not free or others wait before it.
    FOR_NOTHING = 0
    FOR_RUN = 1
    FOR_FUTURE = 2


cdef inline ApplicationInstance _instance_of(Receive receive):
    return None if receive._run is NULL else (<Run>receive._run).instance


cdef object _step_receive(Receive receive, bint *done):
    """A message, `done`; or what is to be waited for."""
    cdef ApplicationInstance instance = _instance_of(receive)
    cdef Run run
    if instance is None:
        # A child task that outlives its application: nothing will ever come.
        receive._waits = FOR_NOTHING
        future = asyncio.get_running_loop().create_future()
        setattr(future, _blocking, True)
        return future
    if not receive._out:
        raise RuntimeError("cannot reuse already awaited receive()")
    if receive._waits != FOR_NOTHING and not _woken(receive, instance):
        raise RuntimeError("receive() is being awaited already")
    _waited(receive, instance)
    if instance._count:
        receive._out = False
        done[0] = True
        return instance._take()
    if instance.pulls:
        message = instance.scope.connection.next_message()
        if message is not None:
            receive._out = False
            done[0] = True
            return message
    run = <Run>receive._run
    if run._wait < PENDING and instance._getter is None and _few(instance).getters is None:
        receive._waits = FOR_RUN
        run._wait = PENDING
        run._asyncio_future_blocking = True
        instance._getter = run
        instance._set_idle()
        return run
    receive._waits = FOR_FUTURE
    future = instance._wait()
    instance._rare().received = future
    return future


cdef bint _woken(Receive receive, ApplicationInstance instance) except -1:
    """Whether what it waited for has come."""
    if receive._waits == FOR_RUN:
        return (<Run>receive._run)._wait != PENDING
    return _few(instance).received.done()


cdef inline _waited(Receive receive, ApplicationInstance instance):
    if receive._waits == FOR_FUTURE:
        _few(instance).received = None
    receive._waits = FOR_NOTHING


cdef _give_up_receive(Receive receive):
    cdef ApplicationInstance instance = _instance_of(receive)
    if instance is not None and receive._waits != FOR_NOTHING:
        future = <object>receive._run if receive._waits == FOR_RUN else _few(instance).received
        _waited(receive, instance)
        # A coroutine that is thrown away after its loop was closed has nobody to make room for.
        if future.cancelled() or not instance._loop.is_closed():
            instance._getter_gone(future)
    receive._out = False


cdef PySendResult _send_receive(PyObject *self, PyObject *value, PyObject **result) noexcept:
    cdef Receive receive = <Receive>self
    cdef ApplicationInstance instance = _instance_of(receive)
    cdef bint done = False
    if (
        instance is not None
        and instance._count
        and receive._out
        and receive._waits != FOR_FUTURE
        and _few(instance).putters is None
    ):
        # Without the setting up of a handler, where a message is there.
        receive._waits = FOR_NOTHING
        receive._out = False
        result[0] = _given(instance._pop())
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


async def _never():
    await asyncio.get_running_loop().create_future()


@cython.final
cdef class Get(Waiting):
    """One call of `get()`."""

    cdef bint _step(self) except -1:
        cdef ApplicationInstance instance = self._instance
        if instance is None:
            raise RuntimeError("cannot reuse already awaited get()")
        if instance._count:
            self._future = None
            self.result = instance._take()
            self._instance = None
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
        self._instance._getter_gone(future)


cdef Get _make_get(ApplicationInstance instance):
    cdef Get get = Get.__new__(Get)
    get._instance = instance
    return get


@cython.final
cdef class Put(Waiting):
    """One call of `put(item)`."""

    cdef object _item
    cdef bint _begun
    cdef bint _breathing

    def __dealloc__(self):
        if not self._begun and self._instance is not None:
            warnings.warn("coroutine 'ApplicationInstance.put' was never awaited", RuntimeWarning)

    cdef bint _step(self) except -1:
        global _breath
        cdef ApplicationInstance instance = self._instance
        if instance is None:
            raise RuntimeError("cannot reuse already awaited put()")
        if not self._begun:
            self._begun = True
            if instance.maxsize <= 0:
                _breath += 1
                if (_breath >= 64 or instance._breathing) and instance._breathing < 65535:
                    # Whoever puts meanwhile does the same, and so stays behind.
                    _breath = 0
                    self._breathing = True
                    instance._breathing += 1
                    self.result = None
                    return False
        elif self._breathing:
            self._breathing = False
            instance._breathing -= 1
        self._future = None
        if 0 < instance.maxsize <= instance._count and instance._state != C_DONE:
            self.result = self._future = instance._wait_for_room()
            return False
        self._instance = None
        instance.put_nowait(self._item)
        self.result = None
        return True

    cdef object _abandoned(self, object future):
        self._instance._putter_gone(future)

    cdef _over(self):
        self._begun = True
        if self._breathing:
            self._breathing = False
            self._instance._breathing -= 1
        self._instance = None


@cython.final
cdef class Join(Waiting):
    """One call of `join()`."""

    cdef bint _waited

    cdef bint _step(self) except -1:
        cdef ApplicationInstance instance = self._instance
        if instance is None:
            raise RuntimeError("cannot reuse already awaited join()")
        self.result = None
        if instance._unfinished <= 0 or self._waited:
            self._instance = None
            return True
        self._waited = True
        future = _new_future(instance)
        if _few(instance).joiners is None:
            instance._rare().joiners = []
        _few(instance).joiners.append(future)
        setattr(future, _blocking, True)
        self.result = future
        return False


cdef enum:
    #: What became of a Run that is waited for: not waited for yet; resolved, or cancelled, and that was read; waited for;
    #: resolved, or cancelled, and not read yet.
    UNUSED = 0
    WAS_RESOLVED = 1
    WAS_CANCELLED = 2
    PENDING = 3
    RESOLVED = 4
    IS_CANCELLED = 5


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
    cdef object _context
    cdef vectorcallfunc _vectorcall
    cdef signed char _wait
    cdef signed char _entered
    cdef public signed char _asyncio_future_blocking

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
    """Before the application has begun: what the task is to wait for, or None for one pass, or, with `_coroutine` set,
    nothing."""
    cdef ApplicationInstance instance = run.instance
    if instance is None:
        raise RuntimeError("cannot reuse the run of an instance")
    if not run._entered:
        run._entered = True
        PyContextVar_Set(_running, run)
        # Nobody but the table and this run refers to it: then nobody is left who could await it, and the pass that
        # would be waited for him (a fifth of what making an instance costs) is spared.
        if instance._state == C_NEW and (Py_REFCNT(instance) > 2 + 1 or instance._table is None):
            return None
    if instance._state == C_NEW:
        instance._state = C_AUTO
    if instance._state == C_DONE:
        return run
    if instance._state != C_AUTO or _few(instance).predecessor is not None:
        instance._rare().gate = gate = _new_future(instance)
        setattr(gate, _blocking, True)
        return gate
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
    """What is received from now on never comes."""
    cdef PyObject *receive = run._receive
    if receive is not NULL:
        run._receive = NULL
        (<Receive>receive)._run = NULL
        # Taken by _start_run.
        Py_DECREF(<object>receive)


cdef _end_run(Run run, object error):
    """`error`: None for a run that returned."""
    cdef ApplicationInstance instance = run.instance
    run.instance = None
    _sever(run)
    if instance is not None:
        instance._run_ended(error)


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
    """What asyncio.Handle(callback, args, loop, context) is outside debug mode; see _handles_are_known."""
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
    """Whether an asyncio.Handle has the attributes that _make_handle gives it, and no more."""
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
    if run._wait != PENDING:
        return False
    run._wait = RESOLVED
    _tell_waiters(run)
    return True


cdef PyObject *_result_run(PyObject *self, PyObject *const *args, Py_ssize_t count) noexcept:
    cdef Run run = <Run>self
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
        status = PyIter_Send(run._coroutine, None, result)
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


Coroutine.register(Run)
Coroutine.register(Waiting)
Coroutine.register(Sent)
Coroutine.register(Receive)
cyasgi_set_method(Run, "throw", _throw_run)
cyasgi_set_method(Run, "result", _result_run)
cyasgi_set_method(Waiting, "throw", _throw_waiting)
cyasgi_set_method(Receive, "throw", _throw_receive)
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


cdef class Entry:
    """What the table holds: its place in the table's orders."""

    cdef readonly object scope_id
    cdef public InstanceTable _table
    #: Neighbours in the natural order, and the table while linked there: borrowed; see the top.
    cdef PyObject *_prev
    cdef PyObject *_next
    cdef PyObject *_owner
    cdef public double _used
    cdef public double _active
    cdef public object _assigned
    cdef public signed char _place
    #: Of an instance; they stand here for the room that is left.
    cdef public signed char _state
    cdef readonly signed char _begun
    cdef readonly signed char _idle
    cdef readonly signed char _outcome
    cdef public signed char _reported
    cdef signed char _guarded
    cdef public long long _bucket
    cdef object __weakref__

    def __dealloc__(self):
        # Still linked only if the collector has emptied the table's dict.
        if self._owner is not NULL:
            (<InstanceTable>self._owner)._unlink(self, self._place >> 1)


@cython.final
cdef class ForeignEntry(Entry):
    """A plain dict that somebody wrote into the table, with the reference's four keys or some of them."""

    cdef readonly object details
    cdef public object _watched

    def __init__(self, scope_id, details):
        self.scope_id = scope_id
        self.details = details
        self._bucket = -1

    @property
    def public(self):
        return self.details

    @property
    def idle(self):
        """Nothing queued, and somebody waits in the queue's `get`, as far as that can be seen."""
        queue = self.details.get("input_queue")
        try:
            return bool(queue.empty() and getattr(queue, "_getters", True))
        except Exception:
            # Not a queue: then nothing can wait in it.
            return True

    @property
    def ended(self):
        future = self._watched
        return future is not None and bool(future.done())

    cpdef watch(self):
        future = self.details.get("future")
        if asyncio.isfuture(future):
            self._watched = future
            if future.done():
                self._future_done(future)
            else:
                future.add_done_callback(self._future_done)

    cpdef unwatch(self):
        if self._watched is not None:
            self._watched.remove_done_callback(self._future_done)

    def _future_done(self, _):
        if self._table is not None:
            self._table._add_finished(self)


@cython.final
cdef class Seldom:
    """What few instances have, apart, so that all the others are smaller."""

    cdef object getters
    #: What the Receive waits for, if that is a future.
    cdef object received
    cdef object putters
    cdef object joiners
    cdef object gate
    cdef object call
    cdef object holder
    cdef object predecessor
    cdef object error
    cdef object placeholder
    cdef dict extra
    #: The loop's, in debug mode: the instance is `_guarded`.
    cdef unsigned long thread


#: Stands for those that have nothing of the kind: nothing but None is ever assigned to its attributes.
cdef Seldom _NOTHING = Seldom()


cdef inline Seldom _few(ApplicationInstance instance):
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
    cdef Seldom _seldom
    #: Where the ring begins.
    cdef unsigned int _head
    #: Putters that let the loop turn before they put.
    cdef unsigned short _breathing
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

    cdef Seldom _rare(self):
        """For assigning."""
        if self._seldom is None:
            self._seldom = Seldom.__new__(Seldom)
        return self._seldom

    @property
    def _call(self):
        return _few(self).call

    @property
    def _holder(self):
        return _few(self).holder

    @_holder.setter
    def _holder(self, value):
        if value is not _few(self).holder:
            self._rare().holder = value

    @property
    def _predecessor(self):
        return _few(self).predecessor

    @_predecessor.setter
    def _predecessor(self, value):
        if value is not _few(self).predecessor:
            self._rare().predecessor = value

    @property
    def _error(self):
        return _few(self).error

    @_error.setter
    def _error(self, value):
        if value is not _few(self).error:
            self._rare().error = value

    @property
    def _placeholder(self):
        return _few(self).placeholder

    # The life of the instance

    def _start(self, loop):
        """Makes the task. Raises whatever the loop's task factory raises, with nothing changed."""
        cdef Run run
        if takes_names(loop):
            run = Run.__new__(Run)
            run.instance = self
            self._task = loop.create_task(run, name=name_of(self.scope_id))
            self._loop = loop
        else:
            self._start_in(loop)
        self._guarded = bool(loop.get_debug())
        if self._guarded:
            self._rare().thread = PyThread_get_thread_ident()

    cdef _start_in(self, loop):
        cdef Run run = Run.__new__(Run)
        run.instance = self
        self._task = loop.create_task(run)
        self._loop = loop

    cdef _start_plainly(self, loop):
        """The same where all that loop.create_task() would do is this, without its frame."""
        cdef Run run = Run.__new__(Run)
        run.instance = self
        self._task = new_task(
            _Task, run, loop, self.scope_id if type(self.scope_id) is str else _NAME, _LOOP_AND_NAME
        )
        self._loop = loop

    cpdef _open_gate(self):
        gate, _few(self).gate = _few(self).gate, None
        if gate is not None and not gate.done():
            gate.set_result(None)

    cdef _hold(self, bint holder):
        """Somebody awaits the instance; `holder`: as a part of the current task, which is going to call it."""
        if self._state == C_NEW:
            self._state = C_HELD
        if holder and self._state == C_HELD:
            self._server._cyasgi.holding.hold(self)

    def _take_over(self, call):
        """The caller is going to run the application itself."""
        if self._state == C_DONE:
            self._server._cyasgi.call_again(self)
        elif self._begun or self._state == C_CALLER:
            who = "the server" if self._begun else "another call"
            raise RuntimeError(f"the application of scope_id {self.scope_id!r} is already run by {who}")
        self._state = C_CALLER
        self._rare().call = call

    async def _predecessor_ended(self):
        if _few(self).predecessor is not None:
            await self._server._cyasgi.wait_for_predecessor(self)

    def _call_ended(self, call, error):
        if _few(self).call is call:
            _few(self).call = None
            self._finish(error, None)
            self._open_gate()

    cdef _run_ended(self, object error):
        """The task's run is over; not the instance's, if its caller runs the application."""
        if self._state == C_CALLER:
            if _few(self).call is not None:
                _few(self).call.cancel()
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
                self._rare().error = error
        self._set_busy()
        if _few(self).putters:
            for putter in _few(self).putters:
                if not putter.done():
                    putter.set_result(None)
            _few(self).putters = None
        if _few(self).holder is not None:
            _few(self).holder.drop(self)
        self._server._cyasgi.ended(self)

    cdef inline _set_idle(self):
        if not self._idle and self._state != C_DONE:
            self._idle = True
            self._active = mono()
            if self._table is not None:
                self._table._now_idle()

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

    @property
    def idle(self):
        """The queue is empty and somebody waits in `receive`."""
        return self._idle != 0

    @property
    def ended(self):
        return self._state == C_DONE

    @property
    def public(self):
        return self

    cdef _check_thread(self):
        if _few(self).thread != PyThread_get_thread_ident():
            raise RuntimeError(
                f"the input queue of scope_id {self.scope_id!r} was used from another thread than its event loop's; "
                "use put_threadsafe()"
            )

    # The queue

    cdef int _append(self, item) except -1:
        cdef Py_ssize_t size
        if self._count == 0:
            self._first = item
        else:
            size = 0 if self._ring is None else len(self._ring)
            if self._count - 1 == size:
                self._grow(size)
                size = len(self._ring)
            self._ring[(<Py_ssize_t>self._head + self._count - 1) & (size - 1)] = item
        self._count += 1
        self._unfinished += 1
        return 0

    cdef int _grow(self, Py_ssize_t size) except -1:
        if size == 0:
            self._ring = [None] * 4
        else:
            self._ring = self._ring[self._head:] + self._ring[:self._head] + [None] * size
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
        getters = _few(self).getters
        return (self._getter is not None) + (0 if getters is None else len(getters))

    cpdef bint full(self):
        """Whether `maxsize` messages are queued; never with a `maxsize` of 0."""
        return 0 < self.maxsize <= self._count

    cpdef put_nowait(self, item):
        """Queues a message.

        On an instance that has ended it goes to `StatelessServer.application_undelivered`.

        Raises:
            asyncio.QueueFull: `maxsize` messages are queued.
        """
        if self._guarded:
            self._check_thread()
        if self._state == C_DONE:
            self._server._cyasgi.late(self, item)
            return
        if 0 < self.maxsize <= self._count:
            raise QueueFull
        self._append(item)
        if self._state <= C_HELD:
            self._fed()
        if self._getter is not None or _few(self).getters is not None:
            self._wake_getter()

    def _connect(self, bint direct):
        """The server runs the application, for the connection of its scope: see `pulls` and `direct`."""
        self.pulls = True
        self.direct = direct
        if self._state <= C_HELD:
            self._fed()

    cdef _fed(self):
        self._state = C_AUTO
        if _few(self).gate is not None:
            self._open_gate()

    cdef _wake_getter(self):
        self._set_busy()
        while True:
            getter, self._getter = self._getter, None
            if getter is None:
                if not _few(self).getters:
                    _few(self).getters = None
                    return
                getter = _few(self).getters.popleft()
            if _resolved(getter):
                return

    cdef object _wait(self):
        """A future that the next message resolves."""
        future = _new_future(self)
        if self._getter is None and _few(self).getters is None:
            self._getter = future
        else:
            if _few(self).getters is None:
                self._rare().getters = _deque()
            _few(self).getters.append(future)
        self._set_idle()
        setattr(future, _blocking, True)
        return future

    cdef _getter_gone(self, future):
        future.cancel()
        if self._getter is future:
            self._getter = None
        elif _few(self).getters is not None and future in _few(self).getters:
            _few(self).getters.remove(future)
        if self._count and not future.cancelled():
            self._wake_getter()
        elif self._getter is None and not _few(self).getters:
            self._set_busy()

    def put(self, item):
        """Queues a message, waiting for a free slot if `maxsize` are queued. To be awaited.

        On a queue without a bound it lets the event loop turn once in 64 messages.
        """
        cdef Put put = Put.__new__(Put)
        put._instance = self
        put._item = item
        return put

    cdef object _wait_for_room(self):
        future = _new_future(self)
        if _few(self).putters is None:
            self._rare().putters = _deque()
        _few(self).putters.append(future)
        setattr(future, _blocking, True)
        return future

    cdef _putter_gone(self, future):
        future.cancel()
        if _few(self).putters is not None:
            if future in _few(self).putters:
                _few(self).putters.remove(future)
            if not self.full() and not future.cancelled():
                self._wake_putter()

    cdef _wake_putter(self):
        while _few(self).putters:
            if _resolved(_few(self).putters.popleft()):
                return

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
        if _few(self).putters is not None:
            self._wake_putter()
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
        joiners, _few(self).joiners = _few(self).joiners, None
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
            is when a slot becomes free.

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
        if _few(self).placeholder is None:
            self._rare().placeholder = futures.Future()
            if self._state == C_DONE:
                _few(self).placeholder.cancel()
        return _few(self).placeholder

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
        moment = _moment(value)
        if self._table is not None:
            self._table._assign(self, moment)
        else:
            self._used = moment

    def __getitem__(self, key):
        if key == "input_queue":
            return self
        if key in _KEYS:
            return getattr(self, key)
        if _few(self).extra is None:
            raise KeyError(key)
        return _few(self).extra[key]

    def __setitem__(self, key, value):
        if key in ("application", "future", "input_queue"):
            raise TypeError(f"{key!r} of an application instance cannot be assigned; 'last_used' and 'scope' can")
        if key == "last_used":
            self.last_used = value
        elif key == "scope":
            self.scope = value
        else:
            if _few(self).extra is None:
                self._rare().extra = {}
            _few(self).extra[key] = value

    def __delitem__(self, key):
        if key in _KEYS:
            raise TypeError(f"{key!r} of an application instance cannot be deleted; keys added by callers can")
        if _few(self).extra is None:
            raise KeyError(key)
        del _few(self).extra[key]

    def __iter__(self):
        return iter((*_KEYS, *(_few(self).extra or ())))

    def __len__(self):
        return len(_KEYS) + (0 if _few(self).extra is None else len(_few(self).extra))

    def __contains__(self, key):
        return key in _KEYS or (_few(self).extra is not None and key in _few(self).extra)

    def __bool__(self):
        return True

    def keys(self):
        return KeysView(self)

    def values(self):
        return ValuesView(self)

    def items(self):
        return ItemsView(self)

    def pop(self, key, default=_MISSING):
        if key not in _KEYS and (_few(self).extra is None or key not in _few(self).extra):
            if default is _MISSING:
                raise KeyError(key)
            return default
        value = self[key]
        del self[key]
        return value

    def popitem(self):
        """Removes the key that was added last by a caller; KeyError if there is none."""
        if not _few(self).extra:
            raise KeyError("popitem(): no key was added to this application instance")
        return _few(self).extra.popitem()

    def clear(self):
        """Removes the keys that callers added."""
        _few(self).extra = None

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


@cython.final
cdef class Setting:
    """A checked attribute with a default, kept in the instance's `__dict__` under its own name. `changed` is called
    with the instance after a change."""

    cdef readonly object default
    cdef readonly object check
    cdef readonly object changed
    cdef readonly object name

    def __init__(self, default, check, changed=None):
        self.default = default
        self.check = check
        self.changed = changed
        self.name = ""

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner):
        if instance is None:
            return self.default
        return (<dict>PyObject_GenericGetDict(instance, NULL)).get(self.name, self.default)

    def __set__(self, instance, value):
        self.check(self.name, value)
        instance.__dict__[self.name] = value
        if self.changed is not None:
            self.changed(instance)

    def __delete__(self, instance):
        if self.name not in instance.__dict__:
            raise AttributeError(self.name)
        del instance.__dict__[self.name]
        if self.changed is not None:
            self.changed(instance)


@cython.binding(True)
def get_or_create_application_instance(self, scope_id, scope):
    """The live instance of this id, or a fresh one made for `scope`, as the youngest of the table.

    Called plainly, the server runs the application, and the result is its input queue. Awaited before anything was
    put into it, the caller runs it: `await instance["application"](scope, receive, send)`.

    Raises:
        TypeError: `scope_id` is not hashable, or the application cannot be called with (scope, receive, send).
            Nothing was evicted.
    """
    table = (<dict>PyObject_GenericGetDict(self, NULL)).get("_cyasgi_table")
    if table is None:
        table = self._cyasgi_table
    instance = (<InstanceTable>table).lookup(scope_id)
    if instance is None:
        instance = (<InstanceTable>table).create(self, scope_id, scope)
        if instance is None:
            return self._cyasgi.obtain(self, scope_id, scope)
    return instance


@cython.final
@cython.collection_type("mapping")
cdef class InstanceTable:
    """`StatelessServer.application_instances`: from scope_id to ApplicationInstance, least recently used first; under
    the policy "slru" those on probation, then the protected ones.

    Plain dicts may be written into it and come back as they are. Removing an entry cancels nothing.
    """

    cdef dict _entries
    #: The ends of the natural orders, borrowed; see the top.
    cdef PyObject *_head[2]
    cdef PyObject *_tail[2]
    cdef list _assigned
    cdef list _assigned_on_probation
    cdef object _policy
    cdef bint _segmented
    cdef Py_ssize_t _most_protected
    cdef Py_ssize_t _on_probation
    cdef object _finished
    cdef dict _due
    cdef object _timeout
    cdef bint _expiring
    cdef double _unit
    cdef long long _swept
    cdef long long _version
    #: The most entries since the table was empty.
    cdef Py_ssize_t _crowd
    cdef public Py_ssize_t _ghosts
    cdef public unsigned long _thread
    cdef public Py_ssize_t idle
    cdef dict _foreign
    cdef public long long reused
    cdef public long long created
    #: What `create` needs and the slow path finds out: the application as the server has it and as it is called, the
    #: loop, if it is not in debug mode, and the ids whose old run still cleans up.
    cdef public object application
    cdef public object single
    cdef object _loop
    #: Where the loop keeps its `_closed` and `_thread_id`, if is_closed() and is_running() are asyncio's.
    cdef dict _loop_dict
    #: Whether create_future() is asyncio's own, and create_task() or uvloop's.
    cdef bint _plain_futures
    cdef bint _plain_tasks
    #: Whether call_soon() is.
    cdef bint _plain_calls
    cdef public dict closing_ids
    #: Called once when something has finished; set by the checker before it sleeps.
    cdef public object on_finished
    #: Called whenever an instance becomes idle; set while the server drains.
    cdef public object on_idle
    cdef object __weakref__

    def __cinit__(self):
        self._entries = {}
        self._assigned = []
        self._assigned_on_probation = []
        self._policy = POLICIES[0]
        self._most_protected = PY_SSIZE_T_MAX
        self._finished = _OrderedDict()
        self._due = {}
        self._foreign = {}
        self.closing_ids = {}
        self._unit = 1.0

    def __init__(self, initial=None):
        if initial is not None:
            self.update(initial)

    def __dealloc__(self):
        # Entries may outlive the table, held by somebody else.
        cdef PyObject *entry
        cdef PyObject *following
        cdef int segment
        for segment in range(2):
            entry = self._head[segment]
            while entry is not NULL:
                following = (<Entry>entry)._next
                (<Entry>entry)._prev = (<Entry>entry)._next = (<Entry>entry)._owner = NULL
                entry = following

    # Used by the server

    cdef inline ApplicationInstance lookup(self, scope_id):
        """The live instance, touched; None if there is none, or if it needs more than a touch: then see `entry`."""
        found = self._entries.get(scope_id)
        if type(found) is not ApplicationInstance or self._thread:
            return None
        cdef ApplicationInstance entry = <ApplicationInstance>found
        loop = self._loop
        if entry._state == C_DONE or entry._loop is not loop or not (runs_here(loop) or not self._loop_is_closed()):
            return None
        entry._used = wall()
        if self._expiring:
            entry._active = mono()
        if <PyObject *>entry is not self._tail[0]:
            if entry._place:
                self._promote(entry)
            else:
                self._unlink(entry, 0)
                self._link(entry, 0)
        self.reused += 1
        return entry

    @property
    def loop(self):
        return self._loop

    @loop.setter
    def loop(self, loop):
        self._loop = loop
        self._loop_dict = None
        base = asyncio.BaseEventLoop
        if isinstance(loop, base):
            if type(loop).is_closed is base.is_closed and type(loop).is_running is base.is_running:
                self._loop_dict = loop.__dict__
        own = {} if self._loop_dict is None else self._loop_dict
        self._plain_futures = (
            isinstance(loop, base) and type(loop).create_future is base.create_future and "create_future" not in own
        )
        self._plain_tasks = has_plain_tasks(loop)
        self._plain_calls = (
            _known_handles
            and type(own.get("_ready")) is _deque
            and type(loop).call_soon is base.call_soon
            and type(loop)._call_soon is base._call_soon
            and "call_soon" not in own
            and "_call_soon" not in own
        )

    cdef inline bint _loop_is_closed(self) except -1:
        # Cheaper by far than asking which loop runs, which is a system call up to 3.11.
        if self._loop_dict is not None:
            return self._loop_dict.get("_closed") is not False
        return self._loop is None or self._loop.is_closed()

    cdef inline bint _loop_is_running(self) except -1:
        if self._loop_dict is not None:
            return self._loop_dict.get("_thread_id") is not None
        return self._loop is not None and self._loop.is_running()

    cdef inline bint _has_no_task_factory(self, loop) except -1:
        if self._loop_dict is not None and type(loop).get_task_factory is _get_task_factory:
            return self._loop_dict.get("_task_factory") is None
        return loop.get_task_factory() is None

    cdef ApplicationInstance create(self, server, scope_id, scope):
        """A fresh instance, where nothing stands in the way of it; None where the slow path has to see."""
        cdef ApplicationInstance instance
        loop = self._loop
        if scope_id in self._entries or not self._loop_is_running():
            return None
        if server.application is not self.application or scope_id in self.closing_ids:
            return None
        if self._segmented:
            self.follow(server)
        instance = ApplicationInstance.__new__(ApplicationInstance)
        instance.scope_id = scope_id
        instance._bucket = -1
        instance._server = server
        instance._application = self.single
        instance.scope = scope
        instance.maxsize = _size(server.max_queue_size)
        if self._plain_tasks and self._has_no_task_factory(loop):
            instance._start_plainly(loop)
        else:
            instance._start_in(loop)
        limit = server.max_applications
        if limit is not None and len(self._entries) >= _size(limit):
            # Built: only now somebody may lose its place for it.
            try:
                (<Endings?>server._cyasgi)._make_room(server, limit)
            except BaseException:
                instance._state = C_DONE
                raise
        if scope_id in self._entries or scope_id in self.closing_ids:
            # A task factory or an override has asked for the same id: the task finds it done at its first step.
            instance._state = C_DONE
            return None
        self.add(instance)
        self.created += 1
        return instance

    def entry(self, scope_id):
        """The entry, or None, without counting as a use."""
        return self._entries.get(scope_id)

    cpdef follow(self, server):
        """Adopts the server's `eviction_policy` and the bound that `max_applications` sets to the protected segment.

        Entries that are there when the policy becomes "slru" are protected, the most recently used first.
        """
        cdef Py_ssize_t most
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
            if limit is None:
                self._most_protected = PY_SSIZE_T_MAX
            else:
                # Four fifths, without an overflow.
                most = _size(limit)
                self._most_protected = most - most // 5 - (most % 5 > 0)
            self._demote()

    @property
    def protected(self):
        """How many entries are in the protected segment; under "lru" all."""
        return self._protected()

    cdef inline Py_ssize_t _protected(self):
        return len(self._entries) - self._on_probation

    cpdef touch(self, Entry entry):
        """Moves an entry that was used again to the young end of the order."""
        entry._used = wall()
        entry._active = mono()
        if entry._place:
            self._promote(entry)
        else:
            self._unlink(entry, 0)
            self._link(entry, 0)

    cpdef add(self, Entry entry):
        """Enters an entry whose id is free, as the youngest; on probation if there is such a segment."""
        entry._used = wall()
        entry._active = mono()
        self._entries[entry.scope_id] = entry
        self._crowd = max(self._crowd, len(self._entries))
        entry._table = self
        self._version += 1
        self._link(entry, 1 if self._segmented else 0)
        if type(entry) is ApplicationInstance:
            if (<ApplicationInstance>entry)._state == C_DONE:
                self._finished[entry] = None
            if (<ApplicationInstance>entry)._idle:
                self._now_idle()
        else:
            self._foreign[entry] = None
            if (<ForeignEntry>entry).ended:
                self._finished[entry] = None
        if self._expiring:
            self._schedule(entry, entry._active + <double>self._timeout)

    cpdef bint remove(self, Entry entry) except -1:
        """Takes out this very entry; False if it was not in the table."""
        if entry._table is not self:
            return False
        if entry._assigned is not None:
            entry._used = entry._assigned[0]
        self._take_out(entry)
        entry._table = None
        self._version += 1
        if self._finished:
            self._finished.pop(entry, None)
        if entry._bucket != -1:
            self._unschedule(entry)
        if type(entry) is ApplicationInstance:
            if (<ApplicationInstance>entry)._idle:
                self.idle -= 1
        else:
            del self._foreign[entry]
            (<ForeignEntry>entry).unwatch()
        del self._entries[entry.scope_id]
        if self._crowd > 1024 and not self._entries:
            self._crowd = 0
            for emptied in (self._entries, self._finished, self._due, self._foreign):
                _shrink(emptied)
        return True

    cpdef victim(self, spared=None):
        """The entry that is to make room: a finished one; else, of those on probation if there are any, the least
        recently used idle one, looking past a bounded number of busy ones; else the least recently used. Never
        `spared`, while there is another."""
        if self._finished:
            for entry in self._finished:
                if entry is not spared:
                    return entry
        if self._foreign:
            self._settle_few()
        found = self._victim_in(1, spared) if self._on_probation else None
        if found is None:
            found = self._victim_in(0, spared)
        if found is None and spared is not None and (<Entry?>spared)._table is self:
            return spared
        return found

    cdef object _victim_in(self, int segment, spared):
        first = None
        cdef int looked = 0
        cdef int moved = 0
        cdef Py_ssize_t index = 0
        cdef PyObject *young = self._head[segment]
        cdef list assigned = self._assigned_in(segment)
        cdef Entry candidate
        while True:
            if index < len(assigned) and (young is NULL or <double>assigned[index][0] <= (<Entry>young)._used):
                candidate = <Entry>assigned[index][2]
                if moved < 32 and not self._settled(candidate):
                    moved += 1
                    continue
                index += 1
            elif young is not NULL:
                candidate = <Entry>young
                young = candidate._next
            else:
                break
            if candidate is not spared:
                if _is_idle(candidate):
                    return candidate
                if first is None:
                    first = candidate
            if looked >= 32:
                break
            looked += 1
        return first

    def pop_finished(self):
        """An entry whose run has ended, no longer listed as such; None if there is none."""
        if self._finished:
            return self._finished.popitem(last=False)[0]
        return None

    def size(self):
        """How many entries there are, whoever asks."""
        return len(self._entries)

    def finished_count(self):
        return len(self._finished)

    def entries(self):
        """All entries, in no particular order."""
        return list(self._entries.values())

    def keep(self, Entry entry):
        """An override refused to delete this entry: that counts as a use, but promotes nobody."""
        if entry._table is self:
            if entry._place & C_PROBATION:
                self._take_out(entry)
                self._link(entry, 1)
                entry._used = wall()
                entry._active = mono()
            else:
                self.touch(entry)
            if self._expiring:
                if entry._bucket != -1:
                    self._unschedule(entry)
                self._schedule(entry, entry._active + <double>self._timeout)

    def set_timeout(self, timeout, double unit):
        """From now on entries expire when idle for `timeout` seconds, found in steps of `unit` seconds."""
        cdef Entry entry
        cdef double now, moment
        if timeout == self._timeout and (timeout is None or unit == self._unit):
            return
        self._due.clear()
        for entry in self._entries.values():
            entry._bucket = -1
        self._timeout = timeout
        self._expiring = timeout is not None
        self._unit = unit
        moment, now = wall(), mono()
        self._swept = <long long>(now / unit)
        if timeout is not None:
            for entry in self._entries.values():
                if entry._assigned is None:
                    entry._active = max(entry._active, now - max(0.0, moment - entry._used))
                self._schedule(entry, entry._active + <double>timeout)

    def pop_expired(self):
        """An entry that has been idle for longer than the timeout; None if there is none (yet)."""
        cdef Entry entry
        cdef double due, timeout, now
        cdef long long current
        if not self._expiring:
            return None
        timeout = self._timeout
        now = mono()
        current = <long long>(now / self._unit)
        if current - self._swept > len(self._due) + 1:
            # After a long pause: look at the buckets that exist rather than at every step of time.
            self._swept = min([number for number in self._due if number <= current], default=current)
        while self._swept <= current:
            bucket = self._due.get(self._swept)
            while bucket:
                # Not next(reversed()): that would pass over the places of all that were removed before it.
                entry = <Entry>(<dict>bucket).popitem()[0]
                entry._bucket = -1
                due = entry._active + timeout if _is_idle(entry) or entry.ended else now + timeout
                if due < now:
                    return entry
                self._schedule(entry, due)
            if bucket is not None:
                self._due.pop(self._swept, None)
            if self._swept == current:
                break
            self._swept += 1
        return None

    cdef _schedule(self, Entry entry, double due):
        # Strictly after the current step, so that a sweep never meets an entry twice.
        cdef long long number = <long long>(due / self._unit) + 1
        if number <= self._swept:
            number = self._swept + 1
        bucket = self._due.get(number)
        if bucket is None:
            bucket = self._due[number] = {}
        (<dict>bucket)[entry] = None
        entry._bucket = number

    cdef _unschedule(self, Entry entry):
        bucket = <dict>self._due[entry._bucket]
        del bucket[entry]
        if not bucket:
            del self._due[entry._bucket]
        entry._bucket = -1

    cpdef _add_finished(self, Entry entry):
        self._finished[entry] = None
        notify, self.on_finished = self.on_finished, None
        if notify is not None:
            notify()

    cdef _now_idle(self):
        self.idle += 1
        if self.on_idle is not None:
            self.on_idle()

    # Order

    cdef inline void _link(self, Entry entry, int segment) noexcept:
        """Enters what stands nowhere at the young end of a natural order."""
        entry._owner = <PyObject *>self
        entry._prev = self._tail[segment]
        entry._next = NULL
        if self._tail[segment] is NULL:
            self._head[segment] = <PyObject *>entry
        else:
            (<Entry>self._tail[segment])._next = <PyObject *>entry
        self._tail[segment] = <PyObject *>entry
        if segment:
            entry._place = C_PROBATION
            self._on_probation += 1

    cdef inline void _unlink(self, Entry entry, int segment) noexcept:
        if entry._prev is NULL:
            self._head[segment] = entry._next
        else:
            (<Entry>entry._prev)._next = entry._next
        if entry._next is NULL:
            self._tail[segment] = entry._prev
        else:
            (<Entry>entry._next)._prev = entry._prev
        entry._prev = entry._next = entry._owner = NULL
        if segment:
            entry._place = 0
            self._on_probation -= 1

    cdef inline list _assigned_in(self, int segment):
        return self._assigned_on_probation if segment else self._assigned

    cdef _link_assigned(self, Entry entry, tuple assigned, int segment):
        """The same where its `last_used` was assigned."""
        entry._assigned = assigned
        entry._place = C_ASSIGNED
        if segment:
            entry._place |= C_PROBATION
            self._on_probation += 1
        bisect.insort(self._assigned_in(segment), (*assigned, entry))

    cdef _take_out(self, Entry entry):
        """Out of whichever order it stands in."""
        cdef list assigned
        cdef int segment = entry._place >> 1
        if entry._place & C_ASSIGNED:
            assigned = self._assigned_in(segment)
            del assigned[bisect.bisect_left(assigned, entry._assigned)]
            entry._assigned = None
            entry._place = 0
            self._on_probation -= segment
        else:
            self._unlink(entry, segment)

    cdef _promote(self, Entry entry):
        """A use of what was assigned, or is on probation."""
        self._take_out(entry)
        self._link(entry, 0)
        if self._segmented:
            self._demote()

    cdef _demote(self):
        """Those that the protected segment has no room for go on probation."""
        cdef Entry entry
        while self._protected() > self._most_protected:
            entry = self._oldest_in(0)
            if entry is None or self._protected() <= self._most_protected:
                # The look at it has put one on probation.
                continue
            assigned = entry._assigned
            self._take_out(entry)
            if assigned is None:
                self._link(entry, 1)
            else:
                self._link_assigned(entry, assigned, 1)

    cdef _unite(self):
        """One segment, ordered by the time of use, which both had in common."""
        cdef Entry entry
        cdef int segment
        cdef list natural = []
        for segment in (1, 0):
            while self._head[segment] is not NULL:
                entry = <Entry>self._head[segment]
                self._unlink(entry, segment)
                natural.append(entry)
        natural.sort(key=_used_of)
        for entry in natural:
            self._link(entry, 0)
        for _, _, entry in self._assigned_on_probation:
            entry._place = C_ASSIGNED
        self._assigned = sorted(self._assigned_on_probation + self._assigned)
        self._assigned_on_probation = []
        self._on_probation = 0

    cdef _assign(self, Entry entry, double moment):
        cdef int segment = entry._place >> 1
        if self._segmented and moment < (
            entry._used if entry._assigned is None else <double>(<tuple>entry._assigned)[0]
        ):
            # Whoever sets it back wants it to go before others.
            segment = 1
        self._take_out(entry)
        self._link_assigned(entry, (moment, next(_sequence)), segment)
        entry._active = mono() - max(0.0, wall() - moment)
        if self._expiring:
            self._unschedule(entry)
            self._schedule(entry, entry._active + <double>self._timeout)

    @property
    def foreign(self):
        """How many entries are plain dicts."""
        return len(self._foreign)

    cdef _settle_few(self):
        """A `last_used` set back in a plain dict is seen if such dicts are few; one set forward always, by `_settled`
        when the entry's turn comes."""
        if 0 < len(self._foreign) <= 32:
            for entry in self._foreign:
                self._settled(<Entry>entry)

    cdef bint _settled(self, Entry entry) except -1:
        """Whether a foreign entry stands where its dict says; if not, moves it there."""
        if type(entry) is ForeignEntry:
            value = (<ForeignEntry>entry).details.get("last_used")
            if _is_moment(value) and (entry._assigned is None or entry._assigned[0] != value):
                self._assign(entry, float(value))
                return False
        return True

    cdef object _oldest_in(self, int segment):
        cdef int moved = 0
        cdef list assigned = self._assigned_in(segment)
        while assigned:
            entry = assigned[0][2]
            if self._head[segment] is not NULL and <double>assigned[0][0] > (<Entry>self._head[segment])._used:
                break
            if moved >= 32 or self._settled(<Entry>entry):
                return entry
            moved += 1
        return None if self._head[segment] is NULL else <object>self._head[segment]

    cdef object _oldest(self):
        """The first entry in order, or None."""
        entry = self._oldest_in(1)
        return self._oldest_in(0) if entry is None else entry

    cdef list _keys_in_order(self):
        for foreign in self._foreign:
            self._settled(<Entry>foreign)
        return self._keys_of(1) + self._keys_of(0)

    cdef list _keys_of(self, int segment):
        cdef list merged = []
        cdef PyObject *young = self._head[segment]
        cdef Entry entry
        for item in self._assigned_in(segment):
            while young is not NULL and (<Entry>young)._used < <double>item[0]:
                merged.append((<Entry>young).scope_id)
                young = (<Entry>young)._next
            merged.append((<Entry>item[2]).scope_id)
        while young is not NULL:
            merged.append((<Entry>young).scope_id)
            young = (<Entry>young)._next
        return merged

    # The mapping

    cdef object _find(self, scope_id):
        """The entry as the current task is to see it; None if there is none."""
        if self._thread and self._thread != PyThread_get_thread_ident():
            raise RuntimeError("application_instances was used from another thread than its event loop's")
        if self._ghosts:
            ghost = _haunted.get()
            if ghost is not None and ghost.haunts(self, scope_id):
                return ghost.entry if ghost.visible else None
        return self._entries.get(scope_id)

    def __getitem__(self, scope_id):
        entry = self._find(scope_id)
        if entry is None:
            raise KeyError(scope_id)
        return entry.public

    def __setitem__(self, scope_id, value):
        cdef Entry entry
        old = self._find(scope_id)
        if isinstance(value, ApplicationInstance):
            entry = <Entry>value
            if entry.scope_id != scope_id:
                raise ValueError(f"{value!r} cannot be entered under another scope_id, {scope_id!r}")
            if entry._table is self:
                return
            if entry._table is not None:
                raise ValueError(f"{value!r} is in the table of another server")
        elif isinstance(value, MutableMapping):
            entry = ForeignEntry(scope_id, value)
        else:
            raise TypeError(
                f"application_instances[{scope_id!r}] = {value!r}: accepted are an ApplicationInstance and a dict"
                " with the keys input_queue, future, scope and last_used"
            )
        cdef double last_used = 0.0
        if old is not None:
            self._vanish(old)
        if type(entry) is ApplicationInstance:
            last_used = (<ApplicationInstance>entry).last_used
        self.add(entry)
        if type(entry) is ForeignEntry:
            self._settled(entry)
            (<ForeignEntry>entry).watch()
        elif last_used:
            self._assign(entry, last_used)

    def __delitem__(self, scope_id):
        entry = self._find(scope_id)
        if entry is None or not self._vanish(entry):
            raise KeyError(scope_id)

    cdef bint _vanish(self, entry) except -1:
        """Takes out an entry by hand, or a ghost out of its override's sight."""
        if self.remove(entry):
            if type(entry) is ApplicationInstance and (<ApplicationInstance>entry)._state == C_DONE:
                entry._server._cyasgi.report(entry._server, entry)
            return True
        ghost = _haunted.get()
        if ghost is None or ghost.entry is not entry:
            return False
        ghost.visible = False
        return True

    def __contains__(self, scope_id):
        return self._find(scope_id) is not None

    cdef object _ghost(self):
        """The entry that only the current task still sees, or None."""
        ghost = _haunted.get()
        if ghost is not None and ghost.visible and ghost.haunts(self, ghost.entry.scope_id):
            return ghost.entry
        return None

    def __len__(self):
        ghost = self._ghost() if self._ghosts else None
        return len(self._entries) + (ghost is not None and ghost.scope_id not in self._entries)

    def __iter__(self):
        ghost = self._ghost() if self._ghosts else None
        if ghost is None:
            return self._iterate()
        return itertools.chain((ghost.scope_id,), [key for key in self._iterate() if key != ghost.scope_id])

    def _iterate(self):
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

    def __reversed__(self):
        return reversed(self._keys_in_order())

    def keys(self):
        return KeysView(self)

    def values(self):
        return ValuesView(self)

    def items(self):
        return ItemsView(self)

    def get(self, scope_id, default=None):
        entry = self._find(scope_id)
        return default if entry is None else entry.public

    def pop(self, scope_id, default=_MISSING):
        entry = self._find(scope_id)
        if entry is None:
            if default is _MISSING:
                raise KeyError(scope_id)
            return default
        value = entry.public
        self._vanish(entry)
        return value

    def popitem(self):
        """Removes and returns the least recently used entry; KeyError if the table is empty."""
        entry = self._oldest()
        if entry is None:
            raise KeyError("popitem(): the table is empty")
        self._vanish(entry)
        return entry.scope_id, entry.public

    def clear(self):
        for entry in self.entries():
            self._vanish(entry)

    def setdefault(self, scope_id, default=None):
        entry = self._find(scope_id)
        if entry is not None:
            return entry.public
        self[scope_id] = default
        return self[scope_id]

    def update(self, other=(), /, **more):
        for scope_id, value in dict(other, **more).items():
            self[scope_id] = value

    def __eq__(self, other):
        if not isinstance(other, collections.abc.Mapping):
            return NotImplemented
        return dict(self.items()) == dict(other.items())

    __hash__ = None

    def copy(self):
        """A plain dict with the same entries, least recently used first."""
        return dict(self.items())

    def __repr__(self):
        return f"<cyasgi.InstanceTable of {len(self._entries)}, {self.idle} idle>"

    def __reduce__(self):
        return InstanceTable, (self.copy(),)


MutableMapping.register(InstanceTable)


cdef _shrink(emptied):
    """Has a dict that was large give its memory back, which it does not do by itself."""
    if not emptied:
        emptied.clear()


def _used_of(Entry entry):
    return entry._used


cdef bint _is_idle(Entry entry) except -1:
    if type(entry) is ApplicationInstance:
        return (<ApplicationInstance>entry)._idle
    return (<ForeignEntry>entry).idle


cdef class Endings:
    """The base of a server's Life: what every eviction passes through, and every end of a run, in the usual case."""

    cdef public InstanceTable table
    cdef public object observer
    cdef public dict counts
    #: Runs that go on after their entry has left the table: when each is cancelled once more, in seconds of the
    #: monotonic clock; or a Closing, where somebody waits for its end.
    cdef public dict closing
    #: The youngest closing run of an id.
    cdef public dict closing_ids
    #: Runs that were cancelled twice and go on.
    cdef public set stubborn
    cdef public dict unstarted
    #: Set while the server stops: called when a run has ended.
    cdef public object on_ended
    cdef public object _patience
    cdef public object _patience_loop
    #: The most closing runs since there were none.
    cdef Py_ssize_t _crowd
    cdef object __weakref__

    def __init__(self):
        self.table = InstanceTable()
        self.counts = dict.fromkeys(
            ("evicted", "expired", "finished", "failed", "cancelled", "orphaned", "undelivered"), 0
        )
        self.closing = {}
        self.closing_ids = self.table.closing_ids
        self.stubborn = set()
        self.unstarted = {}

    # What is unusual is Life's own: _make_room_otherwise, _end_otherwise, _ended_otherwise, report, _set_patience and
    # _let_go.

    def make_room(self, server, limit):
        """Evicts until there is room for one more."""
        self._make_room(server, limit)

    def _is_plain(self, server):
        """Whether nobody has overridden the delete methods."""
        return self._plain(server)

    def end_entry(self, server, Entry entry):
        """Takes this very entry out of the table, ends its run and reports it; for who waits for nothing."""
        self._end(server, entry)

    def _close(self, server, ApplicationInstance instance, loop):
        """Cancels the run of an instance that has left the table."""
        self._cancel(server, instance, loop)

    def _closed(self, server, Entry entry):
        """The run of an entry that has left the table has ended."""
        self._over(server, entry)

    # What is usual

    cdef _make_room(self, server, limit):
        cdef InstanceTable table = self.table
        cdef Py_ssize_t most = _size(limit)
        cdef bint live
        table.follow(server)
        if not self._plain(server):
            return self._make_room_otherwise(server, limit)
        # Nobody has overridden what an eviction passes through: then there is nothing to pass through.
        asking = _asking(server)
        while len(table._entries) >= most:
            victim = table.victim(asking)
            if victim is None:
                return
            live = not (
                (<ApplicationInstance>victim)._state == C_DONE if type(victim) is ApplicationInstance else victim.ended
            )
            self._end(server, <Entry>victim)
            if live:
                self.counts["evicted"] += 1

    cdef bint _plain(self, server) except -1:
        cdef dict attributes
        cls = type(server)
        base = self.base
        if (
            cls.delete_oldest_application_instance is not base.delete_oldest_application_instance
            or cls.delete_application_instance is not base.delete_application_instance
        ):
            return False
        attributes = <dict>PyObject_GenericGetDict(server, NULL)
        return (
            "delete_oldest_application_instance" not in attributes and "delete_application_instance" not in attributes
        )

    cdef _end(self, server, Entry entry):
        cdef ApplicationInstance instance
        self.table.remove(entry)
        if type(entry) is ApplicationInstance and self.observer is None:
            instance = <ApplicationInstance>entry
            if instance._state == C_DONE:
                self._tell(server, instance)
                return
            if (
                instance._loop is not None
                and not self._is_closed(instance._loop)
                and instance not in self.closing
            ):
                self._cancel(server, instance, instance._loop)
                return
        self._end_otherwise(server, entry)

    cdef bint _is_closed(self, loop) except -1:
        return self.table._loop_is_closed() if loop is self.table._loop else loop.is_closed()

    cdef _cancel(self, server, ApplicationInstance instance, loop):
        cdef double deadline = <double>_monotonic() + <double>server.shutdown_timeout
        self.closing[instance] = deadline
        self._crowd = max(self._crowd, len(self.closing))
        timer = self._patience
        if (
            timer is None
            or loop is not self._patience_loop
            or (timer._cancelled if type(timer) is _TimerHandle else timer.cancelled())
        ):
            self._set_patience(loop, deadline)
        if _few(instance).predecessor is None:
            self.closing_ids[instance.scope_id] = instance
        if _few(instance).call is not None:
            _few(instance).call.cancel()
        if instance._task is not None:
            instance._task.cancel()

    def ended(self, ApplicationInstance instance):
        """Called by every run of an own instance at its end, from within its last step."""
        if instance._outcome == 2 or self.observer is not None:
            self._ended_otherwise(instance)
            return
        self.counts[_OUTCOMES[instance._outcome]] += 1
        if instance._table is not None:
            instance._table._add_finished(instance)
        else:
            self._over(instance._server, instance)
        if self.on_ended is not None:
            self.on_ended()

    cdef _over(self, server, Entry entry):
        closing = self.closing.pop(entry, None)
        if self.stubborn:
            self.stubborn.discard(entry)
        if closing is not None:
            if self.closing_ids.get(entry.scope_id) is entry:
                del self.closing_ids[entry.scope_id]
            if type(closing) is not float:
                self._let_go(closing)
            if self._crowd > 1024 and not self.closing:
                self._crowd = 0
                _shrink(self.closing)
                _shrink(self.closing_ids)
        self._tell(server, entry)
        if self.on_ended is not None:
            self.on_ended()

    cdef _tell(self, server, Entry entry):
        """Reports an entry that has ended and left the table, if there is anything to tell of it."""
        if (
            type(entry) is ApplicationInstance
            and (<ApplicationInstance>entry)._unfinished == 0
            and (<ApplicationInstance>entry)._count == 0
            and _few(<ApplicationInstance>entry).error is None
            and self.observer is None
        ):
            (<ApplicationInstance>entry)._reported = True
        else:
            self.report(server, entry)


cdef object _asking(server):
    """The instance of this server whose application is at work now."""
    cdef PyObject *value = NULL
    PyContextVar_Get(_running, NULL, &value)
    cell = _taken(value)
    if cell is None:
        return None
    instance = (<Run>cell).instance if type(cell) is Run else cell.instance
    return instance if instance is not None and instance._server is server else None


cdef bint _is_moment(value):
    return isinstance(value, (int, float)) and not math.isnan(value)

# What is C: clocks, borrowed calls, and what Cython's classes lack.

cdef extern from *:
    """
    #include <time.h>
    #include <string.h>
    #include <structmember.h>

    /* Before that an assignment to an attribute gave up the old value while the attribute still referred to it, and the
       old value's __del__ could read it there. */
    #if CYTHON_HEX_VERSION < 0x030301F0
    #error "Cython 3.3.1 or newer is needed"
    #endif

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
    /* The moment of a use: not before the one before, so that uses are in order of their moments though the clock was
       set back a little; by a second or more it is followed. Nor after now: several uses within what a double can tell
       apart (a quarter of a microsecond) have the same moment. */
    static double cyasgi_use(void) {
        static double latest = 0.0;
        double now = cyasgi_wall();
        if (now < latest && latest - now < 1.0) {
            return latest;
        }
        return latest = now;
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
        if (hook == NULL) {
            return 0;
        }
        return PyMethod_Check(hook) ? PyMethod_GET_SELF(hook) == loop
                                    : PyCFunction_Check(hook) && PyCFunction_GET_SELF(hook) == loop;
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

    /* What an object's own dict has under a name; None if it has none, or no dict. */
    static PyObject *cyasgi_own(PyObject *o, PyObject *name) {
        PyObject *value = NULL;
        PyObject *dict = PyObject_GenericGetDict(o, NULL);
        if (dict == NULL) {
            PyErr_Clear();
        } else {
            value = PyDict_GetItemWithError(dict, name);
            Py_XINCREF(value);
            Py_DECREF(dict);
            if (value == NULL && PyErr_Occurred()) {
                return NULL;
            }
        }
        if (value == NULL) {
            value = Py_None;
            Py_INCREF(value);
        }
        return value;
    }

    /* Makes a type one of which there are objects of derived types only. A call prefers tp_vectorcall to tp_new. */
    static PyObject *cyasgi_abstract_new(PyTypeObject *type, PyObject *args, PyObject *named) {
        PyErr_Format(PyExc_TypeError, "cannot create '%.100s' instances", type->tp_name);
        return NULL;
    }
    static int cyasgi_set_abstract(PyObject *type) {
        ((PyTypeObject *)type)->tp_new = cyasgi_abstract_new;
        ((PyTypeObject *)type)->tp_vectorcall = NULL;
        PyType_Modified((PyTypeObject *)type);
        return 0;
    }

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
    object own_attribute "cyasgi_own"(object o, object name)
    int cyasgi_set_abstract(object type) except -1
    object get_raised "cyasgi_get_raised"()
    void set_raised "cyasgi_set_raised"(object error)
    object _taken "cyasgi_taken"(PyObject *result)
    double wall "cyasgi_wall"() nogil
    double moment_of_use "cyasgi_use"() nogil
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
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    object PyCapsule_New(void *pointer, const char *name, void *destructor)
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
    # A dict, or an error: no object's own dict can be anything else.
    object PyObject_GenericGetDict(object o, void *context)
    object PyContextVar_Set(object var, object value)
    int PyContextVar_Get(object var, PyObject *default, PyObject **value) except -1

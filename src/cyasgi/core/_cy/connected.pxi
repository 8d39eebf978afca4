# What a gateway asks of instances whose scope has a connection, without a call of Python.

cdef extern from *:
    """
    typedef struct {
        /* Does as `connect`, with `pulls`. Returns whether the application waits in `receive`; 2 if the instance has ended,
           or is none of ours, so that nothing was done; -1 with an error set. */
        int (*connect)(PyObject *instance, int direct);
        /* Returns whether the instance is one of ours, nothing is in its queue, and nobody waits in `receive`. */
        int (*quiet)(PyObject *instance);
        /* Returns whether the instance is one of ours, and nothing is in its queue. */
        int (*empty)(PyObject *instance);
    } cyasgi_connected_api;
    """
    ctypedef struct cyasgi_connected_api:
        int (*connect)(PyObject *instance, int direct) noexcept
        int (*quiet)(PyObject *instance) noexcept
        int (*empty)(PyObject *instance) noexcept


cdef int _connect(PyObject *instance, int direct) noexcept:
    if type(<object>instance) is not ApplicationInstance or (<ApplicationInstance>instance)._state == C_DONE:
        return 2
    try:
        (<ApplicationInstance>instance).connect(direct)
        return (<ApplicationInstance>instance)._idle != 0
    except BaseException as error:
        set_raised(error)
        return -1


cdef int _is_quiet(PyObject *instance) noexcept:
    return (
        type(<object>instance) is ApplicationInstance
        and (<ApplicationInstance>instance)._count == 0
        and (<ApplicationInstance>instance)._getter is None
        and _cold(<ApplicationInstance>instance).getters is None
    )


cdef int _is_empty(PyObject *instance) noexcept:
    return type(<object>instance) is ApplicationInstance and (<ApplicationInstance>instance)._count == 0


cdef cyasgi_connected_api _connected_api
_connected_api.connect = _connect
_connected_api.quiet = _is_quiet
_connected_api.empty = _is_empty
CONNECTED_API = PyCapsule_New(&_connected_api, "cyasgi.core._core.CONNECTED_API", NULL)

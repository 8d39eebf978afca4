# cython: language_level=3, binding=False, wraparound=False, boundscheck=False, initializedcheck=False, auto_pickle=False
"""The Cython twin of `_fast_path_py.py`.

An application that waits for a message goes on within `data_received`, if nothing else is at work in the loop:
`core/_cy/batch.pxi` tells how.
"""

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer

from ..._common.guarding import INTERRUPTS
from ...core._core import PUT_AND_STEP

ctypedef int (*put_function)(PyObject *loop, PyObject *instance, PyObject *message) except -1

cdef put_function _put = <put_function>PyCapsule_GetPointer(PUT_AND_STEP, "cyasgi.core._core.PUT_AND_STEP")
cdef tuple _INTERRUPTS = INTERRUPTS


def _interrupt(error):
    """Raise it from a callback of the loop, as the step of a task would have done."""
    raise error


def give(session, instance, message):
    """Put a message into the queue of an instance that waits for it, and make the step of its application."""
    # Held: the step may do anything.
    loop = session.loop
    try:
        if not _put(<PyObject *>loop, <PyObject *>instance, <PyObject *>message):
            raise RuntimeError(f"there is no room in the queue of {instance!r}")
    except _INTERRUPTS as error:
        loop.call_soon(_interrupt, error, context=session.server.outside)

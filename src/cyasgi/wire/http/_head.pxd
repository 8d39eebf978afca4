# What other extension modules of the package may use of the compiled head parser: `_head.pyx` says what it does.

from cpython.object cimport PyObject


cdef struct Field:
    # A header of the last head: (name, value), and its line within the block that is kept.
    PyObject *pair
    unsigned int start
    unsigned int size
    unsigned char kind


cdef struct RequestLine:
    # Where things are in the request line that is being read.
    int method
    Py_ssize_t target
    Py_ssize_t target_end
    # Of the first "?" in the target, or -1.
    Py_ssize_t question
    # Of the version, and of the CR behind it.
    Py_ssize_t version
    Py_ssize_t end
    # Whether the version is 1.0.
    bint old
    # Whether the method and the target are those of `_odd_method` and `_odd_target`.
    bint odd


cdef class Scope(dict):
    #: See `cyasgi._types.Connection`.
    cdef public object connection


cdef class HeadParser:
    cdef object __weakref__

    # What the last head says.
    cdef public str method
    cdef readonly str version
    cdef readonly bytes path
    cdef readonly bytes query
    cdef readonly list headers
    cdef readonly bytes upgrade
    cdef readonly long long length
    cdef readonly bint chunked
    cdef readonly bint keep_alive
    cdef readonly bint expects_continue
    cdef readonly bint takes_trailers
    # The path as `decode_path` gives it.
    cdef str path_text
    # Whether the head equals the one before it, and whether its method and target do.
    cdef bint unchanged
    cdef bint same_line

    # Private from here on.
    cdef bint _strict
    cdef bint _busy
    cdef int _empty_lines
    cdef object _limits
    cdef Py_ssize_t _target_limit
    cdef Py_ssize_t _header_limit
    cdef Py_ssize_t _count_limit
    # The method and the target of an odd request line; the target of any, once it was asked for.
    cdef str _odd_method
    cdef bytes _odd_target
    cdef bytes _target
    # What was kept of the last head: the block, from its version on, and behind it the line up to there.
    cdef unsigned char *_kept
    cdef Py_ssize_t _kept_room
    cdef Py_ssize_t _block_size
    cdef Py_ssize_t _line_at
    cdef Py_ssize_t _line_size
    cdef Py_ssize_t _target_at
    cdef Py_ssize_t _target_size
    cdef Field *_fields
    cdef Py_ssize_t _fields_room
    cdef Py_ssize_t _count

    cdef Py_ssize_t scan(self, const char *data, Py_ssize_t size, Py_ssize_t seen=*) except -1
    cdef Py_ssize_t skip(self, const char *data, Py_ssize_t size) except -1
    cdef bytes get_target(self)

    cdef Py_ssize_t _scan(self, const unsigned char *data, Py_ssize_t size) except -1

# What other extension modules of the package may use of the compiled frames: `_fast_path.pyx` says what it does.

cdef class FastFrames:
    cdef public object _protocol
    cdef public object _extensions
    cdef public object _first
    cdef public object _max_size
    cdef public object _most
    cdef public object _buffer
    cdef public Py_ssize_t _start
    cdef public object _parts
    cdef public object _decoder
    cdef public bint _compressed
    cdef public object _lacking
    cdef public double _room
    cdef public bint _hold_pongs
    cdef public object _held
    cdef public list _pongs
    cdef public int state
    cdef public bint ended
    cdef public bint clean
    cdef public bint pending
    cdef public bint unfinished
    cdef public object close_code
    cdef public object close_reason

    cdef int take(self, bytes data) except -1
    cdef Py_ssize_t left(self)
    cdef object next_data(self, int allowance)
    cdef int passed(self, Py_ssize_t size) except -1


cdef class FastWebSocket:
    cdef public object _fields
    cdef public FastFrames _frames
    cdef public object _handshake
    cdef public object _out
    cdef public object _response
    cdef public object _to_come
    cdef public bint ended
    cdef public int phase
    cdef public object status
    cdef public long long sent

    # The next message; None as `next_message()` says.
    cdef object next(self)
    # The frame of a message, if this is a usual one that may be sent now; else None.
    cdef bytes frame_of(self, dict message)

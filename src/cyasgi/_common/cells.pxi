# Cells as the compiled twins write them; `cells.py` documents them, and has the same numbers.

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint64_t

cdef extern from *:
    """
    #if defined(_WIN32)
    #include <windows.h>
    #else
    #include <time.h>
    #endif

    /* As time.monotonic_ns() reads it, since pure code may read it again for the same request. */
    static long long cyasgi_monotonic_ns(void) {
    #if PY_VERSION_HEX >= 0x030D0000
        PyTime_t t;
        return PyTime_MonotonicRaw(&t) < 0 ? 0 : t;
    #elif defined(_WIN32)
        return (long long)GetTickCount64() * 1000000LL;
    #elif defined(__APPLE__)
        return (long long)clock_gettime_nsec_np(CLOCK_UPTIME_RAW);
    #else
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (long long)t.tv_sec * 1000000000LL + t.tv_nsec;
    #endif
    }
    """
    int64_t monotonic_ns "cyasgi_monotonic_ns"() noexcept nogil

cdef enum:
    HISTOGRAM = 18
    REQUEST_TIME = 0
    MESSAGE_TIME = HISTOGRAM
    REQUESTS = 3 * HISTOGRAM
    RESPONSES = REQUESTS + 1
    DATAGRAMS_RECEIVED = RESPONSES + 6
    DATAGRAMS_SENT = DATAGRAMS_RECEIVED + 1
    STREAM_MESSAGES_RECEIVED = DATAGRAMS_SENT + 2
    STREAM_MESSAGES_SENT = DATAGRAMS_SENT + 3
    STREAM_BYTES_RECEIVED = DATAGRAMS_SENT + 4
    STREAM_BYTES_SENT = DATAGRAMS_SENT + 5
    CELLS = STREAM_BYTES_SENT + 3

cdef int64_t[16] BOUNDS_NS
BOUNDS_NS = [
    100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000,
    250_000_000, 500_000_000, 1_000_000_000, 2_500_000_000, 10_000_000_000, 60_000_000_000,
]


cdef inline void observe(uint64_t *cells, int histogram, int64_t nanoseconds) noexcept nogil:
    cdef int bucket = 0
    if nanoseconds < 0:
        nanoseconds = 0
    while bucket < 16 and nanoseconds > BOUNDS_NS[bucket]:
        bucket += 1
    cells[histogram + bucket] += 1
    cells[histogram + HISTOGRAM - 1] += nanoseconds


@cython.final
cdef class CellsView:
    """Keeps a buffer of cells, so that they can be written by a pointer."""

    cdef object owner
    cdef Py_buffer buffer
    cdef uint64_t *cells

    def __cinit__(self, object owner):
        self.cells = NULL
        PyObject_GetBuffer(owner, &self.buffer, PyBUF_SIMPLE | PyBUF_WRITABLE)
        if self.buffer.len < CELLS * 8:
            PyBuffer_Release(&self.buffer)
            raise ValueError(f"cells: {self.buffer.len} bytes, accepted are {CELLS * 8} or more")
        self.owner = owner
        self.cells = <uint64_t *> self.buffer.buf

    def __dealloc__(self):
        if self.cells != NULL:
            PyBuffer_Release(&self.buffer)

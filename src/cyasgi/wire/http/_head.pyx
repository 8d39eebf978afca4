# cython: language_level=3, binding=False, wraparound=False, boundscheck=False, initializedcheck=False, cdivision=True
# cython: auto_pickle=False
"""The Cython twin of `_head_py.py`: one pass over the bytes of a head, without httptools.

What a head says, and what refuses it, is the pure twin's; `README.md` has the few differences. This is done otherwise:

* What begins as the last head did is not read again: neither a line with the same method and target, nor the block of
  everything from the version on, nor, in another block, a header that stands where it stood. All of that is kept as
  bytes, and compared.
* The pure twin reads no head that is not complete. So a fault leads to `_refuse`, which first looks for the end, and then
  for what the pure twin finds before it reads the lines: sizes.
* What is rare is in `_cy/rare.pxi`, which follows the pure twin step by step: request lines that are not
  ``METHOD /target HTTP/1.x``, codings, lists, expectations.
* An object made may start the garbage collector (up to 3.11), and that may run anything. So a parser at work refuses to
  be called.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memchr, memcmp, memcpy, memset

from .._headers_py import USUAL
from .head import (
    EMPTY_LINES,
    HeadLimits,
    LINE_SLACK,
    Request,
    check_method,
    check_sizes,
    interpret_target,
    newer_version,
    refuse_coding,
    split_leniently,
    target_too_long,
    too_many_empty_lines,
    unknown_method,
)
from .errors import HTTPError

cdef extern from "Python.h":
    # Not in Cython's own declarations as what they are: macros on a string that is being made.
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    void *PyUnicode_DATA(object text)

cdef int C_EMPTY_LINES = EMPTY_LINES
cdef Py_ssize_t C_LINE_SLACK = LINE_SLACK
# A larger head is not kept.
cdef enum:
    KEPT_SIZE = 16384

include "_cy/tables.pxi"


@cython.final
cdef class HeadParser:
    """Parses heads, one after another; its attributes describe the last one, or nothing if that was refused.

    Args:
        limits: a larger request is rejected: 414 for its target, 431 for its headers.
        strict: reject RFC violations even where parsing is unambiguous, see the pure twin.
    """

    def __init__(self, limits=HeadLimits(), bint strict=True):
        self._limits = limits
        self._target_limit, self._header_limit, self._count_limit = limits
        self._strict = strict

    def __cinit__(self):
        self.method = self.version = ""
        self.path = self.query = self.upgrade = b""
        self.path_text = ""
        self.headers = []

    def __dealloc__(self):
        cdef Py_ssize_t index
        for index in range(self._count):
            Py_DECREF(<object>self._fields[index].pair)
        PyMem_Free(self._fields)
        PyMem_Free(self._kept)

    @property
    def target(self):
        return self.get_target()

    cdef bytes get_target(self):
        """Return the target as it came; it is made when it is asked for."""
        if self._target is None:
            self._target = PyBytes_FromStringAndSize(<const char *>self._kept + self._target_at, self._target_size)
        return self._target

    # Where a head ends

    def take(self, bytearray buffer not None, Py_ssize_t seen=0):
        """Remove the next head from the buffer and return it; None if it is not complete.

        Args:
            seen: how many bytes of the buffer were there at the last call.

        Raises:
            HTTPError: what was received cannot be a part of a request, or is too long.
        """
        cdef const unsigned char *data
        cdef const unsigned char *end
        cdef Py_ssize_t size = self.skip(buffer, len(buffer))
        if size:
            del buffer[:size]
            seen = 0
        data = <const unsigned char *><char *>buffer
        size = len(buffer)
        end = _head_end(data + min(max(0, seen - 3), size), data + size)
        if end is NULL:
            _wait(self, data, size, max(0, seen - 1))
            return None
        size = end + 4 - data
        head = PyBytes_FromStringAndSize(<const char *>data, size)
        del buffer[:size]
        return head

    cdef Py_ssize_t skip(self, const char *data, Py_ssize_t size) except -1:
        """Return how many bytes at the beginning are empty lines to be dropped, and count these lines."""
        cdef int lines = self._empty_lines
        cdef Py_ssize_t skipped = _skip(self, data, size, &lines)
        self._empty_lines = lines
        return skipped

    # What a head says

    def parse(self, head):
        """Read one head, from its first byte to the empty line that ends it.

        Returns:
            Whether it differs from the last one.

        Raises:
            HTTPError: it is malformed, or not served.
            ValueError: it is not one head.
        """
        cdef bytes whole = head if type(head) is bytes else bytes(head)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(whole)
        if not self._scan(<const unsigned char *>PyBytes_AS_STRING(whole), size) == size > 0:
            raise ValueError(f"this is not one head: {whole!r}")
        return not self.unchanged

    def request(self):
        """Return the last head."""
        return Request(self.method, self.get_target(), self.headers)

    cdef Py_ssize_t scan(self, const char *data, Py_ssize_t size, Py_ssize_t seen=0) except -1:
        """Read the head at the beginning, if it is complete.

        Args:
            seen: how many of the bytes were there at the last call; 0: look at all of them.

        Returns:
            The size of the head and the empty lines before it; 0 if it is not complete.

        Raises:
            HTTPError: it is malformed, or not served.
        """
        cdef const unsigned char *start = <const unsigned char *>data
        cdef Py_ssize_t skipped = 0
        cdef Py_ssize_t found
        cdef int lines
        if size and (start[0] == CR or start[0] == LF):
            lines = self._empty_lines
            skipped = _skip(self, data, size, &lines)
            start += skipped
            size -= skipped
        if seen > skipped:
            seen -= skipped
            if _head_end(start + min(max(0, seen - 3), size), start + size) is NULL:
                return _wait(self, start, size, max(0, seen - 1))
        found = self._scan(start, size)
        return found + skipped if found else 0

    def _scanned(self, bytes data not None, Py_ssize_t seen=0):
        """Return what `scan` does, and what only C sees of the head; for tests."""
        size = self.scan(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), seen)
        return size, self.unchanged, self.same_line, self.path_text

    def _skipped(self, bytes data not None):
        """Return what `skip` does; for tests."""
        return self.skip(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef Py_ssize_t _scan(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t end = self._line_size + self._block_size
        cdef bint done = False
        if self._busy:
            raise RuntimeError("this parser is at work")
        self._busy = True
        try:
            self.unchanged = (
                self._line_size
                and self._block_size
                and size >= end
                and memcmp(data, self._kept + self._line_at, self._line_size) == 0
                and memcmp(data + self._line_size, self._kept, self._block_size) == 0
            )
            if self.unchanged:
                # Many clients send equal heads on a connection.
                self.same_line = True
                self.headers = _fresh_list(self)
            else:
                end = _read_head(self, data, size)
            done = True
        finally:
            self._busy = False
            if not done:
                _forget(self)
        if end:
            self._empty_lines = 0
        return end


cdef class Scope(dict):
    """A scope that knows its connection, whatever the application writes into it."""

    def __reduce__(self):
        # A copy, deep copy or pickle is a plain dict: a connection has no place in it.
        return dict, (dict(self),)


include "_cy/line.pxi"
include "_cy/block.pxi"
include "_cy/rare.pxi"

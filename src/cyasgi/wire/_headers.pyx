# cython: language_level=3, binding=False, boundscheck=False, wraparound=False, initializedcheck=False
"""The Cython twin of `_headers_py.py`: the usual case of each of its functions, which serve all others."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from libc.string cimport memchr

from ._headers_py import _came, encode_lines as _encode_lines, known, learn_name, LENGTH

cdef dict CAME = _came
cdef dict KNOWN = known
cdef int C_LENGTH = LENGTH


cdef inline bytes _without_space_behind(bytes value):
    cdef const char *data = PyBytes_AS_STRING(value)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
    if size and (data[size - 1] == 32 or data[size - 1] == 9):
        return value.rstrip(b" \t")
    return value


@cython.final
cdef class RequestHeaders:
    """Gathers the headers of a request from its parser, which calls `on_header` for each."""

    cdef readonly list fields
    cdef readonly dict telling
    cdef readonly bint repeated

    def __cinit__(self):
        self.clear()

    cpdef clear(self):
        """Begins another request."""
        self.fields = []
        self.telling = {}
        self.repeated = False

    def on_header(self, bytes name not None, bytes value not None):
        """One header; the parser has taken the white space before its value away."""
        cdef PyObject *found = PyDict_GetItem(CAME, name)
        cdef tuple known_name = learn_name(name) if found is NULL else <tuple>found
        lower = known_name[0]
        value = _without_space_behind(value)
        self.fields.append((lower, value))
        if known_name[1] is True:
            if lower in self.telling:
                self.repeated = True
            self.telling[lower] = value


cdef inline bint _breaks_lines(bytes value) noexcept:
    cdef const char *data = PyBytes_AS_STRING(value)
    cdef size_t size = <size_t>PyBytes_GET_SIZE(value)
    return (
        memchr(data, 10, size) is not NULL or memchr(data, 13, size) is not NULL or memchr(data, 0, size) is not NULL
    )


cdef inline long long _length(bytes value) noexcept:
    """The number that it is, or -1."""
    cdef const char *data = PyBytes_AS_STRING(value)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
    cdef Py_ssize_t place
    cdef long long number = 0
    if not 0 < size < 19:
        return -1
    for place in range(size):
        if not 48 <= data[place] <= 57:
            return -1
        number = number * 10 + (data[place] - 48)
    return number


def encode_lines(headers):
    """As the pure twin's, which has all that is out of the ordinary."""
    cdef list lines = []
    cdef object length = None
    cdef long long number
    cdef int kind
    cdef PyObject *found
    cdef tuple pair
    if type(headers) is not list and type(headers) is not tuple:
        return _encode_lines(headers)
    for one in headers:
        if type(one) is not tuple or len(<tuple>one) != 2:
            return _encode_lines(headers)
        pair = <tuple>one
        name, value = pair[0], pair[1]
        if type(name) is not bytes or type(value) is not bytes:
            return _encode_lines(headers)
        found = PyDict_GetItem(KNOWN, name)
        if found is NULL:
            return _encode_lines(headers)
        kind = (<tuple>found)[1]
        if kind == 0:
            if _breaks_lines(<bytes>value):
                return _encode_lines(headers)
            lines.append((<tuple>found)[0])
            lines.append(value)
        elif kind == C_LENGTH and length is None:
            number = _length(<bytes>value)
            if number < 0:
                return _encode_lines(headers)
            length = number
        else:
            return _encode_lines(headers)
    return b"".join(lines), length, 0

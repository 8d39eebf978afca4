# cython: language_level=3, binding=False, wraparound=False, initializedcheck=False
"""The Cython twin of `_headers_py.py`: the usual case of each of its functions, which serve all others."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.string cimport memchr

cdef extern from *:
    """
    /* `PyDict_GetItem` itself keeps an error that may be set, which is not the case here. */
    static PyObject *cyasgi_get_item(PyObject *from, PyObject *key) {
        PyObject *found = PyDict_GetItemWithError(from, key);
        if (found == NULL && PyErr_Occurred()) {
            PyErr_Clear();
        }
        return found;
    }
    """
    PyObject *get_item "cyasgi_get_item"(dict from_, bytes key) noexcept

from ._headers_py import encode_lines as _encode_lines, learn_name, LENGTH, line_cache, name_cache, not_bytes

cdef dict NAMES = name_cache
cdef dict LINES = line_cache
cdef int C_LENGTH = LENGTH


cdef inline bytes _without_trailing_space(bytes value):
    cdef const char *data = PyBytes_AS_STRING(value)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
    if size and (data[size - 1] == 32 or data[size - 1] == 9):
        return value.rstrip(b" \t")
    return value


@cython.final
cdef class RequestHeaders:
    """Collects the headers of a request from its parser, which calls `on_header` for each."""

    cdef readonly list fields
    cdef readonly dict framing_headers
    cdef readonly bint repeated

    def __cinit__(self):
        self.clear()

    cpdef clear(self):
        """Begin another request."""
        self.fields = []
        self.framing_headers = {}
        self.repeated = False

    def on_header(self, name, value):
        """Add a header, from whose value the parser has removed leading white space.

        Raises:
            TypeError: its name or value is not bytes.
        """
        cdef PyObject *found
        cdef tuple learned
        cdef bytes stripped
        if type(name) is not bytes or type(value) is not bytes:
            raise not_bytes(name, value)
        found = get_item(NAMES, <bytes>name)
        learned = learn_name(name) if found is NULL else <tuple?>found
        lower = learned[0]
        stripped = _without_trailing_space(<bytes>value)
        self.fields.append((lower, stripped))
        if learned[1] is True:
            if lower in self.framing_headers:
                self.repeated = True
            self.framing_headers[lower] = stripped


cdef inline bint _breaks_lines(bytes value) noexcept:
    cdef const char *data = PyBytes_AS_STRING(value)
    cdef size_t size = <size_t>PyBytes_GET_SIZE(value)
    return (
        memchr(data, 10, size) is not NULL or memchr(data, 13, size) is not NULL or memchr(data, 0, size) is not NULL
    )


cdef inline long long _length(bytes value) noexcept:
    """Return the number that these digits are, or -1."""
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
    """Do as the pure twin, which gets all that is out of the ordinary."""
    cdef list lines = []
    cdef object length = None
    cdef long long number
    cdef int kind
    cdef PyObject *found
    cdef tuple pair, known
    if type(headers) is not list and type(headers) is not tuple:
        return _encode_lines(headers)
    for one in headers:
        if type(one) is not tuple or len(<tuple>one) != 2:
            return _encode_lines(headers)
        pair = <tuple>one
        name, value = pair[0], pair[1]
        if type(name) is not bytes or type(value) is not bytes:
            return _encode_lines(headers)
        found = get_item(LINES, <bytes>name)
        if found is NULL:
            return _encode_lines(headers)
        known = <tuple?>found
        kind = known[1]
        if kind == 0:
            if _breaks_lines(<bytes>value):
                return _encode_lines(headers)
            lines.append(known[0])
            lines.append(value)
        elif kind == C_LENGTH and length is None:
            number = _length(<bytes>value)
            if number < 0:
                return _encode_lines(headers)
            length = number
        else:
            return _encode_lines(headers)
    return b"".join(lines), length, 0

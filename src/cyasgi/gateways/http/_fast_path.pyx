# cython: language_level=3, binding=False, wraparound=False, boundscheck=False, initializedcheck=False, auto_pickle=False
"""The Cython twin of `_fast_exchange_py.py` and `_fast_connection_py.py`.

Each method has the usual case of the pure one, which serves all others: it is called with the same object, whose
attributes have the same names. The exchange is in `_fast_exchange.pxi`.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_SetItem, PyDict_Update
from cpython.list cimport PyList_Append, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY
from libc.math cimport llrint
from libc.string cimport memcpy, memchr

from cyasgi.wire.http._head cimport HeadParser, Scope

from ..._common.guarding import INTERRUPTS
from ...core import SENT
from ...core._core import CONNECTED_API
from ...wire.headers import encode_lines
from ...wire.http.response import STATUS_LINES
from ...wire.http.errors import HTTPError
from ..access_log import LINES_AT_ONCE, AccessLog
from ..net.transports import write_parts
from . import _fast_connection_py, _fast_exchange_py
from .checks import EXTENSIONS
from .phases import BODILESS, COMPLETE, EXPECTED, HIGH_WATER, JOIN_LIMIT, NO_TRAILERS, STARTED

cdef extern from *:
    """
    static PyObject *cyasgi_bare(PyObject *type, PyObject *nothing) {
        return ((PyTypeObject *)type)->tp_new((PyTypeObject *)type, nothing, NULL);
    }

    /* `PyDict_GetItem` itself keeps an error that may be set, which is not the case here. */
    static PyObject *cyasgi_get_item(PyObject *from, PyObject *key) {
        PyObject *found = PyDict_GetItemWithError(from, key);
        if (found == NULL && PyErr_Occurred()) {
            PyErr_Clear();
        }
        return found;
    }
    """
    object bare "cyasgi_bare"(object cls, tuple nothing)
    PyObject *get_item "cyasgi_get_item"(dict from_, str key) noexcept

cdef extern from "Python.h":
    object log_line "PyUnicode_FromFormat" (const char *form, ...)

cdef extern from *:
    """
    /* What the core tells of instances; see core/_cy/connected.pxi. */
    typedef struct {
        int (*connect)(PyObject *instance, int direct);
        int (*quiet)(PyObject *instance);
        int (*empty)(PyObject *instance);
    } cyasgi_connected_api;
    """
    ctypedef struct cyasgi_connected_api:
        int (*connect)(PyObject *instance, int direct) except -1
        int (*quiet)(PyObject *instance) noexcept
        int (*empty)(PyObject *instance) noexcept

include "../../_common/cells.pxi"

cdef enum:
    C_EXPECTED = 0
    C_STARTED = 1
    C_COMPLETE = 4

if (EXPECTED, STARTED, COMPLETE) != (C_EXPECTED, C_STARTED, C_COMPLETE):
    raise ImportError("the extension of cyasgi.gateways.http was built from another version")

cdef cyasgi_connected_api *_instances = <cyasgi_connected_api *>PyCapsule_GetPointer(
    CONNECTED_API, "cyasgi.core._core.CONNECTED_API"
)
cdef object _PureExchange = _fast_exchange_py.FastExchange
cdef object _PureConnection = _fast_connection_py.FastConnection
cdef object _encode_lines = encode_lines
cdef object _SENT = SENT
cdef object _NO_TRAILERS = NO_TRAILERS
cdef Py_ssize_t _JOIN_LIMIT = JOIN_LIMIT
cdef Py_ssize_t _HIGH_WATER = HIGH_WATER
cdef object _write_parts = write_parts
cdef object _AccessLog = AccessLog
cdef Py_ssize_t _LINES_AT_ONCE = LINES_AT_ONCE
#: Of the cells that were written last.
cdef CellsView _view = None
cdef tuple _NOTHING = ()
cdef tuple _EXTENSIONS = EXTENSIONS
cdef str _START = "http.response.start"
cdef str _BODY = "http.response.body"

# What a response begins with, by its status; those without a body, which have other rules, are left out.
cdef list _STATUS_LINES = [None] * 600


def _fill_status_lines():
    for status, line in STATUS_LINES.items():
        if status not in BODILESS:
            _STATUS_LINES[status] = line


_fill_status_lines()


include "_fast_exchange.pxi"


cdef class FastConnection:
    """The fields of a connection, and how requests usually begin and end on it."""

    cdef public object server
    cdef public object loop
    cdef public object parser
    cdef public object exchange
    cdef public object body
    cdef public bint last
    cdef public object buffer
    cdef public Py_ssize_t seen
    cdef public Py_ssize_t partial
    cdef public object received
    cdef public bint discarding
    cdef public bint lingering
    cdef public bint eof
    cdef public bint paused
    cdef public bint reading_paused
    cdef public object waiters
    cdef public object due_request
    cdef public object due_body
    cdef public object due_write
    cdef public object due_silence
    cdef public object _linger_until
    cdef public object _reported_progress
    cdef public object _taken
    cdef public double _began
    cdef public object transport
    cdef public object deadline
    cdef public object keep_alive_timeout
    cdef public object request_timeout
    cdef public object request_id_name
    cdef public object id_line
    cdef public bint amends
    cdef public object template
    cdef public object tls
    cdef public object _client
    cdef public object _limit_body
    #: The server's, once they were asked for.
    cdef object _deadlines
    #: The attributes of the server, once they were asked for.
    cdef dict _attributes
    #: Whether neither `begin_request` nor `response_complete` is overridden; -1 before it was looked at.
    cdef int _plain

    def __cinit__(self, *arguments, **more):
        self._plain = -1

    cdef bint _is_plain(self) except -1:
        cls = type(self)
        self._plain = (
            cls.begin_request is FastConnection.begin_request
            and cls.response_complete is FastConnection.response_complete
            and type(self.parser) is HeadParser
            and type(self.buffer) is bytearray
        )
        return self._plain

    def data_received(self, data):
        """Take bytes."""
        cdef HeadParser parser
        cdef Py_ssize_t size, end
        if (
            self.exchange is None
            and self.body is None
            and not self.last
            and not self.paused
            and type(data) is bytes
            and (self._plain if self._plain >= 0 else self._is_plain())
            and PyByteArray_GET_SIZE(self.buffer) == 0
        ):
            size = PyBytes_GET_SIZE(data)
            if size and <unsigned char>PyBytes_AS_STRING(data)[0] > 32:
                parser = <HeadParser>self.parser
                try:
                    end = parser.scan(PyBytes_AS_STRING(data), size, 0)
                except HTTPError as error:
                    _note_begin(self)
                    self.refuse(error)
                    return
                if end:
                    _note_begin(self)
                    _begin(self, parser, None if end == size else (<bytes>data)[end:])
                    return
        elif self.exchange is None and self.body is None and not self.last and not self.paused and not self.buffer:
            # Of a subclass that wants to see each request.
            _PureConnection.data_received(self, data)
            return
        self._read(data)

    def begin_request(self, head, rest=b""):
        """Begin a request.

        Args:
            head: its head.
            rest: what came behind that, unless it is in the buffer.
        """
        cdef HeadParser parser
        if type(head) is not bytes or type(self.parser) is not HeadParser:
            _PureConnection.begin_request(self, head, rest)
            return
        parser = <HeadParser>self.parser
        _note_begin(self)
        try:
            parser.parse(head)
        except HTTPError as error:
            self.refuse(error)
            return
        _begin(self, parser, rest)

    def response_complete(self, exchange):
        """Take on the next request; called by the exchange when all of its response was written."""
        _response_complete(self, exchange)


cdef object _field(FastConnection self, str name):
    """Return an attribute of the server that is usually the instance's own: without looking for it in the classes."""
    cdef PyObject *found
    if self._attributes is None:
        self._attributes = self.server.__dict__
    found = get_item(self._attributes, name)
    return getattr(self.server, name) if found is NULL else <object>found


cdef int _count_request(FastConnection self) except -1:
    cdef PyObject *found = get_item(self._attributes, "requests")
    cdef uint64_t *cells
    if found is NULL:
        self.server.requests += 1
    else:
        PyDict_SetItem(self._attributes, "requests", <object>found + 1)
    # Looked for last: that may run Python code, which may change either.
    cells = _cells(self)
    if cells is not NULL:
        cells[REQUESTS] += 1
    return 0


cdef uint64_t *_cells(FastConnection self) except? NULL:
    """Return the cells that the server counts in; NULL if it does not."""
    global _view
    cells = _field(self, "cells")
    if cells is None:
        return NULL
    if _view is None or _view.owner is not cells:
        _view = CellsView(cells)
    return _view.cells


cdef int _note_begin(FastConnection self) except -1:
    """Note when a request began, if anybody wants to know."""
    if _field(self, "log") is not None or _field(self, "cells") is not None:
        self._began = monotonic_ns() * 1e-9
    return 0


cdef int _note_end(FastConnection self, FastExchange exchange) except -1:
    """Count and log the request that was parsed last."""
    cdef uint64_t *cells
    cdef double began, took
    cdef int status
    log = _field(self, "log")
    cells = _cells(self)
    if log is None and cells is NULL:
        return 0
    began = self._began
    took = monotonic_ns() * 1e-9 - began if began else 0.0
    self._began = 0.0
    status = exchange.status
    if cells is not NULL:
        cells[RESPONSES + status // 100 - 1] += 1
        if began:
            observe(cells, REQUEST_TIME, <int64_t>(took * 1e9))
    if log is not None:
        _log_line(self, log, exchange, took)
    return 0


cdef int _log_line(FastConnection self, log, FastExchange exchange, double took) except -1:
    """Write the line of a request as `AccessLog.add` does, or have that do it."""
    cdef HeadParser parser
    cdef list lines
    cdef bytes target
    cdef long long milliseconds
    if type(log) is _AccessLog and type(self.parser) is HeadParser:
        parser = <HeadParser>self.parser
        target = parser.get_target()
        if (
            parser.method
            and target.isascii()
            and memchr(PyBytes_AS_STRING(target), 34, PyBytes_GET_SIZE(target)) is NULL
        ):
            milliseconds = llrint(took * 1000.0)
            line = log_line(
                b'%U - - %U "%U %s HTTP/%U" %d %S %lld.%03d\n',
                <PyObject *>self._client,
                <PyObject *>log.moment,
                <PyObject *>parser.method,
                PyBytes_AS_STRING(target),
                <PyObject *>parser.version,
                <int>exchange.status,
                <PyObject *>exchange.sent,
                milliseconds // 1000,
                <int>(milliseconds % 1000),
            )
            lines = log.lines
            PyList_Append(lines, line)
            if PyList_GET_SIZE(lines) >= _LINES_AT_ONCE:
                log.flush()
            return 0
    log.add(
        self._client,
        self.parser.method,
        self.parser.target,
        self.parser.version,
        exchange.status,
        exchange.sent,
        took,
        self.parser.headers,
        exchange._fields[0],
    )
    return 0


cdef _begin(FastConnection self, HeadParser parser, rest):
    """Begin a request whose head the parser has read."""
    cdef FastExchange exchange
    cdef Scope scope
    cdef dict template = self.template
    cdef bint whole
    server = self.server
    if not parser.unchanged:
        _describe(self, parser, template)
    whole = parser.length > 0 and _is_whole(self, parser, rest)
    if (parser.length and not whole) or parser.chunked or self.tls is not None:
        # With what makes the template as it is.
        _PureConnection.begin_parsed(self, False, b"" if rest is None else rest)
        return
    if self.request_id_name is not None:
        self.identify()
    scope = Scope.__new__(Scope)
    PyDict_Update(scope, template)
    PyDict_SetItem(scope, "headers", parser.headers)
    # An application may write into these: each has its own.
    asgi = server.asgi
    PyDict_SetItem(scope, "asgi", (<dict>asgi).copy() if type(asgi) is dict else asgi.copy())
    extensions = {}
    for name in _EXTENSIONS:
        PyDict_SetItem(extensions, name, {})
    PyDict_SetItem(scope, "extensions", extensions)
    state = _field(self, "state")
    if state is not None:
        PyDict_SetItem(scope, "state", state.copy())
    if (PyBytes_GET_SIZE(parser.upgrade) or server.websockets_only) and self.upgrade(
        scope, b"" if rest is None else rest
    ):
        return
    exchange = <FastExchange?>bare(self.exchange_class, _NOTHING)
    exchange.protocol = self
    exchange.version = parser.version
    exchange.keep_alive = parser.keep_alive
    exchange.bodiless = parser.method == "HEAD"
    exchange.usual = parser.keep_alive and not exchange.bodiless and parser.version == "1.1"
    exchange.sent = exchange._left = 0
    exchange._whole = True
    if whole:
        exchange.take_body(rest)
    scope.connection = exchange
    self.exchange = exchange
    try:
        limit = server.max_applications
        if limit is not None and server.count_instances() >= limit and server.refuse_request(scope):
            server.refused += 1
            self.answer(503, "the server is busy", server.retry_after)
            return
        instance = server.get_or_create_application_instance(exchange, scope)
        # With an eager task factory it may have ended already.
        if not instance.ended:
            _connect(exchange, instance, _field(self, "direct"))
    except INTERRUPTS:
        raise
    except BaseException as error:
        self._refuse_instance(error)
        return
    self.deadline.due = INFINITY
    _count_request(self)
    if self.request_timeout is not None:
        self.due_request = _field(self, "deadlines").now + self.request_timeout
        self.rearm()
    if (rest and not whole) or PyByteArray_GET_SIZE(self.buffer):
        self._keep(b"" if rest is None else rest)


cdef bint _is_whole(FastConnection self, HeadParser parser, rest) except -1:
    """Return whether what came behind a head is its whole body and nothing more, which needs no deadline."""
    if type(rest) is not bytes or PyBytes_GET_SIZE(rest) != parser.length or parser.chunked:
        return False
    server = self.server
    if PyBytes_GET_SIZE(parser.upgrade) or server.websockets_only:
        return False
    limit = server.max_body_size
    return limit is None or parser.length <= limit


cdef _describe(FastConnection self, HeadParser parser, dict template):
    """Write into the template what the scopes of equal heads have in common."""
    PyDict_SetItem(template, "method", parser.method)
    PyDict_SetItem(template, "path", parser.path_text)
    PyDict_SetItem(template, "raw_path", parser.path)
    PyDict_SetItem(template, "query_string", parser.query)
    PyDict_SetItem(template, "http_version", parser.version)
    if self.amends:
        self.amend(template)


cdef _response_complete(FastConnection self, FastExchange exchange):
    cdef double due
    if (
        not exchange.keep_alive
        or self.last
        or self.body is not None
        or PyByteArray_GET_SIZE(self.buffer)
        or self.paused
        or self.eof
        or self.reading_paused
    ):
        _PureConnection.response_complete(self, exchange)
        return
    self.exchange = None
    _note_end(self, exchange)
    self.due_request = INFINITY
    deadline = self.deadline
    if self._deadlines is None:
        self._deadlines = self.server.deadlines
    moment = self._deadlines.now + self.keep_alive_timeout
    deadline.due = moment
    if moment < deadline.listed:
        deadline.relist()

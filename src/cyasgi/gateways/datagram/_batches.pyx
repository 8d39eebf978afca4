# cython: language_level=3, binding=False, wraparound=False, boundscheck=False, initializedcheck=False, auto_pickle=False
"""The Cython twin of `_batches_py.py`. What differs:

* The socket is read and written by `recvmmsg` and `sendmmsg`: up to 64 datagrams in one call of the system. All sockets
  of a server are read into the same buffers, in turn.
* What is sent waits for the end of the pass of the loop, or for the 64th. When datagrams were handed over, that end comes
  right after the tasks that they have woken.
* A sender's addresses, as Python has them, are kept by its socket address as the system has it, so that a sender that is
  known costs no formatting. The cache is bounded; each place holds two senders.
* No call of the system waits, so that the interpreter's lock is kept.
"""

import asyncio
import collections
import os
from asyncio import QueueFull

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Contains, PyDict_Copy, PyDict_GetItem, PyDict_SetItem, PyDict_Update
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_AsUTF8, PyUnicode_DecodeASCII
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, strlen
cimport cython

from ..._common.guarding import INTERRUPTS
from ...core import SENT
from ...core._core import BATCH_API
from ...core.full import TableFull
from ...wire.datagram import MAX_DATA, scope_fields
from ..net.own_addresses import OWN_PORTS
from ._batches_py import BATCH, CACHE_SIZE, HIGH_WATER, LOW_WATER, OVERHEAD, asked_of

include "../../_common/cells.pxi"
include "_batches_c.pxi"

assert BATCH == CYASGI_BATCH

#: Senders that are known for one socket, at most.
cdef enum:
    KNOWN = 4096

cdef cyasgi_batch_api *_api = <cyasgi_batch_api *>PyCapsule_GetPointer(BATCH_API, "cyasgi.core._core.BATCH_API")
cdef unsigned long long _seed = int.from_bytes(os.urandom(8), "little")
cdef object _SENT = SENT
cdef dict _OWN_PORTS = OWN_PORTS
cdef Py_ssize_t _MAX_DATA = MAX_DATA
cdef Py_ssize_t _HIGH_WATER = HIGH_WATER
cdef Py_ssize_t _LOW_WATER = LOW_WATER
cdef Py_ssize_t _OVERHEAD = OVERHEAD
cdef Py_ssize_t _CACHE_SIZE = CACHE_SIZE
cdef tuple _INTERRUPTS = INTERRUPTS
cdef dict _ASGI = scope_fields(("", 0), None)["asgi"]
cdef int _IPPROTO_IP = 0
cdef int _IPPROTO_IPV6 = 41


@cython.final
cdef class DatagramScope(dict):
    """A scope that remembers its endpoint and its client's socket address, whatever the application writes into it."""

    cdef public object address
    cdef public object source
    cdef public EndpointBase endpoint

    def __init__(self, endpoint):
        self.endpoint = endpoint
        _fill_scope(self)

    def fill_in(self, client, address, asked=None):
        """Set the client, and the address that it has asked, once the scope is used."""
        _fill_in(self, client, address, asked)

    def __reduce__(self):
        # A copy, deep copy or pickle is a plain dict: a socket has no place in it.
        return dict, (dict(self),)


cdef int _fill_scope(DatagramScope scope) except -1:
    cdef EndpointBase endpoint = scope.endpoint
    if endpoint._scope_template is None:
        endpoint._scope_template = scope_fields(endpoint.server_address, None)
    PyDict_Update(scope, endpoint._scope_template)
    PyDict_SetItem(scope, "asgi", PyDict_Copy(_ASGI))
    return 0


cdef DatagramScope _new_scope(EndpointBase endpoint):
    cdef DatagramScope scope = DatagramScope.__new__(DatagramScope)
    scope.endpoint = endpoint
    _fill_scope(scope)
    return scope


cdef int _fill_in(DatagramScope scope, client, address, asked) except -1:
    PyDict_SetItem(scope, "client", client)
    scope.address = address
    if asked is not None:
        PyDict_SetItem(scope, "server", asked.server)
        scope.source = asked.source
    return 0


cdef class EndpointBase:
    """The fields of an endpoint, and what it does for each datagram in the usual case."""

    cdef public bint paused
    cdef public bint stopping
    cdef public bint open
    cdef public bint own_id
    cdef public bint own_create
    cdef public bint custom
    cdef public bint by_listener
    cdef public bint plain
    cdef public Py_ssize_t limit
    cdef public int family
    cdef public long long received
    cdef public long long sent
    cdef public long long errors
    cdef public long long queue_full
    cdef public long long table_full
    cdef public long long oversized
    cdef public long long refused
    cdef public long long limited
    cdef public long long after_stop
    cdef public long long own
    cdef public long long by_system
    cdef public long long noticed
    cdef public object waiters
    cdef public object drops_before
    cdef public object find
    cdef public object transport
    cdef public object sock
    cdef public object server
    cdef public object traffic
    cdef public object spare
    cdef public object own_address
    cdef public object gone
    cdef public object server_address
    #: A message and a scope, to be copied.
    cdef dict _template
    cdef dict _scope_template
    #: Where datagrams are counted, too; and how many were received and sent by then.
    cdef CellsView _view
    cdef long long _tallied_received
    cdef long long _tallied_sent

    @property
    def cells(self):
        return None if self._view is None else self._view.owner

    @cells.setter
    def cells(self, cells):
        self._view = None if cells is None else CellsView(cells)

    def tally(self):
        """Bring `cells` up to date; called for each batch, and for statistics."""
        self._tally()

    cdef void _tally(self) noexcept:
        if self._view is not None:
            self._view.cells[DATAGRAMS_RECEIVED] += self.received - self._tallied_received
            self._view.cells[DATAGRAMS_SENT] += self.sent - self._tallied_sent
            self._tallied_received = self.received
            self._tallied_sent = self.sent

    def __init__(self):
        self.paused = True
        self.waiters = collections.deque()

    def datagram_received(self, data, addr):
        """Hand over a datagram that a transport of the loop has read."""
        if not self.plain:
            self.receive(data, addr, None)
            return
        self.received += 1
        if not self._is_usual(addr, len(data)) and self.drops(addr, len(data)):
            return
        self._hand_over(data, addr, addr, addr, None)

    cdef bint _is_usual(self, addr, Py_ssize_t size) except -1:
        return size <= self.limit and addr and not PyDict_Contains(_OWN_PORTS, addr[1])

    cdef int _hand_over(self, data, scope_id, client, address, asked) except -1:
        """Put a datagram into the instance of this id; return whether it was made for that. Only KeyboardInterrupt and
        SystemExit come out of it."""
        cdef dict message
        try:
            if self._template is None:
                self._template = {
                    "type": "datagram.receive",
                    "data": None,
                    "client": None,
                    "server": self.server_address,
                }
            message = PyDict_Copy(self._template)
            PyDict_SetItem(message, "data", data)
            PyDict_SetItem(message, "client", client)
            if asked is not None:
                PyDict_SetItem(message, "server", asked.server)
            scope = self.spare
            if _api.deliver(self.server, scope_id, scope, message):
                # Made for this datagram. No application runs before the loop has turned.
                _fill_in(<DatagramScope?>scope, client, address, asked)
                self.spare = _new_scope(self)
                return 1
        except QueueFull:
            self.queue_full += 1
            self.traffic.lost()
        except TableFull:
            self.table_full += 1
            self.traffic.lost()
        except _INTERRUPTS:
            raise
        except BaseException as error:
            self.refused += 1
            self.traffic.dropped(error, data, client)
        return 0


@cython.binding(True)
def application_send(self, scope, message):
    """Send the datagram of a ``datagram.send`` message.

    Returns:
        An awaitable, done when the system has taken the datagram, or is about to.

    Raises:
        TypeError, ValueError: the message is malformed; see `cyasgi.wire.datagram.parse_send`.
    """
    cdef PyObject *found
    cdef EndpointBase endpoint
    # The usual message goes straight out; `_send` takes all others.
    if type(message) is dict and type(scope) is DatagramScope and len(<dict>message) == 2:
        # What a look-up finds is borrowed, and the next one may run code of the keys.
        found = PyDict_GetItem(<dict>message, "type")
        kind = None if found is NULL else <object>found
        found = PyDict_GetItem(<dict>message, "data")
        data = None if found is NULL else <object>found
        if (
            type(kind) is str
            and <str>kind == "datagram.send"
            and type(data) is bytes
            and 0 < len(<bytes>data) <= _MAX_DATA
        ):
            endpoint = (<DatagramScope>scope).endpoint
            if not endpoint.paused:
                if type(endpoint.transport) is BatchTransport:
                    endpoint.sent += 1
                    (<BatchTransport>endpoint.transport)._queue(
                        <bytes>data, (<DatagramScope>scope).address, (<DatagramScope>scope).source
                    )
                    return _SENT
                if (<DatagramScope>scope).source is None:
                    endpoint.sent += 1
                    endpoint.transport.sendto(<object>data, (<DatagramScope>scope).address)
                    return _SENT
    return self._send(scope, message)


include "_batches_transport.pxi"

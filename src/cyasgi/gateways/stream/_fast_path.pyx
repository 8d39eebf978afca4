# cython: language_level=3, binding=False, wraparound=False, boundscheck=False, initializedcheck=False, auto_pickle=False
"""The Cython twin of `_fast_path_py.py`.

An application that waits for a message goes on within `data_received`, if nothing else is at work in the loop:
`core/_cy/batch.pxi` tells how.
"""

import math

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Copy, PyDict_SetItem
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.string cimport memchr, memcpy

from ..._common.guarding import INTERRUPTS
from ...core import SENT
from ...core._core import IS_IDLE, PUT_AND_STEP
from ...wire.stream.framings import Lines
from . import phases

include "../../_common/cells.pxi"

ctypedef int (*put_function)(PyObject *loop, PyObject *instance, PyObject *message) except -1
ctypedef int (*idle_function)(PyObject *instance) noexcept

cdef put_function _put = <put_function>PyCapsule_GetPointer(PUT_AND_STEP, "cyasgi.core._core.PUT_AND_STEP")
cdef idle_function _is_idle = <idle_function>PyCapsule_GetPointer(IS_IDLE, "cyasgi.core._core.IS_IDLE")
#: What each message is a copy of: that is cheaper than a new one.
cdef dict _RECEIVE = {"type": "stream.receive", "data": b""}
cdef str _TYPE = "type"
cdef str _DATA = "data"
cdef str _SEND = "stream.send"
cdef object _MISSING = object()
cdef tuple _INTERRUPTS = INTERRUPTS
cdef object _SENT = SENT
cdef object _Lines = Lines
cdef double INFINITE = math.inf
cdef long YIELD_EVERY = phases.YIELD_EVERY
cdef int OPEN = phases.OPEN


cdef object _whole_line(framing, bytes data):
    """Do as `Lines.whole`."""
    cdef const char *text = PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data) - 1
    if size < 0 or memchr(text, 10, size + 1) != <void *>(text + size) or size > <Py_ssize_t>framing.max_size:
        return None
    if size and text[size - 1] == 13:
        size -= 1
    return PyBytes_FromStringAndSize(text, size)


cdef object _line(bytes data):
    """Return the data with its line end, if they are a line; else None."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef const char *text = PyBytes_AS_STRING(data)
    cdef bytes line
    if memchr(text, 10, size) != NULL or (size and text[size - 1] == 13):
        return None
    line = PyBytes_FromStringAndSize(NULL, size + 1)
    memcpy(PyBytes_AS_STRING(line), text, size)
    PyBytes_AS_STRING(line)[size] = 10
    return line


def _interrupt(error):
    """Raise it from a callback of the loop, as the step of a task would have done."""
    raise error


cdef class Traffic:
    """How many messages the applications of a server have received and sent, and how many bytes have come and gone."""

    cdef public long long received
    cdef public long long sent
    cdef public long long bytes_received
    cdef public long long bytes_sent
    cdef CellsView _view

    @property
    def cells(self):
        return None if self._view is None else self._view.owner

    @cells.setter
    def cells(self, cells):
        self._view = None if cells is None else CellsView(cells)

    cdef inline void count_read(self, Py_ssize_t size) noexcept:
        self.bytes_received += size
        if self._view is not None:
            self._view.cells[STREAM_BYTES_RECEIVED] += size

    cdef inline void count_received(self) noexcept:
        self.received += 1
        if self._view is not None:
            self._view.cells[STREAM_MESSAGES_RECEIVED] += 1

    cdef inline void count_sent(self, Py_ssize_t size) noexcept:
        self.sent += 1
        self.bytes_sent += size
        if self._view is not None:
            self._view.cells[STREAM_MESSAGES_SENT] += 1
            self._view.cells[STREAM_BYTES_SENT] += size


cdef dict _received(data):
    """Return the message for what has come."""
    cdef dict message = PyDict_Copy(_RECEIVE)
    PyDict_SetItem(message, _DATA, data)
    return message


def give(FastSession session, instance, message):
    """Put a message into the queue of an instance that waits for it, and make the step of its application."""
    _give(session, instance, message)


cdef int _give(FastSession session, instance, message) except -1:
    # Held: the step may do anything.
    loop = session.loop
    try:
        if not _put(<PyObject *>loop, <PyObject *>instance, <PyObject *>message):
            raise RuntimeError(f"there is no room in the queue of {instance!r}")
    except _INTERRUPTS as error:
        loop.call_soon(_interrupt, error, context=session.server.outside)
    return 0


cdef class FastConnection:
    """The fields of a connection that the usual course needs, and how messages usually come and go on it."""

    cdef public object server
    cdef public FastSession session
    cdef public object framing
    cdef public object transport
    cdef public Traffic traffic
    cdef public object ahead
    cdef public bint buffering
    cdef public object end
    cdef public bint closing
    cdef public bint paused
    cdef public bint reading_paused
    cdef public Py_ssize_t counted
    cdef public bint heard
    cdef public Py_ssize_t held
    cdef public object quiet
    cdef public double due_message

    def data_received(self, data):
        """Take in what has come on a connection."""
        cdef FastSession session
        framing = self.framing
        if self.end:
            self.drop(data)
            return
        self.traffic.count_read(len(data))
        session = self.session
        if self.quiet is not None or not self.heard:
            self.hear()
        if session is None:
            self.buffering = True
            framing.receive_data(data)
            self.read_first_message()
            return
        if self.buffering or self.ahead is not None:
            message = None
        elif type(framing) is _Lines and type(data) is bytes:
            message = _whole_line(framing, <bytes>data)
        else:
            message = framing.whole(data)
        if message is None:
            self.buffering = True
            framing.receive_data(data)
            session.come(self)
        elif (
            session.reading is self and session.greeted and not session.pushed
            and _is_idle(<PyObject *>session.instance)
        ):
            # The usual case: one message, and an application that waits for it.
            session.turn = 1
            session.favours_pushed = True
            self.traffic.count_received()
            _give(session, session.instance, _received(message))
        else:
            self.ahead = message
            self.held = len(data)
            session.come(self)
        if self.buffering or self.counted or self.reading_paused or self.ahead is not None:
            self.settle()

    def send(self, message):
        """Write a message to a connection, or close it; return False if it does not reach the client.

        Raises:
            TypeError, ValueError: the message is malformed, or the framing cannot take it.
        """
        return self.write(message)

    cdef bint write(self, message) except -1:
        data = _MISSING
        if type(message) is dict:
            kind = (<dict>message).get(_TYPE)
            if kind is _SEND or kind == _SEND:
                data = (<dict>message).get(_DATA, _MISSING)
        if data is _MISSING:
            if not self.send_other(message):
                return True
            data = message["data"]
        framing = self.framing
        # The most usual framing, in its usual case.
        framed = _line(<bytes>data) if type(framing) is _Lines and type(data) is bytes else None
        data = framing.encode(data) if framed is None else framed
        transport = self.transport
        if self.closing or transport.is_closing():
            return False
        self.traffic.count_sent(len(data))
        transport.write(data)
        return True


cdef class FastSession:
    """The fields of a session that the usual course needs, and how messages usually pass through it."""

    cdef public object server
    cdef public object loop
    cdef public object instance
    cdef public Traffic traffic
    cdef public FastConnection reading
    cdef public FastConnection writing
    cdef public bint greeted
    cdef public int told
    cdef public long turn
    cdef public long sends
    cdef public bint soon
    cdef public object pushed
    cdef public bint favours_pushed

    def come(self, connection):
        """Give the application what has come, if it waits for it; called by a connection, from the loop."""
        self.turn = 0
        instance = self.instance
        # The free place of a bounded queue may belong to somebody who has waited for it: then `look` sees to the rest.
        if instance is not None and instance.idle and not instance.full():
            message = self.next_message()
            if message is not None:
                _give(self, instance, message)

    def next_message(self):
        """Return the next message for an application whose queue is empty; None: it has to wait."""
        cdef FastConnection connection
        self.turn += 1
        if self.turn > YIELD_EVERY:
            if not self.soon:
                self.later()
            return None
        connection = self.reading
        if connection is not None and self.told == OPEN:
            if not self.greeted:
                return self.greet(connection)
            if self.pushed and self.favours_pushed:
                # In turn with what the client sends, so that neither holds up the other.
                return self.next_pushed()
            if (
                connection.buffering
                or connection.ahead is not None
                or connection.counted
                or connection.reading_paused
            ):
                framing = connection.framing
                if connection.ahead is None and not connection.end and not connection.reading_paused:
                    # As `take` does.
                    try:
                        data = framing.next_message()
                    except Exception as error:
                        connection.fail(error)
                        data = None
                    if data is None:
                        connection.exhausted()
                    else:
                        connection.due_message = INFINITE
                        if connection.counted and not framing.buffered:
                            connection.exhausted()
                else:
                    data = connection.take()
                if data is not None:
                    self.favours_pushed = True
                    self.traffic.count_received()
                    return _received(data)
        if connection is not None and connection.end:
            return self.next_end(connection)
        return self.next_pushed() if self.pushed else None

    def application_send(self, scope, message):
        """Take a message of the application of a session.

        Returns:
            An awaitable, done when the client takes more.

        Raises:
            TypeError, ValueError: the message is malformed, or the framing cannot take it.
            StreamClosed: it cannot reach the client, who does not come back.
        """
        cdef FastConnection connection
        connection = self.writing
        self.sends += 1
        if connection is None or connection.paused or not self.sends % YIELD_EVERY:
            return self.send_later(message)
        if not connection.write(message):
            return self.unreachable(message)
        # Writing may have paused it.
        return self.drain(connection) if connection.paused else _SENT

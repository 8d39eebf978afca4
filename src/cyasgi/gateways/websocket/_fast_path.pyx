# cython: language_level=3, binding=False, wraparound=False, boundscheck=False, initializedcheck=False, auto_pickle=False
"""The Cython twin of `_fast_connection_py.py`.

An application that waits for a message goes on as soon as all that has come is read, within `data_received`, if nothing
else is at work in the loop: `core/_cy/batch.pxi` tells how. Where several messages have come, it gets the first in this
turn of the loop, and up to `MESSAGES_A_TURN` and `BYTES_A_TURN` in each of the next.
"""

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer

from cyasgi.wire.websocket._fast_path cimport FastFrames, FastWebSocket

from ..._common.guarding import INTERRUPTS
from ...core import SENT
from ...core._core import PUT_AND_STEP
from ...wire.websocket.connection import OPEN
from . import _fast_connection_py
from .bounds import BYTES_A_TURN, MESSAGES_A_TURN, YIELD_EVERY

cdef enum:
    C_OPEN = 2

if OPEN != C_OPEN:
    raise ImportError("the extension of cyasgi.gateways.websocket was built from another version")

ctypedef int (*put_function)(PyObject *loop, PyObject *instance, PyObject *message) except -1

cdef put_function _put = <put_function>PyCapsule_GetPointer(PUT_AND_STEP, "cyasgi.core._core.PUT_AND_STEP")
cdef object _PureConnection = _fast_connection_py.FastConnection
cdef object _SENT = SENT
cdef tuple _INTERRUPTS = INTERRUPTS
cdef Py_ssize_t _YIELD_EVERY = YIELD_EVERY
cdef Py_ssize_t _MESSAGES_A_TURN = MESSAGES_A_TURN
cdef Py_ssize_t _BYTES_A_TURN = BYTES_A_TURN


def _interrupt(error):
    """Raise it from a callback of the loop, as the step of a task would have done."""
    raise error


cdef class FastConnection:
    """The fields of the connection of a WebSocket, and how messages usually come and go on it."""

    cdef public object server
    cdef public object request
    cdef public object loop
    cdef public object transport
    cdef public object websocket
    cdef public bint paused
    cdef public object waiters
    cdef public bint finished
    cdef public bint lost
    cdef public bint reading_paused
    cdef public object _began
    cdef public object _client
    cdef public bint heard
    cdef public object _taken
    cdef public object deadline
    cdef public object ping_deadline
    cdef public object stall_deadline
    cdef public object _scope
    cdef public object _rest
    cdef public object _instance
    cdef public object _backlog
    cdef public Py_ssize_t _backlog_bytes
    cdef public object _limit
    cdef public bint _waits_for_room
    cdef public bint _disconnected
    cdef public Py_ssize_t _sends

    # What the application receives.

    def data_received(self, data):
        self.heard = True
        websocket = self.websocket
        if isinstance(websocket, FastWebSocket) and (<FastWebSocket>websocket).phase == C_OPEN and type(data) is bytes:
            (<FastWebSocket>websocket)._frames.take(<bytes>data)
        else:
            websocket.receive_data(data)
        self.pump()

    def pump(self):
        """Give the application what was received, as far as there is room for it."""
        if isinstance(self.websocket, FastWebSocket):
            _pump(self, <FastWebSocket>self.websocket)
        else:
            _PureConnection.pump(self)

    def _refill(self):
        """Give the application what waits for room in its queue, as long as it takes it at once."""
        _refill(self)

    # What the application sends.

    def application_send(self, scope, message):
        """Take a message of the application, and return an awaitable."""
        if (
            type(message) is dict
            and not self.paused
            and (self._sends + 1) % _YIELD_EVERY
            and isinstance(self.websocket, FastWebSocket)
        ):
            transport = self.transport
            if not transport.is_closing():
                frame = (<FastWebSocket>self.websocket).frame_of(<dict>message)
                if frame is not None:
                    self._sends += 1
                    transport.write(frame)
                    # Writing may have paused it.
                    return self._drain() if self.paused else _SENT
        return _PureConnection.application_send(self, scope, message)


cdef int _pump(FastConnection self, FastWebSocket websocket) except -1:
    cdef FastFrames frames = websocket._frames
    cdef bint last
    instance = self._instance
    behind = None
    while True:
        message, behind = behind, None
        if message is None:
            if self._backlog and self._full():
                break
            message = websocket.next()
            if message is None:
                break
        if self._backlog or instance.full():
            if self._waits_for_room:
                self._backlog.append(message)
                self._backlog_bytes += _size(<dict>message)
            else:
                self._put_behind(message)
            continue
        last = frames.left() == 0
        if not last:
            # All that has come is read before the application goes on, be it a close frame.
            behind = websocket.next()
            last = behind is None
        if not last or frames.unfinished or websocket.ended:
            instance.put_nowait(message)
            if last:
                break
            continue
        if frames.pending:
            # Pongs go before what the application answers.
            self.flush()
        _give(self, instance, message)
        break
    if (
        frames.pending
        or frames.unfinished
        or websocket.ended
        or websocket._out
        or self.reading_paused
        or frames.left()
    ):
        self._settle()
    return 0


cdef int _refill(FastConnection self) except -1:
    cdef Py_ssize_t count = 0, size = 0, length
    instance, backlog = self._instance, self._backlog
    # Whatever a step puts behind is seen here, too.
    self._waits_for_room = True
    while count < _MESSAGES_A_TURN and size < _BYTES_A_TURN:
        if instance.ended or not backlog or instance.full():
            self._waits_for_room = False
            return 0
        message = backlog.popleft()
        length = _size(<dict>message)
        self._backlog_bytes -= length
        size += length
        count += 1
        try:
            _give(self, instance, message)
        except BaseException:
            self._waits_for_room = False
            raise
    self.loop.call_soon(self._room, context=self.server.outside)
    return 0


cdef Py_ssize_t _size(dict message) except -1:
    if message["type"] != "websocket.receive":
        return 0
    data = message.get("bytes")
    return len(message.get("text", "")) if data is None else len(data)


cdef int _give(FastConnection self, instance, message) except -1:
    """Put a message into the queue, which has room, and let the application go on with it if nothing else is at work."""
    # Held: the step may do anything.
    loop = self.loop
    try:
        if not _put(<PyObject *>loop, <PyObject *>instance, <PyObject *>message):
            raise RuntimeError(f"there is no room in the queue of {instance!r}")
    except _INTERRUPTS as error:
        loop.call_soon(_interrupt, error, context=self.server.outside)
    return 0

# cython: language_level=3, binding=False, wraparound=False, boundscheck=False, initializedcheck=False, auto_pickle=False
"""The Cython twin of `_fast_path_py.py`.

An application that waits for a message goes on within `data_received`, if nothing else is at work in the loop:
`core/_cy/batch.pxi` tells how.
"""

import math

from cpython.object cimport PyObject
cimport cython
from cpython.pycapsule cimport PyCapsule_GetPointer

from ..._common.guarding import INTERRUPTS
from ...core import SENT
from ...core._core import PUT_AND_STEP
from . import phases

cdef object INFINITE = math.inf
cdef long YIELD_EVERY = phases.YIELD_EVERY
cdef long OPEN = phases.OPEN

ctypedef int (*put_function)(PyObject *loop, PyObject *instance, PyObject *message) except -1

cdef put_function _put = <put_function>PyCapsule_GetPointer(PUT_AND_STEP, "cyasgi.core._core.PUT_AND_STEP")
cdef tuple _INTERRUPTS = INTERRUPTS


def _interrupt(error):
    """Raise it from a callback of the loop, as the step of a task would have done."""
    raise error


def give(session, instance, message):
    """Put a message into the queue of an instance that waits for it, and make the step of its application."""
    # Held: the step may do anything.
    loop = session.loop
    try:
        if not _put(<PyObject *>loop, <PyObject *>instance, <PyObject *>message):
            raise RuntimeError(f"there is no room in the queue of {instance!r}")
    except _INTERRUPTS as error:
        loop.call_soon(_interrupt, error, context=session.server.outside)


@cython.binding(True)
def data_received(self, data):
    """Take in what has come on a connection."""
    if self.end:
        self.drop(data)
        return
    framing, session = self.framing, self.session
    if self.quiet is not None or not self.heard:
        self.hear()
    if session is None:
        framing.receive_data(data)
        self.read_first_message()
        return
    message = None if framing.buffer or self.ahead is not None else framing.whole(data)
    if message is None:
        framing.receive_data(data)
        session.come(self)
    elif session.reading is self and session.greeted and not session.pushed and session.instance.idle:
        # The usual case: one message, and an application that waits for it.
        session.turn = 1
        session.favours_pushed = True
        self.server.messages_received += 1
        give(session, session.instance, {"type": "stream.receive", "data": message})
    else:
        self.ahead = message
        session.come(self)
    if framing.buffer or self.counted or self.reading_paused or self.ahead is not None:
        self.settle()
    elif self.due_message != INFINITE:
        self.due_message = INFINITE


@cython.binding(True)
def send(self, message):
    """Write a message to a connection, or close it.

    Raises:
        TypeError, ValueError: the message is malformed, or the framing cannot take it.
        StreamClosed: it cannot reach the client.
    """
    usual = type(message) is dict and message.get("type") == "stream.send" and "data" in message
    if not usual and not self.send_other(message):
        return
    data = self.framing.encode(message["data"])
    transport = self.transport
    if self.closing or transport.is_closing():
        self.refuse_message()
    self.server.messages_sent += 1
    transport.write(data)


@cython.binding(True)
def come(self, connection):
    """Give the application of a session what has come, if it waits for it; called by a connection, from the loop."""
    self.turn = 0
    instance = self.instance
    if instance is not None and instance.idle:
        message = self.next_message()
        if message is not None:
            give(self, instance, message)


@cython.binding(True)
def next_message(self):
    """Return the next message for an application whose queue is empty; None: it has to wait."""
    self.turn += 1
    if self.turn > YIELD_EVERY:
        if not self.soon:
            self.later()
        return None
    if self.pushed and self.favours_pushed:
        # In turn with what the client sends, so that neither holds up the other.
        return self.next_pushed()
    connection = self.reading
    if connection is not None and self.told == OPEN:
        if not self.greeted:
            return self.greet(connection)
        if connection.framing.buffer or connection.ahead is not None or connection.counted or connection.reading_paused:
            data = connection.take()
            if data is not None:
                self.favours_pushed = True
                self.server.messages_received += 1
                return {"type": "stream.receive", "data": data}
    if self.pushed:
        return self.next_pushed()
    return None if connection is None or not connection.end else self.next_end(connection)


@cython.binding(True)
def application_send(self, scope, message):
    """Take a message of the application of a session.

    Returns:
        An awaitable, done when the client takes more.

    Raises:
        TypeError, ValueError: the message is malformed, or the framing cannot take it.
        StreamClosed: it cannot reach the client, who does not come back.
    """
    connection = self.writing
    self.sends += 1
    if connection is None or connection.paused or not self.sends % YIELD_EVERY:
        return self.send_later(message)
    connection.send(message)
    # Writing may have paused it.
    return self.drain(connection) if connection.paused else SENT

# cython: language_level=3, binding=False, wraparound=False, boundscheck=False, initializedcheck=False, auto_pickle=False
"""The Cython twin of `_fast_frames_py.py` and `_fast_websocket_py.py`.

Whole messages that are not compressed, and pings, are read here, if all of the frame is there and nothing is wrong with
it. Any other frame is left to the pure twin, which is called with the same object, where that frame begins.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memcpy

from . import _fast_frames_py, _fast_websocket_py
from .constants import CLOSED, CLOSING, FRAMES_A_CALL, FRAMES_OPEN, OPEN, RESPONDING

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* Applies the mask of a frame to its payload (RFC 6455 section 5.3); returns whether every byte is ASCII. */
    static int cyasgi_unmask(char *to, const char *from, const char *mask, Py_ssize_t size) {
        uint32_t four;
        uint64_t key, word, seen = 0;
        Py_ssize_t at = 0;
        memcpy(&four, mask, 4);
        key = ((uint64_t)four << 32) | four;
        for (; size - at >= 8; at += 8) {
            memcpy(&word, from + at, 8);
            word ^= key;
            seen |= word;
            memcpy(to + at, &word, 8);
        }
        for (; at < size; at++) {
            unsigned char byte = (unsigned char)(from[at] ^ mask[at & 3]);
            seen |= byte;
            to[at] = (char)byte;
        }
        return !(seen & UINT64_C(0x8080808080808080));
    }

    #define CYASGI_ASCII_DATA(text) ((char *)PyUnicode_1BYTE_DATA(text))
    """
    bint unmask "cyasgi_unmask"(char *to, const char *data, const char *mask, Py_ssize_t size) noexcept
    str PyUnicode_New(Py_ssize_t size, unsigned int most)
    char *ascii_data "CYASGI_ASCII_DATA"(str text)
    bint PyUnicode_IS_ASCII(str text)
    Py_ssize_t PyUnicode_GET_LENGTH(str text)

cdef enum:
    C_WHOLE_TEXT = 0x81
    C_WHOLE_BINARY = 0x82
    C_WHOLE_PING = 0x89
    C_PONG = 0x8A
    C_FRAMES_OPEN = 0
    C_RESPONDING = 1
    C_OPEN = 2
    C_CLOSING = 3
    C_CLOSED = 4

if (FRAMES_OPEN, RESPONDING, OPEN, CLOSING, CLOSED) != (C_FRAMES_OPEN, C_RESPONDING, C_OPEN, C_CLOSING, C_CLOSED):
    raise ImportError("the extension of cyasgi.wire.websocket was built from another version")

cdef object _PureFrames = _fast_frames_py.FastFrames
cdef object _PureWebSocket = _fast_websocket_py.FastWebSocket
cdef int _FRAMES_A_CALL = FRAMES_A_CALL
cdef str _SEND = "websocket.send"
cdef str _RECEIVE = "websocket.receive"


cdef class FastFrames:
    """The fields of `Frames`, and how messages usually come and go."""

    # From the client.

    def receive_data(self, data):
        """Take in received bytes."""
        # The buffer is one of bytes or a bytearray, exactly.
        self.take(<bytes>data if type(data) is bytes else bytes(memoryview(data)))

    cdef int take(self, bytes data) except -1:
        if self.left() == 0:
            self._start = 0
            self._buffer = data
        else:
            _PureFrames.receive_data(self, data)
        return 0

    cdef Py_ssize_t left(self):
        """Return how many received bytes were not parsed."""
        buffer = self._buffer
        if type(buffer) is bytes:
            return PyBytes_GET_SIZE(buffer) - self._start
        return PyByteArray_GET_SIZE(buffer) - self._start

    @property
    def buffered(self):
        """Received bytes that were not parsed."""
        return self.left()

    def next_message(self, int allowance=_FRAMES_A_CALL):
        """Return the next message; None if there is none yet (see `unfinished`), or the connection was closed."""
        return self.next_data(allowance)

    cdef object next_data(self, int allowance):
        cdef const unsigned char *data
        cdef const char *payload
        cdef Py_ssize_t available
        cdef unsigned long long length
        cdef int first, head, index
        self.unfinished = False
        while allowance > 0 and self._parts is None and self.state == C_FRAMES_OPEN:
            # Held: the end of the buffer is dropped from the fields before the frame is used.
            buffer = self._buffer
            if type(buffer) is bytes:
                data = <const unsigned char *>PyBytes_AS_STRING(buffer) + self._start
                available = PyBytes_GET_SIZE(buffer) - self._start
            else:
                data = <const unsigned char *>PyByteArray_AS_STRING(buffer) + self._start
                available = PyByteArray_GET_SIZE(buffer) - self._start
            if available < 2:
                return None
            first = data[0]
            if data[1] < 0x80 or (first != C_WHOLE_TEXT and first != C_WHOLE_BINARY and first != C_WHOLE_PING):
                break
            length = data[1] - 0x80
            head = 6
            if length > 125:
                if first == C_WHOLE_PING:
                    break
                head = 8 if length == 126 else 14
                if available < head:
                    break
                length = 0
                for index in range(2, head - 4):
                    length = length << 8 | data[index]
                if length < <unsigned>(126 if head == 8 else 0x10000):
                    break
            if (
                available < head
                or length > <unsigned long long>(available - head)
                or (length > self._room and first != C_WHOLE_PING)
            ):
                break
            payload = <const char *>data + head
            if first == C_WHOLE_PING:
                self.passed(head + <Py_ssize_t>length)
                _pong(self, payload, payload - 4, <Py_ssize_t>length)
                allowance -= 1
                continue
            if first == C_WHOLE_BINARY:
                message = _binary(payload, payload - 4, <Py_ssize_t>length)
            else:
                message = _text(payload, payload - 4, <Py_ssize_t>length)
                if message is None:
                    break
            self.passed(head + <Py_ssize_t>length)
            return message
        return _PureFrames.next_message(self, allowance)

    # To the client.

    def encode(self, data):
        """Return the frame of a message, a str or bytes, to be sent after what `data_to_send` returns."""
        frame = _frame(self, data)
        return _PureFrames.encode(self, data) if frame is None else frame

    def _answer(self, ping):
        _PureFrames._answer(self, ping)

    cdef int passed(self, Py_ssize_t size) except -1:
        """Go on behind a frame of this size."""
        self._start += size
        if self.left() == 0:
            self._start = 0
            self._buffer = b""
        return 0


cdef int _pong(FastFrames self, const char *ping, const char *mask, Py_ssize_t size) except -1:
    """Answer a ping, or keep what was in it."""
    cdef bytes pong
    if self._hold_pongs:
        self._held = _binary(ping, mask, size)
        return 0
    pong = PyBytes_FromStringAndSize(NULL, size + 2)
    PyBytes_AS_STRING(pong)[0] = <char>C_PONG
    PyBytes_AS_STRING(pong)[1] = <char>size
    unmask(PyBytes_AS_STRING(pong) + 2, ping, mask, size)
    self._pongs.append(pong)
    self.pending = True
    return 0


cdef bytes _binary(const char *payload, const char *mask, Py_ssize_t size):
    cdef bytes data = PyBytes_FromStringAndSize(NULL, size)
    if size:
        unmask(PyBytes_AS_STRING(data), payload, mask, size)
    return data


cdef str _text(const char *payload, const char *mask, Py_ssize_t size):
    """Return the text; None if it is not UTF-8."""
    cdef str text
    if size == 0:
        return ""
    # Most text is ASCII, and then this is all.
    text = PyUnicode_New(size, 127)
    if unmask(ascii_data(text), payload, mask, size):
        return text
    try:
        return PyUnicode_DecodeUTF8(ascii_data(text), size, NULL)
    except UnicodeDecodeError:
        return None


cdef bytes _frame(FastFrames self, data):
    """Return the frame of a message; None if it is an unusual one, or is to be compressed."""
    cdef const char *payload
    cdef unsigned char *to
    cdef bytes frame
    cdef Py_ssize_t size, rest
    cdef int first, head, index
    if self._extensions:
        return None
    if type(data) is bytes:
        first = C_WHOLE_BINARY
        payload = PyBytes_AS_STRING(data)
        size = PyBytes_GET_SIZE(data)
    elif type(data) is str:
        first = C_WHOLE_TEXT
        if PyUnicode_IS_ASCII(<str>data):
            payload = ascii_data(<str>data)
            size = PyUnicode_GET_LENGTH(<str>data)
        else:
            # Held until it is copied.
            data = (<str>data).encode()
            payload = PyBytes_AS_STRING(data)
            size = PyBytes_GET_SIZE(data)
    else:
        return None
    head = 2 if size < 126 else 4 if size < 0x10000 else 10
    frame = PyBytes_FromStringAndSize(NULL, head + size)
    to = <unsigned char *>PyBytes_AS_STRING(frame)
    to[0] = first
    to[1] = size if head == 2 else 126 if head == 4 else 127
    rest = size
    for index in range(head - 1, 1, -1):
        to[index] = rest & 0xFF
        rest >>= 8
    memcpy(to + head, payload, size)
    return frame


cdef class FastWebSocket:
    """The fields of a `WebSocket`, and how messages usually come and go."""

    # From the client.

    def receive_data(self, data):
        """Take in received bytes."""
        if self.phase != C_RESPONDING and self.phase != C_CLOSED:
            self._frames.receive_data(data)

    def next_message(self):
        """Return the next ``websocket.receive`` message; None if there is none yet, or none will come (see `ended`)."""
        return self.next()

    cdef object next(self):
        cdef FastFrames frames = self._frames
        if self.phase != C_OPEN and self.phase != C_CLOSING:
            return None
        data = frames.next_data(_FRAMES_A_CALL)
        if data is None:
            if frames.ended:
                self._end()
            return None
        if type(data) is str:
            return {"type": _RECEIVE, "text": data}
        return {"type": _RECEIVE, "bytes": data}

    # From the application.

    def send(self, message):
        """Take a message of the application; return the bytes to send to the client for it."""
        frame = self.frame_of(<dict>message) if type(message) is dict else None
        return _PureWebSocket.send(self, message) if frame is None else frame

    cdef bytes frame_of(self, dict message):
        cdef PyObject *found
        cdef bytes frame
        if self.phase != C_OPEN:
            return None
        # What a look-up finds is borrowed, and the next one may run code of the keys.
        found = PyDict_GetItem(message, "type")
        if found is NULL or type(<object>found) is not str or <str>found != _SEND:
            return None
        found = PyDict_GetItem(message, "text")
        text = None if found is NULL else <object>found
        found = PyDict_GetItem(message, "bytes")
        data = None if found is NULL else <object>found
        if text is None:
            if type(data) is not bytes:
                return None
        elif data is None and type(text) is str:
            data = text
        else:
            return None
        if self.phase != C_OPEN:
            return None
        frame = _frame(self._frames, data)
        if frame is not None:
            self.sent += PyBytes_GET_SIZE(frame)
        return frame

# The twin of `_fast_exchange_py.py`: one request and its response.


cdef class FastExchange:
    """The fields of an exchange, and what it usually comes to."""

    cdef public object protocol
    cdef public object instance
    cdef public str version
    cdef public bint bodiless
    cdef public bint keep_alive
    cdef public bint usual
    cdef public int phase
    cdef public bint disconnected
    cdef public bint broken_off
    cdef public bint waits_for_continue
    cdef public object sent
    cdef public int status
    cdef public int sent_in_vain
    cdef public object _left
    cdef public bint _chunked
    cdef public Py_ssize_t _unbroken
    cdef public int _trailers
    cdef public bint _trailers_begun
    cdef public tuple _fields
    cdef public list _parts
    cdef public bint _whole
    cdef public bint _received
    cdef public bint _asked
    cdef public int _disconnects
    cdef public bint _delayed
    cdef public Py_ssize_t _waiting_bytes

    def __init__(self, protocol, str version, bint bodiless, bint keep_alive, bint whole):
        self.protocol = protocol
        self.version = version
        self.bodiless = bodiless
        self.keep_alive = keep_alive
        self.usual = keep_alive and not bodiless and version == "1.1"
        self.sent = 0
        self._left = 0
        self._whole = whole

    def begin(self, instance, bint direct):
        """Connect the application's instance, which runs or is about to."""
        _connect(self, instance, direct)

    # What the application receives

    def next_message(self):
        """Return the next message for an application whose queue is empty; None: it has to wait."""
        if self._whole and not self._received:
            if self._parts is None:
                self._received = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if PyList_GET_SIZE(self._parts) == 1 and not self.disconnected:
                connection = self.protocol
                if isinstance(connection, FastConnection) and not (<FastConnection>connection).reading_paused:
                    self._received = True
                    body = self._parts[0]
                    self._parts = None
                    return {"type": "http.request", "body": body, "more_body": False}
        return _PureExchange.next_message(self)

    def take_body(self, body):
        """Take the whole body of the request, before the application is begun."""
        self._parts = [body]
        self._waiting_bytes = len(body)
        if self._waiting_bytes >= _HIGH_WATER:
            self.protocol.pause_reading()

    def last_message(self):
        """Return what is received after the application has ended."""
        return {"type": "http.disconnect"}

    # What the application sends

    def application_send(self, scope, message, waited=False):
        """Take a message of the application, and return an awaitable."""
        cdef PyObject *kind
        if type(message) is dict and isinstance(self.protocol, FastConnection):
            if not (<FastConnection>self.protocol).paused:
                kind = get_item(message, "type")
                if kind is not NULL and type(<object>kind) is str:
                    if self.phase == C_STARTED and <str>kind == _BODY:
                        if _send_whole(self, <FastConnection>self.protocol, <dict>message):
                            return _SENT
                    elif self.phase == C_EXPECTED and <str>kind == _START and _start(self, <dict>message):
                        return _SENT
        return _PureExchange.application_send(self, scope, message, waited)

    def _write_whole(self, protocol, body):
        _PureExchange._write_whole(self, protocol, body)

    def complete(self, protocol):
        """End the exchange: all of the response was written."""
        _complete(self, protocol)

    # The end

    def application_ended(self, instance):
        """End the exchange with its application; called from within the application's last step."""
        if self.phase == C_COMPLETE and not self.disconnected and _instances.empty(<PyObject *>instance):
            self.instance = None
            self.protocol = None
        else:
            _PureExchange.application_ended(self, instance)


cdef int _connect(FastExchange self, instance, bint direct) except -1:
    cdef int waits
    self.instance = instance
    waits = _instances.connect(<PyObject *>instance, direct)
    if waits == 2:
        instance.connect(direct)
        waits = instance.idle
    if waits:
        message = self.next_message()
        if message is not None:
            instance.put_nowait(message)
    return 0


cdef bint _start(FastExchange self, dict message) except -1:
    """Take the beginning of a response; return whether it was the usual case."""
    cdef PyObject *found = get_item(message, "status")
    cdef object status
    cdef int number
    if found is NULL:
        return False
    # What a look-up finds is borrowed, and the next one may run code of the keys.
    status = <object>found
    if type(status) is not int or get_item(message, "trailers") is not NULL:
        return False
    if not 200 <= status <= 599:
        return False
    number = status
    found = get_item(message, "headers")
    headers = _NOTHING if found is NULL else <object>found
    fields = _encode_lines(headers)
    # What was asked of the headers may be anything that has done anything.
    if self.phase != C_EXPECTED:
        return False
    self._fields = fields
    self.status = number
    self._trailers = _NO_TRAILERS
    self.phase = C_STARTED
    return True


cdef bint _send_whole(FastExchange self, FastConnection connection, dict message) except -1:
    """Write the whole response, head and body, if this is the usual case; return whether it was."""
    cdef PyObject *found = get_item(message, "more_body")
    cdef bytes line, common, lines, data
    cdef Py_ssize_t size, joined, digits, at
    cdef char *to
    cdef char number[24]
    cdef tuple fields
    if not self.usual or (found is not NULL and <object>found is not False):
        return False
    found = get_item(message, "body")
    body = b"" if found is NULL else <object>found
    if type(body) is not bytes or connection.last or connection.body is not None or connection.id_line is not None:
        return False
    size = PyBytes_GET_SIZE(body)
    fields = self._fields
    length = fields[1]
    if fields[2] or (length is not None and length != size):
        return False
    # A long body is not copied: it is written behind the head.
    joined = size if size < _JOIN_LIMIT else 0
    line = _STATUS_LINES[self.status]
    if line is None:
        return False
    common = <bytes?>_field(connection, "common_fields")
    lines = fields[0]
    digits = _write_number(number, size)
    at = PyBytes_GET_SIZE(line) + PyBytes_GET_SIZE(common) + PyBytes_GET_SIZE(lines)
    data = PyBytes_FromStringAndSize(NULL, at + 18 + digits + 4 + joined)
    to = PyBytes_AS_STRING(data)
    memcpy(to, PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))
    to += PyBytes_GET_SIZE(line)
    memcpy(to, PyBytes_AS_STRING(common), PyBytes_GET_SIZE(common))
    to += PyBytes_GET_SIZE(common)
    memcpy(to, PyBytes_AS_STRING(lines), PyBytes_GET_SIZE(lines))
    to += PyBytes_GET_SIZE(lines)
    memcpy(to, b"\r\ncontent-length: ", 18)
    to += 18
    memcpy(to, number, digits)
    to += digits
    memcpy(to, b"\r\n\r\n", 4)
    memcpy(to + 4, PyBytes_AS_STRING(body), joined)
    self.sent = size
    if joined == size:
        connection.transport.write(data)
    else:
        _write_parts(connection.transport, (data, body))
    _complete(self, connection)
    return True


cdef inline Py_ssize_t _write_number(char *to, Py_ssize_t number) noexcept:
    cdef char reversed_[24]
    cdef Py_ssize_t count = 0, index
    while True:
        reversed_[count] = 48 + number % 10
        number //= 10
        count += 1
        if not number:
            break
    for index in range(count):
        to[index] = reversed_[count - 1 - index]
    return count


cdef _complete(FastExchange self, protocol):
    self.phase = C_COMPLETE
    self.protocol = None
    instance = self.instance
    if instance is not None and _instances.quiet(<PyObject *>instance):
        self._parts = None
        self._whole = self._received = True
    elif instance is not None:
        # Whatever the application receives from now on is ``http.disconnect``.
        self._parts = None
        self._whole = self._received = True
        if instance.qsize():
            instance.get_nowait()
            instance.put_nowait({"type": "http.disconnect"})
            self._disconnects = 1
        elif instance.waiting():
            self._disconnect_waiting()
    if isinstance(protocol, FastConnection) and (<FastConnection>protocol)._plain == 1:
        _response_complete(<FastConnection>protocol, self)
    else:
        protocol.response_complete(self)

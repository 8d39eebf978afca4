# The usual request line, METHOD /target HTTP/1.x, and what is kept of heads.


cdef inline int _find_method(const unsigned char *data) noexcept:
    """Return the number of the method at the beginning of at least 18 bytes, or -1."""
    cdef int number
    if memcmp(data, b"GET ", 4) == 0:
        return 0
    if memcmp(data, b"POST ", 5) == 0:
        return 1
    for number in range(2, METHOD_COUNT):
        if data[0] == METHOD_DATA[number][0] and memcmp(data, METHOD_DATA[number], METHOD_SIZES[number]) == 0:
            return number
    return -1


cdef inline bint _read_line(const unsigned char *data, Py_ssize_t size, RequestLine *line) noexcept:
    """Find method, target and version; return whether they are there, and the usual ones."""
    cdef const unsigned char *p
    cdef const unsigned char *end = data + size
    cdef unsigned char kind
    # No head is shorter.
    if size < 18:
        return False
    line.method = _find_method(data)
    if line.method < 0:
        return False
    p = data + METHOD_SIZES[line.method]
    if p[0] != C_SLASH:
        return False
    line.target = p - data
    line.question = -1
    while p < end:
        kind = IN_TARGET[p[0]]
        if kind:
            if kind == STOP:
                break
            if p[0] == C_QUESTION and line.question < 0:
                line.question = p - data
        p += 1
    if end - p < 11 or memcmp(p, b" HTTP/1.", 8) != 0 or (p[8] != 48 and p[8] != 49) or p[9] != CR or p[10] != LF:
        return False
    line.target_end = p - data
    line.version = line.target_end + 1
    line.end = line.target_end + 9
    line.old = p[8] == 48
    line.odd = False
    return True


cdef Py_ssize_t _read_head(HeadParser self, const unsigned char *data, Py_ssize_t size) except -1:
    """Read a head that is not the last one again; return its size, or 0 if it is not complete."""
    cdef RequestLine line
    cdef Py_ssize_t end
    cdef bint same_line = False
    cdef bint same_block = False
    if _read_line(data, size, &line):
        if line.target_end - line.target > self._target_limit:
            return _refuse(self, data, size, 414, "")
        same_line = self._line_size == line.version and memcmp(data, self._kept + self._line_at, line.version) == 0
        end = line.version + self._block_size
        same_block = self._block_size and size >= end and memcmp(data + line.version, self._kept, self._block_size) == 0
    elif not _read_odd_line(self, data, size, &line):
        return 0
    if not same_block:
        end = _read_block(self, data, size, &line)
        if not end:
            return 0
    self.same_line = same_line
    if not same_line:
        _set_line(self, data, &line)
    self.headers = _fresh_list(self)
    if line.odd:
        _interpret_odd_target(self)
    _keep(self, data, &line, end, same_block)
    return end


cdef int _set_line(HeadParser self, const unsigned char *data, RequestLine *line) except -1:
    """Make objects of method, path and query."""
    cdef const char *start
    cdef Py_ssize_t size
    if line.odd:
        self.method = self._odd_method
        self._target = self._odd_target
        self._odd_target = None
        return 0
    self._target = None
    self.method = <str>METHOD_NAMES[line.method]
    start = <const char *>data + line.target
    size = (line.question if line.question >= 0 else line.target_end) - line.target
    if PyBytes_GET_SIZE(self.path) != size or memcmp(PyBytes_AS_STRING(self.path), start, size) != 0:
        self.path = PyBytes_FromStringAndSize(start, size)
        self.path_text = _decode_path(self.path)
    if line.question < 0:
        self.query = b""
    else:
        self.query = PyBytes_FromStringAndSize(
            <const char *>data + line.question + 1, line.target_end - line.question - 1
        )
    return 0


cdef int _keep(HeadParser self, const unsigned char *data, RequestLine *line, Py_ssize_t end, bint same_block) except -1:
    """Keep the bytes of a head that was read."""
    cdef Py_ssize_t block_size = end - line.version
    cdef unsigned char *kept
    self._line_size = 0
    if line.odd or end > KEPT_SIZE:
        self._block_size = 0
        if self._target is None:
            self._target = PyBytes_FromStringAndSize(
                <const char *>data + line.target, line.target_end - line.target
            )
        return 0
    if self._kept_room < end or self._kept_room > 2 * end + 1024:
        # Also given back: a connection that waits for the next request should not hold what it does not need.
        if not same_block:
            self._block_size = 0
        kept = <unsigned char *>PyMem_Realloc(self._kept, end)
        if kept is NULL:
            raise MemoryError()
        self._kept = kept
        self._kept_room = end
    if not same_block:
        memcpy(self._kept, data + line.version, block_size)
        self._block_size = block_size
    memcpy(self._kept + block_size, data, line.version)
    self._line_at = block_size
    self._line_size = line.version
    self._target_at = block_size + line.target
    self._target_size = line.target_end - line.target
    return 0


cdef inline list _fresh_list(HeadParser self):
    """Return the headers in a list of their own, which the application may change."""
    cdef list found = PyList_New(self._count)
    cdef Py_ssize_t index
    cdef object pair
    for index in range(self._count):
        pair = <object>self._fields[index].pair
        Py_INCREF(pair)
        PyList_SET_ITEM(found, index, pair)
    return found


cdef inline int _forget(HeadParser self) noexcept:
    """Forget the last head, after which one was refused."""
    self.method = ""
    self._target = b""
    self._line_size = self._block_size = 0
    return 0


cdef str _decode_path(bytes path):
    """Do as `decode_path`, with a path that is ASCII."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(path)
    cdef const char *data = PyBytes_AS_STRING(path)
    cdef const char *percent
    cdef object text
    if size == 1:
        return "/" if data[0] == C_SLASH else path.decode("ascii")
    if memchr(data, C_PERCENT, size) is NULL:
        text = PyUnicode_New(size, 127)
        memcpy(PyUnicode_DATA(text), data, size)
        return <str>text
    return _unquote(path)


cdef inline int _hex(unsigned char digit) noexcept:
    """Return the value of a hexadecimal digit, or -1."""
    if 48 <= digit <= 57:
        return digit - 48
    digit |= 32
    return digit - 87 if 97 <= digit <= 102 else -1


cdef str _unquote(bytes path):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(path)
    cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(path)
    cdef bytes decoded = PyBytes_FromStringAndSize(NULL, size)
    cdef unsigned char *out = <unsigned char *>PyBytes_AS_STRING(decoded)
    cdef Py_ssize_t place = 0
    cdef Py_ssize_t used = 0
    cdef int high, low
    while place < size:
        if data[place] == C_PERCENT and place + 2 < size:
            high, low = _hex(data[place + 1]), _hex(data[place + 2])
            if high >= 0 and low >= 0:
                out[used] = <unsigned char>(high << 4 | low)
                used += 1
                place += 3
                continue
        out[used] = data[place]
        used += 1
        place += 1
    return PyUnicode_DecodeUTF8(<const char *>out, used, b"replace")

# What is rare, step by step as the pure twin has it: framing, odd request lines, refusals.

cdef str BARE = "a line ends in LF without CR, or holds CR without LF"

# Framing and connection


cdef inline bint _is(const unsigned char *start, const unsigned char *stop, const char *word, Py_ssize_t size) noexcept:
    """Return whether these bytes are a word of letters and hyphens in lower case, in whatever case."""
    cdef Py_ssize_t place
    if stop - start != size:
        return False
    for place in range(size):
        if LOWER[start[place]] != <unsigned char>word[place]:
            return False
    return True


cdef int _options(const unsigned char *start, const unsigned char *stop) noexcept:
    """Return which options a line of Connection has."""
    cdef const unsigned char *end
    cdef const unsigned char *comma
    cdef int found = 0
    if _is(start, stop, b"keep-alive", 10):
        return KEEP_ALIVE
    while True:
        comma = <const unsigned char *>memchr(start, C_COMMA, stop - start)
        end = stop if comma is NULL else comma
        while start < end and (start[0] == SP or start[0] == HT):
            start += 1
        while end > start and ((end - 1)[0] == SP or (end - 1)[0] == HT):
            end -= 1
        if _is(start, end, b"keep-alive", 10):
            found |= KEEP_ALIVE
        elif _is(start, end, b"close", 5):
            found |= CLOSE
        elif _is(start, end, b"upgrade", 7):
            found |= UPGRADING
        if comma is NULL:
            return found
        start = comma + 1


cdef str _note_framing(
    Framing *framing,
    int kind,
    const unsigned char *value,
    const unsigned char *stop,
    const unsigned char *line_end,
):
    """Note what a header of this kind says; return why httptools would refuse it, or None.

    Args:
        stop: the end of the value.
        line_end: the end of the line, behind white space.
    """
    cdef const unsigned char *p
    cdef unsigned long long length
    if kind == CONNECTION:
        framing.options |= _options(value, stop)
    elif kind == PROXY_CONNECTION:
        if _options(value, stop) & UPGRADING:
            framing.options |= PROXY_UPGRADING
    elif kind == UPGRADE:
        framing.has_upgrade = framing.has_upgrade or stop > value
    elif kind == CONTENT_LENGTH:
        if framing.has_codings:
            return "there are both Content-Length and Transfer-Encoding"
        if framing.has_length:
            return "there are several content-length headers"
        length = 0
        p = value
        while p < stop and 48 <= p[0] <= 57:
            if length > (<unsigned long long>-1) // 10 or length * 10 > (<unsigned long long>-1) - (p[0] - 48):
                break
            length = length * 10 + (p[0] - 48)
            p += 1
        if p < stop or p == value:
            return "Content-Length is not a number of bytes"
        framing.has_length = True
    elif kind == TRANSFER_ENCODING:
        if framing.has_length:
            return "there are both Content-Length and Transfer-Encoding"
        if framing.chunked or value == stop:
            return "the only Transfer-Encoding accepted is chunked"
        framing.has_codings = True
        return _note_codings(framing, value, line_end)
    return None


cdef str _note_codings(Framing *framing, const unsigned char *p, const unsigned char *end):
    """Do as httptools: the coding is known where the last member of the last line is "chunked", with spaces behind it."""
    cdef const unsigned char *word
    while True:
        word = p
        while p < end and p[0] != C_COMMA:
            p += 1
        if p - word >= 7 and _is(word, word + 7, b"chunked", 7):
            word += 7
            while word < p and word[0] == SP:
                word += 1
            if word == p:
                if p < end:
                    return "there is a Transfer-Encoding after chunked"
                framing.chunked = True
                return None
        if p == end:
            return None
        p += 1
        while p < end and (p[0] == SP or p[0] == HT):
            p += 1


cdef bytes _value(HeadParser self, Framing *framing, int kind):
    """Return the last value of a header, or None."""
    if framing.places[kind] == 0:
        return None
    return <bytes>PyTuple_GET_ITEM(<tuple>self._fields[framing.places[kind] - 1].pair, 1)


cdef list _members(HeadParser self, Framing *framing, int kind):
    """Return the members of a list, in lower case, over all its lines; empty ones too (RFC 9110 section 5.6.1)."""
    cdef Py_ssize_t index
    cdef list values = []
    for index in range(framing.places[kind]):
        if self._fields[index].kind == kind:
            values.append(<object>PyTuple_GET_ITEM(<tuple>self._fields[index].pair, 1))
    return [member.strip(b" \t") for member in b",".join(values).lower().split(b",")]


cdef int _interpret(HeadParser self, bint old, Framing *framing) except -1:
    """Interpret Host, the framing, and what concerns the connection.

    Args:
        old: the version is 1.0.
    """
    cdef bytes value
    cdef bint chunked = False
    cdef bint expects_continue = False
    cdef bint takes_trailers = False
    cdef long long length = 0
    cdef bytes upgrade = b""
    if self._strict:
        if framing.places[HOST] == 0:
            if not old:
                raise HTTPError(400, "there is no Host header")
        else:
            if framing.repeated[HOST]:
                raise HTTPError(400, "there are several host headers")
            value = _value(self, framing, HOST)
            if not _is_host(value):
                raise HTTPError(400, "the Host header is not a host")
    if framing.options & UPGRADING and not old and framing.places[UPGRADE]:
        wanted = _members(self, framing, UPGRADE)
        # A client may offer several protocols; this is the only one that is accepted.
        upgrade = b"websocket" if b"websocket" in wanted else b", ".join(filter(None, wanted))
    if framing.places[CONTENT_LENGTH]:
        value = _value(self, framing, CONTENT_LENGTH)
        if len(value) > 18:
            raise HTTPError(400, "Content-Length is not a number of bytes")
        length = int(value)
    if framing.places[TRANSFER_ENCODING]:
        if old:
            raise HTTPError(400, "HTTP/1.0 has no Transfer-Encoding")
        codings = _members(self, framing, TRANSFER_ENCODING)
        if codings != [b"chunked"]:
            refuse_coding(codings)
        chunked = True
    if framing.places[EXPECT] and not old:
        expected = {item for item in _members(self, framing, EXPECT) if item}
        if expected - {b"100-continue"}:
            raise HTTPError(417, "the only expectation accepted is 100-continue")
        expects_continue = bool(expected) and (chunked or length > 0)
    if framing.places[TE]:
        takes_trailers = b"trailers" in _members(self, framing, TE)
    self.version = "1.0" if old else "1.1"
    self.keep_alive = not framing.options & CLOSE and (not old or framing.options & KEEP_ALIVE != 0)
    self.chunked = chunked
    self.length = length
    self.upgrade = upgrade
    self.expects_continue = expects_continue
    self.takes_trailers = takes_trailers
    return 0


cdef bint _is_host(bytes value) noexcept:
    """Return whether this is uri-host [ ":" port ] of RFC 9110 section 7.2, or empty."""
    cdef const unsigned char *p = <const unsigned char *>PyBytes_AS_STRING(value)
    cdef const unsigned char *end = p + PyBytes_GET_SIZE(value)
    cdef const unsigned char *start
    if p == end:
        return True
    if p[0] == C_OPEN:
        p += 1
        start = p
        while p < end and IN_LITERAL[p[0]]:
            p += 1
        if p == start or p == end or p[0] != C_CLOSE:
            return False
        p += 1
    else:
        start = p
        while p < end and IN_HOST[p[0]]:
            p += 1
        if p == start:
            return False
    if p < end and p[0] == C_COLON:
        p += 1
        while p < end and 48 <= p[0] <= 57:
            p += 1
    return p == end


# Odd request lines


cdef bint _read_odd_line(HeadParser self, const unsigned char *data, Py_ssize_t size, RequestLine *line) except -1:
    """Read a request line that is not the usual one; return False if the head is not complete."""
    cdef const unsigned char *end = _head_end(data, data + size)
    if end is NULL:
        _wait(self, data, size, 0)
        return False
    head = PyBytes_FromStringAndSize(<const char *>data, end + 4 - data)
    line.end = head.find(b"\r\n")
    check_sizes(head, line.end, self._limits)
    text = head[:line.end]
    parts = text.split(b" ")
    if len(parts) != 3:
        parts = split_leniently(text, self._strict)
    method, target, version = parts
    line.old = version == b"HTTP/1.0"
    if not line.old and version != b"HTTP/1.1":
        newer_version(version, self._strict)
    check_method(method)
    known = method.decode("ascii")
    if self._strict and known not in METHOD_NAMES:
        if known in FOREIGN_METHODS:
            raise HTTPError(400, f"the method {known} is not one of HTTP")
        raise unknown_method(method)
    if text.startswith(b" "):
        # httptools does not skip it.
        raise unknown_method(method)
    if not _is_target(target):
        raise HTTPError(400, "the request target contains invalid characters")
    if text.endswith(b" "):
        raise HTTPError(400, "the request line does not end with the version")
    self._odd_method = known
    self._odd_target = target
    line.odd = True
    line.version = line.end
    return True


cdef bint _is_target(bytes target) noexcept:
    """Return whether httptools takes this for a target: its forms are looser than those that are served."""
    cdef const unsigned char *p = <const unsigned char *>PyBytes_AS_STRING(target)
    cdef const unsigned char *end = p + PyBytes_GET_SIZE(target)
    cdef bint at = False
    if p == end:
        return False
    if p[0] != C_SLASH and p[0] != C_STAR:
        while p < end and 97 <= p[0] | 32 <= 122:
            p += 1
        if end - p < 3 or p[0] != C_COLON or p[1] != C_SLASH or p[2] != C_SLASH or p == <const unsigned char *>PyBytes_AS_STRING(target):
            return False
        p += 3
        while p < end and p[0] != C_SLASH and p[0] != C_QUESTION:
            if p[0] == C_AT:
                if at:
                    return False
                at = True
            elif IN_SERVER[p[0]]:
                at = False
            else:
                return False
            p += 1
    while p < end:
        if p[0] < 33 or p[0] > 126:
            return False
        p += 1
    return True


cdef int _interpret_odd_target(HeadParser self) except -1:
    cdef Py_ssize_t index
    path, query, authority = interpret_target(self.method, self._target, self._strict)
    self.path = path
    self.path_text = _decode_path(path)
    self.query = query
    if authority is not None:
        self.headers = [(name, authority if name == b"host" else value) for name, value in self.headers]
    return 0


# Refusals


cdef Py_ssize_t _refuse(HeadParser self, const unsigned char *data, Py_ssize_t size, int status, str text) except -1:
    """Refuse a head because of a fault in its lines, if it is complete; otherwise return 0."""
    cdef const unsigned char *end = _head_end(data, data + size)
    if end is NULL:
        return _wait(self, data, size, 0)
    head = PyBytes_FromStringAndSize(<const char *>data, end + 4 - data)
    check_sizes(head, head.find(b"\r\n"), self._limits)
    raise HTTPError(status, text)


cdef Py_ssize_t _wait(HeadParser self, const unsigned char *data, Py_ssize_t size, Py_ssize_t start) except -1:
    """Refuse what there is of a head if nothing good can come of it; otherwise return 0.

    Args:
        start: where to begin looking for line ends that are none.
    """
    cdef const unsigned char *p
    cdef const unsigned char *end = data + size
    cdef const unsigned char *line_end
    if size == 0 or (size == 1 and data[0] == CR):
        return 0
    if LOWER[data[0]] == 0:
        raise HTTPError(400, "this is not an HTTP request")
    line_end = _line_end(data, end)
    if line_end is NULL:
        if size > self._target_limit + C_LINE_SLACK:
            raise target_too_long(self._limits)
    else:
        if line_end - data > self._target_limit or size - (line_end - data) - 4 > self._header_limit:
            check_sizes(PyBytes_FromStringAndSize(<const char *>data, size), line_end - data, self._limits)
        if line_end - data < 8 or memcmp(line_end - 8, b"HTTP/1.", 7) != 0 or ((line_end - 1)[0] != 48 and (line_end - 1)[0] != 49):
            line = PyBytes_FromStringAndSize(<const char *>data, line_end - data)
            newer_version(line.rpartition(b" ")[2], self._strict)
    p = data + start
    while p < end:
        if p[0] == LF:
            if p == data or (p - 1)[0] != CR:
                raise HTTPError(400, BARE)
        elif p[0] == CR and p + 1 < end and p[1] != LF:
            raise HTTPError(400, BARE)
        p += 1
    return 0


cdef const unsigned char *_line_end(const unsigned char *p, const unsigned char *end) noexcept:
    """Return where CRLF begins, or NULL."""
    while end - p >= 2:
        p = <const unsigned char *>memchr(p, CR, end - p - 1)
        if p is NULL or p[1] == LF:
            return p
        p += 1
    return NULL


cdef Py_ssize_t _skip(HeadParser self, const char *data, Py_ssize_t size, int *lines) except -1:
    """Return how many bytes at the beginning are empty lines, and count these (RFC 9112 section 2.2)."""
    cdef Py_ssize_t place = 0
    while place < size:
        if data[place] == CR and place + 1 < size and data[place + 1] == LF:
            place += 2
        elif data[place] == LF and not self._strict:
            place += 1
        else:
            break
        lines[0] += 1
        if lines[0] > C_EMPTY_LINES:
            raise too_many_empty_lines()
    return place

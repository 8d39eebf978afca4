# The block: version and headers, up to the empty line.

cdef struct Framing:
    # What the headers say of the body and the connection; a place is that of the last header of a kind, plus 1.
    Py_ssize_t places[KINDS]
    bint repeated[KINDS]
    int options
    # As httptools has them: a length was complete; codings began; the last of them was "chunked"; an Upgrade had a value.
    bint has_length
    bint has_codings
    bint chunked
    bint has_upgrade


cdef enum:
    # Members of Connection, and of Proxy-Connection.
    KEEP_ALIVE = 1
    CLOSE = 2
    UPGRADING = 4
    PROXY_UPGRADING = 8


cdef Py_ssize_t _read_block(HeadParser self, const unsigned char *data, Py_ssize_t size, RequestLine *line) except -1:
    """Read the headers; return where the head ends, or 0 if it is not complete."""
    cdef const unsigned char *end = data + size
    cdef const unsigned char *p = data + line.end + 2
    # Of a head within the limit no header ends behind it.
    cdef const unsigned char *limit = p + min(self._header_limit, size)
    cdef const unsigned char *start
    cdef const unsigned char *value
    cdef const unsigned char *stop
    cdef unsigned char lower[NAME_SIZE]
    cdef unsigned char byte
    cdef Py_ssize_t name_size
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t known = self._count if self._block_size and not line.odd else 0
    cdef Field *field
    cdef Name *name
    cdef int kind
    cdef bytes content
    cdef str text
    cdef Framing framing
    memset(&framing, 0, sizeof(framing))
    # From here on the headers are no longer those of what is kept.
    self._block_size = 0
    while True:
        if end - p < 2:
            return _wait(self, data, size, 0)
        if p[0] == CR and p[1] == LF:
            p += 2
            break
        start = p
        if count < known:
            # Where the last head had one that is equal, its objects serve again.
            field = &self._fields[count]
            if end - p >= field.size and memcmp(p, self._kept + field.start, field.size) == 0 and (
                field.kind == PLAIN or field.kind == HOST or field.kind == CONNECTION
            ):
                p += field.size
                field.start = <unsigned int>(start - data - line.version)
                if field.kind:
                    _note(&framing, field.kind, count)
                    if field.kind == CONNECTION:
                        content = <bytes>PyTuple_GET_ITEM(<tuple>field.pair, 1)
                        value = <const unsigned char *>PyBytes_AS_STRING(content)
                        framing.options |= _options(value, value + PyBytes_GET_SIZE(content))
                count += 1
                continue
        # The name.
        stop = end if end - p < NAME_SIZE else p + NAME_SIZE
        while p < stop:
            byte = LOWER[p[0]]
            if byte == 0:
                break
            lower[p - start] = byte
            p += 1
        if p == stop:
            while p < end and LOWER[p[0]]:
                p += 1
            if p == end:
                return _wait(self, data, size, 0)
        name_size = p - start
        if p[0] != C_COLON or name_size == 0:
            return _refuse(self, data, size, 400, _bad_name(start, p, end))
        name = _find_name(lower, name_size)
        kind = PLAIN if name is NULL else name.kind
        # The value, without white space around it.
        p += 1
        while p < end and (p[0] == SP or p[0] == HT):
            p += 1
        value = p
        p = _control(p, end)
        if end - p < 2:
            if p == end or p[0] == CR:
                return _wait(self, data, size, 0)
            return _refuse(self, data, size, 400, _bad_value(p))
        if p[0] != CR or p[1] != LF:
            return _refuse(self, data, size, 400, _bad_value(p))
        stop = p
        while stop > value and ((stop - 1)[0] == SP or (stop - 1)[0] == HT):
            stop -= 1
        if kind:
            text = _note_framing(&framing, kind, value, stop, p)
            if text is not None:
                return _refuse(self, data, size, 400, text)
        p += 2
        if p > limit:
            return _refuse(self, data, size, 431, "")
        if count < self._count_limit:
            _set_field(self, count, name, lower, start, name_size, value, stop - value)
            field = &self._fields[count]
            field.start = <unsigned int>(start - data - line.version)
            field.size = <unsigned int>(p - start)
            field.kind = kind
            if kind:
                _note(&framing, kind, count)
        count += 1
    if p - data - line.end - 4 > self._header_limit:
        return _refuse(self, data, size, 431, "")
    # Complete, and from here on refused in the order of the pure twin.
    if framing.has_codings and not framing.chunked and not (
        framing.has_upgrade and framing.options & (UPGRADING | PROXY_UPGRADING)
    ):
        raise HTTPError(400, "the last Transfer-Encoding is not chunked")
    if count > self._count_limit:
        raise HTTPError(431, f"there are more than {self._count_limit} headers")
    _drop_fields(self, count)
    _interpret(self, line.old, &framing)
    return p - data


cdef inline int _note(Framing *framing, int kind, Py_ssize_t place) noexcept:
    if framing.places[kind]:
        framing.repeated[kind] = True
    framing.places[kind] = place + 1
    return 0


cdef inline Name *_find_name(const unsigned char *lower, Py_ssize_t size) noexcept:
    """Return what is known of a name in lower case, or NULL."""
    cdef Name *name
    cdef unsigned int slot
    if size > NAME_SIZE:
        return NULL
    slot = _hash(lower, size)
    while True:
        name = &NAMES[slot]
        if name.text is NULL:
            return NULL
        if name.size == size and memcmp(name.data, lower, size) == 0:
            return name
        slot = (slot + 1) % SLOTS


cdef int _set_field(
    HeadParser self,
    Py_ssize_t index,
    Name *known,
    const unsigned char *lower,
    const unsigned char *start,
    Py_ssize_t size,
    const unsigned char *value,
    Py_ssize_t value_size,
) except -1:
    """Make the pair of a header, and give it this place."""
    cdef object name, content
    cdef tuple pair
    cdef unsigned char *written
    cdef Py_ssize_t place, room
    cdef PyObject *former
    cdef Field *fields
    if known is not NULL:
        name = <object>known.text
    elif size <= NAME_SIZE:
        name = PyBytes_FromStringAndSize(<const char *>lower, size)
    else:
        name = PyBytes_FromStringAndSize(NULL, size)
        written = <unsigned char *>PyBytes_AS_STRING(name)
        for place in range(size):
            written[place] = LOWER[start[place]]
    content = PyBytes_FromStringAndSize(<const char *>value, value_size)
    pair = PyTuple_New(2)
    Py_INCREF(name)
    PyTuple_SET_ITEM(pair, 0, name)
    Py_INCREF(content)
    PyTuple_SET_ITEM(pair, 1, content)
    if index == self._fields_room:
        room = index + 8 if index < 16 else 2 * index
        fields = <Field *>PyMem_Realloc(self._fields, room * sizeof(Field))
        if fields is NULL:
            raise MemoryError()
        self._fields = fields
        self._fields_room = room
    former = self._fields[index].pair if index < self._count else NULL
    Py_INCREF(pair)
    self._fields[index].pair = <PyObject *>pair
    if index == self._count:
        self._count += 1
    Py_XDECREF(former)
    return 0


cdef inline int _drop_fields(HeadParser self, Py_ssize_t count) noexcept:
    """Drop the headers of the last head that this one has no more."""
    while self._count > count:
        self._count -= 1
        Py_DECREF(<object>self._fields[self._count].pair)
    return 0


cdef str _bad_name(const unsigned char *start, const unsigned char *p, const unsigned char *end):
    """Say what is wrong with a header line whose name ends at `p`."""
    if p == start:
        if p[0] == SP or p[0] == HT:
            return "a header line begins with white space"
        if p[0] == C_COLON:
            return "a header has no name"
    if end - p > 1 and p[0] == CR and p[1] == LF:
        return "a header line has no colon"
    if p[0] == CR or p[0] == LF:
        return BARE
    return "the name of a header is not a token"


cdef str _bad_value(const unsigned char *p):
    """Say what is wrong with a header's value at `p`."""
    return BARE if p[0] == CR or p[0] == LF else "the value of a header contains a control character"

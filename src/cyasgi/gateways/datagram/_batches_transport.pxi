# The transport: a socket that is read and written many datagrams at a time.


@cython.final
cdef class Buffers:
    """What the sockets of one server read into, in turn."""

    cdef cyasgi_buffers *_all
    #: Whether datagrams in them are being handed over.
    cdef bint _busy

    def __cinit__(self):
        self._all = cyasgi_new_buffers()
        if self._all is NULL:
            raise MemoryError

    def __dealloc__(self):
        cyasgi_free_buffers(self._all)


@cython.final
cdef class BatchTransport:
    """Reads and writes a UDP socket, many datagrams at a time.

    Of an `asyncio.DatagramTransport` it has what endpoints use.

    For each time that the socket is readable, at most `BATCH` datagrams are read and handed over, so that a flood
    leaves the loop to others. What the system does not take waits here, and beyond `HIGH_WATER` senders wait. Neighbours
    of one size to one client are handed to the system as one, for it to split, up to a size that every path takes whole.

    Args:
        loop: the running event loop.
        endpoint: hears of all, as a protocol does of its transport.
        buffers: of the server.
        asks: whether the socket tells which address each datagram was sent to.
    """

    cdef object _loop
    cdef EndpointBase _endpoint
    cdef object _sock
    cdef Buffers _buffers
    cdef int _fd
    cdef bint _asks
    cdef bint _closing
    #: Whether the system has to say when it takes more.
    cdef bint _writing
    #: Whether what waits is sent at the end of the pass; whether it is being sent.
    cdef bint _flush_comes
    cdef bint _flushing
    cdef unsigned int _dropped
    #: Whether the system splits what goes to one client into datagrams of one size.
    cdef int _splits
    #: Whether any of the applications that were handed something goes on by way of the loop.
    cdef bint _loose
    cdef dict _asked
    cdef cyasgi_known *_known
    #: What waits to be sent, a ring whose size is a power of two; and how much that is.
    cdef cyasgi_waiting *_ring
    cdef size_t _head
    cdef size_t _count
    cdef size_t _mask
    cdef Py_ssize_t _size

    def __init__(self, loop, EndpointBase endpoint not None, Buffers buffers not None, bint asks):
        if self._endpoint is not None:
            raise RuntimeError("a transport has one socket")
        self._loop = loop
        self._sock = endpoint.sock
        self._fd = self._sock.fileno()
        self._buffers = buffers
        self._asks = asks
        self._asked = {}
        self._dropped = cyasgi_dropped(self._fd)
        self._splits = cyasgi_splits(self._fd)
        loop.add_reader(self._sock, self._readable)
        self._endpoint = endpoint

    def __dealloc__(self):
        cdef size_t place
        self._forget()
        free(self._ring)
        if self._known is not NULL:
            for place in range(KNOWN):
                Py_XDECREF(self._known[place].client)
                Py_XDECREF(self._known[place].scope_id)
                Py_XDECREF(self._known[place].address)
                Py_XDECREF(self._known[place].asked)
            free(self._known)

    # Reading.

    def _readable(self):
        cdef bint stepping = _api.begin(self._loop)
        self._loose = not stepping
        try:
            self._read()
        finally:
            if stepping:
                _api.finish()
        if self._endpoint is not None:
            if not self._writing:
                self._flush_now()
            if self._loose:
                # Others go on by way of the loop: then what they send leaves right after their steps.
                self._flush_soon()

    def read(self):
        """Read what has reached the socket, at most `BATCH` datagrams; return whether there may be more.

        Raises:
            KeyboardInterrupt, SystemExit: by an override, once all of them were handed over.
        """
        return self._read()

    cdef bint _read(self) except -1:
        cdef EndpointBase endpoint = self._endpoint
        cdef Buffers buffers = self._buffers
        cdef unsigned int dropped
        cdef int i, count
        if self._closing or endpoint is None:
            return False
        if buffers._busy:
            buffers = Buffers()
        # One byte more than the limit shows that a datagram is longer.
        if cyasgi_make_room(buffers._all, max(endpoint.limit, 0) + 1) < 0:
            raise MemoryError
        count = cyasgi_receive(buffers._all, self._fd)
        if count < 0:
            self._watch_again()
            if count == -EAGAIN:
                return False
            endpoint.error_received(OSError(-count, os.strerror(-count)))
            return True
        interrupt = None
        buffers._busy = True
        try:
            for i in range(count):
                if self._closing:
                    # By what was called for those before.
                    endpoint.received += count - i
                    endpoint.after_stop += count - i
                    endpoint.traffic.lost()
                    break
                try:
                    self._take(endpoint, buffers._all, i)
                except _INTERRUPTS as error:
                    interrupt = interrupt or error
        finally:
            buffers._busy = False
        endpoint._tally()
        if count:
            dropped = cyasgi_dropped(self._fd)
            if dropped != self._dropped:
                self._dropped = dropped
                endpoint.notice_drops()
        if interrupt is not None:
            raise interrupt
        return count == CYASGI_BATCH

    cdef int _watch_again(self) except -1:
        """Have the loop watch the socket, as uvloop's no longer does once the socket has reported an error."""
        if not self._closing:
            self._loop.remove_reader(self._sock)
            self._loop.add_reader(self._sock, self._readable)
        return 0

    cdef int _take(self, EndpointBase endpoint, cyasgi_buffers *buffers, int i) except -1:
        """Hand over one of the datagrams that were read."""
        cdef unsigned char key[CYASGI_KEY]
        cdef cyasgi_known *known
        cdef Py_ssize_t size = cyasgi_length(buffers, i)
        if cyasgi_truncated(buffers, i):
            size = max(size, endpoint.limit + 1)
        if not cyasgi_key(buffers, i, self._asks, key):
            endpoint.received += 1
            endpoint.drops(None, size)
            return 0
        known = self._sender(key)
        client = <object>known.client
        scope_id = <object>known.scope_id
        address = <object>known.address
        asked = <object>known.asked
        if size > endpoint.limit:
            endpoint.received += 1
            endpoint.drops(address, size)
            return 0
        data = PyBytes_FromStringAndSize(cyasgi_data(buffers, i), size)
        if endpoint.custom:
            self._loose = True
            endpoint.receive(data, address, asked)
            return 0
        endpoint.received += 1
        if PyDict_Contains(_OWN_PORTS, (<tuple>client)[1]) and endpoint.drops(address, size):
            return 0
        if endpoint._hand_over(data, scope_id, client, address, asked):
            self._loose = True
        return 0

    cdef cyasgi_known *_sender(self, const unsigned char *key) except NULL:
        """Return what is known of a sender; the objects are borrowed."""
        cdef cyasgi_known *place
        if self._known is NULL:
            self._known = <cyasgi_known *>calloc(KNOWN, sizeof(cyasgi_known))
            if self._known is NULL:
                raise MemoryError
        place = &self._known[cyasgi_hash(key, _seed) & (KNOWN - 2)]
        if place[0].client is not NULL and cyasgi_same_key(place[0].key, key):
            return place
        if place[1].client is not NULL and cyasgi_same_key(place[1].key, key):
            return place + 1
        # The older one of the two goes.
        cdef tuple found = self._look(key)
        cdef cyasgi_known old = place[1]
        place[1] = place[0]
        memcpy(<void *>place[0].key, key, CYASGI_KEY)
        Py_INCREF(found[0])
        Py_INCREF(found[1])
        Py_INCREF(found[2])
        Py_INCREF(found[3])
        place[0].client = <PyObject *>found[0]
        place[0].scope_id = <PyObject *>found[1]
        place[0].address = <PyObject *>found[2]
        place[0].asked = <PyObject *>found[3]
        Py_XDECREF(old.client)
        Py_XDECREF(old.scope_id)
        Py_XDECREF(old.address)
        Py_XDECREF(old.asked)
        return place

    cdef tuple _look(self, const unsigned char *key):
        """Return client, scope_id, socket address and Asked of a sender."""
        cdef char host[64]
        cdef unsigned int zone = cyasgi_zone(key)
        cdef EndpointBase endpoint = self._endpoint
        if not cyasgi_host(key, host):
            raise OSError("a sender has no address")
        name = PyUnicode_DecodeASCII(host, strlen(host), NULL)
        client = address = (name, cyasgi_port(key))
        if key[0] == 6:
            address = (name, client[1], 0, zone)
            if zone:
                client = (f"{name}%{zone}", client[1])
        asked = None
        if key[1]:
            asked = self._asked_by(key[8:16] if key[0] == 4 else key[24:44])
        if asked is not None:
            return client, (client, asked.server), address, asked
        return client, (client, endpoint.server_address) if endpoint.by_listener else client, address, None

    cdef object _asked_by(self, bytes info):
        """Return the address that a datagram was sent to."""
        cdef PyObject *found = PyDict_GetItem(self._asked, info)
        if found is not NULL:
            return <object>found
        if len(self._asked) >= _CACHE_SIZE:
            self._asked.clear()
        if len(info) == 8:
            asked = asked_of(bytes(4) + info[4:] + info[:4], _IPPROTO_IP, self._endpoint.server_address[1])
        else:
            asked = asked_of(info, _IPPROTO_IPV6, self._endpoint.server_address[1])
        self._asked[info] = asked
        return asked

    # Writing.

    def sendto(self, data, addr, source=None):
        """Send a datagram: at the end of the pass, or when the system takes it.

        Args:
            source: where it is to leave from; see `Asked`.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"data is {data!r}; accepted is bytes")
        self._queue(data, addr, source)

    cdef int _queue(self, data, addr, source) except -1:
        cdef cyasgi_waiting *waiting
        cdef Py_ssize_t parts, length
        if self._closing or self._endpoint is None:
            return 0
        if self._count > self._mask or self._ring is NULL:
            self._grow()
        parts = len(<tuple?>addr)
        waiting = &self._ring[(self._head + self._count) & self._mask]
        if not cyasgi_fill(
            waiting,
            self._endpoint.family != 2,
            PyUnicode_AsUTF8(<str?>(<tuple>addr)[0]),
            (<tuple>addr)[1],
            (<tuple>addr)[2] if parts > 2 else 0,
            (<tuple>addr)[3] if parts > 3 else 0,
        ):
            raise ValueError(f"{addr[0]!r} is not a numeric address")
        waiting.source_length = 0
        if source is not None:
            length = len(<bytes?>source)
            if length != 4 and length != 20:
                raise ValueError(f"{source!r} is not where a datagram can leave from")
            memcpy(<void *>waiting.source, PyBytes_AS_STRING(source), length)
            waiting.source_length = length
        # Given back by _drop_first.
        Py_INCREF(data)
        waiting.data = <PyObject *>data
        self._count += 1
        self._size += PyBytes_GET_SIZE(data) + _OVERHEAD
        if self._writing:
            if self._size > _HIGH_WATER and not self._endpoint.paused:
                self._endpoint.pause_writing()
        elif self._count >= CYASGI_BATCH or self._size > _HIGH_WATER:
            self._flush_now()
        elif not self._flush_comes:
            self._flush_soon()
        return 0

    cdef int _grow(self) except -1:
        cdef size_t size = 64 if self._ring is NULL else 2 * (self._mask + 1)
        cdef size_t place
        cdef cyasgi_waiting *larger = <cyasgi_waiting *>calloc(size, sizeof(cyasgi_waiting))
        if larger is NULL:
            raise MemoryError
        for place in range(self._count):
            larger[place] = self._ring[(self._head + place) & self._mask]
        free(self._ring)
        self._ring = larger
        self._mask = size - 1
        self._head = 0
        return 0

    cdef void _drop_first(self) noexcept:
        cdef PyObject *data = self._ring[self._head].data
        self._ring[self._head].data = NULL
        self._head = (self._head + 1) & self._mask
        self._count -= 1
        self._size -= PyBytes_GET_SIZE(<object>data) + _OVERHEAD
        # Taken by _queue.
        Py_DECREF(<object>data)

    cdef void _forget(self) noexcept:
        while self._count:
            self._drop_first()

    cdef int _flush_soon(self) except -1:
        if not self._flush_comes:
            self._flush_comes = True
            self._loop.call_soon(self._flush)
        return 0

    def _flush(self):
        self._flush_comes = False
        if not self._writing:
            self._flush_now()

    cdef int _flush_now(self) except -1:
        """Send what waits, as far as the system takes it."""
        cdef int done
        if self._flushing:
            return 0
        self._flushing = True
        try:
            while self._count and self._endpoint is not None:
                done = cyasgi_send(
                    self._buffers._all, self._fd, self._ring, self._head, self._count, self._mask, &self._splits
                )
                if done == -EAGAIN:
                    if not self._writing:
                        self._writing = True
                        self._loop.add_writer(self._sock, self._writable)
                    if self._size > _HIGH_WATER and not self._endpoint.paused:
                        self._endpoint.pause_writing()
                    return 0
                if done < 0:
                    # The first one is lost.
                    self._drop_first()
                    self._endpoint.error_received(OSError(-done, os.strerror(-done)))
                while done > 0:
                    self._drop_first()
                    done -= 1
        finally:
            self._flushing = False
            if self._endpoint is not None:
                self._endpoint._tally()
        return 0

    def _writable(self):
        self._flush_now()
        if not self._count:
            if self._writing:
                self._writing = False
                self._loop.remove_writer(self._sock)
            if self._closing:
                self._soon_lost()
                return
        if not self._closing and self._size <= _LOW_WATER and self._endpoint.paused:
            self._endpoint.resume_writing()

    def get_write_buffer_size(self):
        """Return how many bytes wait for the system to take them, headers included."""
        return self._size

    # The end.

    def is_closing(self):
        return self._closing

    def close(self):
        """Read no more, and close the socket when the system has taken what was sent."""
        if self._closing or self._endpoint is None:
            return
        self._closing = True
        self._stop_reading()
        if not self._writing:
            self._flush_now()
        if not self._count:
            self._soon_lost()

    def abort(self):
        """Read no more, and close the socket."""
        if self._endpoint is None:
            return
        closing, self._closing = self._closing, True
        if not closing:
            self._stop_reading()
        if not closing or self._count:
            self._forget()
            self._soon_lost()

    def pause_reading(self):
        """Read no more, for good."""
        self._stop_reading()

    cdef int _stop_reading(self) except -1:
        if not self._loop.is_closed():
            self._loop.remove_reader(self._sock)
        return 0

    cdef int _soon_lost(self) except -1:
        if self._loop.is_closed():
            # Nobody can be told any more.
            self._endpoint.open = False
            self._endpoint = None
            self._sock.close()
            return 0
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock)
        self._loop.call_soon(self._lost)
        return 0

    def _lost(self):
        cdef EndpointBase endpoint = self._endpoint
        self._endpoint = None
        if endpoint is not None:
            try:
                endpoint.connection_lost(None)
            finally:
                self._sock.close()

# OrderedEntries: the fields of the table, and the orders that its entries stand in.

cdef class OrderedEntries:
    """Entries in the order of their use, in one segment or two; see `README.md`."""

    cdef dict _entries
    #: The ends of the natural orders, borrowed; see the top.
    cdef PyObject *_head[2]
    cdef PyObject *_tail[2]
    cdef list _assigned
    cdef list _assigned_on_probation
    cdef object _policy
    cdef bint _segmented
    cdef Py_ssize_t _most_protected
    cdef Py_ssize_t _on_probation
    cdef object _finished
    cdef dict _due
    cdef object _timeout
    cdef double _seconds
    cdef bint _expiring
    cdef double _unit
    cdef long long _swept
    cdef long long _version
    #: The most entries since the table was empty.
    cdef Py_ssize_t _peak_size
    cdef public Py_ssize_t _pending_deletions
    #: In debug mode: the loop's thread, and the loop.
    cdef public unsigned long _thread
    cdef public object _guarded_loop
    #: The thread that the loop was set in: instances are created there.
    cdef readonly unsigned long home
    cdef public Py_ssize_t idle
    cdef dict _foreign
    cdef public long long reused
    cdef public long long created
    #: What `_create` needs, as the slow path has found it out: the application as the server has it and as it is called,
    #: the loop, if it is not in debug mode, and the ids whose previous run still cleans up.
    cdef public object application
    cdef public object asgi3_app
    cdef object _loop
    #: Where the loop keeps its `_closed` and `_thread_id`, if is_closed() and is_running() are asyncio's.
    cdef dict _loop_dict
    #: Whether create_future() is asyncio's own, and create_task() or uvloop's.
    cdef bint _plain_futures
    cdef bint _plain_tasks
    #: Whether call_soon() is.
    cdef bint _plain_calls
    cdef public dict closing_ids
    #: Called once when something has finished; set by the checker before it sleeps.
    cdef public object on_finished
    #: Called whenever an instance becomes idle; set while the server drains.
    cdef public object on_idle
    cdef object __weakref__

    def __cinit__(self):
        self._entries = {}
        self._assigned = []
        self._assigned_on_probation = []
        self._policy = POLICIES[0]
        self._most_protected = PY_SSIZE_T_MAX
        self._finished = _OrderedDict()
        self._due = {}
        self._foreign = {}
        self.closing_ids = {}
        self._unit = 1.0

    def __dealloc__(self):
        # Entries may outlive the table, held by somebody else.
        cdef PyObject *entry
        cdef PyObject *following
        cdef int segment
        for segment in range(2):
            entry = self._head[segment]
            while entry is not NULL:
                following = (<Entry>entry)._next
                (<Entry>entry)._prev = (<Entry>entry)._next = (<Entry>entry)._owner = NULL
                entry = following

    cpdef follow(self, server):
        """Adopt the server's `eviction_policy`, and the size of the protected segment, a part of `max_applications`.

        When the policy becomes "slru", existing entries are protected, the most recently used first.
        """
        cdef Py_ssize_t most
        policy = server.eviction_policy
        if policy is not self._policy:
            if policy not in POLICIES:
                raise ValueError(f"eviction_policy={policy!r}: accepted are {' and '.join(map(repr, POLICIES))}")
            self._policy = policy
            if self._segmented != (policy == "slru"):
                self._segmented = not self._segmented
                if not self._segmented:
                    self._unite()
        if self._segmented:
            limit = server.max_applications
            if limit is None:
                self._most_protected = PY_SSIZE_T_MAX
            else:
                # Four fifths, without an overflow.
                most = _size(limit)
                self._most_protected = most - most // 5 - (most % 5 > 0)
            self._demote()

    @property
    def protected(self):
        """The number of entries in the protected segment; under "lru" all."""
        return self._protected()

    @cython.final
    cdef inline Py_ssize_t _protected(self):
        return len(self._entries) - self._on_probation

    cpdef touch(self, Entry entry):
        """Move an entry that was used again to the young end of the order."""
        entry._used = moment_of_use()
        entry._active = mono()
        if entry._table is not self:
            return
        if entry._place:
            self._promote(entry)
        else:
            self._unlink(entry, 0)
            self._link(entry, 0)

    cdef _reschedule(self, Entry entry):
        """Do nothing; overridden by Expiry."""

    @cython.final
    cdef inline void _link(self, Entry entry, int segment) noexcept:
        """Add an entry that is in no order at the young end of a natural order."""
        if entry._owner is not NULL:
            (<InstanceTable>entry._owner)._unlink(entry, entry._place >> 1)
        entry._owner = <PyObject *>self
        entry._prev = self._tail[segment]
        entry._next = NULL
        if self._tail[segment] is NULL:
            self._head[segment] = <PyObject *>entry
        else:
            (<Entry>self._tail[segment])._next = <PyObject *>entry
        self._tail[segment] = <PyObject *>entry
        if segment:
            entry._place = C_PROBATION
            self._on_probation += 1

    @cython.final
    cdef inline void _unlink(self, Entry entry, int segment) noexcept:
        if entry._owner is not <PyObject *>self:
            return
        if entry._prev is NULL:
            self._head[segment] = entry._next
        else:
            (<Entry>entry._prev)._next = entry._next
        if entry._next is NULL:
            self._tail[segment] = entry._prev
        else:
            (<Entry>entry._next)._prev = entry._prev
        entry._prev = entry._next = entry._owner = NULL
        if segment:
            entry._place = 0
            self._on_probation -= 1

    @cython.final
    cdef inline list _assigned_in(self, int segment):
        return self._assigned_on_probation if segment else self._assigned

    @cython.final
    cdef _link_assigned(self, Entry entry, tuple assigned, tuple place, int segment):
        """Add an entry whose `last_used` was assigned. `place` is (*assigned, entry), made before the entry was taken
        out: nothing from there on makes an object that the collector sees."""
        entry._assigned = assigned
        entry._place = C_ASSIGNED
        if segment:
            entry._place |= C_PROBATION
            self._on_probation += 1
        bisect.insort(self._assigned_in(segment), place)

    @cython.final
    cdef _take_out(self, Entry entry):
        """Take an entry out of whichever order it is in."""
        cdef list places
        cdef tuple assigned
        cdef int segment = entry._place >> 1
        if entry._place & C_ASSIGNED:
            places = self._assigned_in(segment)
            assigned, entry._assigned = entry._assigned, None
            entry._place = 0
            self._on_probation -= segment
            del places[bisect.bisect_left(places, assigned)]
        else:
            self._unlink(entry, segment)

    @cython.final
    cdef _promote(self, Entry entry):
        """Note the use of an entry that was assigned a time, or is on probation."""
        self._take_out(entry)
        self._link(entry, 0)
        if self._segmented:
            self._demote()

    @cython.final
    cdef _demote(self):
        """Put entries that the protected segment has no room for on probation."""
        cdef Entry entry
        cdef tuple assigned, place
        while self._protected() > self._most_protected:
            entry = self._oldest_in(0)
            if entry is None:
                break
            assigned = entry._assigned
            place = None if assigned is None else (*assigned, entry)
            if (
                entry._table is not self
                or entry._assigned is not assigned
                or entry._place & C_PROBATION
                or self._protected() <= self._most_protected
            ):
                # Looking at it has put another one on probation, or removed it.
                continue
            self._take_out(entry)
            if assigned is None:
                self._link(entry, 1)
            else:
                self._link_assigned(entry, assigned, place, 1)

    @cython.final
    cdef _unite(self):
        """Merge both segments into one, by the time of use."""
        # In place, so that the collector sees nothing. First those on probation, then the others, as the pure twin does.
        cdef PyObject *first = self._head[0]
        while self._head[1] is not NULL:
            self._move_to_end(1)
        while first is not NULL and self._head[0] is not first:
            self._move_to_end(0)
        self._sort_by_use()
        self._assigned.extend(self._assigned_on_probation)
        self._assigned_on_probation.clear()
        self._assigned.sort()
        for place in self._assigned:
            (<Entry>(<tuple>place)[2])._place = C_ASSIGNED
        self._on_probation = 0

    @cython.final
    cdef void _move_to_end(self, int segment) noexcept:
        """Move the first entry of this segment to the end of the first one."""
        cdef Entry entry = <Entry>self._head[segment]
        self._unlink(entry, segment)
        self._link(entry, 0)

    @cython.final
    cdef void _sort_by_use(self) noexcept:
        """Sort the first segment by the time of use; entries of the same time stay as they stand."""
        # A merge sort along `_next`: runs of `width` are merged until there is one; `_prev` is set in the end.
        cdef PyObject *left
        cdef PyObject *right
        cdef PyObject *taken
        cdef PyObject *tail
        cdef PyObject *head = self._head[0]
        cdef Py_ssize_t width = 1, merges = 2, of_left, of_right
        while head is not NULL and merges > 1:
            left, head, tail, merges = head, NULL, NULL, 0
            while left is not NULL:
                merges += 1
                right, of_left, of_right = left, 0, width
                while of_left < width and right is not NULL:
                    of_left += 1
                    right = (<Entry>right)._next
                while of_left or (of_right and right is not NULL):
                    if of_left and (
                        not of_right or right is NULL or (<Entry>left)._used <= (<Entry>right)._used
                    ):
                        taken = left
                        left = (<Entry>left)._next
                        of_left -= 1
                    else:
                        taken = right
                        right = (<Entry>right)._next
                        of_right -= 1
                    if tail is NULL:
                        head = taken
                    else:
                        (<Entry>tail)._next = taken
                    tail = taken
                left = right
            (<Entry>tail)._next = NULL
            width *= 2
        self._head[0], tail = head, NULL
        while head is not NULL:
            (<Entry>head)._prev = tail
            tail = head
            head = (<Entry>head)._next
        self._tail[0] = tail

    @cython.final
    cdef _assign(self, Entry entry, double moment):
        cdef int segment
        cdef tuple assigned = (moment, next(_sequence))
        cdef tuple place = (*assigned, entry)
        if entry._table is not self:
            entry._used = moment
            return
        segment = entry._place >> 1
        if self._segmented and moment < (entry._used if entry._assigned is None else <double>entry._assigned[0]):
            # Whoever sets it back wants it to go before others.
            segment = 1
        self._take_out(entry)
        self._link_assigned(entry, assigned, place, segment)
        entry._active = mono() - max(0.0, wall() - moment)
        self._reschedule(entry)

    @property
    def foreign(self):
        """The number of entries that are plain dicts."""
        return len(self._foreign)

    @cython.final
    cdef _reorder_few_foreign(self):
        """Notice a `last_used` that was set back in a plain dict, if such dicts are few.

        One that was set forward is noticed in any case, by `_reorder_foreign` when the entry's turn comes.
        """
        if 0 < len(self._foreign) <= _SCAN_LIMIT:
            for entry in list(self._foreign):
                self._reorder_foreign(<Entry>entry)

    @cython.final
    cdef bint _reorder_foreign(self, Entry entry) except -1:
        """Return whether a foreign entry is where its dict says; if not, move it there."""
        if type(entry) is ForeignEntry:
            moment = _seconds((<ForeignEntry>entry).details.get("last_used"))
            if (
                moment is not None
                and entry._table is self
                and (entry._assigned is None or <double>entry._assigned[0] != <double>moment)
            ):
                self._assign(entry, <double>moment)
                return False
        return True

    @cython.final
    cdef Entry _oldest_in(self, int segment):
        cdef int moved = 0
        cdef Entry entry
        cdef tuple place
        cdef list assigned = self._assigned_in(segment)
        while assigned:
            place = <tuple>assigned[0]
            if self._head[segment] is not NULL and <double>place[0] > (<Entry>self._head[segment])._used:
                break
            entry = <Entry>place[2]
            if moved >= _SCAN_LIMIT or self._reorder_foreign(entry):
                return entry
            moved += 1
        return _entry_at(self._head[segment])

    @cython.final
    cdef Entry _oldest(self):
        """Return the first entry in order, or None."""
        cdef Entry entry = self._oldest_in(1)
        return self._oldest_in(0) if entry is None else entry

    cpdef list walk(self, Entry after, Py_ssize_t count):
        """Return up to `count` entries in their natural order, the least recently used first, without a look at others.

        Those whose `last_used` was assigned are left out.

        Args:
            after: the entry that they follow. The walk begins anew for None, and for one that has left its order.
        """
        # From here on nothing makes an object that the collector sees: what is borrowed stays.
        cdef list found = []
        cdef int segment = 1
        cdef PyObject *entry = self._head[1]
        if after is not None and after._owner is <PyObject *>self:
            segment = after._place >> 1
            entry = after._next
        while len(found) < count:
            if entry is not NULL:
                found.append(<Entry>entry)
                entry = (<Entry>entry)._next
            elif segment:
                segment = 0
                entry = self._head[0]
            else:
                break
        return found

    @cython.final
    cdef list _keys_in_order(self):
        for foreign in list(self._foreign):
            self._reorder_foreign(<Entry>foreign)
        return self._keys_of(1) + self._keys_of(0)

    @cython.final
    cdef list _keys_of(self, int segment):
        # From here on nothing makes an object that the collector sees: what is borrowed stays.
        cdef list merged = []
        cdef PyObject *young = self._head[segment]
        for place in self._assigned_in(segment):
            while young is not NULL and (<Entry>young)._used < <double>(<tuple>place)[0]:
                merged.append((<Entry>young).scope_id)
                young = (<Entry>young)._next
            merged.append((<Entry>(<tuple>place)[2]).scope_id)
        while young is not NULL:
            merged.append((<Entry>young).scope_id)
            young = (<Entry>young)._next
        return merged


cyasgi_set_abstract(OrderedEntries)


cdef inline Entry _entry_at(PyObject *place):
    """Return the entry of a borrowed pointer as an owned reference; None for NULL."""
    return None if place is NULL else <Entry>place


cdef object _seconds(value):
    """Return the `last_used` of a plain dict; None if it is not a time."""
    if not isinstance(value, (int, float)):
        return None
    try:
        moment = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    return None if math.isnan(moment) else moment

# InstanceTable: who is in the table, who is to make room, and what has finished.

@cython.final
@cython.collection_type("mapping")
cdef class InstanceTable(Expiry):
    """`StatelessServer.application_instances`: a mapping from scope_id to ApplicationInstance, the least recently used
    first; under the policy "slru" those on probation come before the protected ones.

    Plain dicts may be written into it, and are returned unchanged. Removing an entry cancels nothing.
    """

    def __init__(self, initial=None):
        if initial is not None:
            self.update(initial)

    cdef inline ApplicationInstance lookup(self, scope_id):
        """Return the live instance, touched; None if there is none, or if it needs more than that: then see `entry`."""
        found = self._entries.get(scope_id)
        if type(found) is not ApplicationInstance or self._thread:
            return None
        cdef ApplicationInstance entry = <ApplicationInstance>found
        loop = self._loop
        if entry._state == C_DONE or entry._loop is not loop or not (runs_here(loop) or not self._loop_is_closed()):
            return None
        entry._used = moment_of_use()
        if self._expiring:
            entry._active = mono()
        if <PyObject *>entry is not self._tail[0]:
            if entry._place:
                self._promote(entry)
            elif entry._owner is <PyObject *>self:
                self._unlink(entry, 0)
                self._link(entry, 0)
            else:
                # Removed while its loop was asked.
                return None
        self.reused += 1
        return entry

    @property
    def loop(self):
        return self._loop

    @loop.setter
    def loop(self, loop):
        # Nothing is known of the new one while it is asked.
        self._loop_dict = None
        self._plain_futures = self._plain_tasks = self._plain_calls = False
        self._loop = loop
        self.home = PyThread_get_thread_ident()
        base = asyncio.BaseEventLoop
        if isinstance(loop, base):
            if type(loop).is_closed is base.is_closed and type(loop).is_running is base.is_running:
                self._loop_dict = loop.__dict__
        cdef dict own = {} if self._loop_dict is None else self._loop_dict
        self._plain_futures = (
            isinstance(loop, base) and type(loop).create_future is base.create_future and "create_future" not in own
        )
        self._plain_tasks = has_plain_tasks(loop)
        self._plain_calls = (
            _known_handles
            and type(own.get("_ready")) is _deque
            and type(loop).call_soon is base.call_soon
            and type(loop)._call_soon is base._call_soon
            and "call_soon" not in own
            and "_call_soon" not in own
        )

    cdef inline bint _loop_is_closed(self) except -1:
        # Cheaper by far than asking which loop runs, which is a system call up to 3.11.
        cdef dict own = self._loop_dict
        if own is not None:
            return own.get("_closed") is not False
        return self._loop is None or self._loop.is_closed()

    cdef inline bint _loop_runs_here(self) except -1:
        if self.home != PyThread_get_thread_ident():
            return False
        cdef dict own = self._loop_dict
        if own is not None:
            return own.get("_thread_id") is not None
        return self._loop is not None and self._loop.is_running()

    cdef inline bint _has_no_task_factory(self, loop) except -1:
        cdef dict own = self._loop_dict
        if own is not None and type(loop).get_task_factory is _get_task_factory:
            return own.get("_task_factory") is None
        return loop.get_task_factory() is None

    cdef ApplicationInstance create(self, server, scope_id, scope):
        """Return a new instance in the usual case; None if the slow path has to decide."""
        cdef ApplicationInstance instance
        loop = self._loop
        if scope_id in self._entries or not self._loop_runs_here():
            return None
        if server.application is not self.application or scope_id in self.closing_ids:
            return None
        if self._segmented:
            self.follow(server)
        instance = ApplicationInstance.__new__(ApplicationInstance)
        instance.scope_id = scope_id
        instance._bucket = -1
        instance._server = server
        instance._application = self.asgi3_app
        instance.scope = scope
        instance.maxsize = _size(server.max_queue_size)
        if self._plain_tasks and self._has_no_task_factory(loop):
            instance._start_plainly(loop)
        else:
            instance._start_in(loop)
        limit = server.max_applications
        if limit is not None and len(self._entries) >= _size(limit):
            # It is complete: only now may another one lose its place for it.
            try:
                (<FastPath?>server._cyasgi)._make_room(server, limit)
            except BaseException:
                instance._state = C_DONE
                raise
        if scope_id in self._entries or scope_id in self.closing_ids:
            # A task factory or an override has asked for the same id: the task finds it done at its first step.
            instance._state = C_DONE
            return None
        self.add(instance)
        self.created += 1
        return instance

    def entry(self, scope_id):
        """Return the entry or None; this does not count as a use."""
        return self._entries.get(scope_id)

    cpdef add(self, Entry entry):
        """Add an entry whose id is free, as the youngest; on probation if there is such a segment.

        Raises:
            RuntimeError: the id is not free.
            ValueError: the entry is in a table already.
        """
        if entry._table is not None:
            raise ValueError(f"{entry!r} is in a table already")
        entry._used = moment_of_use()
        entry._active = mono()
        # An id's own methods may enter something meanwhile.
        if self._entries.setdefault(entry.scope_id, entry) is not entry:
            raise RuntimeError(f"scope_id {entry.scope_id!r} belongs to another instance by now")
        if entry._table is not None:
            return
        self._peak_size = max(self._peak_size, len(self._entries))
        entry._table = self
        self._version += 1
        self._link(entry, 1 if self._segmented else 0)
        if type(entry) is ApplicationInstance:
            if (<ApplicationInstance>entry)._state == C_DONE:
                self._finished[entry] = None
        else:
            self._foreign[entry] = None
            if _has_ended(entry) and entry._table is self:
                self._finished[entry] = None
        if self._expiring:
            self._schedule(entry, entry._active + self._seconds)
        if entry._idle and entry._table is self:
            self._now_idle()

    cpdef bint remove(self, Entry entry) except -1:
        """Remove the entry, and no other one of its id; return False if it is not in the table."""
        cdef object found
        if entry._table is not self:
            return False
        # First what may raise, or do anything: an id's own methods.
        found = self._entries.pop(entry.scope_id, None)
        if found is not entry:
            if found is not None:
                self._entries.setdefault((<Entry>found).scope_id, found)
            if entry._table is not self:
                return False
            raise KeyError(entry.scope_id)
        if entry._assigned is not None:
            entry._used = <double>entry._assigned[0]
        self._take_out(entry)
        entry._table = None
        self._version += 1
        if self._finished:
            self._finished.pop(entry, None)
        if entry._bucket != -1:
            self._unschedule(entry)
        if entry._idle:
            self.idle -= 1
        if self._foreign:
            self._foreign.pop(entry, None)
        if self._peak_size > _SHRINK_THRESHOLD and not self._entries:
            self._peak_size = 0
            for emptied in (self._entries, self._finished, self._due, self._foreign):
                _shrink(emptied)
        if type(entry) is ForeignEntry:
            (<ForeignEntry>entry).unwatch()
        return True

    cpdef victim(self, spared=None):
        """Return the entry that has to make room: a finished one; else the least recently used idle one, skipping a
        bounded number of busy ones; else the least recently used one. Entries on probation come first, if there are
        any. `spared` is returned only if there is no other."""
        cdef Entry found
        if self._finished:
            for entry in self._finished:
                if entry is not spared:
                    return entry
        if self._foreign:
            self._reorder_few_foreign()
        found = self._victim_in(1, spared, True) if self._on_probation else None
        if found is None:
            found = self._victim_in(0, spared, True)
        if found is not None and found._table is not self:
            # Asking a plain dict's queue has removed it. Now nobody is asked.
            found = self._victim_in(1, spared, False)
            if found is None:
                found = self._victim_in(0, spared, False)
        if found is None and isinstance(spared, Entry) and (<Entry>spared)._table is self:
            return spared
        return found

    cdef Entry _victim_in(self, int segment, spared, bint asking):
        """Return a segment's first idle entry, past a bounded number of busy ones; else its first one.

        Unless `asking`, no plain dict is asked for its place, nor any entry whether it is idle: the first one it is.
        """
        cdef Entry first = None
        cdef int busy = 0
        cdef int moved = 0
        cdef Py_ssize_t index = 0
        cdef Entry young = _entry_at(self._head[segment])
        cdef list assigned = self._assigned_in(segment)
        cdef Entry candidate
        while True:
            if young is not None and (young._owner is not <PyObject *>self or young._place >> 1 != segment):
                # Asking a plain dict has moved it: start again.
                young = _entry_at(self._head[segment])
            if index < len(assigned) and (young is None or <double>(<tuple>assigned[index])[0] <= young._used):
                candidate = <Entry>(<tuple>assigned[index])[2]
                if asking and moved < _SCAN_LIMIT and not self._reorder_foreign(candidate):
                    moved += 1
                    continue
                index += 1
            elif young is not None:
                candidate = young
                young = _entry_at(candidate._next)
            else:
                break
            if candidate is spared:
                continue
            if not asking or _is_idle(candidate):
                return candidate
            if first is None:
                first = candidate
            if busy >= _SCAN_LIMIT:
                break
            busy += 1
        return first

    def pop_finished(self):
        """Return an entry whose run has ended, and remove it from the list of these; None if there is none."""
        if self._finished:
            return self._finished.popitem(last=False)[0]
        return None

    def size(self):
        """Return the number of entries, regardless of who asks."""
        return len(self._entries)

    def finished_count(self):
        return len(self._finished)

    def entries(self):
        """Return all entries, in no particular order."""
        return list(self._entries.values())

    cpdef _add_finished(self, Entry entry):
        if entry._table is not self:
            return
        self._finished[entry] = None
        notify, self.on_finished = self.on_finished, None
        if notify is not None:
            notify()

    cdef _now_idle(self):
        self.idle += 1
        if self.on_idle is not None:
            self.on_idle()

    # The mapping

    cpdef check_thread(self):
        """Raise RuntimeError if the loop is in debug mode and of another thread than this one."""
        if self._thread and self._thread != PyThread_get_thread_ident() and runs_elsewhere(self._guarded_loop):
            raise RuntimeError("application_instances was used from another thread than its event loop's")

    cdef object _find(self, scope_id):
        """Return the entry as the current task has to see it; None if there is none."""
        self.check_thread()
        if self._pending_deletions:
            pending = _deleting.get()
            if pending is not None and pending.matches(self, scope_id):
                return pending.entry if pending.visible else None
        return self._entries.get(scope_id)

    def __getitem__(self, scope_id):
        entry = self._find(scope_id)
        if entry is None:
            raise KeyError(scope_id)
        return entry.public

    def __setitem__(self, scope_id, value):
        cdef Entry entry
        old = self._find(scope_id)
        if isinstance(value, ApplicationInstance):
            entry = <Entry>value
            if entry.scope_id != scope_id:
                raise ValueError(f"{value!r} cannot be entered under another scope_id, {scope_id!r}")
            if entry._table is self:
                return
            if entry._table is not None:
                raise ValueError(f"{value!r} is in the table of another server")
        elif isinstance(value, MutableMapping):
            entry = ForeignEntry(scope_id, value)
        else:
            raise TypeError(
                f"application_instances[{scope_id!r}] = {value!r}: accepted are an ApplicationInstance and a dict"
                " with the keys input_queue, future, scope and last_used"
            )
        cdef double last_used = 0.0
        if old is not None:
            self._vanish(old)
        if type(entry) is ApplicationInstance:
            last_used = (<ApplicationInstance>entry).last_used
        self.add(entry)
        if type(entry) is ForeignEntry:
            self._reorder_foreign(entry)
            (<ForeignEntry>entry).watch()
        elif last_used:
            self._assign(entry, last_used)

    def __delitem__(self, scope_id):
        entry = self._find(scope_id)
        if entry is None or not self._vanish(entry):
            raise KeyError(scope_id)

    cdef bint _vanish(self, entry) except -1:
        """Remove an entry by hand, or hide one that is being deleted from its override."""
        if self.remove(entry):
            if type(entry) is ApplicationInstance and (<ApplicationInstance>entry)._state == C_DONE:
                entry._server._cyasgi.report(entry._server, entry)
            return True
        pending = _deleting.get()
        if pending is None or pending.entry is not entry:
            return False
        pending.visible = False
        return True

    def __contains__(self, scope_id):
        return self._find(scope_id) is not None

    cdef object _pending_deletion(self):
        """Return the entry that only the current task still sees, or None."""
        pending = _deleting.get()
        if pending is not None and pending.visible and pending.matches(self, pending.entry.scope_id):
            return pending.entry
        return None

    def __len__(self):
        self.check_thread()
        pending = self._pending_deletion() if self._pending_deletions else None
        return len(self._entries) + (pending is not None and pending.scope_id not in self._entries)

    def __iter__(self):
        self.check_thread()
        pending = self._pending_deletion() if self._pending_deletions else None
        if pending is None:
            return self._iterate()
        return itertools.chain((pending.scope_id,), [key for key in self._iterate() if key != pending.scope_id])

    def _iterate(self):
        version = self._version
        self._reorder_few_foreign()
        first = self._oldest()
        if first is None:
            return
        if version != self._version:
            raise RuntimeError("application_instances changed while it was iterated over")
        # The oldest one costs nothing; only those who go on pay for a list.
        yield first.scope_id
        for scope_id in self._keys_in_order() if version == self._version else ():
            if version != self._version:
                break
            if self._entries.get(scope_id) is not first:
                yield scope_id
        if version != self._version:
            raise RuntimeError("application_instances changed while it was iterated over")

    def __reversed__(self):
        self.check_thread()
        return reversed(self._keys_in_order())

    def keys(self):
        return KeysView(self)

    def values(self):
        return ValuesView(self)

    def items(self):
        return ItemsView(self)

    def get(self, key, default=None):
        entry = self._find(key)
        return default if entry is None else entry.public

    def pop(self, key, default=_MISSING):
        entry = self._find(key)
        if entry is None:
            if default is _MISSING:
                raise KeyError(key)
            return default
        value = entry.public
        self._vanish(entry)
        return value

    def popitem(self):
        """Remove and return the least recently used entry; raise KeyError if the table is empty."""
        self.check_thread()
        entry = self._oldest()
        if entry is None:
            raise KeyError("popitem(): the table is empty")
        if not self._vanish(entry):
            raise RuntimeError("application_instances changed while its first entry was looked for")
        return entry.scope_id, entry.public

    def clear(self):
        self.check_thread()
        for entry in self.entries():
            self._vanish(entry)

    def setdefault(self, key, default=None):
        entry = self._find(key)
        if entry is not None:
            return entry.public
        self[key] = default
        return self[key]

    def update(self, other=(), /, **kwds):
        for scope_id, value in dict(other, **kwds).items():
            self[scope_id] = value

    def __eq__(self, other):
        if not isinstance(other, collections.abc.Mapping):
            return NotImplemented
        return dict(self.items()) == dict(other.items())

    def copy(self):
        """Return a plain dict with the same entries, least recently used first."""
        return dict(self.items())

    def __repr__(self):
        return f"<cyasgi.InstanceTable of {len(self._entries)}, {self.idle} idle>"

    def __reduce__(self):
        return InstanceTable, (self.copy(),)


MutableMapping.register(InstanceTable)


cdef _shrink(emptied):
    """Make an empty dict give its memory back, which it does not do by itself."""
    if not emptied:
        emptied.clear()


cdef bint _has_ended(Entry entry) except -1:
    if type(entry) is ApplicationInstance:
        return entry._state == C_DONE
    return bool((<ForeignEntry>entry).ended)


cdef bint _is_idle(Entry entry) except -1:
    if type(entry) is ApplicationInstance:
        return (<ApplicationInstance>entry)._idle
    return (<ForeignEntry>entry).idle

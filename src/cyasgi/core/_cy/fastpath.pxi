# FastPath: the usual course of evictions and of ends of runs.

cdef class FastPath:
    """Base of InstanceManager: the usual course of evictions and of ends of runs."""

    #: StatelessServer, which tells what is overridden. Its module imports this one.
    cdef readonly object base
    cdef public InstanceTable table
    cdef public object observer
    cdef dict _counts
    #: What is not in `_counts` yet: the frequent ones.
    cdef Py_ssize_t _finished
    cdef Py_ssize_t _cancelled
    cdef Py_ssize_t _evicted
    #: Runs that go on after their entry has left the table: when each is cancelled once more, in seconds of the
    #: monotonic clock; or a Closing, where somebody waits for its end.
    cdef public dict closing
    #: The youngest closing run of an id.
    cdef public dict closing_ids
    #: Runs that were cancelled twice and go on.
    cdef public set ignoring_cancel
    cdef public dict unstarted
    #: Of `note_overrides`: whether the delete methods are the base's, and whether the hook for ends is overridden.
    cdef readonly bint plain
    cdef readonly bint hears
    #: Set while the server stops: called when a run has ended.
    cdef public object on_ended
    cdef public object _cancel_timer
    cdef public object _cancel_timer_loop
    #: The most closing runs since there were none.
    cdef Py_ssize_t _peak_size
    cdef object __weakref__

    def __init__(self, base):
        self.base = base
        self.table = InstanceTable()
        self._counts = dict.fromkeys(
            ("evicted", "expired", "finished", "failed", "cancelled", "orphaned", "undelivered", "interrupted"), 0
        )
        self.closing = {}
        self.closing_ids = self.table.closing_ids
        self.ignoring_cancel = set()
        self.unstarted = {}

    # InstanceManager has the unusual courses: _make_room_slow, _end_slow, _ended_slow, report, _set_cancel_timer and
    # _let_go.

    @property
    def counts(self):
        """How often each thing has happened."""
        self._counts["finished"] += self._finished
        self._counts["cancelled"] += self._cancelled
        self._counts["evicted"] += self._evicted
        self._finished = self._cancelled = self._evicted = 0
        return self._counts

    def make_room(self, server, limit):
        """Evict until there is room for one more.

        Raises:
            TableFull: the policy is "refuse", and no instance has ended.
        """
        self._make_room(server, limit)

    def is_plain(self, server):
        """Return whether the delete methods are not overridden."""
        return self._plain(server)

    def hears_of_ends(self, server):
        """Return whether the hook for ends of runs is overridden."""
        return self._hears(server)

    def note_overrides(self, server):
        """Note for `connected_ended` what of the server is overridden."""
        self.plain = self._plain(server)
        self.hears = self._hears(server)

    def end_entry(self, server, Entry entry):
        """Remove the entry, cancel its run and report it. Does not wait; see `delete_entry()`."""
        self._end(server, entry)

    def _close(self, server, ApplicationInstance instance, loop):
        """Cancel the run of an instance that has left the table."""
        self._cancel(server, instance, loop)

    # What is usual

    cdef _make_room(self, server, limit):
        cdef InstanceTable table = self.table
        cdef Py_ssize_t most = _size(limit)
        cdef bint live
        table.follow(server)
        if not self._plain(server):
            return self._make_room_slow(server, limit)
        # The delete methods need not be called if they are not overridden.
        asking = _asking(server)
        while len(table._entries) >= most:
            victim = table.victim(asking)
            if victim is None:
                return
            live = not (
                (<ApplicationInstance>victim)._state == C_DONE if type(victim) is ApplicationInstance else victim.ended
            )
            if live and server.eviction_policy == _REFUSE:
                raise _TableFull(limit)
            if live:
                (<Entry>victim)._reason = C_EVICTED
            self._end(server, <Entry>victim)
            if live:
                self._evicted += 1

    cdef bint _plain(self, server) except -1:
        cdef dict attributes
        cls = type(server)
        base = self.base
        if (
            cls.delete_oldest_application_instance is not base.delete_oldest_application_instance
            or cls.delete_application_instance is not base.delete_application_instance
        ):
            return False
        attributes = <dict>PyObject_GenericGetDict(server, NULL)
        return (
            "delete_oldest_application_instance" not in attributes and "delete_application_instance" not in attributes
        )

    cdef bint _hears(self, server) except -1:
        return (
            type(server).application_ended is not self.base.application_ended
            or "application_ended" in <dict>PyObject_GenericGetDict(server, NULL)
        )

    cdef _end(self, server, Entry entry):
        cdef ApplicationInstance instance
        cdef InstanceTable table = self.table
        table.remove(entry)
        if type(entry) is ApplicationInstance and self.observer is None:
            instance = <ApplicationInstance>entry
            if instance._state == C_DONE:
                self._tell(server, instance)
                return
            if not instance._reason:
                instance._reason = C_DELETED
            if (
                instance._loop is not None
                and not self._is_closed(instance._loop)
                and instance not in self.closing
            ):
                self._cancel(server, instance, instance._loop)
                return
        if not entry._reason and not entry.ended:
            entry._reason = C_DELETED
        self._end_slow(server, entry)

    cdef bint _is_closed(self, loop) except -1:
        cdef InstanceTable table = self.table
        return table._loop_is_closed() if loop is table._loop else loop.is_closed()

    cdef _cancel(self, server, ApplicationInstance instance, loop):
        cdef double deadline = <double>_monotonic() + <double>server.shutdown_timeout
        self.closing[instance] = deadline
        self._peak_size = max(self._peak_size, len(self.closing))
        timer = self._cancel_timer
        if (
            timer is None
            or loop is not self._cancel_timer_loop
            or (timer._cancelled if type(timer) is _TimerHandle else timer.cancelled())
        ):
            self._set_cancel_timer(loop, deadline)
        if _cold(instance).predecessor is None:
            self.closing_ids[instance.scope_id] = instance
        if _cold(instance).call is not None:
            _cold(instance).call.cancel()
        if instance._task is not None:
            instance._task.cancel()

    def ended(self, ApplicationInstance instance):
        """Count and report the end of a run; called by each run of an instance in its last step."""
        self._ended(instance)

    def connected_ended(self, ApplicationInstance instance):
        """Do as `ended` where scopes have a `Connection`: it is told, and the instance leaves the table at once."""
        cdef InstanceTable table
        connection = getattr(instance.scope, "connection", None)
        if connection is not None:
            try:
                connection.application_ended(instance)
            except Exception:
                # Whatever is wrong with the connection, the instance must leave the table.
                self._connection_failed(instance)
        table = instance._table
        if table is not None and self.plain:
            table.remove(instance)
            if (
                instance._outcome == C_RETURNED
                and self.observer is None
                and self.on_ended is None
                and not instance._count
                and not self.hears
            ):
                # All that `_ended` does for a run with nothing to report.
                self._finished += 1
                instance._reported = True
                return
        self._ended(instance)

    cdef int _count_end(self, int outcome) except -1:
        if outcome == C_RETURNED:
            self._finished += 1
        elif outcome == C_CANCELLED:
            self._cancelled += 1
        else:
            self._counts[_OUTCOMES[outcome]] += 1
        return 0

    cdef _ended(self, ApplicationInstance instance):
        if instance._outcome == C_FAILED or self.observer is not None:
            self._ended_slow(instance)
            return
        self._count_end(instance._outcome)
        cdef InstanceTable table = instance._table
        if table is not None:
            table._add_finished(instance)
        else:
            self._over(instance._server, instance)
        if self.on_ended is not None:
            self.on_ended()

    def _closed(self, server, Entry entry):
        """Note the end of a closing run."""
        self._over(server, entry)

    cdef _over(self, server, Entry entry):
        closing = self.closing.pop(entry, None)
        if self.ignoring_cancel:
            self.ignoring_cancel.discard(entry)
        if closing is not None:
            if self.closing_ids.get(entry.scope_id) is entry:
                del self.closing_ids[entry.scope_id]
            if type(closing) is not float:
                self._let_go(closing)
            if self._peak_size > _SHRINK_THRESHOLD and not self.closing:
                self._peak_size = 0
                _shrink(self.closing)
                _shrink(self.closing_ids)
        self._tell(server, entry)
        if self.on_ended is not None:
            self.on_ended()

    cdef _tell(self, server, Entry entry):
        """Report an entry that has ended and left the table, if there is anything to tell of it."""
        if (
            type(entry) is ApplicationInstance
            and (<ApplicationInstance>entry)._count == 0
            and _cold(<ApplicationInstance>entry).error is None
            and _cold(<ApplicationInstance>entry).joiners is None
            and _cold(<ApplicationInstance>entry).watchers is None
            and _cold(<ApplicationInstance>entry).interrupted is None
            and self.observer is None
            and not self._hears(server)
        ):
            (<ApplicationInstance>entry)._unfinished = 0
            (<ApplicationInstance>entry)._reported = True
        else:
            self.report(server, entry)


cdef object _asking(server):
    """Return the instance of this server whose application is running now."""
    cdef PyObject *value = NULL
    PyContextVar_Get(_at_work, NULL, &value)
    cell = _taken(value)
    if cell is None:
        return None
    instance = (<Run>cell).instance if type(cell) is Run else cell.instance
    return instance if instance is not None and instance._server is server else None

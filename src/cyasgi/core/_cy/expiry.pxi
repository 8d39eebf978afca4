# Expiry: which entries are due to be looked at, and when.

cdef class Expiry(OrderedEntries):
    """Finds entries that have been idle for longer than the timeout, at constant cost."""

    def keep(self, Entry entry not None, double since):
        """Keep an entry that an override, called at `since` (wall clock), has refused to delete.

        That counts as a use, but does not promote the entry. A `last_used` of `since` or later stays, since the
        override may have assigned it.
        """
        if entry._table is not self:
            return
        self._reorder_foreign(entry)
        if entry._assigned is not None and <double>entry._assigned[0] >= since:
            entry._active = mono()
        else:
            if entry._place & C_PROBATION:
                self._take_out(entry)
                self._link(entry, 1)
                entry._used = moment_of_use()
                entry._active = mono()
            else:
                self.touch(entry)
            if type(entry) is ForeignEntry and _seconds((<ForeignEntry>entry).details.get("last_used")) is not None:
                # Else it would be put back to where its dict says.
                (<ForeignEntry>entry).details["last_used"] = entry._used
        self._reschedule(entry)

    def set_timeout(self, timeout, double unit):
        """Let entries expire when they are idle for `timeout` seconds, checked in steps of `unit` seconds."""
        cdef Entry entry
        cdef double now, moment
        cdef list entries
        cdef double seconds = 0.0 if timeout is None else timeout
        if timeout == self._timeout and (timeout is None or unit == self._unit):
            return
        if not unit > 0.0:
            raise ValueError(f"unit={unit!r}: accepted is a number of seconds above 0")
        entries = list(self._entries.values())
        self._due.clear()
        for entry in entries:
            entry._bucket = -1
        self._timeout = timeout
        self._seconds = seconds
        self._expiring = timeout is not None
        self._unit = unit
        moment, now = wall(), mono()
        self._swept = <long long>min(now / unit, _FAR)
        if timeout is not None:
            for entry in entries:
                if entry._assigned is None:
                    entry._active = max(entry._active, now - max(0.0, moment - entry._used))
                self._schedule(entry, entry._active + seconds)

    def pop_expired(self, double lost=0.0):
        """Return an entry that has been idle for longer than the timeout, not counting `lost` seconds; None if there is
        none yet."""
        cdef Entry entry
        cdef double due, now
        cdef long long current
        cdef bint resting
        if not self._expiring:
            return None
        now = mono() - lost
        current = <long long>min(now / self._unit, _FAR)
        if current - self._swept > len(self._due) + 1:
            # After a long pause: look at the buckets that exist rather than at every step of time.
            self._swept = min([number for number in self._due if number <= current], default=current)
        while self._swept <= current:
            bucket = self._due.get(self._swept)
            while bucket:
                # Not next(reversed()): that would walk over the slots of all entries that were removed before.
                entry = <Entry>(<dict>bucket).popitem()[0]
                entry._bucket = -1
                if type(entry) is ForeignEntry and not self._reorder_foreign(entry):
                    # Its dict says otherwise: then it has been scheduled anew.
                    continue
                resting = _is_idle(entry) or entry.ended
                if entry._table is not self or entry._bucket != -1:
                    # Asking a plain dict's queue has removed or scheduled it.
                    continue
                due = (entry._active if resting else now) + self._seconds
                if due < now:
                    return entry
                self._schedule(entry, due)
            if bucket is not None:
                self._due.pop(self._swept, None)
            if self._swept == current:
                break
            self._swept += 1
        return None

    @cython.final
    cdef _schedule(self, Entry entry, double due):
        # Strictly after the current step, so that a sweep never meets an entry twice.
        cdef long long number = self._swept + 1
        cdef double steps = due / self._unit
        cdef dict bucket
        if steps >= number:
            number = <long long>min(steps, _FAR) + 1
        bucket = self._due.get(number)
        if bucket is None:
            bucket = {}
            bucket = self._due.setdefault(number, bucket)
        if entry._table is self and entry._bucket == -1:
            bucket[entry] = None
            entry._bucket = number
        elif not bucket:
            self._due.pop(number, None)

    @cython.final
    cdef _unschedule(self, Entry entry):
        cdef dict bucket = self._due.get(entry._bucket)
        if bucket is not None:
            bucket.pop(entry, None)
            if not bucket:
                self._due.pop(entry._bucket, None)
        entry._bucket = -1

    cdef _reschedule(self, Entry entry):
        """Move an entry to the bucket of its changed `_active`. One that is just being expired is in no bucket."""
        if entry._bucket != -1:
            self._unschedule(entry)
        if self._expiring:
            self._schedule(entry, entry._active + self._seconds)


cyasgi_set_abstract(Expiry)

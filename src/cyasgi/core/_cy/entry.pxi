# What the table holds, instances and plain dicts of others, each with a place in its orders.

cdef class Entry:
    """Base of what the table holds: a place in the table's orders."""

    cdef readonly object scope_id
    cdef readonly InstanceTable _table
    #: Neighbours in the natural order, and the table while linked there: borrowed; see the top.
    cdef PyObject *_prev
    cdef PyObject *_next
    cdef PyObject *_owner
    cdef readonly double _used
    cdef readonly double _active
    cdef tuple _assigned
    cdef readonly signed char _place
    #: Why the server removes it, one of REASONS; 0 if its run had ended by itself before.
    cdef public signed char _reason
    #: Of an instance; they stand here for the room that is left.
    cdef public signed char _state
    #: 1: its run has begun; 2: and has taken a message from `receive()`, which is known once it has ended.
    cdef readonly signed char _begun
    cdef readonly signed char _idle
    cdef readonly signed char _outcome
    cdef public signed char _reported
    cdef signed char _guarded
    cdef readonly long long _bucket
    cdef object __weakref__


cyasgi_set_abstract(Entry)


cdef inline void _unlink_dying(Entry entry) noexcept:
    """Unlink the entry; for `__dealloc__` of subclasses of Entry, which runs before anything of the entry is gone."""
    # Still linked only if the collector has emptied the table's dict.
    if entry._owner is not NULL:
        (<InstanceTable>entry._owner)._unlink(entry, entry._place >> 1)


@cython.final
cdef class ForeignEntry(Entry):
    """A plain dict that somebody wrote into the table, with the reference's four keys or some of them."""

    cdef readonly object details
    cdef public object _watched

    def __init__(self, scope_id, details):
        self.scope_id = scope_id
        self.details = details
        self._bucket = -1

    def __dealloc__(self):
        _unlink_dying(self)

    @property
    def public(self):
        return self.details

    @property
    def idle(self):
        """Whether nothing is queued and somebody waits in the queue's `get`, as far as that can be seen."""
        queue = self.details.get("input_queue")
        try:
            return bool(queue.empty() and getattr(queue, "_getters", True))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            # Not a queue: then nothing can wait in it.
            return True

    @property
    def ended(self):
        future = self._watched
        return future is not None and bool(future.done() or future.get_loop().is_closed())

    @property
    def stale(self):
        """Whether its future will never be done, because its loop was closed."""
        future = self._watched
        return future is not None and not future.done() and bool(future.get_loop().is_closed())

    cpdef watch(self):
        future = self.details.get("future")
        if asyncio.isfuture(future):
            self._watched = future
            if future.done():
                self._future_done(future)
            else:
                future.add_done_callback(self._future_done)

    cpdef unwatch(self):
        if self._watched is not None:
            self._watched.remove_done_callback(self._future_done)

    def _future_done(self, _):
        cdef InstanceTable table = self._table
        if table is not None:
            table._add_finished(self)

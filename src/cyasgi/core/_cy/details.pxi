# Details: the mapping of an instance's details.

@cython.collection_type("mapping")
cdef class Details(InputQueue):
    """The mapping of an instance's details."""

    @property
    def future(self):
        """The task; a concurrent.futures.Future in its place until an event loop has started the instance."""
        if self._task is not None:
            return self._task
        if _cold(self).placeholder is None:
            self._ensure_cold().placeholder = make_placeholder()
            if self._state == C_DONE:
                _cold(self).placeholder.cancel()
        return _cold(self).placeholder

    @property
    def input_queue(self):
        return self

    @property
    def last_used(self):
        """When the instance was last looked up, in seconds since the epoch. An assigned value determines its place in
        the order of eviction, until it is looked up again."""
        return self._used if self._assigned is None else self._assigned[0]

    @last_used.setter
    def last_used(self, value):
        cdef double moment = _moment(value)
        cdef InstanceTable table = self._table
        if table is not None:
            table._assign(self, moment)
        else:
            self._used = moment

    def __getitem__(self, key):
        if key == "input_queue":
            return self
        if key in _KEYS:
            return getattr(self, key)
        cdef dict extra = _cold(self).extra
        if extra is None:
            raise KeyError(key)
        return extra[key]

    def __setitem__(self, key, value):
        cdef dict extra
        if key in ("application", "future", "input_queue"):
            raise TypeError(f"{key!r} of an application instance cannot be assigned; 'last_used' and 'scope' can")
        if key == "last_used":
            self.last_used = value
        elif key == "scope":
            self.scope = value
        else:
            extra = _cold(self).extra
            if extra is None:
                extra = {}
                if _cold(self).extra is None:
                    self._ensure_cold().extra = extra
                extra = _cold(self).extra
            extra[key] = value

    def __delitem__(self, key):
        if key in _KEYS:
            raise TypeError(f"{key!r} of an application instance cannot be deleted; keys added by callers can")
        cdef dict extra = _cold(self).extra
        if extra is None:
            raise KeyError(key)
        del extra[key]

    def __iter__(self):
        cdef dict extra = _cold(self).extra
        return iter((*_KEYS, *(extra or ())))

    def __len__(self):
        cdef dict extra = _cold(self).extra
        return len(_KEYS) + (0 if extra is None else len(extra))

    def __contains__(self, key):
        cdef dict extra = _cold(self).extra
        return key in _KEYS or (extra is not None and key in extra)

    def __bool__(self):
        return True

    def keys(self):
        return KeysView(self)

    def values(self):
        return ValuesView(self)

    def items(self):
        return ItemsView(self)

    def pop(self, key, default=_MISSING):
        if key not in self:
            if default is _MISSING:
                raise KeyError(key)
            return default
        value = self[key]
        del self[key]
        return value

    def popitem(self):
        """Remove the key that a caller has added last; raise KeyError if there is none."""
        cdef dict extra = _cold(self).extra
        if not extra:
            raise KeyError("popitem(): no key was added to this application instance")
        return extra.popitem()

    def clear(self):
        """Remove the keys that callers have added."""
        _cold(self).extra = None

    def setdefault(self, key, default=None):
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *others, **values):
        for key, value in dict(*others, **values).items():
            self[key] = value


cyasgi_set_abstract(Details)

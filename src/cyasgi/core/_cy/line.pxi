# Line: those who wait to put a message into a full queue.

@cython.final
cdef class Line:
    """The line of those who wait for room in a queue, first come, first served.

    A place in it is a future. The first `owned` ones are resolved: each owns a free slot until that is filled or given
    up. While anybody is in line, later putters have to line up too.
    """

    cdef object places
    cdef Py_ssize_t owned

    def __cinit__(self):
        self.places = _deque()

    cdef advance(self, Py_ssize_t room):
        """Of `room` free slots, give those that nobody owns to the first places that own none."""
        places = self.places
        while self.owned < room and self.owned < len(places):
            if _resolved(places[self.owned]):
                self.owned += 1
            else:
                del places[self.owned]

    cdef bint leave(self, place) except -1:
        """Take a place out of the line; return whether it owned a slot."""
        cdef Py_ssize_t index
        try:
            # Usually it is the first one.
            index = self.places.index(place)
        except ValueError:
            return False
        del self.places[index]
        if index >= self.owned:
            return False
        self.owned -= 1
        return True

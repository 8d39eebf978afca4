# How long messages wait in queues: of one in so many.

cdef enum:
    FOLLOWED = 64
    C_SAMPLED_ONE_IN = 16

cdef int64_t FORGET_AFTER = 60_000_000_000

cdef struct Followed:
    # A message that waits, where, and since when. Both are only compared: they may be gone.
    PyObject *queue
    PyObject *message
    int64_t since

cdef Followed[FOLLOWED] _followed
#: The cells of the histogram; None while nothing is sampled.
cdef CellsView _sampled = None
cdef int _until_sample = C_SAMPLED_ONE_IN


cdef inline Followed *_followed_of(InputQueue queue) noexcept:
    return &_followed[(<size_t><void *>queue >> 5) % FOLLOWED]


cdef int _sample_put(InputQueue queue, item) except -1:
    """Follow a message that was put, if it is its turn, and its place is free."""
    global _until_sample
    cdef Followed *place
    cdef int64_t now
    _until_sample -= 1
    if _until_sample <= 0:
        _until_sample = C_SAMPLED_ONE_IN
        place = _followed_of(queue)
        now = monotonic_ns()
        if place.queue == NULL or now - place.since > FORGET_AFTER:
            place.queue = <PyObject *>queue
            place.message = <PyObject *>item
            place.since = now
    return 0


cdef inline int _sample_taken(InputQueue queue, item) except -1:
    cdef Followed *place = _followed_of(queue)
    if place.queue == <PyObject *>queue and place.message == <PyObject *>item:
        place.queue = NULL
        observe(_sampled.cells, MESSAGE_TIME, monotonic_ns() - place.since)
    return 0


cdef inline int _forget_sample(InputQueue queue) except -1:
    """Follow none of a queue whose messages nobody takes."""
    cdef Followed *place = _followed_of(queue)
    if place.queue == <PyObject *>queue:
        place.queue = NULL
    return 0


@cython.final
cdef class Sampler:
    """Observes how long messages wait in the queues of this process, from their put until an application takes them.

    One message in `cyasgi._common.cells.SAMPLED_ONE_IN` is followed, at most 64 at a time.
    """

    def start(self, cells):
        """Count in `MESSAGE_TIME` of these cells from now on, instead of any before.

        Raises:
            ValueError: it is shorter than `CELLS`.
        """
        global _sampled
        fresh = CellsView(cells)
        self.stop()
        _sampled = fresh

    def stop(self):
        """Count no more."""
        global _sampled
        _sampled = None
        for place in range(FOLLOWED):
            _followed[place].queue = NULL


SAMPLER = Sampler()

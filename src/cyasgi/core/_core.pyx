# cython: language_level=3, binding=False, wraparound=False, nonecheck=True, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
"""The Cython twin of the core. The theory of operation is in `README.md`; here is what differs.

* The entries of a natural order of the table form a doubly linked list through `_prev` and `_next`. The dict owns the
  entries; the list borrows them: an entry is linked if and only if it is in the dict (and has no assigned place). Where
  the garbage collector takes a whole server apart, in an order of its own, that does not hold: an entry that dies
  linked unlinks itself, before anything else of it goes, and a table that dies cuts all links, so that no borrowed
  pointer outlives what it points to.
* Whatever is not this module's own C may run Python code, and that may do anything: remove the entry at hand, replace
  the table, end the run. A key's `__hash__` and `__eq__` may, a loop's and a future's methods, a plain dict's queue,
  `__del__` of what an assignment drops, and up to 3.11 every object made, by way of the collector. So across such a
  call everything is held by a reference of its own, the receiver of a method included (`self._table.add()` holds
  nothing), and what was read before is read again; and where several fields have to change together, what allocates
  comes first.
* `get`, `put` and `join` are awaitable objects rather than coroutines. They are driven through `am_send` where the
  interpreter asks for it (await up to 3.11, a task's step in every version) and through `tp_iternext` elsewhere; both are
  functions set by hand, since what Cython makes of `__next__` ends with a traceback, which costs more than all the rest.
* An application that waits in `receive` waits for its own Run, which can be waited for again and again; whoever waits in
  `get`, `put` or `join` waits for an exact `asyncio.Future`, without an iterator around it.
* `send` is the Run, too.
* Receive is its own awaitable: `receive()` returns the callable itself unless one call is under way already, or a child
  task calls it. It owns nothing, and the garbage collector does not see it.
* Where the loop's own methods are asyncio's, futures, tasks and wake-ups are made as these would make them, without their
  frames.
* What is put into many instances at once, by a gateway that is compiled too, wakes them in one go: see `_cy/batch.pxi`.
* What few instances have is kept apart, in a ColdFields of their own, so that all the others are smaller.
"""

import asyncio
import bisect
import collections
import contextvars
import itertools
import math
import time
import warnings
from asyncio import QueueEmpty, QueueFull
from collections.abc import Coroutine, ItemsView, KeysView, MutableMapping, ValuesView
from types import GenericAlias

from cpython.object cimport PyObject, Py_TYPE, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF
cimport cython

from .caller import HeldApplication, InstanceDeleted
from .constants import (
    YIELD_EVERY, SHRINK_THRESHOLD, FAR, KEYS, SCAN_LIMIT, OUTCOMES, POLICIES, REASONS, REFUSE, STATES
)
from .context import at_work, deleting
from .full import TableFull
from .in_flight import TakenByTasks, calling_task
from .placeholder import make_placeholder
from .stopping import is_stop
from .tasks import NAME, current_tasks, has_plain_tasks, name_of, runs_elsewhere, takes_names
from .tracking import DONE, TAKEN, Tracked, message_of, outcome_of, tell_all, undelivered

include "_cy/c.pxi"
include "../_common/cells.pxi"

# As in constants.py, for C.
cdef enum:
    C_NEW = 0
    C_HELD = 1
    C_AUTO = 2
    C_CALLER = 3
    C_DONE = 4

cdef enum:
    C_ASSIGNED = 1
    C_PROBATION = 2

cdef enum:
    C_RETURNED = 1
    C_FAILED = 2
    C_CANCELLED = 3

cdef enum:
    C_EVICTED = 6
    C_DELETED = 7

cdef enum:
    #: What the application of a run has in flight: it has never taken a message; it has come back from all; it has one.
    C_NEVER = 0
    C_SETTLED = 1
    C_HOLDS = 2

cdef tuple _KEYS = KEYS
cdef tuple _STATES = STATES
cdef tuple _OUTCOMES = OUTCOMES
cdef tuple _REASONS = REASONS
cdef object _Tracked = Tracked
cdef object _TAKEN = TAKEN
cdef object _DONE = DONE
cdef object _MISSING = object()
cdef object _sequence = itertools.count()
cdef object _Future = asyncio.Future
cdef object _Task = asyncio.Task
cdef tuple _LOOP = ("loop",)
cdef tuple _LOOP_AND_NAME = ("loop", "name")
cdef object _NAME = NAME
cdef tuple _CONTEXT = ("context",)
cdef object _deque = collections.deque
cdef object _OrderedDict = collections.OrderedDict
cdef object _InvalidStateError = asyncio.InvalidStateError
cdef object _CancelledError = asyncio.CancelledError
cdef object _TimerHandle = asyncio.TimerHandle
cdef object _Handle = asyncio.Handle
cdef object _get_task_factory = asyncio.BaseEventLoop.get_task_factory
cdef object _at_work = at_work
cdef object _deleting = deleting
cdef object _monotonic = time.monotonic
cdef Py_ssize_t _SCAN_LIMIT = SCAN_LIMIT
cdef double _FAR = FAR
cdef int _YIELD_EVERY = YIELD_EVERY
cdef Py_ssize_t _SHRINK_THRESHOLD = SHRINK_THRESHOLD
cdef object _REFUSE = REFUSE
cdef object _TableFull = TableFull
cdef int _puts = 0
cdef object _blocking = "_asyncio_future_blocking"
cdef dict _current_tasks = current_tasks()
#: The loop that a batch is put in, the first run that it has woken (often the only one), and the others.
cdef object _batch_loop = None
cdef object _batch_first = None
cdef list _batch_woken = []

include "_cy/awaitables.pxi"
include "_cy/waiting.pxi"
include "_cy/receive.pxi"
include "_cy/run.pxi"
include "_cy/protocol.pxi"
include "_cy/entry.pxi"
include "_cy/line.pxi"
include "_cy/queue.pxi"
include "_cy/sampling.pxi"
include "_cy/details.pxi"
include "_cy/instance.pxi"
include "_cy/setting.pxi"
include "_cy/lookup.pxi"
include "_cy/order.pxi"
include "_cy/expiry.pxi"
include "_cy/table.pxi"
include "_cy/fastpath.pxi"
include "_cy/batch.pxi"
include "_cy/connected.pxi"

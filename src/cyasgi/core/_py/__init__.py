"""The pure-Python twin of the core: ApplicationInstance and InstanceTable.

Theory of operation
===================

*Instances.* An ApplicationInstance is three things at once: the input queue of one application, the mapping that
details of it are read from, and an awaitable that gives itself. It is in one of five states::

    NEW -----> AUTO -----> DONE        the server runs the application, in `_task`
     |          ^ |
     |      fed | | called, not begun
     v          | v
    HELD ----> CALLER ---> DONE        who awaited the instance runs it
     ^                      |
     +--- CALLER <----------+          a call may be repeated (keep-alive)

NEW: created by a plain call. HELD: awaited before anything was put. AUTO: fed, or one loop pass went by; `_begun` tells
whether the application's first step was made. The task exists from the creation on, so that the first step of an
instance that was fed comes exactly when `asyncio.ensure_future` in the reference would have made it. What the task
drives is a Run: it decides at its first step who runs the application, and sees the end of the run at once, without a
done callback. NEW at the first step: it lets one pass go by, in which `gather` or `create_task` may await the
instance. HELD, CALLER, or a predecessor under the same id still cleaning up: it waits at `_gate`, a future.

*The table.* A dict from scope_id to entry; an entry is an ApplicationInstance or a ForeignEntry, the wrapping of a
plain dict that somebody wrote into the table. Beside the dict:

* `_orders`: natural orders: rings of entries in the order of their use, oldest first. A use moves an entry to the end;
  no clock is involved.
* `_assigned`: the few whose `last_used` was assigned (every foreign dict's was), sorted by that value. A use takes an
  entry back into a natural order. The table's order is the merge of both by `last_used`.
* `_finished`: entries whose run has ended, oldest end first, still in one of the above.
* `_due`: only with an idle timeout: from a point of (monotonic) time, in units of `_unit`, to the entries to be looked
  at then. An entry found to be busy, or idle for less than the timeout, is put where it will be due next, so that a
  sweep looks at those whose time has come and each entry is looked at once per timeout.

*Segments.* Under the policy "lru" there is one segment, number 0: one natural order, one list of assigned. Under "slru"
that one is the protected segment, and number 1 the probation segment; the table's order is the probation segment's
followed by the protected one's, and that is the order in which making room takes entries that are otherwise alike:

* A new entry is the youngest on probation. Used again, that is found alive by a later lookup, it is promoted: it is the
  youngest of the protected segment from then on.
* At most four fifths of `max_applications` are protected: what a promotion has beyond that goes, oldest first, back to
  the young end of the probation segment. So at the limit somebody is on probation, and a newcomer costs no protected
  entry its place, unless that one has ended.
* An assigned `last_used` orders an entry within its segment; one that is set back puts it on probation.

`_place` tells where an entry stands: 0 in the natural order of segment 0, and flags for all the rest, so that the
lookup of a live id asks one question whatever the policy is.

Invariants: an entry is in the dict if and only if its `_table` is the table, and then in exactly one of the `_orders`
and `_assigned`, the one that its `_place` says. `_finished` and `_due` hold only entries that are in the dict. `idle`
counts instances in the dict whose queue is empty while somebody waits in `receive`, `_on_probation` entries in the dict
that are on probation: none under "lru".

*Lifetime.* A run's end severs what refers from the application's side to the instance (its `receive`, the context of
its tasks); then an instance that has left the table is freed by reference counts alone, even while somebody keeps its
task, its exception or that exception's traceback.

*Ends.* FastPath is the base of a server's InstanceManager. It has the usual course of every eviction and of every end
of a run: no method of the server is overridden, nobody observes, the instance is one of ours in a loop that runs, and
nobody waits for its end. InstanceManager has all other courses.

*Messages.* Accepted messages leave the queue by `get`, or, once the record has been removed, in one list for the hook
`application_undelivered`. What is put behind that goes to the hook by the manager. What `receive` has given is in
flight until `receive` is called again: the run has the message that was called for in its own task, a TakenByTasks
those of child tasks. A run that ends other than by returning leaves what was in flight to the instance, for the hooks.
"""

from .awaitables import SENT as SENT, Pass as Pass
from .entry import ForeignEntry as ForeignEntry
from .fastpath import FastPath as FastPath
from .instance import ApplicationInstance as ApplicationInstance
from .lookup import get_or_create_application_instance as get_or_create_application_instance
from .run import Run as Run
from .setting import Setting as Setting
from .table import InstanceTable as InstanceTable

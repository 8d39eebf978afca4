"""Names and numbers that both twins of the core share."""

from __future__ import annotations

NEW, HELD, AUTO, CALLER, DONE = range(5)
RETURNED, FAILED, CANCELLED = range(1, 4)
STATES = ("new", "held", "running", "called", "done")
#: What `stats()` calls an outcome.
OUTCOMES = ("", "finished", "failed", "cancelled")
IDLE, AGE, EVICTED, DELETED, STOPPING, ORPHANED = range(4, 10)
#: Why an instance ended, as hooks are told: by its application's own outcome, or by the server's hand.
REASONS = ("", "returned", "failed", "cancelled", "idle", "age", "evicted", "deleted", "stopping", "orphaned")

#: The keys that every instance has, each an attribute too.
KEYS = ("application", "future", "input_queue", "last_used", "scope")
#: Busy instances that making room looks past before it takes the least recently used one.
SCAN_LIMIT = 32
#: `put` lets the loop turn once every so many messages.
YIELD_EVERY = 64
#: Entries that a dict must have had to be worth shrinking once it is empty.
SHRINK_THRESHOLD = 1024
#: The number of the last step of time in which anything is due.
FAR = 2.0**62
#: What `undelivered_to` may be.
HOOK, SUCCESSOR = "hook", "successor"
#: What `eviction_policy` may be.
POLICIES = ("lru", "slru", "refuse")
#: The policy under which no live instance makes room.
REFUSE = "refuse"
#: Flags of an entry's `_place`.
ASSIGNED, PROBATION = 1, 2

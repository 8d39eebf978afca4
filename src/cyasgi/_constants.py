"""Names and numbers that both twins of the core share."""

from __future__ import annotations

NEW, HELD, AUTO, CALLER, DONE = range(5)
RETURNED, FAILED, CANCELLED = range(1, 4)
STATES = ("new", "held", "running", "called", "done")
#: What `stats()` calls an outcome.
OUTCOMES = ("", "finished", "failed", "cancelled")

#: The keys that every instance has, each an attribute too.
KEYS = ("application", "future", "input_queue", "last_used", "scope")
#: Busy instances that making room looks past before it takes the least recently used one.
LOOK_PAST = 32
#: `put` lets the loop turn once in so many messages.
BREATH = 64
#: How many a dict must have had to be worth shrinking when it is empty.
CROWD = 1024
#: What `eviction_policy` may be.
POLICIES = ("lru", "slru")
#: Flags of an entry's `_place`.
ASSIGNED, PROBATION = 1, 2

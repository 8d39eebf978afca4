"""What is alive in this process: objects of cyasgi's and of the event loops', and descriptors."""

from __future__ import annotations

import asyncio
import collections
import gc
import os

#: Free lists and caches hold a few; what a connection left behind would be there hundreds of times.
FEW = 20
#: Cancelled timers that asyncio's loop keeps, at most, where few others wait.
CANCELLED_TIMERS = 100
KINDS = ("<class 'cyasgi.", "<class 'asyncio.", "<class '_asyncio.", "<class 'uvloop.")


def census():
    """How many live objects there are of each of these types, and how many descriptors.

    The first hundred timers that were cancelled do not count: asyncio's loop keeps as many until their time has come.
    """
    gc.collect()
    counts: collections.Counter[str] = collections.Counter()
    objects = gc.get_objects()
    for kind, count in collections.Counter(map(type, objects)).items():
        if str(kind).startswith(KINDS):
            counts[str(kind)] += count
    cancelled = sum(type(one) is asyncio.TimerHandle and one.cancelled() for one in objects)
    counts[str(asyncio.TimerHandle)] -= min(cancelled, CANCELLED_TIMERS)
    if os.path.isdir("/dev/fd"):
        counts["descriptors"] = len(os.listdir("/dev/fd"))
    return counts


async def grown_since(before):
    """What there is more of than there was, by name, once there is nothing more, or after some seconds."""
    for _ in range(100):
        grown = {name: more for name, more in (census() - before).items() if more > FEW or name == "descriptors"}
        if not grown:
            break
        # The timer for all deadlines ends at its next tick.
        await asyncio.sleep(0.05)
    return grown

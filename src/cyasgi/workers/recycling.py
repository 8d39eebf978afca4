"""When a worker has reached a limit after which it is to be replaced."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from typing import Any

from .settings import Recycling

#: Counters of servers that say what has been begun.
COUNTED = ("requests", "websockets", "streams", "datagrams_received")
#: How often a worker that has reached a limit says so: the supervisor may not have been able to replace it.
AGAIN = 10.0


def resident_bytes() -> int:
    """Return how much memory this process occupies now; where the system does not tell, how much it did at most."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


class Limits:
    """The limits of one worker.

    Args:
        recycling: for all workers.
        servers: those of this worker.
    """

    def __init__(self, recycling: Recycling, servers: Iterable[Any]) -> None:
        self._limits = recycling.drawn()
        self._servers = list(servers)
        #: When it began to serve; None before.
        self._began: float | None = None
        self._told = -AGAIN

    def begin(self) -> None:
        """Count from now on."""
        self._began = time.monotonic()

    def reached(self) -> str | None:
        """Return which limit has been reached, in words; None if none has been, or if that was returned just now."""
        if self._began is None or not self._limits.wanted:
            return None
        now = time.monotonic()
        reason = self._reason(now - self._began)
        if reason is None or now - self._told < AGAIN:
            return None
        self._told = now
        return reason

    def _reason(self, age: float) -> str | None:
        limits = self._limits
        if limits.lifetime is not None and age >= limits.lifetime:
            return f"it has served for {age:.0f} s"
        if limits.max_requests is not None:
            count = sum(stats.get(name, 0) for stats in self._stats() for name in COUNTED)
            if count >= limits.max_requests:
                return f"it has taken {count} requests"
        if limits.max_rss is not None:
            size = resident_bytes()
            if size >= limits.max_rss:
                return f"it occupies {size} bytes"
        return None

    def _stats(self) -> Iterable[dict[str, int]]:
        return (server.stats() for server in self._servers)

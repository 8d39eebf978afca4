"""How long to wait before something is tried again: longer each time, and never the same for everybody."""

from __future__ import annotations

import random


class Backoff:
    """Delays between attempts, which double from `least` to `most` seconds.

    Each is reduced by up to a half, at random, so that those who have failed together do not come back together.
    """

    def __init__(self, least: float = 0.1, most: float = 15.0) -> None:
        self._least = least
        self._most = most
        #: How many attempts have failed since the last success.
        self.failures = 0

    def failed(self) -> float:
        """Note a failed attempt, and return the seconds to wait before the next one."""
        delay = min(self._most, self._least * float(1 << min(self.failures, 32)))
        self.failures += 1
        return delay * random.uniform(0.5, 1)

    def succeeded(self) -> None:
        """Note a successful attempt: the next failure begins with the shortest delay."""
        self.failures = 0

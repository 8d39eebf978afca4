"""How much waiting work is done in one pass of the event loop.

The time for it grows with the work that is waiting, so that it catches up under any load, and even a storm blocks the
loop for only a few milliseconds at a time.
"""

from __future__ import annotations

from time import monotonic

#: Seconds of work in one pass of the loop, while at most BACKLOG items wait.
PASS = 0.002
#: Items that may wait without haste. While twice as many wait, a pass may take twice the time.
BACKLOG = 1_000


def share_of(waiting: int) -> float:
    """Return how many times `PASS` a pass may take while this many items wait."""
    return max(1.0, waiting / BACKLOG)


class Pace:
    """The time that one pass has for its work, from now on.

    Args:
        share: what `share_of` returns.
        least: items that are dealt with in any case.
    """

    __slots__ = ("_least", "_until")

    def __init__(self, share: float = 1.0, least: int = 0) -> None:
        self._least = least
        self._until = monotonic() + PASS * share

    def over(self, done: int) -> bool:
        """Note that `done` more items were dealt with, and return whether the loop should turn now."""
        self._least -= done
        return self._least <= 0 and monotonic() >= self._until


def pace_of_round(number: int) -> Pace:
    """Return the pace of work whose amount is not known: the longer it takes, the more is done in a pass."""
    return Pace(1 + number / 8)

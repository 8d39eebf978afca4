"""How much of what waits is done before the event loop may turn: a share of time that grows with what waits, so that it
catches up under any load, and a storm holds the loop for a few milliseconds at a time."""

from __future__ import annotations

from time import monotonic

#: Seconds of a pass of the loop, while no more than a crowd waits.
PASS = 0.002
#: What may wait without haste. With twice as much a pass has twice the time.
BACKLOG = 1_000


def share_of(waiting: int) -> float:
    """How many times `PASS` a pass may take while so much waits."""
    return max(1.0, waiting / BACKLOG)


class Pace:
    """The time of one pass, from now on.

    Args:
        share: as `share_of` gives it.
        least: so many are done in any case.
    """

    __slots__ = ("_least", "_until")

    def __init__(self, share: float = 1.0, least: int = 0) -> None:
        self._least = least
        self._until = monotonic() + PASS * share

    def over(self, done: int) -> bool:
        """Whether the loop should turn, `done` more having been done."""
        self._least -= done
        return self._least <= 0 and monotonic() >= self._until


def pace_of_round(number: int) -> Pace:
    """For work of which it is not known how much waits: the longer it takes, the more is done in a pass."""
    return Pace(1 + number / 8)

"""A circuit breaker: lets runs through while an application works, none while it fails, and a few to probe it.

Theory of operation
-------------------

* **closed**: every run is let through. The last `failure_window` verdicts are kept; with `failure_threshold` failures
  among them the breaker opens.
* **open**: no run is let through for `open_time` seconds.
* **half-open**, after that: `probes` runs are let through, no more. When that many have succeeded, the breaker closes
  and forgets earlier failures; one failure opens it for another `open_time`.

Each run that is let through has a permit, with which its verdict is reported. Three rules make late verdicts harmless:

* A verdict counts only if its run began after the breaker last opened: earlier runs say nothing about a recovery.
* A run that ends without a verdict (its client went away, or it was cancelled) gives its permit back and changes
  nothing.
* A probe keeps its place for at most `open_time` seconds, so that an application that neither answers nor ends cannot
  keep the breaker half-open for ever. If it does well by then (it has begun to answer, or owes no answer), that is a
  success; otherwise another run may take its place.

There is no timer: the state is brought up to date whenever the breaker is used. The clock is a parameter.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum

from .checks import (
    check_callable,
    check_count,
    check_seconds,
)


class BreakerState(StrEnum):
    """The states of a breaker; each equals its name, as in ``"closed"``."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


# Globals: every run looks them up, and attributes of an enumeration are slower.
CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class Permit:
    """One run let through by a breaker."""

    __slots__ = ("era", "well")

    def __init__(self, era: int, well: bool) -> None:
        #: How often the breaker had opened when the run began.
        self.era = era
        #: Whether the run counts as a success if it is still in progress when its time as a probe is over.
        self.well = well


def check_breaker_settings(failure_threshold: int, failure_window: int, open_time: float, probes: int) -> None:
    """Check the arguments of `Breaker`.

    Raises:
        TypeError, ValueError: one is not accepted; the message says which, and what is.
    """
    check_count("failure_threshold", failure_threshold)
    check_count("failure_window", failure_window)
    if failure_window < failure_threshold:
        raise ValueError(
            f"failure_window={failure_window!r}: accepted is an int of at least failure_threshold={failure_threshold!r}"
        )
    check_seconds("open_time", open_time)
    check_count("probes", probes)


class Breaker:
    """The circuit breaker of one application.

    Args:
        failure_threshold: failures among the last `failure_window` verdicts that open it.
        failure_window: how many verdicts to look back on; if equal to `failure_threshold`, failures must be
            consecutive.
        open_time: seconds for which it stays open, and for which a probe keeps its place.
        probes: runs let through while it is half-open, and successes that close it.
        clock: returns the time in seconds; must be monotonic.
        on_change: called with the old and the new state after each change.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.
    """

    __slots__ = (
        "_clock",
        "_era",
        "_failures",
        "_on_change",
        "_open_time",
        "_probes",
        "_recent",
        "_running",
        "_state",
        "_succeeded",
        "_threshold",
        "_until",
    )

    def __init__(
        self,
        *,
        failure_threshold: int = 5,
        failure_window: int = 10,
        open_time: float = 30.0,
        probes: int = 1,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[BreakerState, BreakerState], None] | None = None,
    ) -> None:
        check_breaker_settings(failure_threshold, failure_window, open_time, probes)
        check_callable("clock", clock, "a function without arguments that returns the time in seconds")
        self._threshold = failure_threshold
        self._open_time = open_time
        self._probes = probes
        self._clock = clock
        self._on_change = on_change
        self._state = CLOSED
        self._era = 0
        self._until = 0.0
        #: While closed: the last verdicts, True for a failure, and how many of them are failures.
        self._recent: deque[bool] = deque(maxlen=failure_window)
        self._failures = 0
        #: While half-open: when the time of each probe is over, the first one first, and how many have succeeded.
        self._running: dict[Permit, float] = {}
        self._succeeded = 0

    @property
    def state(self) -> BreakerState:
        """The current state."""
        self._update()
        return self._state

    @property
    def opened(self) -> int:
        """How often it has opened."""
        return self._era

    @property
    def available(self) -> bool:
        """Whether a run would be let through now."""
        if self._state is CLOSED:
            return True
        self._update()
        if self._state is HALF_OPEN:
            return self._succeeded + len(self._running) < self._probes
        return self._state is CLOSED

    @property
    def available_in(self) -> float:
        """Seconds until a run is let through, unless a verdict changes that; 0 if one is let through now."""
        if self.available:
            return 0.0
        until = self._until if self._state is OPEN else min(self._running.values())
        return max(0.0, until - self._clock())

    def admit(self, *, well: bool = False) -> Permit:
        """Let a run through.

        Args:
            well: the permit's initial `well`: True for a run that owes no answer.

        Raises:
            RuntimeError: the breaker is not `available`.
        """
        if not self.available:
            raise RuntimeError(f"the circuit breaker is {self._state}: it lets no run through now")
        permit = Permit(self._era, well)
        if self._state is HALF_OPEN:
            self._running[permit] = self._clock() + self._open_time
        return permit

    def succeed(self, permit: Permit) -> None:
        """Report that the application did well in this run."""
        if permit.era != self._era:
            return
        self._update()
        if self._state is CLOSED:
            # Without a failure to push out of the window, successes need not be kept.
            if self._failures:
                self._note(False)
        else:
            self._running.pop(permit, None)
            self._succeed_as_probe()

    def fail(self, permit: Permit) -> None:
        """Report that the application failed in this run."""
        if permit.era != self._era:
            return
        self._update()
        if self._state is CLOSED:
            self._note(True)
            if self._failures >= self._threshold:
                self._open()
        else:
            self._open()

    def mark_well(self, permit: Permit) -> None:
        """Report that this run does well so far."""
        self._update()
        permit.well = True

    def release(self, permit: Permit) -> None:
        """Report that this run has ended without a verdict."""
        self._update()
        self._running.pop(permit, None)

    def _note(self, failed: bool) -> None:
        if len(self._recent) == self._recent.maxlen:
            self._failures -= self._recent[0]
        self._recent.append(failed)
        self._failures += failed

    def _update(self) -> None:
        """Bring the state up to date."""
        if self._state is OPEN:
            if self._clock() >= self._until:
                self._change(HALF_OPEN)
        elif self._running:
            now = self._clock()
            for permit in [permit for permit, until in self._running.items() if until <= now]:
                # The first success may have closed the breaker, and so removed the others.
                if self._running.pop(permit, None) is not None and permit.well:
                    self._succeed_as_probe()

    def _succeed_as_probe(self) -> None:
        self._succeeded += 1
        if self._succeeded >= self._probes:
            self._change(CLOSED)

    def _open(self) -> None:
        self._era += 1
        self._until = self._clock() + self._open_time
        self._change(OPEN)

    def _change(self, state: BreakerState) -> None:
        old, self._state = self._state, state
        self._recent.clear()
        self._running.clear()
        self._failures = self._succeeded = 0
        if self._on_change is not None:
            self._on_change(old, state)

"""One of a balancer's applications: its name and weight, its circuit breaker, its runs and what became of them."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any, TypedDict

from .breaker import Breaker

if TYPE_CHECKING:
    from .attempt import Attempt


class BackendStats(TypedDict):
    """A snapshot of one application; `started` = `running` + `succeeded` + `failed` + `abandoned`."""

    #: ``"closed"``, ``"open"`` or ``"half-open"``.
    state: str
    weight: float
    #: Runs going on now, and all that were begun.
    running: int
    started: int
    #: Runs that ended well, and those that did not, `slow` ones among them.
    succeeded: int
    failed: int
    slow: int
    #: Runs that say nothing of the application: cancelled, or the client went away, before it had answered.
    abandoned: int
    #: How often the circuit breaker has opened.
    opened: int


class Backend:
    """An application of a balancer, as strategies see it. To be read, not to be written."""

    __slots__ = (
        "abandoned",
        "application",
        "breaker",
        "failed",
        "index",
        "lifespan_state",
        "name",
        "owing",
        "running",
        "slow",
        "started",
        "succeeded",
        "weight",
    )

    def __init__(self, index: int, name: str, application: Any, weight: float, breaker: Breaker) -> None:
        #: Its place among the balancer's applications, from 0.
        self.index = index
        self.name = name
        self.application = application
        self.weight = weight
        self.breaker = breaker
        #: Runs going on.
        self.running = 0
        self.started = self.succeeded = self.failed = self.slow = self.abandoned = 0
        #: Runs that owe an answer, with the time from which on that is slow, soonest first. No dict, whose first one is
        #: found only behind the places of all that were removed before it.
        self.owing: collections.OrderedDict[Attempt, float] = collections.OrderedDict()
        #: What its lifespan has put into its state; None while it has none.
        self.lifespan_state: dict[str, Any] | None = None

    def find_slow(self, now: float) -> None:
        """Counts the runs that are slow by now."""
        while self.owing:
            attempt, due = next(iter(self.owing.items()))
            if due > now:
                return
            attempt.too_slow()

    def stats(self) -> BackendStats:
        return {
            "state": str(self.breaker.state),
            "weight": self.weight,
            "running": self.running,
            "started": self.started,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "slow": self.slow,
            "abandoned": self.abandoned,
            "opened": self.breaker.opened,
        }

    def __repr__(self) -> str:
        return f"<Backend {self.name!r}: {self.breaker.state}, {self.running} running>"

"""One of a balancer's applications: its name and weight, its circuit breaker, its runs and their results."""

from __future__ import annotations

import collections
from typing import Any, Protocol, TypedDict

from .breaker import Breaker


class Debtor(Protocol):
    """A run that owes an answer."""

    def too_slow(self) -> None:
        """Count the answer as overdue; from now on the run owes none."""
        ...


class BackendStats(TypedDict):
    """A snapshot of one application; `started` = `running` + `succeeded` + `failed` + `abandoned`."""

    #: ``"closed"``, ``"open"`` or ``"half-open"``.
    state: str
    weight: float
    #: Runs in progress, and all that were started.
    running: int
    started: int
    #: Runs that succeeded, and those that failed, `slow` ones included.
    succeeded: int
    failed: int
    slow: int
    #: Runs without a verdict: cancelled, or left by the client, before the application had answered.
    abandoned: int
    #: How often the circuit breaker has opened.
    opened: int


class Backend:
    """One application of a balancer, as strategies see it. Read-only for them."""

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
        #: Its position among the balancer's applications, from 0.
        self.index = index
        self.name = name
        self.application = application
        self.weight = weight
        self.breaker = breaker
        #: Runs in progress.
        self.running = 0
        self.started = self.succeeded = self.failed = self.slow = self.abandoned = 0
        #: Runs that owe an answer, each with the time at which it becomes overdue, the next first. Not a plain dict,
        #: which walks over the slots of all removed entries to find its first one.
        self.owing: collections.OrderedDict[Debtor, float] = collections.OrderedDict()
        #: The state that its lifespan has filled; None without a running lifespan.
        self.lifespan_state: dict[str, Any] | None = None

    def find_slow(self, now: float) -> None:
        """Count the runs that are overdue at `now`."""
        while self.owing:
            debtor, due = next(iter(self.owing.items()))
            if due > now:
                return
            debtor.too_slow()

    def stats(self) -> BackendStats:
        """Return a snapshot of the counters and the circuit breaker."""
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

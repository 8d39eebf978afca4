"""What the default hooks log in place of a line for each instance, while there are more than anybody could read."""

from __future__ import annotations

import collections
import logging
import weakref
from time import monotonic
from typing import Any

from ..core.describe import describe

logger = logging.getLogger("cyasgi.server")

#: Seconds between two summaries.
EVERY = 1.0
#: How many types of exceptions a summary names.
TYPES = 10


def log_exception(error: BaseException, details: Any) -> None:
    """Log a failure as `application_exception` does by default."""
    logger.error("Exception inside application (%s): %s", describe(details), error, exc_info=error)


class Summary:
    """Failures and lost messages since the last summary."""

    __slots__ = ("_begun", "_example", "_failed", "_in_flight", "_instances", "_interrupted", "_left", "_undelivered")

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        #: When the first of them was added, in seconds of the monotonic clock; None if there is none.
        self._begun: float | None = None
        #: Failures by type; and the first one: the application in words, and its error.
        self._failed: collections.Counter[str] = collections.Counter()
        self._example: tuple[str, BaseException] | None = None
        #: Undelivered messages, the number of their instances, and those of the instances that are still alive.
        self._undelivered = self._instances = 0
        self._left: weakref.WeakSet[Any] = weakref.WeakSet()
        #: Messages in flight, and the number of applications that had received and not finished them.
        self._in_flight = self._interrupted = 0

    def __bool__(self) -> bool:
        return self._begun is not None

    @property
    def due(self) -> bool:
        return self._begun is not None and monotonic() >= self._begun + EVERY

    def failed(self, error: BaseException, details: Any) -> None:
        self._begin()
        kind = type(error).__qualname__
        self._failed[kind if kind in self._failed or len(self._failed) < TYPES else "other"] += 1
        if self._example is None:
            self._example = describe(details), error

    def undelivered(self, count: int, details: Any) -> None:
        self._begin()
        self._undelivered += count
        # An instance may be reported again, for late messages; a plain dict is not.
        if isinstance(details, collections.abc.Hashable):
            if details in self._left:
                return
            self._left.add(details)
        self._instances += 1

    def interrupted(self, count: int) -> None:
        self._begin()
        self._in_flight += count
        self._interrupted += 1

    def _begin(self) -> None:
        if self._begun is None:
            self._begun = monotonic()

    def log(self) -> None:
        failed, example = self._failed, self._example
        undelivered, instances = self._undelivered, self._instances
        in_flight, interrupted = self._in_flight, self._interrupted
        self._clear()
        if example is not None:
            what, error = example
            logger.error(
                "%s failed, too many at once for an entry each (%s). The first of them (%s): %s",
                _more(failed.total(), "application"),
                ", ".join(f"{count} {kind}" for kind, count in failed.most_common()),
                what,
                error,
                exc_info=error,
            )
        if undelivered:
            logger.warning(
                "%s left in the %s, too many at once for a line each",
                "1 more undelivered message was"
                if undelivered == 1
                else f"{undelivered} more undelivered messages were",
                "queue of 1 instance" if instances == 1 else f"queues of {instances} instances",
            )
        if in_flight:
            logger.warning(
                "%s in flight, begun and not finished, when %s ended, too many at once for a line each",
                _more(in_flight, "message"),
                "1 application" if interrupted == 1 else f"{interrupted} applications",
            )


def _more(count: int, noun: str) -> str:
    """Return how many more there are, in words."""
    return f"1 more {noun}" if count == 1 else f"{count} more {noun}s"

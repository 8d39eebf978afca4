"""The messages that wait for one channel, and the instances that take them."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

#: Seconds of work that may wait here for one channel, so that its instances do not wait for the layer.
AHEAD = 0.02
#: The weight of the last message in the average of how long one takes.
WEIGHT = 0.25


class Origin(Protocol):
    """Where a message has come from, which is told what becomes of it."""

    def usable(self, item: Item) -> bool:
        """Return whether the message may be given to an application by now."""

    def open(self, item: Item) -> Any:
        """Return the message itself.

        Raises:
            Refused: it is none.
        """

    def take(self, item: Item) -> None:
        """Take note that an application is given the message, or that it was refused."""

    def finish(self, item: Item) -> None:
        """Take note that the application has finished the message, or has ended with it."""

    def restore(self, item: Item) -> None:
        """Put a message that an application was given, and has not received, before all that waits in its line."""


class Item:
    """One message, as it came."""

    __slots__ = ("content", "epoch", "number", "origin", "score", "size")

    def __init__(
        self, origin: Origin, content: Any, *, score: Any = 0, size: int = 0, epoch: int = 0, number: int = 0
    ) -> None:
        self.origin = origin
        self.content = content
        #: What orders it within its channel.
        self.score = score
        #: Bytes.
        self.size = size
        #: Which of its origin's records it is in, and where.
        self.epoch = epoch
        self.number = number


class Slot:
    """One instance of a channel, and what it is doing."""

    __slots__ = ("asked", "began", "busy", "instance", "item", "left", "line", "message", "number")

    def __init__(self, line: Line, number: int) -> None:
        self.line = line
        self.number = number
        self.instance: Any = None
        #: Whether it counts as at work: it starts, or has a message in hand.
        self.busy = True
        #: Whether it is counted on no more, since it ends.
        self.left = False
        #: Whether its application has ever called `receive()`.
        self.asked = False
        #: What it was given last, and when, in seconds of the monotonic clock.
        self.item: Item | None = None
        self.message: Any = None
        self.began = 0.0

    @property
    def scope_id(self) -> Any:
        """The id of the instance: the channel's name, as for Channels' Worker; further ones have a number as well."""
        return self.line.channel if self.number == 0 else (self.line.channel, self.number)

    def finish(self) -> None:
        """Note that it has no message in hand any more."""
        item, self.item = self.item, None
        self.message = None
        if item is not None:
            item.origin.finish(item)


class Total:
    """The bytes that wait in all lines together."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0


class Line:
    """One channel: what waits for it, oldest first, and its instances."""

    __slots__ = (
        "_pace",
        "aside",
        "channel",
        "contending",
        "failures",
        "idle",
        "last_taken",
        "paused_until",
        "size",
        "slots",
        "starting",
        "total",
        "waiting",
    )

    def __init__(self, channel: str, total: Total) -> None:
        self.channel = channel
        self.waiting: collections.deque[Item] = collections.deque()
        #: What waits as well, and lets all others pass until it is taken up again.
        self.aside: list[Item] = []
        #: Bytes of both, and of those of all lines.
        self.size = 0
        self.total = total
        #: By number.
        self.slots: dict[int, Slot] = {}
        #: The slots whose application waits for a message, the one that waits longest first.
        self.idle: dict[Slot, None] = {}
        #: When the last message was begun, in seconds of the monotonic clock.
        self.last_taken = 0.0
        #: How many instances in a row have ended before they asked for a message; until when none is started.
        self.failures = 0
        self.paused_until = 0.0
        #: Whether it waits for its turn while as many instances are at work as may be.
        self.contending = False
        #: How many of its instances have not asked for a message yet.
        self.starting = 0
        #: Seconds for which a message is in hand, on average.
        self._pace = math.inf

    @property
    def busy(self) -> int:
        """How many of its instances are at work."""
        return len(self.slots) - len(self.idle)

    def append(self, item: Item) -> None:
        self.waiting.append(item)
        self._count(item.size)

    def prepend(self, item: Item) -> None:
        """Put an item before those that wait."""
        self.waiting.appendleft(item)
        self._count(item.size)

    def pop(self) -> Item:
        item = self.waiting.popleft()
        self._count(-item.size)
        return item

    def _count(self, size: int) -> None:
        self.size += size
        self.total.size += size

    def set_aside(self, condition: Callable[[Item], bool]) -> bool:
        """Let others pass what waits here and meets a condition; return whether anything does."""
        aside = [item for item in self.waiting if condition(item)]
        if aside:
            self.aside += aside
            self.waiting = collections.deque(item for item in self.waiting if not condition(item))
        return bool(aside)

    def take_up(self, origin: Origin) -> None:
        """Put what was set aside of an origin behind what waits."""
        if self.aside:
            self.waiting += [item for item in self.aside if item.origin is origin]
            self.aside = [item for item in self.aside if item.origin is not origin]

    def drop(self, origin: Origin, epoch: int, first: int = 0) -> None:
        """Remove what waits here from an origin, of one of its epochs, from this number on."""
        self.take_where(lambda item: item.origin is origin and item.epoch == epoch and item.number >= first)

    def take_where(self, condition: Callable[[Item], bool]) -> list[Item]:
        """Remove and return what waits here, set aside or not, and meets a condition."""
        taken = [item for item in (*self.waiting, *self.aside) if condition(item)]
        if taken:
            self.waiting = collections.deque(item for item in self.waiting if not condition(item))
            self.aside = [item for item in self.aside if not condition(item)]
            self._count(-sum(item.size for item in taken))
        return taken

    def drop_all(self) -> None:
        """Remove all that waits here."""
        self.take_where(lambda item: True)

    def finished(self, seconds: float) -> None:
        """Note how long a message was in hand."""
        pace = self._pace
        self._pace = seconds if pace == math.inf else pace + (seconds - pace) * WEIGHT

    def ahead(self, now: float, seconds: float, most: int) -> int:
        """Return how many messages may wait beyond those that can begin at once: what is finished in so many seconds.

        So a consumer that is fast is never without work, and one that is slow leaves it to others.
        """
        pace = self._pace
        if self.busy:
            # Of those in hand none was finished since.
            pace = max(pace, now - self.last_taken)
        return most if pace * most <= seconds else int(seconds / pace)


def clock() -> float:
    """Return the time in seconds; it goes on while the process is stopped."""
    return time.monotonic()

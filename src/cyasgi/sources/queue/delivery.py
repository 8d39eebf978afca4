"""Deliveries, the lanes in which those of one scope follow each other, and the partitions that they are of."""

from __future__ import annotations

import asyncio
import collections
import itertools
from typing import Any

from ...wire.queue import Letter
from .engine import Arrival, Hold

_numbers = itertools.count(1)


class Holding:
    """A partition that the server holds, and what it has of it."""

    __slots__ = ("hold", "in_hand", "lanes", "letting_go", "nothing_in_hand", "over", "partition")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        #: Assigned as soon as the broker has given it.
        self.hold: Hold | None = None
        #: By scope_id.
        self.lanes: dict[str, Lane] = {}
        #: Messages that instances have.
        self.in_hand = 0
        #: Whether it is about to be given back: nothing begins any more.
        self.letting_go = False
        #: Whether it was given back, or lost: whatever comes of its messages comes too late.
        self.over = False
        self.nothing_in_hand: asyncio.Future[None] | None = None

    @property
    def sure(self) -> bool:
        """Whether the partition is certainly held, so that messages of it may begin."""
        return self.hold is not None and self.hold.sure

    def came_back(self) -> None:
        """Note that an instance no longer has a message."""
        self.in_hand -= 1
        waiter = self.nothing_in_hand
        if not self.in_hand and waiter is not None and not waiter.done():
            waiter.set_result(None)


class Lane:
    """The messages of one scope: one that its instance has, and those that wait behind it."""

    __slots__ = ("current", "held", "holding", "parked", "received", "scope_id", "timer", "waiting")

    def __init__(self, scope_id: str, holding: Holding) -> None:
        self.scope_id = scope_id
        self.holding = holding
        self.current: Delivery | None = None
        #: Where the application acknowledges them: those for which it has come back, by their numbers.
        self.held: dict[int, Delivery] = {}
        #: Whether the application has received the current one.
        self.received = False
        self.waiting: collections.deque[Delivery] = collections.deque()
        #: Whether it waits for a place for its instance, or for a suspect: whoever has it go on has it in a list.
        self.parked = False
        #: Set while the lane pauses.
        self.timer: asyncio.Handle | None = None

    def stop(self) -> None:
        """Do not go on after a pause."""
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()


class QueueScope(dict[str, Any]):
    """The scope of an instance, with what the server knows of it."""

    __slots__ = ("lane", "received")

    def __init__(self, fields: dict[str, Any], lane: Lane) -> None:
        super().__init__(fields)
        #: That of its latest message.
        self.lane = lane
        #: Whether the application has received a message.
        self.received = False

    @property
    def holding(self) -> Holding:
        """The partition that it is of."""
        return self.lane.holding


class Delivery:
    """A message that a broker has delivered."""

    __slots__ = (
        "came_back",
        "careful",
        "failures",
        "holding",
        "instance",
        "lane",
        "letter",
        "number",
        "settled",
        "suspect",
        "tag",
        "times",
    )

    def __init__(self, arrival: Arrival, lane: Lane) -> None:
        #: Its delivery_id.
        self.number = 0
        self.renumber()
        self.tag = arrival.tag
        self.letter: Letter = arrival.letter
        self.lane = lane
        self.holding = lane.holding
        #: How often it was delivered, this time included, here or elsewhere.
        self.times = arrival.deliveries
        #: How often an application has failed with it, here.
        self.failures = 0
        #: The instance that has it.
        self.instance: Any = None
        #: Whether the broker was told what to do with it.
        self.settled = False
        #: Whether it may be what has ended its workers: then it is to begin alone.
        self.suspect = False
        #: Whether it was in hand with others when an application failed: then it is to be in hand alone.
        self.careful = False
        #: Done when its instance no longer has it; set by those who wait for that.
        self.came_back: asyncio.Future[None] | None = None

    @property
    def scope_id(self) -> str:
        return self.lane.scope_id

    def renumber(self) -> None:
        """Take another delivery_id: whoever has had the message before is not to settle it any more."""
        self.number = next(_numbers)

    def is_of(self, scope: Any) -> bool:
        """Return whether the instance that has it is the one of this scope, and no other one of the same scope_id."""
        return type(scope) is not QueueScope or (self.instance is not None and self.instance.scope is scope)

    def __repr__(self) -> str:
        return f"<delivery {self.number} of scope_id {self.scope_id!r}>"


def failure_text(error: Any, most: int = 1000) -> str:
    """Return an error in words, as it is kept with a dead letter."""
    try:
        text = f"{type(error).__qualname__}: {error}" if isinstance(error, BaseException) else str(error)
    except Exception:
        # The error's own __str__ has raised.
        text = type(error).__qualname__
    # Brokers take what can be encoded.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= most else f"{text[: most - 1]}…"

"""What a queue server and an engine know of each other: sessions, partitions that are held, and deliveries.

An *engine* is the way to a *broker*, which has the queues: to RabbitMQ, or `MemoryEngine`, which is a broker itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ...wire.queue import Letter


class EngineError(Exception):
    """The broker cannot be reached, has refused something, or is gone; the message is one line that says which."""


@dataclass(frozen=True, slots=True)
class QueueShape:
    """What a queue is like: every worker of it has the same.

    Args:
        name: of the queue.
        partitions: in how many parts it is spread over workers. The messages of one scope_id are in one of them.
        prefetch: messages of one partition that a worker may have and not have acknowledged.
    """

    name: str
    partitions: int
    prefetch: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that a broker delivers, of a partition that is held."""

    #: Stands for it in the partition's hold. Later arrivals have greater ones.
    tag: int
    scope_id: str
    letter: Letter
    #: How often it was delivered, this time included, as far as the broker knows.
    deliveries: int
    #: What is wrong with it, so that no application can receive it; empty if nothing is.
    malformed: str = ""


#: Called with each arrival, in order.
Sink = Callable[[Arrival], object]


class Hold(Protocol):
    """A partition that this worker holds: no other one gets messages of it."""

    @property
    def partition(self) -> int: ...

    @property
    def lost(self) -> asyncio.Future[str]:
        """Done when the broker has taken the partition away, with the reason in words."""

    @property
    def sure(self) -> bool:
        """Whether no other worker can have been given the partition. After the process was frozen, or its loop blocked,
        that is known again when the broker has answered."""

    def acknowledge(self, tag: int) -> None:
        """Remove a message from the queue, at once or together with others within a moment."""

    def requeue(self, tag: int) -> None:
        """Have a message delivered again, to whoever holds the partition."""

    async def pause(self) -> None:
        """Get no more arrivals: when this has returned, the last one is there."""

    async def release(self) -> None:
        """Acknowledge what is settled, give back all other messages in their order, and let another worker have it."""


class Session(Protocol):
    """A connection to a broker that is open."""

    @property
    def lost(self) -> asyncio.Future[str]:
        """Done when the connection is gone, with the reason in words."""

    async def workers(self) -> int:
        """Return how many workers of this queue are connected, this one included."""

    async def unheld(self) -> list[int]:
        """Return the partitions that nobody seems to hold."""

    async def claim(self, partition: int, sink: Sink) -> Hold | None:
        """Hold a partition; return None if another worker does."""

    async def claim_extra(self, number: int) -> bool:
        """Take one of the permits to hold one partition more than others do; return whether it was free."""

    async def release_extra(self, number: int) -> None:
        """Give the permit back."""

    async def publish(self, queue: str, scope_id: str, letter: Letter) -> None:
        """Publish a message, and return when the broker has confirmed it.

        Raises:
            EngineError: the broker refuses, or is gone.
            ValueError: the headers are more than the broker takes; so, too, for answers.
        """

    async def reply(self, reply_to: str, letter: Letter) -> bool:
        """Publish an answer; return False if nobody waits for it any more."""

    async def reply_by(self, exchange: str, scope_id: str, letter: Letter) -> None:
        """Publish an answer to a message without `reply_to`."""

    async def bury(self, letter: Letter) -> None:
        """Publish a dead letter, without some of its headers if there are more of them than the broker takes."""

    async def note_suspect(self, key: str) -> int:
        """Note for a day that a message is about to begin which may end its worker; return how often it was noted."""

    async def clear_suspect(self, key: str) -> None:
        """Forget these notes."""

    async def close(self) -> None:
        """End the session. What is not acknowledged is delivered again, elsewhere."""


class Engine(Protocol):
    """Where queues are."""

    async def connect(self, shape: QueueShape) -> Session:
        """Open a session, and make the queue if there is none.

        Raises:
            EngineError: that is not possible.
        """

    def describe(self) -> str:
        """Return where it is, without passwords."""

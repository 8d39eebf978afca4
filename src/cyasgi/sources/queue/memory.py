"""A broker in memory, which behaves as RabbitMQ does: for one process, and for the tests of applications."""

from __future__ import annotations

import asyncio
import collections
import logging
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

from ..._settings import Integer
from ...core.tasks import resolved
from ...wire.queue import Letter, check_name, parse_letter
from .engine import Arrival, EngineError, Hold, QueueShape, Session, Sink

logger = logging.getLogger("cyasgi.sources.queue")

#: Messages that an engine takes before it refuses more.
MOST_MESSAGES = 100_000
#: Dead letters of a queue that it keeps.
MOST_DEAD = 10_000


@dataclass(slots=True)
class Stored:
    """A message in the queue."""

    number: int
    scope_id: str
    letter: Letter
    until: float | None
    #: Bytes that it counts as.
    size: int
    deliveries: int = 0


@dataclass(slots=True)
class Partition:
    """A part of a queue: what waits in it, and who holds it."""

    waiting: collections.deque[Stored] = field(default_factory=collections.deque)
    hold: MemoryHold | None = None


class MemoryQueue:
    """One queue of an engine."""

    def __init__(self, name: str, partitions: int) -> None:
        self.name = name
        self.partitions = [Partition() for _ in range(partitions)]
        self.sessions: set[MemorySession] = set()
        self.extras: dict[int, MemorySession] = {}
        #: How often messages were noted as suspects.
        self.suspects: collections.Counter[str] = collections.Counter()
        #: Dead letters, the latest ones.
        self.dead: collections.deque[Letter] = collections.deque(maxlen=MOST_DEAD)

    def bury(self, letter: Letter) -> None:
        """Keep a dead letter."""
        if len(self.dead) == MOST_DEAD:
            logger.warning("the oldest of %d dead letters of %s is dropped", MOST_DEAD, self.name)
        self.dead.append(letter)

    def partition_of(self, scope_id: str) -> Partition:
        return self.partitions[zlib.crc32(scope_id.encode()) % len(self.partitions)]


class MemoryEngine:
    """Queues in memory, lost when the process ends. Servers with the same engine share its queues.

    Args:
        most: how many messages it takes before `publish` is refused.
    """

    def __init__(self, most: int = MOST_MESSAGES) -> None:
        Integer(1)("most", most)
        self.most = most
        self.queues: dict[str, MemoryQueue] = {}
        #: Answers by the `reply_to` of what they answer, oldest first. A name has to be here before it is answered to.
        self.replies: dict[str, collections.deque[Letter]] = {}
        self._count = 0
        self._size = 0
        self._numbers = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def describe(self) -> str:
        return "memory:"

    async def connect(self, shape: QueueShape) -> Session:
        queue = self.queues.setdefault(shape.name, MemoryQueue(shape.name, shape.partitions))
        if len(queue.partitions) != shape.partitions:
            raise EngineError(
                f"the queue {shape.name!r} has {len(queue.partitions)} partitions: accepted are as many, "
                f"got {shape.partitions}"
            )
        for session in [one for one in queue.sessions if one.stale]:
            session.cut("its event loop was closed")
        session = MemorySession(self, queue, shape.prefetch)
        queue.sessions.add(session)
        return session

    def declare(self, name: str, partitions: int = 32) -> None:
        """Make a queue before any server has."""
        self.queues.setdefault(name, MemoryQueue(name, partitions))

    async def publish(self, queue: str, scope_id: str, body: bytes, **properties: Any) -> None:
        """Publish a message as others do.

        Args:
            properties: `headers`, `reply_to` and all others of a ``queue.publish`` message.

        Raises:
            EngineError: there is no such queue, or the engine is full.
            TypeError, ValueError: a value is not accepted.
        """
        check_name(scope_id, "'scope_id'")
        self.put(queue, scope_id, parse_letter({"body": body, **properties}, "a message"))

    def put(self, name: str, scope_id: str, letter: Letter, size: int | None = None) -> None:
        """Queue a message.

        Args:
            size: bytes that it counts as in `room`; None: those of its body.

        Raises:
            EngineError: there is no such queue, or the engine is full.
        """
        queue = self.queues.get(name)
        if queue is None:
            raise EngineError(f"there is no queue {name!r}")
        if self._count >= self.most:
            raise EngineError(f"the engine is full: it has {self.most} messages")
        self._numbers += 1
        self._count += 1
        size = len(letter.body) if size is None else size
        self._size += size
        until = None if letter.ttl is None else time.monotonic() + letter.ttl
        partition = queue.partition_of(scope_id)
        partition.waiting.append(Stored(self._numbers, scope_id, letter, until, size))
        if partition.hold is not None:
            partition.hold.pump_soon()

    async def join(self) -> None:
        """Wait until every message was acknowledged, or is a dead letter."""
        while self._count:
            await self._change()

    async def room(self, messages: int, size: int) -> None:
        """Wait until it has fewer messages than `messages`, and less than `size` bytes of them."""
        while self._count >= messages or self._size >= size:
            await self._change()

    def gone(self, stored: Stored) -> None:
        """Note that a message has left for good."""
        self._count -= 1
        self._size -= stored.size
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            resolved(waiter)

    async def _change(self) -> None:
        """Wait until a message has left."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def dead_letters(self, queue: str) -> list[Letter]:
        """Return the dead letters of a queue, oldest first."""
        return list(self.queues[queue].dead) if queue in self.queues else []


class MemorySession:
    """One worker's session."""

    def __init__(self, engine: MemoryEngine, queue: MemoryQueue, prefetch: int) -> None:
        self._engine = engine
        self._queue = queue
        self._prefetch = prefetch
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def stale(self) -> bool:
        """Whether its event loop was closed before it ended."""
        return self.lost.get_loop().is_closed()

    async def workers(self) -> int:
        return len(self._queue.sessions)

    async def unheld(self) -> list[int]:
        return [number for number, partition in enumerate(self._queue.partitions) if partition.hold is None]

    async def claim(self, partition: int, sink: Sink) -> Hold | None:
        self._check()
        part = self._queue.partitions[partition]
        if part.hold is not None:
            return None
        part.hold = MemoryHold(self._engine, self._queue, partition, self._prefetch, sink, self)
        part.hold.pump_soon()
        return part.hold

    async def claim_extra(self, number: int) -> bool:
        self._check()
        return self._queue.extras.setdefault(number, self) is self

    async def release_extra(self, number: int) -> None:
        if self._queue.extras.get(number) is self:
            del self._queue.extras[number]

    async def publish(self, queue: str, scope_id: str, letter: Letter) -> None:
        self._check()
        self._engine.put(queue, scope_id, letter)

    async def reply(self, reply_to: str, letter: Letter) -> bool:
        self._check()
        replies = self._engine.replies.get(reply_to)
        if replies is None:
            return False
        replies.append(letter)
        return True

    async def reply_by(self, exchange: str, scope_id: str, letter: Letter) -> None:
        await self.publish(exchange, scope_id, letter)

    async def bury(self, letter: Letter) -> None:
        self._check()
        self._queue.bury(letter)

    async def note_suspect(self, key: str) -> int:
        self._check()
        self._queue.suspects[key] += 1
        return self._queue.suspects[key] - 1

    async def clear_suspect(self, key: str) -> None:
        self._check()
        self._queue.suspects.pop(key, None)

    def cut(self, reason: str = "the connection was cut") -> None:
        """Lose the session, as when a connection breaks: what is not acknowledged is delivered again."""
        _lose(self.lost, reason)
        self._leave(reason)

    async def close(self) -> None:
        self._leave("the session was closed")

    def _check(self) -> None:
        if self not in self._queue.sessions:
            raise EngineError("the session is over")

    def _leave(self, reason: str) -> None:
        self._queue.sessions.discard(self)
        for number in [number for number, owner in self._queue.extras.items() if owner is self]:
            del self._queue.extras[number]
        for partition in self._queue.partitions:
            if partition.hold is not None and partition.hold.session is self:
                partition.hold.take_away(reason)


def _lose(lost: asyncio.Future[str], reason: str) -> None:
    if not lost.done() and not lost.get_loop().is_closed():
        lost.set_result(reason)


class MemoryHold:
    """A partition that a session holds."""

    def __init__(
        self,
        engine: MemoryEngine,
        queue: MemoryQueue,
        partition: int,
        prefetch: int,
        sink: Sink,
        session: MemorySession,
    ) -> None:
        self.partition = partition
        self.session = session
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._engine = engine
        self._queue = queue
        self._prefetch = prefetch
        self._sink: Sink | None = sink
        self._tags = 0
        self._unacknowledged: dict[int, Stored] = {}
        self._pumping: asyncio.Handle | None = None

    @property
    def sure(self) -> bool:
        return not self.lost.done()

    def pump_soon(self) -> None:
        """Deliver in the next pass of the loop what may be delivered."""
        if self._pumping is None and self._sink is not None:
            self._pumping = asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = None
        waiting = self._queue.partitions[self.partition].waiting
        while self._sink is not None and waiting and len(self._unacknowledged) < self._prefetch:
            stored = waiting.popleft()
            if stored.until is not None and time.monotonic() >= stored.until:
                # As RabbitMQ does that has a place for dead letters.
                self._queue.bury(stored.letter)
                self._engine.gone(stored)
                continue
            stored.deliveries += 1
            self._tags += 1
            self._unacknowledged[self._tags] = stored
            self._sink(Arrival(self._tags, stored.scope_id, stored.letter, stored.deliveries))

    def acknowledge(self, tag: int) -> None:
        stored = self._unacknowledged.pop(tag, None)
        if stored is not None:
            self._engine.gone(stored)
            self.pump_soon()

    def requeue(self, tag: int) -> None:
        stored = self._unacknowledged.pop(tag, None)
        if stored is not None:
            self._queue.partitions[self.partition].waiting.appendleft(stored)
            self.pump_soon()

    async def pause(self) -> None:
        self._sink = None

    async def release(self) -> None:
        self.take_away("it was released")

    def take_away(self, reason: str) -> None:
        """Give everything back, and let others have the partition."""
        self._sink = None
        if self._pumping is not None:
            self._pumping.cancel()
            self._pumping = None
        partition = self._queue.partitions[self.partition]
        if partition.hold is not self:
            return
        partition.hold = None
        partition.waiting.extendleft(sorted(self._unacknowledged.values(), key=lambda one: -one.number))
        self._unacknowledged.clear()
        _lose(self.lost, reason)

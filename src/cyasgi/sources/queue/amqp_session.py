"""One worker's connection to RabbitMQ: what it asks of the broker."""

from __future__ import annotations

import asyncio
import logging
import struct
import sys
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiormq
from aiormq.exceptions import (
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    InvalidFrameError,
    PublishError,
)

from ...wire.queue import Letter
from .amqp_calls import answered, close_quietly, words_of
from .amqp_hold import AMQPHold
from .amqp_letters import header_size, properties_of
from .dead_letters import shortened
from .engine import EngineError, Hold, QueueShape, Sink

logger = logging.getLogger("cyasgi.sources.queue")

#: How the library ends when it cannot read what has arrived.
UNREADABLE = (InvalidFrameError, ArithmeticError, LookupError, RecursionError, ValueError, struct.error)
#: How long the broker keeps notes of suspects, in milliseconds.
NOTED = 24 * 60 * 60 * 1000
#: The size of a frame where the broker names none.
LARGEST_FRAME = 2**31
#: How often the broker is asked for a sign of life within a heartbeat.
SIGNS = 4
#: Deliveries of a message after which RabbitMQ itself moves it to the dead letters: never, workers do that before.
DELIVERY_LIMIT = 1_000_000
#: How often a queue is made that others may delete at the same time.
ATTEMPTS = 5


def now() -> float:
    """Return seconds of a clock that is never set. On Linux it goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


class AMQPSession:
    """A connection that is open. Locks are exclusive queues, which the broker deletes with the connection."""

    def __init__(
        self,
        connection: Any,
        shape: QueueShape,
        heartbeat: int,
        description: str,
        on_unreadable: Callable[[], object],
    ) -> None:
        self.shape = shape
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._connection = connection
        self._description = description
        #: Channels for publishing, by exchange: one that is not there closes its channel.
        self._publishers: dict[str, Any] = {}
        #: By exchange and message_id, while a message is on its way that has one.
        self._on_their_way: weakref.WeakValueDictionary[tuple[str, str], asyncio.Lock] = weakref.WeakValueDictionary()
        self._control: Any = None
        #: The tag of the consumer that counts as this worker, and who asks how many there are.
        self._counted = ""
        self._counting = asyncio.Lock()
        self._holds: dict[int, AMQPHold] = {}
        #: When the broker was last asked something that it has answered, by now().
        self._asked = now()
        self._heartbeat = heartbeat
        self._watcher: asyncio.Task[None] | None = None
        self._on_unreadable = on_unreadable
        connection.closing.add_done_callback(self._gone)

    @property
    def sure(self) -> bool:
        """Whether the broker cannot have taken anything away: it has heard of this worker within a heartbeat."""
        return not self.lost.done() and now() - self._asked < self._heartbeat

    def _gone(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        if isinstance(error, UNREADABLE):
            self._on_unreadable()
        self._lose("the connection was closed" if error is None else words_of(error))

    def _lose(self, reason: str) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        if not self.lost.done():
            self.lost.set_result(f"{self._description}: {reason}")
        for hold in list(self._holds.values()):
            hold.take_away(reason)

    async def _watch(self) -> None:
        """Ask the broker for a sign of life now and then, whatever else is waited for."""
        while True:
            await asyncio.sleep(self._heartbeat / SIGNS)
            try:
                await self.workers()
            except EngineError as error:
                self._lose(str(error))
                return
            except Exception as error:
                # Nobody waits for this task, and without it the session would never be sure again.
                logger.exception("the connection is given up: a sign of life could not be asked for")
                self._lose(words_of(error))
                return

    @asynccontextmanager
    async def _channel(self, **options: Any) -> AsyncIterator[Any]:
        """A channel for what may be refused: a refusal closes it."""
        channel = await answered(self._connection.channel(**options))
        try:
            yield channel
        finally:
            await close_quietly(channel)

    # The queue

    async def exists(self, queue: str) -> bool:
        async with self._channel(publisher_confirms=False) as channel:
            try:
                await answered(channel.queue_declare(queue, passive=True))
            except EngineError as error:
                if isinstance(error.__cause__, ChannelNotFoundEntity):
                    return False
                raise
            return True

    async def declare_exchange(self) -> None:
        async with self._channel(publisher_confirms=False) as channel:
            try:
                await answered(
                    channel.exchange_declare(self.shape.name, exchange_type="x-consistent-hash", durable=True)
                )
            except EngineError as error:
                if "unknown exchange type" in str(error):
                    raise EngineError(
                        f"{error}: the broker needs its plugin rabbitmq_consistent_hash_exchange"
                    ) from error
                if isinstance(error.__cause__, ChannelPreconditionFailed):
                    raise EngineError(f"the exchange {self.shape.name!r} is of another kind: {error}") from error
                raise

    async def declare_dead_letters(self) -> None:
        await self._declare(f"{self.shape.name}.dead", {"x-queue-type": "quorum"})

    async def declare_partition(self, number: int) -> None:
        name = self.shape.name
        arguments = {
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            # Without a limit, RabbitMQ 3 puts what comes back behind all others.
            "x-delivery-limit": DELIVERY_LIMIT,
            # For what the broker itself gives up, such as messages whose time has run out.
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": f"{name}.dead",
        }
        await self._declare(f"{name}.{number}", arguments, bind=True)

    async def _declare(self, queue: str, arguments: dict[str, Any], *, bind: bool = False) -> None:
        async with self._channel(publisher_confirms=False) as channel:
            try:
                await answered(channel.queue_declare(queue, durable=True, arguments=arguments))
            except EngineError as error:
                if isinstance(error.__cause__, ChannelPreconditionFailed):
                    raise EngineError(f"the queue {queue!r} is of another kind: {error}") from error
                raise
            if bind:
                await answered(channel.queue_bind(queue, self.shape.name, "1"))

    # Workers

    async def register(self) -> None:
        """Be counted as a worker: by a consumer of a queue in which nothing ever comes.

        The queue goes with its last consumer, which may be just before this one begins.
        """
        for left in reversed(range(ATTEMPTS)):
            self._control = await answered(self._connection.channel(publisher_confirms=False))
            try:
                await self.workers()
                break
            except EngineError as error:
                if not left or not isinstance(error.__cause__, ChannelNotFoundEntity):
                    raise
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    @property
    def _workers_queue(self) -> str:
        return f"{self.shape.name}.workers"

    async def workers(self) -> int:
        async with self._counting:
            began = now()
            count = await self._count()
            if self._counted not in self._control.consumers:
                if self._counted:
                    logger.error("the queue %s was deleted: it is made anew", self._workers_queue)
                consumed = await answered(self._control.basic_consume(self._workers_queue, _ignore, no_ack=True))
                self._counted = consumed.consumer_tag
                count = await self._count()
            if not count:
                raise EngineError("the broker no longer counts this worker")
            self._asked = began
        for hold in list(self._holds.values()):
            hold.look()
        return count

    async def _count(self) -> int:
        """Return how many workers there are, and make the queue of which they are consumers if there is none."""
        declared = await answered(self._control.queue_declare(self._workers_queue, durable=True, auto_delete=True))
        return int(declared.consumer_count)

    async def unheld(self) -> list[int]:
        found: list[int] = []
        first: int | None = 0
        while first is not None:
            first = await self._look_from(first, found)
        return found

    async def _look_from(self, first: int, found: list[int]) -> int | None:
        """Add to `found` what nobody holds of the partitions from the first one on.

        A queue that somebody has deleted, whose refusal closes the channel, is made anew; then return the next one.
        """
        async with self._channel(publisher_confirms=False) as channel:
            for number in range(first, self.shape.partitions):
                queue = f"{self.shape.name}.{number}"
                try:
                    counted = await answered(channel.queue_declare(queue, passive=True))
                except EngineError as error:
                    if not isinstance(error.__cause__, ChannelNotFoundEntity):
                        raise
                    logger.error("the queue %s was deleted, and what was in it: it is made anew", queue)
                    await self.declare_partition(number)
                    found.append(number)
                    return number + 1
                if not counted.consumer_count:
                    found.append(number)
        return None

    async def _lock(self, queue: str) -> bool:
        async with self._channel(publisher_confirms=False) as channel:
            try:
                await answered(channel.queue_declare(queue, exclusive=True))
            except EngineError as error:
                if isinstance(error.__cause__, ChannelLockedResource):
                    return False
                raise
            return True

    async def unlock(self, queue: str) -> None:
        """Delete an exclusive queue; if that fails, lose the session: the broker deletes it with the connection."""
        try:
            await answered(self._control.queue_delete(queue))
        except EngineError as error:
            self._lose(str(error))

    async def claim(self, partition: int, sink: Sink) -> Hold | None:
        name = f"{self.shape.name}.{partition}"
        if partition in self._holds or not await self._lock(f"{name}.owner"):
            return None
        channel = None
        try:
            channel = await answered(self._connection.channel(publisher_confirms=False))
            hold = AMQPHold(self, channel, partition, sink)
            self._holds[partition] = hold
            await hold.begin(name)
        except BaseException:
            self._holds.pop(partition, None)
            if channel is not None:
                await close_quietly(channel)
            if not self.lost.done():
                await self.unlock(f"{name}.owner")
            raise
        return hold

    def forget(self, hold: AMQPHold) -> None:
        """Note that a hold is over."""
        if self._holds.get(hold.partition) is hold:
            del self._holds[hold.partition]

    async def claim_extra(self, number: int) -> bool:
        return await self._lock(f"{self.shape.name}.permit.{number}")

    async def release_extra(self, number: int) -> None:
        await self.unlock(f"{self.shape.name}.permit.{number}")

    async def note_suspect(self, key: str) -> int:
        # Notes are messages in a queue of their own, which the broker deletes when nobody has used it for a day.
        queue, arguments = f"{self.shape.name}.suspect.{key}", {"x-expires": NOTED}
        async with self._channel(publisher_confirms=False) as channel:
            declared = await answered(channel.queue_declare(queue, durable=True, arguments=arguments))
        if not await self._publish("", queue, Letter(b"")):
            raise EngineError(f"there is no queue {queue}")
        return int(declared.message_count)

    async def clear_suspect(self, key: str) -> None:
        async with self._channel(publisher_confirms=False) as channel:
            await answered(channel.queue_delete(f"{self.shape.name}.suspect.{key}"))

    # Publishing

    @property
    def _most_header(self) -> int:
        """The size of a frame that the broker takes, in bytes."""
        return self._connection.connection_tune.frame_max or LARGEST_FRAME

    async def publish(self, queue: str, scope_id: str, letter: Letter) -> None:
        if not await self._publish(queue, scope_id, letter):
            raise EngineError(f"the exchange {queue!r} has no queue for scope_id {scope_id!r}")

    async def reply(self, reply_to: str, letter: Letter) -> bool:
        return await self._publish("", reply_to, letter)

    async def reply_by(self, exchange: str, scope_id: str, letter: Letter) -> None:
        await self.publish(exchange, scope_id, letter)

    async def bury(self, letter: Letter) -> None:
        letter = shortened(letter, self._most_header, header_size)
        queue = f"{self.shape.name}.dead"
        if await self._publish("", queue, letter):
            return
        logger.error("the queue %s was deleted, and what was in it: it is made anew", queue)
        await self.declare_dead_letters()
        if not await self._publish("", queue, letter):
            raise EngineError(f"there is no queue {queue}")

    async def _publish(self, exchange: str, routing_key: str, letter: Letter) -> bool:
        """Publish, and return when the broker has confirmed it: False if it has no queue for it.

        Raises:
            ValueError: the properties do not fit into a frame. The broker would close the connection.
        """
        # All that is no header takes less than any broker allows.
        if letter.headers and (size := header_size(letter)) > self._most_header:
            raise ValueError(
                f"the message's headers and properties have {size} bytes: accepted are {self._most_header}"
            )
        if not letter.message_id:
            # The library makes one of its own.
            return await self._confirmed(exchange, routing_key, letter)
        # It knows a message that comes back by its message_id alone, which must not be that of another one as well.
        key = exchange, letter.message_id
        lock = self._on_their_way.get(key)
        if lock is None:
            lock = self._on_their_way[key] = asyncio.Lock()
        async with lock:
            return await self._confirmed(exchange, routing_key, letter)

    async def _confirmed(self, exchange: str, routing_key: str, letter: Letter) -> bool:
        channel: Any = await self._publisher(exchange)
        try:
            await answered(
                channel.basic_publish(
                    letter.body,
                    exchange=exchange,
                    routing_key=routing_key,
                    properties=properties_of(letter),
                    mandatory=True,
                )
            )
        except EngineError as error:
            if isinstance(error.__cause__, PublishError):
                return False
            if channel.is_closed and self._publishers.get(exchange) is channel:
                # Names that are wrong are not to be collected.
                del self._publishers[exchange]
            raise
        return True

    async def _publisher(self, exchange: str) -> Any:
        """Return the channel for publishing to an exchange."""
        channel: Any = self._publishers.get(exchange)
        if channel is not None and not channel.is_closed:
            return channel
        fresh = await answered(self._connection.channel(publisher_confirms=True))
        channel = self._publishers.get(exchange)
        if channel is not None and not channel.is_closed:
            # Somebody else was faster.
            await close_quietly(fresh)
            return channel
        self._publishers[exchange] = fresh
        return fresh

    async def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        for hold in list(self._holds.values()):
            try:
                await hold.release()
            except EngineError as error:
                logger.info("partition %d is left to the broker: %s", hold.partition, error)
        if not self.lost.done():
            self.lost.set_result("the session was closed")
        await close_quietly(self._connection)


async def _ignore(message: aiormq.abc.DeliveredMessage) -> None:
    logger.warning("a message in a queue that is only there to be counted by was dropped: %r", message.delivery)

"""A partition that a worker holds: its channel, deliveries and acknowledgements."""

from __future__ import annotations

import asyncio
import collections
import logging
from typing import Any, Protocol

from .acknowledging import BATCH, Acknowledgements
from .amqp_calls import answered, close_quietly, words_of
from .amqp_letters import MALFORMED, letter_of
from .engine import Arrival, EngineError, QueueShape, Sink

logger = logging.getLogger("cyasgi.sources.queue")


class AMQPSessionPort(Protocol):
    """What a hold knows of its session."""

    @property
    def shape(self) -> QueueShape: ...
    @property
    def lost(self) -> asyncio.Future[str]: ...
    @property
    def sure(self) -> bool: ...
    def forget(self, hold: AMQPHold) -> None: ...
    async def unlock(self, queue: str) -> None: ...


class AMQPHold:
    """A channel with one consumer: closed, it gives back in order all that was not acknowledged."""

    def __init__(self, session: AMQPSessionPort, channel: Any, partition: int, sink: Sink) -> None:
        self.partition = partition
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._session = session
        self._channel = channel
        self._sink: Sink | None = sink
        self._consumer = ""
        #: Whether the consumer was ended, or is about to be, by pause().
        self._pausing = False
        prefetch = session.shape.prefetch
        self._acknowledgements = Acknowledgements(self._acknowledged, min(BATCH, prefetch // 2))
        #: What is to be sent: a tag, and whether it acknowledges all earlier ones too; None for one to be given back.
        self._outbox: collections.deque[tuple[int, bool | None]] = collections.deque()
        self._writer: asyncio.Task[None] | None = None
        channel.closing.add_done_callback(self._closed)

    @property
    def sure(self) -> bool:
        return self._session.sure and not self.lost.done()

    async def begin(self, queue: str) -> None:
        """Have messages delivered."""
        await answered(self._channel.basic_qos(prefetch_count=self._session.shape.prefetch))
        # Known before the first message comes.
        self._consumer = f"cyasgi.{self.partition}"
        await answered(self._channel.basic_consume(queue, self._arrived, consumer_tag=self._consumer))

    async def _arrived(self, message: Any) -> None:
        # Each message is a task, and the tasks begin in order: there must be no await before the sink is called.
        sink = self._sink
        delivery, properties = message.delivery, message.header.properties
        self._acknowledgements.delivered(delivery.delivery_tag)
        if sink is None:
            return
        headers = dict(properties.headers or {})
        # After a restart, RabbitMQ says by this alone that a message comes again. It overwrites what a publisher says.
        count = headers.pop("x-delivery-count", None)
        deliveries = count + 1 if isinstance(count, int) else 1 + bool(delivery.redelivered)
        key = delivery.routing_key
        scope_id = key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else key or ""
        letter = letter_of(message.body, properties, headers)
        sink(Arrival(delivery.delivery_tag, scope_id, letter, deliveries, str(headers.pop(MALFORMED, ""))))

    def look(self) -> None:
        """See whether the broker has ended the consumer: the library passes on no word of it."""
        if self._sink is None or self._pausing or not self._consumer:
            return
        if self._consumer not in self._channel.consumers:
            self.take_away("the broker has cancelled its consumer")

    def _closed(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self.take_away("its channel was closed" if error is None else words_of(error))

    def take_away(self, reason: str) -> None:
        """Note that the broker has taken the partition away."""
        self._sink = None
        self._acknowledgements.drop_timer()
        if not self.lost.done():
            self.lost.set_result(reason)

    # Out

    def acknowledge(self, tag: int) -> None:
        if not self.lost.done():
            self._acknowledgements.settle(tag)

    def requeue(self, tag: int) -> None:
        if not self.lost.done():
            self._acknowledgements.forget(tag)
            self._put(tag, None)

    def _acknowledged(self, tag: int, multiple: bool) -> None:
        self._put(tag, multiple)

    def _put(self, tag: int, multiple: bool | None) -> None:
        self._outbox.append((tag, multiple))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        """Send what is in the outbox, until it is empty."""
        while self._outbox and not self.lost.done():
            tag, multiple = self._outbox.popleft()
            sent = (
                self._channel.basic_nack(tag, requeue=True, wait=False)
                if multiple is None
                else self._channel.basic_ack(tag, multiple=multiple, wait=False)
            )
            try:
                await answered(sent)
            except EngineError as error:
                logger.debug("a message of partition %d was not acknowledged: %s", self.partition, error)
                self._outbox.clear()
                self.take_away(str(error))

    async def pause(self) -> None:
        if self._sink is None or self.lost.done():
            return
        # The library forgets the consumer some time before it returns.
        self._pausing = True
        try:
            await answered(self._channel.basic_cancel(self._consumer))
        except EngineError as error:
            self.take_away(str(error))
            return
        # What was delivered before is in tasks that have not begun.
        await asyncio.sleep(0)
        self._sink = None

    async def release(self) -> None:
        self._sink = None
        self._session.forget(self)
        over = self.lost.done()
        if not over:
            self._acknowledgements.flush()
            if self._writer is not None:
                sent: set[asyncio.Future[Any]] = {self._writer, self.lost}
                await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
        self._acknowledgements.drop_timer()
        await close_quietly(self._channel)
        if not self._session.lost.done():
            # Only now may others hold the partition: what was not acknowledged is back in its queue.
            await self._session.unlock(f"{self._session.shape.name}.{self.partition}.owner")

"""QueueServer: messages of a queue, each acknowledged when an application has dealt with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, ClassVar

from ..._settings import Choice, Integer, Number
from ...core import Setting
from ...core.context import outside
from ...server import StatelessServer
from ...serving.retrying import retrying
from ...wire.queue import (
    ACKNOWLEDGEMENTS,
    Acknowledge,
    Publish,
    Reject,
    Reply,
    check_name,
    parse_send,
    scope_fields,
)
from .balance import Balance
from .dead_letters import dead_letter
from .delivery import Delivery, Holding, failure_text
from .dispatch import COUNTERS, Dispatcher
from .engine import Engine, EngineError, QueueShape, Session
from .engines import engine_of
from .manual import ManualDispatcher, WatchedApplication
from .names import ReplyExchange

logger = logging.getLogger("cyasgi.sources.queue")

#: Partitions that a queue may have.
MOST_PARTITIONS = 1024


class QueueServer(StatelessServer):
    """Serve an ASGI application with the messages of a queue, at least once each and in order for each scope_id.

    The queue is in partitions; every worker, a server of the same queue in whatever process, holds its fair share of
    them. The scope and the messages are described in `cyasgi.wire.queue`.

    Args:
        application: the ASGI application, for scopes of the type ``queue``.
        max_applications: most instances at a time; a further scope_id evicts an idle instance. None: no limit.
        engine: where the queue is: ``"memory:"``, a URL as in ``"amqp://user:password@127.0.0.1:5672/vhost"`` for
            RabbitMQ, or an engine such as `MemoryEngine`, which servers in one process may share.
        name: of the queue.
        partitions: in how many parts it is spread over workers, 1 to 1024; the same for all workers.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value; the message says which and what is accepted.
    """

    #: Messages of one partition that the broker may deliver before earlier ones are acknowledged, 1 to 65,535.
    prefetch = Setting[int](100, Integer(1, 65_535))
    #: How often applications may fail with a message in one worker before it goes to the dead letters.
    max_deliveries = Setting[int](5, Integer(1))
    #: Seconds until a message is tried again with which an application has failed. The pause doubles with each failure,
    #: up to a minute.
    retry_delay = Setting[float](1.0, Number("number of seconds", least=0.0, most=60.0))
    #: The longest body, in bytes; longer messages go to the dead letters.
    max_message_size = Setting[int](16 * 1024 * 1024, Integer(1))
    #: Seconds between two looks at how many workers there are, and what they hold.
    balance_interval = Setting[float](1.0, Number("number of seconds", least=0.01, most=60.0))
    #: The exchange, or with `MemoryEngine` the queue, for answers to messages without `reply_to`; None for none.
    reply_exchange = Setting[str | None](None, ReplyExchange())
    #: When a message is done: "automatic", when the application calls `receive()` again or returns; "manual", when it
    #: sends `queue.acknowledge` or `queue.reject`, and it may have others in hand meanwhile. Read at the start.
    acknowledgement = Setting[str]("automatic", Choice(ACKNOWLEDGEMENTS))

    announces_start: ClassVar[bool] = True
    tells_asgi_version: ClassVar[bool] = True

    def __init__(
        self,
        application: Any,
        max_applications: int | None = 10_000,
        *,
        engine: str | Engine,
        name: str = "queue",
        partitions: int = 32,
    ) -> None:
        super().__init__(application, max_applications)
        Integer(1, MOST_PARTITIONS)("partitions", partitions)
        self.engine: Engine = engine_of(engine)
        self.name = check_name(name, "name", least=1)
        self.partitions = partitions
        #: What the application has left in its lifespan scope; each scope gets a copy. None if it has no lifespan.
        self.state: dict[str, Any] | None = None
        #: The partitions that are held, by number, the oldest first.
        self.holdings: dict[int, Holding] = {}
        self._session: Session | None = None
        self._dispatcher: Dispatcher | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ending: asyncio.Event | None = None
        #: Tasks of the run that have to be done before the session ends.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._counts = dict.fromkeys(("published", "replied", "unclaimed_replies", "partitions_lost"), 0)
        self._dispatched = dict.fromkeys(COUNTERS, 0)

    # What subclasses override

    def assigned(self, partition: int) -> None:
        """Take note that this worker is about to get messages of a partition."""

    def revoked(self, partition: int, lost: bool) -> None:
        """Take note that this worker holds a partition no longer, and that the instances of it are deleted.

        Args:
            lost: whether it was taken away. Otherwise it is given back in order: applications have finished what they
                had in hand, and other workers get nothing before this has returned.
        """

    # Running

    async def arun(self) -> None:
        """Run as `StatelessServer.arun` does, with a session of the broker that ends when all instances have.

        Raises:
            EngineError: the broker cannot be reached, or refuses.
        """
        if self._cyasgi.server_run is not None and not self._cyasgi.server_run.stale:
            # It is refused: the session is that of the run at work.
            await super().arun()
            return
        self._forget_the_last_run()
        loop = asyncio.get_running_loop()
        application = self.application
        self._dispatcher = dispatcher = self._new_dispatcher()
        if isinstance(dispatcher, ManualDispatcher):
            self.application = WatchedApplication(application, dispatcher.application_ended)
        self._ending = asyncio.Event()
        # Not a task of handle(): it goes on while instances drain.
        self._keeper = keeper = loop.create_task(self._keep(), context=outside())
        try:
            await super().arun()
        finally:
            # A coroutine that is closed after its loop has nothing to end any more: there may be another run by now.
            if not loop.is_closed():
                self._dispatcher.stopping = True
                self._ending.set()
                keeper.cancel()
                try:
                    await self._close(keeper)
                finally:
                    self._session = self._keeper = None
                    if isinstance(self.application, WatchedApplication):
                        self.application = application

    def _forget_the_last_run(self) -> None:
        """Drop what is left of a run whose loop was closed under it."""
        if self._dispatcher is not None:
            # It is still told of the instances that it had.
            self._dispatcher.stopping = True
        for holding in self.holdings.values():
            holding.over = holding.letting_go = True
            holding.nothing_in_hand = None
        self.holdings.clear()
        self._tasks.clear()
        self._session = self._dispatcher = None
        if isinstance(self.application, WatchedApplication):
            self.application = self.application.application

    def _new_dispatcher(self) -> Dispatcher:
        manual = self.acknowledgement == "manual"
        return (ManualDispatcher if manual else Dispatcher)(self, self._start, self._cyasgi.spared)

    async def handle(self) -> None:
        """Take messages until cancelled. While the broker is gone, it is looked for again and again.

        Raises:
            EngineError: it could not be reached to begin with, or has refused.
        """
        if self._keeper is None:
            raise RuntimeError("handle() of a QueueServer is called by its arun()")
        await asyncio.shield(self._keeper)

    async def handle_stop(self) -> None:
        """Get no more messages, while those in hand are finished."""
        assert self._dispatcher is not None
        assert self._ending is not None
        self._dispatcher.stopping = True
        self._ending.set()
        pauses = [holding.hold.pause() for holding in self.holdings.values() if holding.hold is not None]
        for result in await asyncio.gather(*pauses, return_exceptions=True):
            if isinstance(result, Exception):
                logger.info("a partition could not be paused: %s", result)
        if isinstance(self._dispatcher, ManualDispatcher):
            # Applications that wait for a message may have others in hand.
            await self._dispatcher.all_came_back(self.shutdown_timeout)

    async def hand_over(self) -> None:
        """Return at once: other workers get the partitions when this one has stopped. For `cyasgi.workers`."""

    async def _connect(self) -> Session:
        session = await self.engine.connect(QueueShape(self.name, self.partitions, self.prefetch))
        logger.info("takes messages of %s from %s", self.name, self.engine.describe())
        return session

    async def _keep(self) -> None:
        """Hold a fair share of the partitions, in one session after the other."""
        assert self._ending is not None
        self._session = await self._connect()
        while True:
            session = self._session
            assert session is not None
            try:
                await self._follow(session)
                if self._ending.is_set():
                    # The end of the run comes when instances have drained.
                    await asyncio.get_running_loop().create_future()
            except EngineError as error:
                logger.warning("the broker is gone: %s", error)
            await self._lose_all(session)
            self._session = await retrying(self._connect, errors=EngineError, most=10.0, log=logger)

    async def _follow(self, session: Session) -> None:
        """Balance until the session is lost, or the server stops."""
        assert self._ending is not None
        balance = Balance(self, session, self.partitions)
        ending = asyncio.get_running_loop().create_task(self._ending.wait())
        told = -1
        try:
            while not self._ending.is_set():
                if session.lost.done():
                    raise EngineError(session.lost.result())
                await self._drop_lost()
                await balance.step()
                if len(self.holdings) != told:
                    told = len(self.holdings)
                    logger.info("holds %d of %d partitions of %s", told, self.partitions, self.name)
                self.announce_started()
                watched: set[asyncio.Future[Any]] = {session.lost, ending, *self._losses()}
                await asyncio.wait(
                    watched,
                    timeout=self.balance_interval,
                    return_when=asyncio.FIRST_COMPLETED,
                )
        finally:
            if not ending.get_loop().is_closed():
                ending.cancel()

    def _losses(self) -> set[asyncio.Future[Any]]:
        """Return what is done when a partition is lost, one for each."""
        return {holding.hold.lost for holding in self.holdings.values() if holding.hold is not None}

    async def _drop_lost(self) -> None:
        """Part with partitions that the broker has taken away."""
        lost = [holding for holding in self.holdings.values() if holding.hold is not None and holding.hold.lost.done()]
        for holding in lost:
            assert holding.hold is not None
            logger.warning("partition %d was lost: %s", holding.partition, holding.hold.lost.result())
        await self._part_with(lost, lost=True)

    async def _lose_all(self, session: Session) -> None:
        await self._part_with(self.holdings.values(), lost=True)
        try:
            await session.close()
        except EngineError as error:
            logger.debug("the session could not be closed: %s", error)

    async def take(self, session: Session, partition: int) -> bool:
        """Hold a partition, if no other worker does; for the balance."""
        dispatcher = self._dispatcher
        assert dispatcher is not None
        if dispatcher.stopping:
            return False
        holding = Holding(partition)
        try:
            hold = await session.claim(partition, lambda arrival: dispatcher.arrived(holding, arrival))
        except BaseException:
            # Messages may have come before it failed; none has begun.
            dispatcher.end(holding)
            raise
        if hold is None:
            return False
        holding.hold = hold
        self.holdings[partition] = holding
        logger.debug("partition %d of %s is assigned", partition, self.name)
        self._tell(self.assigned, partition)
        return True

    async def let_go(self, holding: Holding) -> None:
        """Give a partition back, unless one is lost meanwhile; for the balance."""
        dispatcher, hold = self._dispatcher, holding.hold
        assert dispatcher is not None
        assert hold is not None
        dispatcher.let_go(holding)
        await hold.pause()
        if await dispatcher.may_be_given_back(holding, self.shutdown_timeout, self._losses()):
            await self._part(holding, lost=False)

    async def _part_with(self, holdings: Iterable[Holding], *, lost: bool, seconds: float | None = None) -> None:
        """Part with partitions all at once, as each may take its time, and leave to the broker what takes longer.

        Args:
            seconds: how long all of it may take; None if its parts have bounds enough.
        """
        loop = asyncio.get_running_loop()
        parts = {holding.partition: loop.create_task(self._part(holding, lost=lost)) for holding in holdings}
        if not parts:
            return
        try:
            await asyncio.wait(parts.values(), timeout=seconds)
        finally:
            for part in parts.values():
                part.cancel()
            results = await asyncio.gather(*parts.values(), return_exceptions=True)
        for partition, result in zip(parts, results, strict=True):
            if isinstance(result, (EngineError, asyncio.CancelledError)):
                words = str(result) or f"not given back within {seconds} seconds"
                logger.log(
                    logging.DEBUG if lost else logging.INFO, "partition %d is left to the broker: %s", partition, words
                )
            elif result is not None:
                raise result

    async def _part(self, holding: Holding, *, lost: bool) -> None:
        """Delete the instances of a partition, and let the broker give it to others."""
        dispatcher = self._dispatcher
        assert dispatcher is not None
        del self.holdings[holding.partition]
        in_hand = holding.in_hand
        ends: list[Awaitable[Any]] = dispatcher.end(holding)
        if lost:
            self._counts["partitions_lost"] += 1
            if in_hand:
                logger.warning(
                    "partition %d was lost with %d messages in hand, which are delivered again, as redelivered",
                    holding.partition,
                    in_hand,
                )
        try:
            if ends:
                # Bounded by the server's shutdown_timeout.
                await asyncio.gather(*ends, return_exceptions=True)
        finally:
            self._tell(self.revoked, holding.partition, lost)
        logger.debug("partition %d of %s is %s", holding.partition, self.name, "lost" if lost else "given back")
        if holding.hold is not None:
            await holding.hold.release()

    def _tell(self, hook: Callable[..., object], *arguments: Any) -> None:
        try:
            hook(*arguments)
        except Exception:
            logger.exception("the hook %s failed", getattr(hook, "__name__", hook))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, context=outside())
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the queue has failed", exc_info=error)

    async def _close(self, keeper: asyncio.Task[None]) -> None:
        """Give back everything, once the instances have ended."""
        await asyncio.wait({keeper}, timeout=self.shutdown_timeout)
        if keeper.done() and not keeper.cancelled():
            # Raised by handle().
            keeper.exception()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=self.shutdown_timeout)
            for task in list(self._tasks):
                task.cancel()
        assert self._dispatcher is not None
        session = self._session
        await self._part_with(self.holdings.values(), lost=False, seconds=self.shutdown_timeout)
        self._dispatched = self.dispatched()
        self._dispatcher = None
        if session is not None:
            try:
                await asyncio.wait_for(session.close(), max(self.shutdown_timeout, 1.0))
            except (EngineError, TimeoutError) as error:
                logger.info("the session was cut: %s", error)

    # What applications send

    def make_scope(self, scope_id: str) -> dict[str, Any]:
        """Return the scope of a new instance; for the dispatcher."""
        manual = isinstance(self._dispatcher, ManualDispatcher)
        fields = scope_fields(self.name, scope_id, "manual" if manual else "automatic")
        if self.state is not None:
            fields["state"] = self.state.copy()
        return fields

    async def application_send(self, scope: Any, message: Any) -> None:
        asked = parse_send(message)
        if isinstance(asked, Acknowledge):
            self._dispatching().settle(self._in_hand(scope, asked.delivery_id, "acknowledged"))
        elif isinstance(asked, Reject):
            delivery = self._in_hand(scope, asked.delivery_id, "rejected")
            if asked.requeue:
                self._dispatching().requeue(delivery)
            else:
                await self.bury(delivery, failure_text(asked.reason or "rejected by the application"))
        elif isinstance(asked, Publish):
            scope_id = scope["scope_id"] if asked.scope_id is None else asked.scope_id
            await self._connected().publish(asked.queue or self.name, scope_id, asked.letter)
            self._counts["published"] += 1
        else:
            await self._reply(scope, asked)

    async def _reply(self, scope: Any, asked: Reply) -> None:
        delivery = self._in_hand(scope, asked.delivery_id, "answered", settled=True)
        letter = asked.letter
        if letter.correlation_id is None:
            letter = replace(letter, correlation_id=delivery.letter.correlation_id)
        to, exchange = delivery.letter.reply_to, self.reply_exchange
        if to:
            if await self._connected().reply(to, letter):
                self._counts["replied"] += 1
            else:
                self._counts["unclaimed_replies"] += 1
                logger.info("an answer to %r is dropped: nobody waits for it any more", to)
        elif exchange is not None:
            await self._connected().reply_by(exchange, scope["scope_id"], letter)
            self._counts["replied"] += 1
        else:
            raise ValueError("a 'queue.reply' message needs a message with 'reply_to', or the server a reply_exchange")

    async def bury(self, delivery: Delivery, reason: str) -> None:
        """Publish a dead letter in place of a message, and acknowledge that; for the dispatcher.

        Raises:
            EngineError: the broker refuses, or is gone. If the partition is, the message is left to its next worker.
        """
        if delivery.holding.over:
            return
        await self._connected().bury(dead_letter(delivery, self.name, reason))
        dispatcher = self._dispatcher
        if dispatcher is not None:
            dispatcher.counts["buried"] += 1
            dispatcher.settle(delivery)

    async def note_suspect(self, key: str) -> int:
        """Do as `Session.note_suspect`; for the dispatcher."""
        return await self._connected().note_suspect(key)

    async def clear_suspect(self, key: str) -> None:
        """Do as `Session.clear_suspect`; for the dispatcher."""
        await self._connected().clear_suspect(key)

    def _dispatching(self) -> Dispatcher:
        if self._dispatcher is None:
            raise RuntimeError("the server is not running")
        return self._dispatcher

    def _connected(self) -> Session:
        session = self._session
        if session is None or session.lost.done():
            raise EngineError(f"there is no connection to {self.engine.describe()} now")
        return session

    def _in_hand(self, scope: Any, number: int | None, what: str, *, settled: bool = False) -> Delivery:
        """Return the message that the application of a scope has in hand; raise ValueError if it is not this one."""
        delivery = self._dispatching().in_hand(scope, number)
        if delivery is None:
            which = "there is no message in hand" if number is None else f"the message {number} is not in hand"
            raise ValueError(f"{which} that could be {what}")
        if delivery.settled and not settled:
            raise ValueError(f"the message {delivery.number} was acknowledged or rejected already")
        return delivery

    # Hooks and counters

    def application_undelivered(self, messages: list[Any], application_details: Any) -> None:
        """Log at level DEBUG that messages were not begun: none is lost, they are given to another instance."""
        logger.debug("%d messages of %r were not begun", len(messages), application_details)

    def dispatched(self) -> dict[str, int]:
        """Return the counters of messages, of this run or the last one."""
        return self._dispatched if self._dispatcher is None else dict(self._dispatcher.counts)

    def stats(self) -> dict[str, int]:
        """Return the snapshot of `StatelessServer.stats`, with these counts.

        * ``partitions``: held now; ``partitions_lost``: taken away since the server was made
        * ``published``, ``replied``; ``unclaimed_replies``: nobody waited for them any more
        * of this run, or the last one: ``received``, those ``redelivered`` among them; ``acknowledged``; ``retried``
          after a failure; ``buried``, which were dead-lettered; ``given_back`` for rejection with `requeue`; and
          ``taken_away``, whose partition was lost while an application had them
        """
        return {
            **super().stats(),
            "partitions": len(self.holdings),
            **self._counts,
            **self.dispatched(),
        }

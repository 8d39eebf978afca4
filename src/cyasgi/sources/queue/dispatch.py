"""From deliveries to instances and back: order within a scope, retries, and what is told to the broker.

An instance has one message at a time; the next one is put when the application comes back for it, before it looks at
its queue. So nothing that is not begun is ever in an instance: a partition that goes takes along all that waits, and
after the process was frozen, nothing begins before the broker has said that it still counts on this worker.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable, Container, Coroutine
from functools import partial
from typing import Any, Protocol

from ..._common.guarding import INTERRUPTS
from ...core import InstanceTable
from ...core.tasks import resolved
from ...core.tracking import CANCELLED, DONE, FAILED, TAKEN, UNDELIVERED, Tracked
from ...serving.retrying import retrying
from ...wire.queue import receive_message
from .delivery import Delivery, Holding, Lane, QueueScope, failure_text
from .engine import Arrival, EngineError
from .suspects import SUSPICIOUS, Suspects

logger = logging.getLogger("cyasgi.sources.queue")

#: The longest pause before a message is tried again, in seconds.
LONGEST_PAUSE = 60.0
#: The pause before a partition is looked at again that may have gone, in seconds.
UNSURE_PAUSE = 0.05
#: The pause before scopes are looked at again that wait for a place, in seconds.
CROWDED_PAUSE = 0.01
#: What is counted of messages.
COUNTERS = ("received", "redelivered", "acknowledged", "retried", "buried", "given_back", "taken_away")


class DispatchPort(Protocol):
    """What a dispatcher knows of its server."""

    @property
    def max_deliveries(self) -> int: ...
    @property
    def max_message_size(self) -> int: ...
    @property
    def retry_delay(self) -> float: ...
    @property
    def max_applications(self) -> int | None: ...
    @property
    def application_instances(self) -> InstanceTable: ...

    def get_or_create_application_instance(self, scope_id: Any, scope: Any) -> Any: ...
    def delete_application_instance(self, scope_id: Any) -> Any: ...
    def make_scope(self, scope_id: str) -> dict[str, Any]: ...
    async def bury(self, delivery: Delivery, reason: str) -> None: ...
    async def note_suspect(self, key: str) -> int: ...
    async def clear_suspect(self, key: str) -> None: ...


class Dispatcher:
    """Hands deliveries to instances in the order of each scope, and settles them by what becomes of them.

    Args:
        start: starts a task that belongs to the server's run.
        spared: the instances out of the table whose runs were not cancelled, since an override has yet to delete them.
    """

    def __init__(
        self, server: DispatchPort, start: Callable[[Coroutine[Any, Any, None]], object], spared: Container[Any]
    ) -> None:
        self._server = server
        self._start = start
        self._spared = spared
        #: That of the run: instances are not to inherit what the application of another one has set in its own.
        self._context = contextvars.copy_context()
        self._lanes: dict[str, Lane] = {}
        #: Those that wait for a place for their instance.
        self._crowd: collections.deque[Lane] = collections.deque()
        self._suspects = Suspects(self, start)
        #: Messages that instances have, and who waits until they have none.
        self._in_hand = 0
        self._nothing_in_hand: asyncio.Future[None] | None = None
        #: Set when the server stops: nothing begins any more.
        self.stopping = False
        self.counts = dict.fromkeys(COUNTERS, 0)

    def in_hand(self, scope: Any, number: int | None = None) -> Delivery | None:
        """Return the message that the instance of a scope has, if it is this one; the latest one if none is named.

        A task may outlive its instance: what another instance of the same scope_id has is not in its hand.
        """
        lane = self._lanes.get(scope["scope_id"])
        current = None if lane is None or not lane.received else lane.current
        return current if current is not None and number in (None, current.number) and current.is_of(scope) else None

    # In

    def arrived(self, holding: Holding, arrival: Arrival) -> None:
        """Take a message from the broker."""
        if holding.letting_go or self.stopping:
            # Not acknowledged, it is delivered again when the partition is given back.
            return
        server = self._server
        self.counts["received"] += 1
        self.counts["redelivered"] += arrival.deliveries > 1
        lane = holding.lanes.get(arrival.scope_id)
        if lane is None:
            lane = self._lanes[arrival.scope_id] = holding.lanes[arrival.scope_id] = Lane(arrival.scope_id, holding)
        delivery = Delivery(arrival, lane)
        size = len(arrival.letter.body)
        if arrival.malformed:
            self.bury(delivery, f"its properties cannot be read: {arrival.malformed}")
            self._tidy(lane)
        elif size > server.max_message_size:
            self.bury(delivery, f"the body has {size} bytes: accepted are {server.max_message_size}")
            self._tidy(lane)
        else:
            delivery.suspect = arrival.deliveries > server.max_deliveries * SUSPICIOUS
            lane.waiting.append(delivery)
            if lane.current is None and lane.timer is None and not lane.parked:
                self.go_on(lane)

    def go_on(self, lane: Lane) -> None:
        """Put the next message of a scope into its instance."""
        lane.stop()
        holding = lane.holding
        if lane.parked:
            return
        while lane.waiting and lane.waiting[0].settled:
            # A task of an application that has ended was still about to reject it.
            lane.waiting.popleft()
        if lane.current is not None or not lane.waiting or holding.letting_go or self.stopping:
            self._tidy(lane)
            return
        if not holding.sure:
            self.pause(lane, UNSURE_PAUSE)
        elif not self._may_follow(lane) or self._suspects.holds_up(lane):
            return
        elif self._is_crowded(lane.scope_id):
            self._wait_for_place(lane)
        else:
            self.begin(lane)

    def resume(self, lane: Lane) -> None:
        """Have a lane go on that was parked, unless it pauses meanwhile: then it goes on after that."""
        lane.parked = False
        if lane.timer is None:
            self.go_on(lane)

    def _may_follow(self, lane: Lane) -> bool:
        """Return whether the next message may begin, as far as those are concerned that the application has in hand."""
        return True

    def may_begin(self, lane: Lane) -> bool:
        """Return whether the broker and the instances allow the next message of a scope to begin."""
        return lane.holding.sure and self._may_follow(lane) and not self._is_crowded(lane.scope_id)

    def begin(self, lane: Lane) -> bool:
        """Put the next message of a scope into its instance; return False if that is not possible now."""
        server = self._server
        delivery = lane.current = lane.waiting.popleft()
        delivery.renumber()
        lane.received = False
        try:
            scope = QueueScope(server.make_scope(lane.scope_id), lane)
            delivery.instance = server.get_or_create_application_instance(lane.scope_id, scope)
            if type(delivery.instance.scope) is QueueScope:
                delivery.instance.scope.lane = lane
            message = receive_message(delivery.letter, delivery.number, delivery.times)
            delivery.instance.put_nowait(Tracked(message, partial(self._told, delivery)))
        except INTERRUPTS:
            raise
        except Exception as error:
            logger.warning("scope_id %r cannot be served now: %s", lane.scope_id, failure_text(error))
            self._back(delivery, server.retry_delay)
            return False
        lane.holding.in_hand += 1
        self._in_hand += 1
        return True

    def _is_crowded(self, scope_id: str) -> bool:
        """Return whether a new instance would cost a busy one its place."""
        server = self._server
        limit, table = server.max_applications, server.application_instances
        return (
            limit is not None
            and len(table) >= limit
            and not table.idle
            and not table.finished_count()
            and scope_id not in table
        )

    def _wait_for_place(self, lane: Lane) -> None:
        if not self._crowd:
            asyncio.get_running_loop().call_later(CROWDED_PAUSE, self._admit, context=self._context)
        self._crowd.append(lane)
        # It goes on when it is admitted.
        lane.parked = True

    def _admit(self) -> None:
        """Let those go on that wait for a place, in their order, as far as there are places."""
        crowd, self._crowd = self._crowd, collections.deque()
        while crowd:
            self.resume(crowd.popleft())
            if self._crowd:
                # There is none any more.
                break
        for lane in crowd:
            self._wait_for_place(lane)

    # What becomes of it

    def _told(self, delivery: Delivery, outcome: str, error: BaseException | None) -> None:
        instance = delivery.instance
        if outcome == TAKEN:
            delivery.lane.received = True
            if type(instance.scope) is QueueScope:
                instance.scope.received = True
            return
        if outcome == DONE and self._was_cut_off(instance):
            outcome = CANCELLED
        lane = delivery.lane
        lane.current = delivery.instance = None
        self._came_back(delivery, outcome)
        if delivery.holding.over:
            # The broker delivers it again, to whoever holds the partition now.
            self.counts["taken_away"] += not delivery.settled
        elif delivery.settled or outcome == DONE:
            self.settle(delivery)
            if instance.ended and lane.waiting:
                self.pause(lane, 0.0)
            else:
                self._next(lane)
        elif outcome == FAILED:
            self._failed(delivery, failure_text(error))
        elif outcome == CANCELLED:
            # Nobody is to blame for what was cut off: it was evicted, deleted, or the server stops.
            delivery.times += 1
            self._back(delivery, self._server.retry_delay)
        elif instance.end_reason in ("returned", "failed") and not getattr(instance.scope, "received", False):
            self._failed(delivery, "the application ended before it received a message")
        else:
            # The application has ended, and not because of this one.
            self._back(delivery, 0.0)

    def _was_cut_off(self, instance: Any) -> bool:
        """Return whether the server has deleted an instance before its application ended.

        An application that swallows its cancellation returns, or receives again, with its message half done.
        """
        if instance in self._spared:
            return False
        if instance.ended:
            return instance.end_reason not in ("returned", "failed")
        return self._server.application_instances.get(instance.scope_id) is not instance

    def _next(self, lane: Lane) -> None:
        """Have a lane go on from within receive(), which is about to look for a message."""
        if lane.waiting:
            self.go_on(lane)
        else:
            self._tidy(lane)

    def _came_back(self, delivery: Delivery, outcome: str) -> None:
        if outcome != UNDELIVERED:
            # It has begun, and this worker is still there.
            delivery.suspect = False
        delivery.holding.came_back()
        self._in_hand -= 1
        if not self._in_hand and self._nothing_in_hand is not None:
            resolved(self._nothing_in_hand)
        if delivery.came_back is not None:
            resolved(delivery.came_back)

    async def all_came_back(self, seconds: float) -> bool:
        """Wait until no instance has a message, or for so many seconds; return whether none has one."""
        if self._in_hand:
            if self._nothing_in_hand is None or self._nothing_in_hand.done():
                self._nothing_in_hand = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._nothing_in_hand}, timeout=seconds)
        return not self._in_hand

    def one_in_hand(self) -> asyncio.Future[None] | None:
        """Return what is done when one of the messages that instances have now has come back; None if there is none."""
        for lane in self._lanes.values():
            delivery = lane.current or next(iter(lane.held.values()), None)
            if delivery is not None:
                if delivery.came_back is None or delivery.came_back.done():
                    delivery.came_back = asyncio.get_running_loop().create_future()
                return delivery.came_back
        return None

    async def note_suspect(self, key: str) -> int:
        return await self._server.note_suspect(key)

    async def clear_suspect(self, key: str) -> None:
        await self._server.clear_suspect(key)

    def _failed(self, delivery: Delivery, reason: str) -> None:
        """Have a message tried again, or dead-letter it."""
        server, lane = self._server, delivery.lane
        delivery.failures += 1
        if delivery.failures >= server.max_deliveries:
            self.bury(delivery, reason)
            if lane.waiting:
                self.pause(lane, 0.0)
            else:
                self._tidy(lane)
            return
        self.counts["retried"] += 1
        delivery.times += 1
        self._back(delivery, min(LONGEST_PAUSE, server.retry_delay * 2.0 ** min(delivery.failures - 1, 30)))

    def _back(self, delivery: Delivery, seconds: float) -> None:
        """Put a message back in front of those that wait, for later."""
        lane = delivery.lane
        lane.current = delivery.instance = None
        lane.waiting.appendleft(delivery)
        self.pause(lane, seconds)

    def pause(self, lane: Lane, seconds: float) -> None:
        """Have a lane go on after so many seconds."""
        lane.stop()
        if not lane.holding.letting_go and not self.stopping:
            loop = asyncio.get_running_loop()
            lane.timer = loop.call_later(seconds, self.go_on, lane, context=self._context)

    def _tidy(self, lane: Lane) -> None:
        """Forget a lane that has nothing."""
        if lane.current is None and not lane.waiting and not lane.held:
            self._drop(lane)

    def _drop(self, lane: Lane) -> None:
        lane.stop()
        if self._lanes.get(lane.scope_id) is lane:
            del self._lanes[lane.scope_id]
        if lane.holding.lanes.get(lane.scope_id) is lane:
            del lane.holding.lanes[lane.scope_id]

    def settle(self, delivery: Delivery) -> None:
        """Acknowledge a message, unless the broker was told of it already."""
        if not delivery.settled:
            delivery.settled = True
            hold = delivery.holding.hold
            if hold is None or delivery.holding.over or hold.lost.done():
                self.counts["taken_away"] += 1
            else:
                self.counts["acknowledged"] += 1
                hold.acknowledge(delivery.tag)

    def requeue(self, delivery: Delivery) -> None:
        """Give a message back to the broker, unless it was told of it already."""
        if not delivery.settled:
            delivery.settled = True
            if delivery.holding.hold is not None and not delivery.holding.over:
                self.counts["given_back"] += 1
                delivery.holding.hold.requeue(delivery.tag)

    def bury(self, delivery: Delivery, reason: str) -> None:
        """Publish a dead letter, and then acknowledge the message. Its scope goes on meanwhile."""
        logger.error(
            "a message of scope_id %r goes to the dead letters after %d deliveries: %s",
            delivery.scope_id,
            delivery.times,
            reason,
        )
        self._start(retrying(partial(self._server.bury, delivery, reason), errors=EngineError, log=logger))

    # Partitions that go

    def let_go(self, holding: Holding) -> None:
        """Begin nothing more of a partition: what waits is left to whoever holds it next."""
        holding.letting_go = True
        for lane in list(holding.lanes.values()):
            lane.stop()

    @staticmethod
    async def may_be_given_back(holding: Holding, seconds: float, losses: set[asyncio.Future[Any]]) -> bool:
        """Wait until no instance has a message of this partition, for so many seconds at most.

        Args:
            losses: each is done when a partition is lost, this one or another.

        Returns:
            Whether none was lost meanwhile. What was has to be parted with first: others may be at work on it.
        """
        if holding.in_hand:
            waiter = holding.nothing_in_hand = asyncio.get_running_loop().create_future()
            await asyncio.wait({waiter, *losses}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if any(loss.done() for loss in losses):
            return False
        if holding.in_hand:
            logger.warning(
                "partition %d is given back with %d messages in hand, which are delivered again",
                holding.partition,
                holding.in_hand,
            )
        return True

    def end(self, holding: Holding) -> list[Awaitable[Any]]:
        """Delete the instances of a partition that is given back or lost; return what waits for their end."""
        self.let_go(holding)
        holding.over = True
        for lane in list(holding.lanes.values()):
            self._drop(lane)
        server = self._server
        ids = [
            scope_id
            for scope_id, entry in list(server.application_instances.items())
            if getattr(getattr(entry, "scope", None), "holding", None) is holding
        ]
        deleted = [server.delete_application_instance(scope_id) for scope_id in ids]
        return [one for one in deleted if inspect.isawaitable(one)]

"""Manual acknowledgement: an application may have many messages in hand, and says of each when it is done.

What an application has not acknowledged when it ends goes back, in order, in front of what waits. If it has failed, or
has returned of its own accord, one of these messages is to blame, and nobody knows which: so they are given one at a
time from then on, each when the one before it is settled, until it is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..._types import Application, Receive, Scope, Send
from ...asgi_compat import as_single_callable
from ...core.context import current_instance
from ...core.tracking import CANCELLED, DONE, FAILED, TAKEN, UNDELIVERED, outcome_of
from .delivery import Delivery, Lane, QueueScope, failure_text
from .dispatch import Dispatcher

NOT_ACKNOWLEDGED = "the application returned without acknowledging it"


class WatchedApplication:
    """The application of a server whose messages are acknowledged by it: its end is noticed at once.

    Args:
        ended: called with the scope and the error, if any, when the application has ended.
    """

    def __init__(self, application: Any, ended: Callable[[QueueScope, BaseException | None], None]) -> None:
        #: The application itself.
        self.application = application
        self._single: Application | None = None
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        if self._single is None:
            self._single = as_single_callable(self.application, tells_version=True)
        own = getattr(current_instance(), "scope", None)
        error: BaseException | None = None
        try:
            return await self._single(scope, receive, send)
        except BaseException as raised:
            error = raised
            raise
        finally:
            if type(own) is QueueScope:
                self._ended(own, error)
            # This frame is part of the traceback, which the task keeps.
            del error, own


class ManualDispatcher(Dispatcher):
    """Leaves messages in hand until the application has settled them."""

    def in_hand(self, scope: Any, number: int | None = None) -> Delivery | None:
        lane = self._lanes.get(scope["scope_id"])
        if lane is None:
            return None
        having = [*lane.held.values()]
        if lane.current is not None and lane.received:
            having.append(lane.current)
        found = {delivery.number: delivery for delivery in having if delivery.is_of(scope)}
        return next(reversed(found.values()), None) if number is None else found.get(number)

    def application_ended(self, scope: QueueScope, error: BaseException | None) -> None:
        """Take back what the application of a scope has in hand, unless it is about to be told of its last message."""
        lane = scope.lane
        if lane.current is None and lane.held:
            (first, *_) = lane.held.values()
            self._take_back(lane, [], self._reason_of(first.instance, outcome_of(error), error))

    def _may_follow(self, lane: Lane) -> bool:
        held = next(iter(lane.held.values()), None)
        if held is None:
            return True
        entry = self._server.application_instances.get(lane.scope_id)
        # One that was deleted has it until its run has ended.
        theirs = getattr(entry, "scope", None) is held.instance.scope
        return theirs and not (held.careful or lane.waiting[0].careful)

    def _told(self, delivery: Delivery, outcome: str, error: BaseException | None) -> None:
        lane, instance = delivery.lane, delivery.instance
        if outcome == TAKEN:
            super()._told(delivery, outcome, error)
        elif outcome == DONE and not instance.ended:
            lane.current = None
            if delivery.settled:
                self._came_back(delivery, outcome)
            else:
                lane.held[delivery.number] = delivery
            self._next(lane)
        elif outcome == UNDELIVERED:
            lane.held, held = {}, lane.held
            super()._told(delivery, outcome, error)
            lane.held = held
            if held:
                self._take_back(lane, [], NOT_ACKNOWLEDGED if instance.end_reason in ("returned", "failed") else None)
        else:
            lane.current = delivery.instance = None
            reason = self._reason_of(instance, outcome, error)
            if delivery.settled:
                self._came_back(delivery, outcome)
                self._take_back(lane, [], reason)
            else:
                self._take_back(lane, [delivery], reason)

    def _reason_of(self, instance: Any, outcome: str, error: BaseException | None) -> str | None:
        """Return why an application has ended that has messages in hand; None if none of them is to blame."""
        if outcome == DONE:
            return None if self._was_cut_off(instance) else NOT_ACKNOWLEDGED
        return None if outcome == CANCELLED else failure_text(error)

    def _take_back(self, lane: Lane, last: list[Delivery], reason: str | None) -> None:
        """Put what an application had in hand when it ended back in front of what waits.

        Args:
            last: what was in hand beside those that are held.
            reason: why it has ended; None if none of the messages is to blame.
        """
        taken = [*lane.held.values(), *last]
        lane.held = {}
        for delivery in taken:
            delivery.instance = None
            self._came_back(delivery, DONE if reason is None else FAILED)
        if lane.holding.over:
            self.counts["taken_away"] += len(taken)
        elif len(taken) == 1 and reason is not None:
            self._failed(taken[0], reason)
        elif taken:
            for delivery in reversed(taken):
                delivery.times += 1
                delivery.careful = delivery.careful or reason is not None
                lane.waiting.appendleft(delivery)
            self.counts["retried"] += len(taken) if reason is not None else 0
            self.pause(lane, self._server.retry_delay)
        elif lane.waiting:
            self.pause(lane, 0.0)
        else:
            self._tidy(lane)

    def settle(self, delivery: Delivery) -> None:
        super().settle(delivery)
        self._release(delivery)

    def requeue(self, delivery: Delivery) -> None:
        super().requeue(delivery)
        self._release(delivery)

    def _release(self, delivery: Delivery) -> None:
        """Note that a message that was held is settled: others may have waited for that."""
        lane = delivery.lane
        if lane.held.pop(delivery.number, None) is not None:
            self._came_back(delivery, DONE)
            if lane.current is None and lane.timer is None:
                self.go_on(lane)

"""Messages that may have ended their workers: each begins alone, so that it is known which one does.

How often a message was delivered says little: one that waits in a worker that ends, or gives its partition back, is
delivered again without ever having begun. So one that was delivered very often is only a suspect. While it is about to
begin, and for a while afterwards, nothing else begins in this worker, and the broker keeps a note of it, which outlives
the worker. A message whose note is found again and again is what ends its workers. A worker that has only lost its
connection removes the note in its next session, unless its loop stood still: that may have been what cut it off.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from ..._common.lost_time import Watch
from .delivery import Delivery, Lane
from .engine import EngineError

logger = logging.getLogger("cyasgi.sources.queue")

#: A message that was delivered more than this many times as often as it may fail is a suspect.
SUSPICIOUS = 4
#: How many workers must have ended while the same message was in hand alone.
ENDED = 2
#: Seconds that others wait for a suspect, and a suspect for what is in hand.
ALONE = 5.0
#: Seconds until the broker has the acknowledgement of one suspect, before the next one begins.
BETWEEN = 0.05
#: Seconds until a suspect is tried again that could not begin because of a fault.
FAILED = 1.0
#: Seconds until a suspect is looked at again that may not begin now.
LOOK = 0.05
#: Seconds that the loop must have stood still while a message was in hand for that to have cut the connection.
BLOCKED = 1.0


class SuspectsPort(Protocol):
    """What this module knows of the dispatcher."""

    @property
    def stopping(self) -> bool: ...
    async def note_suspect(self, key: str) -> int: ...
    async def clear_suspect(self, key: str) -> None: ...
    async def all_came_back(self, seconds: float) -> bool: ...
    def one_in_hand(self) -> asyncio.Future[None] | None: ...
    def may_begin(self, lane: Lane) -> bool: ...
    def begin(self, lane: Lane) -> bool: ...
    def go_on(self, lane: Lane) -> None: ...
    def resume(self, lane: Lane) -> None: ...
    def pause(self, lane: Lane, seconds: float) -> None: ...
    def bury(self, delivery: Delivery, reason: str) -> None: ...


class Suspects:
    """Lanes with a suspect at their head, and those that wait meanwhile.

    Args:
        start: starts a task that belongs to the server's run.
    """

    def __init__(self, dispatcher: SuspectsPort, start: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._dispatcher = dispatcher
        self._start = start
        self._lanes: collections.deque[Lane] = collections.deque()
        self._held_up: collections.deque[Lane] = collections.deque()
        #: Notes that are still to be removed, by their keys.
        self._stale: set[str] = set()
        self._running = False
        #: Whether nothing else may begin.
        self._alone = False
        #: Done when a message has come back that was in hand for longer than a suspect waits.
        self._slow: asyncio.Future[None] | None = None

    def holds_up(self, lane: Lane) -> bool:
        """Return whether the next message of a lane has to wait, and have the lane go on when its turn has come."""
        if lane.waiting[0].suspect:
            self._lanes.append(lane)
            if not self._running:
                self._running = True
                self._alone = not self._is_hopeless()
                self._start(self._run())
        elif self._alone:
            self._held_up.append(lane)
        else:
            return False
        lane.parked = True
        return True

    async def _run(self) -> None:
        """Have one suspect after the other begin."""
        try:
            while self._lanes:
                lane = self._lanes.popleft()
                if lane.timer is not None or not self._usable(lane):
                    # It may pause, or have other messages by now, or nothing.
                    self._dispatcher.resume(lane)
                    continue
                lane.parked = False
                self._alone = not self._is_hopeless()
                try:
                    await self._one(lane, lane.waiting[0])
                except Exception:
                    logger.exception("a message that was delivered very often could not begin alone")
                    self._dispatcher.pause(lane, FAILED)
        finally:
            self._running = False
            self._let_others_go_on()

    def _is_hopeless(self) -> bool:
        """Return whether a suspect would wait in vain: for a message for which the one before it has."""
        return self._slow is not None and not self._slow.done()

    def _let_others_go_on(self) -> None:
        self._alone = False
        held_up, self._held_up = self._held_up, collections.deque()
        for lane in held_up:
            self._dispatcher.resume(lane)

    def _usable(self, lane: Lane, delivery: Delivery | None = None) -> bool:
        """Return whether the lane may go on and has a suspect at its head, this one if one is given."""
        if self._dispatcher.stopping or lane.holding.letting_go or lane.current is not None or not lane.waiting:
            return False
        head = lane.waiting[0]
        return head.suspect and (delivery is None or head is delivery)

    async def _one(self, lane: Lane, delivery: Delivery) -> None:
        dispatcher, key = self._dispatcher, key_of(delivery)
        alone = not self._is_hopeless() and await dispatcher.all_came_back(ALONE)
        if not alone and self._alone:
            self._slow = dispatcher.one_in_hand()
            self._let_others_go_on()
        if not self._usable(lane, delivery):
            dispatcher.go_on(lane)
            return
        if not dispatcher.may_begin(lane):
            dispatcher.pause(lane, LOOK)
            return
        if not alone:
            # Should this worker end, nobody could tell which of them is to blame.
            dispatcher.begin(lane)
            return
        try:
            if key in self._stale:
                await dispatcher.clear_suspect(key)
                self._stale.discard(key)
            ended = await dispatcher.note_suspect(key)
        except EngineError as error:
            logger.debug("%r may not begin yet: %s", delivery, error)
            dispatcher.pause(lane, LOOK)
            return
        if not self._usable(lane, delivery) or not dispatcher.may_begin(lane):
            await self._clear(key)
            dispatcher.go_on(lane)
            return
        if ended >= ENDED:
            lane.waiting.popleft()
            dispatcher.bury(delivery, f"each of {ended} workers has ended while it was in hand alone")
            dispatcher.go_on(lane)
            await self._clear(key)
            return
        came_back = delivery.came_back = asyncio.get_running_loop().create_future()
        watch = Watch(lambda: not came_back.done())
        watch.begin()
        if not dispatcher.begin(lane):
            came_back.cancel()
            await self._clear(key)
            return
        logger.info("%r was delivered %d times: it begins alone", delivery, delivery.times)
        await asyncio.wait({came_back}, timeout=ALONE)
        if not came_back.done():
            # The note stays until it has come back.
            came_back.add_done_callback(lambda _: self._start(self._clear(key, watch)))
            self._let_others_go_on()
            return
        await self._clear(key, watch)
        await asyncio.sleep(BETWEEN)

    async def _clear(self, key: str, watch: Watch | None = None) -> None:
        """Remove the note of a message, now or in the next session.

        Args:
            watch: has measured how long the loop stood still while it was in hand.
        """
        try:
            await self._dispatcher.clear_suspect(key)
        except EngineError as error:
            logger.debug("the note of a suspect stays for now: %s", error)
            if (watch is None or watch.lost.total(time.monotonic()) <= BLOCKED) and key not in self._stale:
                self._stale.add(key)
                self._start(self._clear_later(key))

    async def _clear_later(self, key: str) -> None:
        while key in self._stale and not self._dispatcher.stopping:
            await asyncio.sleep(FAILED)
            if key in self._stale:
                try:
                    await self._dispatcher.clear_suspect(key)
                except EngineError as error:
                    # It is forgotten in a day.
                    logger.debug("the note of a suspect stays: %s", error)
                else:
                    self._stale.discard(key)


def key_of(delivery: Delivery) -> str:
    """Return what stands for a message in whatever worker it is."""
    letter = delivery.letter
    parts = [delivery.scope_id, letter.message_id or "", letter.correlation_id or ""]
    digest = hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace"))
    digest.update(letter.body)
    return digest.hexdigest()[:32]

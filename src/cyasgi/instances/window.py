"""Window: a bound on the messages that a server's instances have, over all of them and for each key."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from .._settings import Integer
from ..core.tasks import resolved
from ..core.tracking import TAKEN, OnOutcome, Tracked


class Window:
    """How many messages the instances of a server may have that are not done, for a source that fetches them.

    A message counts from the moment when it is put until the application has come back for the next one, or has ended.
    That bounds memory whatever the queues' own bounds are. `most_per_key` keeps one slow instance from taking all of
    the window: then its key is paused, so that the source may leave its messages where they are and fetch others.

        window = Window(10_000, most_per_key=100, on_resume=source.resume)
        if window.paused(user):
            source.pause(user)
        else:
            await window.put(instance, message)

    Args:
        most: messages of all instances together.
        most_per_key: messages of one instance; None for no bound of its own.
        on_resume: called with the key, the `scope_id`, when a paused one has room again for half of its messages.

    Raises:
        TypeError, ValueError: a bound is not an int of at least 1.
    """

    def __init__(
        self, most: int, most_per_key: int | None = None, *, on_resume: Callable[[Hashable], object] | None = None
    ) -> None:
        Integer(1)("most", most)
        Integer(1, none="no bound")("most_per_key", most_per_key)
        self._most = most
        self._most_per_key = most_per_key
        self._on_resume = on_resume
        #: Messages that are not done: all of them, and those of each key.
        self._count = 0
        self._counts: collections.Counter[Hashable] = collections.Counter()
        self._paused: set[Hashable] = set()
        #: Those who wait for room, first come, first served.
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
        #: Room that was given to some of these, who have not put yet.
        self._promised = 0

    @property
    def in_flight(self) -> int:
        """The number of messages that are not done."""
        return self._count

    def paused(self, key: Hashable) -> bool:
        """Return whether the instance of this key has as many messages as it may."""
        return key in self._paused

    def put_nowait(self, instance: Any, message: Any, on_outcome: OnOutcome | None = None) -> None:
        """Put a message.

        Args:
            on_outcome: told what becomes of it, see `Tracked`.

        Raises:
            asyncio.QueueFull: the window is full, somebody waits for room in it, or the key is paused; or the queue is
                full, as for `instance.put_nowait`.
        """
        key = instance.scope_id
        if self._full or key in self._paused:
            raise asyncio.QueueFull
        self._put(instance, message, on_outcome)

    async def put(self, instance: Any, message: Any, on_outcome: OnOutcome | None = None) -> None:
        """Do as `put_nowait`, once there is room in the window; it does not wait for a key that is paused.

        Raises:
            asyncio.QueueFull: the key is paused, or the queue is full.
        """
        if self._full:
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except BaseException:
                self._leave(place)
                self._make_room()
                raise
            self._promised -= 1
        try:
            if instance.scope_id in self._paused:
                raise asyncio.QueueFull
            self._put(instance, message, on_outcome)
        finally:
            # Whoever was given room and has not put leaves it to the next one.
            self._make_room()

    def _leave(self, place: asyncio.Future[None]) -> None:
        if place in self._waiting:
            self._waiting.remove(place)
        elif not place.cancelled():
            # It was given room, in the pass of the loop in which whoever waits was cancelled.
            self._promised -= 1

    @property
    def _full(self) -> bool:
        return bool(self._waiting) or self._count + self._promised >= self._most

    def _put(self, instance: Any, message: Any, on_outcome: OnOutcome | None) -> None:
        key = instance.scope_id
        # Before it is put: an instance that has ended tells the outcome at once.
        self._count += 1
        self._counts[key] += 1
        pauses = self._most_per_key is not None and self._counts[key] >= self._most_per_key
        if pauses:
            self._paused.add(key)
        try:
            instance.put_nowait(Tracked(message, partial(self._told, key, on_outcome)))
        except BaseException:
            self._uncount(key)
            if pauses:
                self._paused.discard(key)
            raise

    def _uncount(self, key: Hashable) -> int:
        """Note that a message has left; return how many its key still has."""
        self._count -= 1
        self._counts[key] -= 1
        left = self._counts[key]
        if not left:
            del self._counts[key]
        return left

    def _told(self, key: Hashable, on_outcome: OnOutcome | None, outcome: str, error: BaseException | None) -> None:
        if outcome != TAKEN:
            left = self._uncount(key)
            self._make_room()
            resumes = key in self._paused and left <= (self._most_per_key or 0) // 2
            if resumes:
                self._paused.discard(key)
        else:
            resumes = False
        try:
            if on_outcome is not None:
                on_outcome(outcome, error)
        finally:
            if resumes and self._on_resume is not None:
                self._on_resume(key)

    def _make_room(self) -> None:
        while self._waiting and self._count + self._promised < self._most:
            self._promised += resolved(self._waiting.popleft())

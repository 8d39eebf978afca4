"""Line: those who wait to put a message into a full queue."""

from __future__ import annotations

import asyncio
import collections

from ..tasks import resolved


class Line:
    """The line of those who wait for room in a queue, first come, first served.

    A place in it is a future. The first `owned` ones are resolved: each owns a free slot until that is filled or given
    up. While anybody is in line, later putters have to line up too.
    """

    __slots__ = ("owned", "places")

    def __init__(self) -> None:
        self.places: collections.deque[asyncio.Future[None]] = collections.deque()
        self.owned = 0

    def advance(self, room: int) -> None:
        """Of `room` free slots, give those that nobody owns to the first places that own none."""
        places = self.places
        while self.owned < room and self.owned < len(places):
            if resolved(places[self.owned]):
                self.owned += 1
            else:
                del places[self.owned]

    def leave(self, place: asyncio.Future[None]) -> bool:
        """Take a place out of the line; return whether it owned a slot."""
        try:
            # Usually it is the first one.
            index = self.places.index(place)
        except ValueError:
            return False
        del self.places[index]
        if index >= self.owned:
            return False
        self.owned -= 1
        return True

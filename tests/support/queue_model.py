"""A plain model of an instance as a bounded queue: `asyncio.Queue` in which nobody is overtaken."""

from __future__ import annotations

import asyncio
from typing import Any


class FairQueue(asyncio.Queue):  # type: ignore[type-arg]
    """An asyncio.Queue whose putters cannot be overtaken. One that was woken owns a slot until it has put or was
    cancelled, so that later ones find the queue full. Without a bound it is asyncio's own queue."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        #: Who waits for room, in the order of coming. Those whose future is done own a slot.
        self.line: list[asyncio.Future[None]] = []

    def full(self) -> bool:
        return super().full() or bool(self.line)

    def get_nowait(self) -> Any:
        item = super().get_nowait()
        self.advance()
        return item

    async def put(self, item: Any) -> None:
        if not self.full():
            return self.put_nowait(item)
        place = asyncio.get_running_loop().create_future()
        self.line.append(place)
        try:
            await place
        except asyncio.CancelledError:
            place.cancel()
            if place in self.line:
                self.line.remove(place)
            self.advance()
            raise
        self.line.remove(place)
        self._put(item)
        self._unfinished_tasks += 1
        self._finished.clear()
        self.advance()
        self._wakeup_next(self._getters)  # type: ignore[attr-defined]

    def advance(self) -> None:
        """Whoever waits longest gets what is free and nobody's."""
        owned = sum(place.done() and not place.cancelled() for place in self.line)
        while self.qsize() + owned < self.maxsize:
            self.line = [place for place in self.line if not place.cancelled()]
            if owned == len(self.line):
                return
            self.line[owned].set_result(None)
            owned += 1

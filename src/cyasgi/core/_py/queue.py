"""InputQueue: what an instance is made of, and its input queue."""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import (
    Hashable,
)
from threading import get_ident
from typing import Any

from ..._types import ServerPort
from ..constants import (
    AUTO,
    DONE,
    HELD,
    NEW,
)
from ..tasks import (
    resolved,
    runs_elsewhere,
)
from ..tracking import (
    DONE as TRACKED_DONE,
    TAKEN,
    Tracked,
    undelivered,
)
from .entry import Entry
from .line import Line
from .sampling import SAMPLER

_MISSING: Any = object()


class InputQueue(Entry):
    """The input queue of an instance."""

    __slots__ = (
        "_direct",
        "_gate",
        "_getters",
        "_idle",
        "_items",
        "_joiners",
        "_line",
        "_loop",
        "_maxsize",
        "_pulls",
        "_server",
        "_state",
        "_thread",
        "_unfinished",
        "_watchers",
        "_yielding",
        "scope",
    )

    def __init__(self, server: ServerPort, scope_id: Hashable, scope: Any, maxsize: int) -> None:
        super().__init__(scope_id)
        self._server = server
        self.scope = scope
        self._maxsize = maxsize
        self._items: collections.deque[Any] = collections.deque()
        self._getters: collections.deque[asyncio.Future[None]] = collections.deque()
        self._line: Line | None = None
        self._joiners: list[asyncio.Future[None]] | None = None
        #: Those who wait until the application has received and finished all.
        self._watchers: list[asyncio.Future[None]] | None = None
        self._unfinished = 0
        self._state = NEW
        self._yielding = 0
        self._idle = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._gate: asyncio.Future[None] | None = None
        #: Whether `scope.connection.next_message()` is asked for a message where the queue has none: it gives one, or
        #: None for nothing but to wait.
        self._pulls = False
        #: Whether what the application sends goes to `scope.connection.application_send` rather than to the server's.
        self._direct = False

    def _open_gate(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            resolved(gate)

    def _last_message(self) -> Any:
        """Return what `receive()` returns after the end, from the scope's connection; None for nothing."""
        last_message = getattr(getattr(self.scope, "connection", None), "last_message", None)
        return None if last_message is None else last_message()

    def _set_idle(self) -> None:
        if not self._idle and self._state != DONE:
            self._idle = True
            self._active = time.monotonic()
            if self._table is not None:
                self._table._now_idle()
            if self._watchers is not None:
                self._release_watchers()

    def _set_busy(self) -> None:
        if self._idle:
            self._idle = False
            if self._table is not None:
                self._table.idle -= 1

    def _keep(self, item: Any) -> None:
        """Keep a message that was put after the end of the run and before the instance is reported."""
        self._items.append(item)
        self._unfinished += 1

    def take_all(self) -> list[Any]:
        """Remove and return all queued messages, which will not be received any more, and end every wait in `join`."""
        return undelivered(self._take_items())

    def _take_items(self) -> list[Any]:
        """Do as `take_all`, for those who put the messages elsewhere: tracked ones stay tracked."""
        if SAMPLER.cells is not None:
            SAMPLER.forget(self)
        items = list(self._items)
        self._items.clear()
        self._unfinished = 0
        self._release_joiners()
        self._release_watchers()
        return items

    def _inherit(self, messages: list[Any], first: bool) -> None:
        """Accept messages put into an ended instance, whatever the bound; `first`: before those that wait here."""
        if first:
            self._items.extendleft(reversed(messages))
        else:
            self._items.extend(messages)
        self._unfinished += len(messages)
        if self._state <= HELD:
            self._fed()
        for _ in messages:
            if self._getters:
                self._wake_getter()

    def _check_thread(self) -> None:
        if self._thread != get_ident() and runs_elsewhere(self._loop):
            raise RuntimeError(
                f"the input queue of scope_id {self.scope_id!r} was used from another thread than its event loop's; "
                "use put_threadsafe()"
            )

    @property
    def idle(self) -> bool:
        """Whether the queue is empty and somebody waits in `receive`."""
        return self._idle

    @property
    def ended(self) -> bool:
        """Whether its run is over: nothing that is put into the queue from now on will be received."""
        return self._state == DONE

    @property
    def maxsize(self) -> int:
        """The maximum number of messages in the queue; 0 for no bound."""
        return self._maxsize

    @property
    def pulls(self) -> bool:
        """Whether `receive` asks the connection of the scope if the queue is empty."""
        return self._pulls

    @property
    def direct(self) -> bool:
        """Whether `send` is the connection's own, and not `application_send`."""
        return self._direct

    def _fed(self) -> None:
        self._state = AUTO
        if self._gate is not None:
            self._open_gate()

    def _wake_getter(self) -> None:
        if self._idle:
            self._set_busy()
        getters = self._getters
        while getters and not resolved(getters.popleft()):
            pass

    def _line_up(self) -> asyncio.Future[None]:
        """Return a place in line, for callers who find the queue full. It is resolved when it owns a slot or the
        instance has ended: then call `_fill`. Whoever gives up before that calls `_leave_line`."""
        if self._thread:
            self._check_thread()
        loop = self._loop
        place = (asyncio.get_running_loop() if loop is None else loop).create_future()
        if self._line is None:
            self._line = Line()
        self._line.places.append(place)
        return place

    def _fill(self, place: asyncio.Future[None], item: Any) -> bool:
        """Queue a message in the slot that the place owns. Return False if it owns none, because the instance has ended
        meanwhile; then check the queue again."""
        line = self._line
        if line is None or not line.leave(place):
            return False
        self._items.append(item)
        self._unfinished += 1
        if SAMPLER.cells is not None:
            SAMPLER.put(self, item)
        if self._state <= HELD:
            self._fed()
        self._advance()
        if self._getters:
            self._wake_getter()
        return True

    def _leave_line(self, place: asyncio.Future[None]) -> None:
        """Give up a place; a slot that it owns goes to the next one."""
        place.cancel()
        if self._line is not None:
            self._line.leave(place)
            self._advance()

    def _advance(self) -> None:
        """Give free slots to those in line."""
        line = self._line
        if line is not None:
            line.advance(self._maxsize - len(self._items))
            if not line.places:
                self._line = None

    def _is_occupied(self) -> bool:
        """Return whether anybody is in line, except those whose loop was closed, who will never put."""
        while self._line is not None and (place := self._line.places[0]).get_loop().is_closed():
            self._line.leave(place)
            self._advance()
        return self._line is not None

    def _take(self) -> Any:
        """Take a message for somebody who is not the application."""
        item = self._items.popleft()
        if SAMPLER.cells is not None:
            SAMPLER.taken(self, item)
        if self._line is not None:
            self._advance()
        if type(item) is Tracked:
            item.tell(TAKEN)
            item.tell(TRACKED_DONE)
            return item.message
        return item

    async def _get(self, taker: Any = None) -> Any:
        """Take a message, or wait for it. `taker`: for `receive()`, the run in whose task it was called, or a Child."""
        # What the application has left is not for a child task that outlives it.
        while not self._items or (taker is not None and taker.instance is None):
            if taker is not None and taker.instance is None:
                last = self._last_message()
                if last is None:
                    raise asyncio.CancelledError
                return last
            if self._pulls:
                message = self.scope.connection.next_message()
                if message is not None:
                    return message
            loop = self._loop
            getter = (asyncio.get_running_loop() if loop is None else loop).create_future()
            self._getters.append(getter)
            if not self._idle:
                self._set_idle()
            try:
                await getter
            except BaseException:
                # A coroutine that is thrown away after its loop was closed has nobody to make room for.
                if getter.cancelled() or not getter.get_loop().is_closed():
                    self._give_up(getter)
                # This frame is part of the traceback, which the task keeps.
                del self, getter, taker
                raise
        if taker is None:
            return self._take()
        item = self._items.popleft()
        if SAMPLER.cells is not None:
            SAMPLER.taken(self, item)
        if self._line is not None:
            self._advance()
        if type(item) is Tracked:
            return taker.took(self, item)
        taker._in_flight = (item,)
        return item

    def _give_up(self, getter: asyncio.Future[None]) -> None:
        """Note that a waiting `get` was cancelled."""
        getter.cancel()
        if getter in self._getters:
            self._getters.remove(getter)
        if self._items and not getter.cancelled():
            self._wake_getter()
        elif not self._getters:
            self._set_busy()

    def _release_joiners(self) -> None:
        joiners, self._joiners = self._joiners, None
        for joiner in joiners or ():
            resolved(joiner)

    def _watchers_now(self) -> list[asyncio.Future[None]]:
        return self._watchers or []

    def _release_watchers(self) -> None:
        watchers, self._watchers = self._watchers, None
        for watcher in watchers or ():
            resolved(watcher)

"""Logging of what may happen a million times a second: one line a second at most, with nothing left out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakMethod

from ...core.context import outside

#: Seconds between two lines.
INTERVAL = 1.0


class RateLimitedLog:
    """Calls a method that logs: at once when there is something to log, and then once a second while there is more.

    Args:
        log: logs what has come up since it was last called; returns False if that is nothing. Referred to weakly, as
            its object refers to this one.
    """

    __slots__ = ("_log", "_loop", "_timer")

    def __init__(self, log: Callable[[], bool]) -> None:
        self._log = WeakMethod(log)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def notice(self) -> None:
        """Have something logged: now, or when the last line is a second old."""
        if self._timer is None or self._loop is not asyncio.get_running_loop():
            self._say()

    def close(self) -> None:
        """Log what was not logged yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._loop = None
            if (log := self._log()) is not None:
                log()

    def _say(self) -> None:
        self._timer = self._loop = None
        log = self._log()
        if log is not None and log():
            self._loop = asyncio.get_running_loop()
            self._timer = self._loop.call_later(INTERVAL, self._say, context=outside())

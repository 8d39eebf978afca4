"""Stops servers, and waits until they have started, from any thread and at any time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any


class Control:
    """What other threads may ask of a server, or of several, that run in an event loop.

    A stop that comes before the first run, or while one is about to begin, is kept for it. One that comes after a run
    has ended was for that run.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._request: Callable[[], object] = bool
        #: Stops that wait for a run to begin.
        self._early = 0
        #: Whether the last run has ended, and no other is about to begin.
        self._over = False
        self._started = _future()
        #: Whether the last run has served, or the one at work does.
        self.served = False

    def stop(self) -> None:
        """Ask the current run to stop, or the one that is about to begin."""
        with self._lock:
            loop, request = self._loop, self._request
            if loop is None:
                self._early += not self._over
                return
        if asyncio._get_running_loop() is loop:
            request()
            # A signal handler interrupts a loop that waits and goes on waiting.
            request = bool
        try:
            loop.call_soon_threadsafe(request)
        except RuntimeError:
            if not loop.is_closed():
                raise

    # By whoever runs it, in its thread

    def expect(self) -> None:
        """Announce a run that is about to begin, in an event loop that does not exist yet."""
        with self._lock:
            self._over = False

    def begin(self, loop: asyncio.AbstractEventLoop, request: Callable[[], object]) -> None:
        """Announce that a run begins in this loop, where `request` asks it to stop."""
        with self._lock:
            self._loop, self._request = loop, request
            self.served = False
            early, self._early = self._early, 0
        for _ in range(early):
            request()

    def started(self) -> None:
        """Announce that the run is ready."""
        self.served = True
        if not self._started.done():
            self._started.set_result(None)

    def end(self, error: BaseException | None) -> None:
        """Announce that the run has ended, with this error or None."""
        with self._lock:
            self._loop, self._request = None, bool
            self._early = 0
            self._over = True
            started, self._started = self._started, _future()
        if not started.done():
            started.set_exception(error if isinstance(error, Exception) else RuntimeError("it ended before it served"))

    # By whoever waits

    @property
    def start(self) -> futures.Future[None]:
        """Done when the run at work serves, or the next one; failed if that ends before. Cannot be cancelled."""
        return self._started

    async def wait_started(self) -> None:
        """Return when the run at work serves, or the next one; raise what ended it before that."""
        waiting = asyncio.wrap_future(self._started)
        # Whoever gives up waiting leaves nobody behind to look at the error.
        waiting.add_done_callback(_look_at)
        await asyncio.shield(waiting)


def _future() -> futures.Future[None]:
    future: futures.Future[None] = futures.Future()
    # From now on nobody who waits for it can cancel it.
    future.set_running_or_notify_cancel()
    return future


def _look_at(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()

"""Messages from other threads, which wait for room in the thread of the queue."""

from __future__ import annotations

import asyncio
from concurrent import futures
from functools import partial
from typing import Any

from .._types import ServerPort
from ..core import ApplicationInstance
from .reporting import Reporting


class Feeding(Reporting):
    """Accepts messages from any thread."""

    def __init__(self, base: type[ServerPort]) -> None:
        super().__init__(base)
        #: Messages that wait for room, by their futures.
        self._fed: dict[futures.Future[None], tuple[ApplicationInstance, Any]] = {}

    def put_threadsafe(self, instance: ApplicationInstance, message: Any) -> futures.Future[None]:
        """Queue a message from any thread; the future can be cancelled until the queue's thread handles the message."""
        accepted: futures.Future[None] = futures.Future()
        loop = instance._loop
        if loop is None:
            self._accept(instance, message, accepted)
        else:
            loop.call_soon_threadsafe(self._accept, instance, message, accepted)
        return accepted

    def _accept(self, instance: ApplicationInstance, message: Any, accepted: futures.Future[None]) -> None:
        if not accepted.set_running_or_notify_cancel():
            return
        try:
            instance.put_nowait(message)
        except asyncio.QueueFull as error:
            if instance._loop is None:
                accepted.set_exception(error)
                raise
            # Line up at once, not in the first step of a task, so that later messages stay behind.
            place = instance._line_up()
            self._fed[accepted] = (instance, message)
            place.add_done_callback(partial(self._accept_in_line, instance, message, accepted))
        else:
            accepted.set_result(None)

    def _accept_in_line(
        self, instance: ApplicationInstance, message: Any, accepted: futures.Future[None], place: asyncio.Future[None]
    ) -> None:
        if self._fed.pop(accepted, None) is None:
            return
        if not instance._fill(place, message):
            # The instance has ended meanwhile.
            instance.put_nowait(message)
        accepted.set_result(None)

    def _end_stale_feeding(self) -> None:
        """Report the messages that wait for room in instances of closed loops."""
        for accepted, (instance, message) in list(self._fed.items()):
            if instance._loop is not None and instance._loop.is_closed():
                del self._fed[accepted]
                self.put_after_end(instance, message)
                accepted.set_result(None)

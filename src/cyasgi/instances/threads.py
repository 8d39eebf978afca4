"""Messages from other threads, which wait for room where the queue is."""

from __future__ import annotations

import asyncio
from concurrent import futures
from functools import partial
from typing import Any

from .._types import ServerPort
from ..core import ApplicationInstance
from .reporting import Reporting


class Feeding(Reporting):
    """Take messages from any thread."""

    def __init__(self, base: type[ServerPort]) -> None:
        super().__init__(base)
        #: Messages that wait for room, by what tells of them.
        self._fed: dict[futures.Future[None], tuple[ApplicationInstance, Any]] = {}

    def put_threadsafe(self, instance: ApplicationInstance, message: Any) -> futures.Future[None]:
        """The future may be cancelled until the message is in hand where it is queued, and not from then on."""
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
            # At once, and not in a task's first step: so those who come later stay behind.
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
            # It has ended meanwhile.
            instance.put_nowait(message)
        accepted.set_result(None)

    def _end_stale_feeding(self) -> None:
        """Report what waits for room in instances of closed loops."""
        for accepted, (instance, message) in list(self._fed.items()):
            if instance._loop is not None and instance._loop.is_closed():
                del self._fed[accepted]
                self.put_after_end(instance, message)
                accepted.set_result(None)

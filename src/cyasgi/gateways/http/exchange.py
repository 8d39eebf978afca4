"""One request and its response: what the application receives (ASGI, "HTTP"), and how its end concerns the client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ...core.context import outside
from ...core.describe import describe
from ...wire.http.response import CONTINUE
from .fast_path import ClientDisconnected as ClientDisconnected
from .phases import COMPLETE, HIGH_WATER, STARTED, STREAMING
from .port import ExchangeConnection
from .response import DISCONNECTED_LIMIT, ResponseWriter

logger = logging.getLogger("cyasgi.gateways.http")

#: Seconds between two ``http.disconnect`` messages for an application that has received DISCONNECTED_LIMIT of them.
DISCONNECT_DELAY = 1.0


class Exchange(ResponseWriter):
    """One request and its response; the id of its instance in the server's table."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<request {id(self):#x}>"

    # What the application receives

    def _next_disconnect(self) -> Any:
        if self._disconnects < DISCONNECTED_LIMIT:
            self._disconnects += 1
            return {"type": "http.disconnect"}
        # It may be asked for as often as an application likes; but one that never stops asking must not keep the loop
        # to itself.
        self._disconnect_later()
        return None

    def _disconnect_later(self) -> None:
        if not self._delayed:
            self._delayed = True
            asyncio.get_running_loop().call_later(DISCONNECT_DELAY, self._disconnect_again, context=outside())

    def _disconnect_again(self) -> None:
        self._delayed = False
        self._disconnect_waiting()

    def _disconnect_waiting(self) -> None:
        """Tell an application that waits for a message that none will come."""
        instance = self.instance
        if instance is None or not instance.waiting():
            return
        if not instance.full():
            self._disconnects += 1
            instance.put_nowait({"type": "http.disconnect"})
        if instance.waiting():
            if self._disconnects < DISCONNECTED_LIMIT:
                self._soon(self._disconnect_waiting)
            else:
                self._disconnect_later()

    def _disconnect_instead(self, instance: Any) -> None:
        """Put ``http.disconnect`` in place of a part of the body that is queued; what was pushed from outside stays."""
        queued = instance.peek()
        if not isinstance(queued, dict) or queued.get("type") != "http.request":
            return
        instance.get_nowait()
        # The room may be promised to what was pushed; then the application receives the end behind that.
        if not instance.full():
            instance.put_nowait({"type": "http.disconnect"})
            self._disconnects = 1

    def feed(self, data: bytes, more: bool) -> None:
        """Pass on a part of the body. Parts that the application has not taken yet are joined."""
        instance = self.instance
        if instance is None or self.phase == COMPLETE or self.disconnected:
            return
        self._whole = not more
        # The free place of a bounded queue may belong to somebody who has waited for it.
        if instance.idle and not instance.full():
            self._received = self._whole
            instance.put_nowait({"type": "http.request", "body": data, "more_body": more})
            return
        if self._parts is None:
            self._parts = []
            self._waiting_bytes = 0
        self._parts.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= HIGH_WATER and self.protocol is not None:
            self.protocol.pause_reading()
        if instance.waiting():
            self._soon(self._serve_waiting)

    def _serve_waiting(self) -> None:
        """Give one message to each of several tasks of an application that wait for messages side by side."""
        instance = self.instance
        if instance is None or not instance.waiting():
            return
        if instance.full():
            # The task that this message is for has not run yet, or one that has waited for the room that there is.
            self._soon(self._serve_waiting)
            return
        message = self.next_message()
        if message is not None:
            instance.put_nowait(message)
            self._soon(self._serve_waiting)

    @staticmethod
    def _soon(callback: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_soon(callback, context=outside())

    def expect_continue(self) -> None:
        """Send 100 (Continue), which the client waits for, when the application asks for the body."""
        self.waits_for_continue = True
        if self._asked:
            self._continue()

    def _continue(self) -> None:
        self.waits_for_continue = False
        if self.protocol is not None and self.phase <= STARTED:
            self.protocol.transport.write(CONTINUE)

    def disconnect(self) -> None:
        """Take note that the client has gone: a complete body can still be received, then ``http.disconnect``."""
        if self.disconnected:
            return
        self.disconnected = True
        self.broken_off = self.protocol is not None and self.protocol.body is not None
        instance = self.instance
        if instance is None or instance.ended:
            return
        if not self._whole:
            self._parts = None
            if instance.qsize():
                # A part with more to come, which was not taken yet.
                self._disconnect_instead(instance)
        if self._parts is None:
            # Otherwise `_serve_waiting` is on its way, and what has arrived of the body comes first.
            self._disconnect_waiting()

    # The end

    def _cut_short(self, protocol: ExchangeConnection, instance: Any) -> None:
        """Answer or cut the connection, since the application has ended before its response was complete."""
        if instance.outcome == "returned" and not self.disconnected:
            logger.error("an application returned before its response was complete: %s", describe(instance))
        if self.phase >= STREAMING or self.disconnected:
            protocol.abort()
        elif instance.outcome == "cancelled":
            protocol.answer(503, "the request was cancelled")
        else:
            protocol.answer(500, "internal error")

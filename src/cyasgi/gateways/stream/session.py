"""The application's side of a stream: what it receives, where it sends, and how it ends.

A session belongs to one instance. Usually it has one connection from its beginning to its end. Where the server chooses
instances by first messages, a client may come back by another connection: what came by the old one is received first,
and what the application sends meanwhile waits for the new one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

from ...core import Pass
from ...core.context import outside
from ...wire.stream import StreamClosed
from ..net.causes import caused_by
from ..pushing import PushedSizes
from .connection import StreamConnection
from .fast_path import FastSession, give
from .phases import ENDED, GONE, OPEN
from .port import StreamServerPort

logger = logging.getLogger("cyasgi.gateways.stream")

#: Connections of one client whose messages wait behind those of the one before, at most.
MOST_WAITING = 4
#: How often an application may receive that its client has gone before it is cancelled.
DISCONNECTS = 100
#: Messages that an application has left unread and that are reported one by one, at most; others in one, as bytes.
REPORTED = 256

NONE: Any = ()


class Session(FastSession):
    """What the scope of a stream has as its connection (`cyasgi._types.Connection`).

    Args:
        server: whose session it is.
        lasting: whether its client may come back by another connection.
    """

    __slots__ = (
        "_before_end",
        "_deadline",
        "_disconnects",
        "_senders",
        "_sizes",
        "_waiting",
        "lasting",
    )

    def __init__(self, server: StreamServerPort, lasting: bool) -> None:
        self.server = server
        self.traffic = server.traffic
        self.loop = asyncio.get_running_loop()
        self.lasting = lasting
        #: None before it was made, and after its end.
        self.instance = None
        #: The connection that is read, the one that is written to, and those that are to be read next.
        self.reading = None
        self.writing = None
        self._waiting: deque[StreamConnection] = NONE
        self.greeted = False
        self.told = OPEN
        self._disconnects = 0
        #: Messages received in this turn of the loop, and messages sent.
        self.turn = self.sends = 0
        #: Whether `_later` is under way.
        self.soon = False
        #: Messages from outside that wait, and their sizes.
        self.pushed = NONE
        self._sizes: PushedSizes | None = None
        self.favours_pushed = True
        #: How many of them are received before the application is told of an end; -1: they were not counted yet.
        self._before_end = -1
        #: Senders that wait for the client to come back.
        self._senders: deque[asyncio.Future[None]] = NONE
        #: By when it must have come back.
        self._deadline: Any = None

    # Beginning.

    def begin(self, instance: Any) -> None:
        """Have the instance, which was made for this session, fed by it."""
        self.instance = instance
        instance.connect(self.server.direct)

    def attach(self, connection: StreamConnection) -> bool:
        """Take on a connection: the first one, or that of a client that has come back.

        Returns:
            False if too many wait to be read.
        """
        if len(self._waiting) >= MOST_WAITING:
            return False
        connection.session = self
        self._no_longer_away()
        if self.writing is not None:
            self.writing.end_input("replaced", "the client has another connection")
            self.writing.finish()
        self.writing = connection
        if self.reading is None:
            self._read(connection)
        else:
            if self._waiting is NONE:
                self._waiting = deque()
            self._waiting.append(connection)
        self._wake_senders()
        self.look()
        return True

    def _read(self, connection: StreamConnection | None) -> None:
        self.reading = connection
        self.greeted = False
        self.told = OPEN
        self._disconnects = 0
        self._before_end = -1

    # What the application receives.

    def look(self) -> None:
        """Give an application that waits what there is, after a turn of the loop."""
        if not self.soon and self.instance is not None and self.instance.waiting():
            self.later()

    def later(self) -> None:
        self.soon = True
        self.loop.call_soon(self._go_on, context=self.server.outside)

    def _go_on(self) -> None:
        self.soon = False
        self.turn = 0
        instance = self.instance
        if instance is None or not instance.waiting():
            return
        if instance.qsize() or instance.full():
            # The task that this message is for has not run yet, or one that has waited for the room that there is.
            self.later()
            return
        message = self.next_message()
        if message is not None:
            give(self, instance, message)
            # Several tasks of the application may wait side by side.
            self.look()

    def next_pushed(self) -> Any:
        """Return the next message from outside."""
        self.favours_pushed = False
        return self.pushed.popleft()

    def greet(self, connection: StreamConnection) -> Any:
        """Return the first message of a connection."""
        self.greeted = True
        return {"type": "stream.connect", "client": connection.client, "server": connection.address}

    def next_end(self, connection: StreamConnection) -> Any:
        """Return what there is to be received once nothing more comes from the client.

        That is what was pushed before, the end, and what was pushed after it: so neither puts off the other for ever.
        """
        if self._before_end < 0:
            self._before_end = len(self.pushed)
        if self._before_end and self.pushed:
            self._before_end -= 1
            return self.next_pushed()
        message = self._tell_end(connection)
        if message is not None:
            self._before_end = -1
            return message
        return self.next_pushed() if self.pushed else None

    def _tell_end(self, connection: StreamConnection) -> Any:
        """Return what tells the application of the end of a connection, or what comes after that."""
        if self.told == OPEN:
            self.told = GONE if self._cannot_write(connection) else ENDED
            if self.told == ENDED and connection.end != "eof":
                connection.await_farewell()
            return self._disconnect(connection, connection.take_rest())
        if self.told == ENDED:
            if self._cannot_write(connection):
                self.told = GONE
                return self._disconnect(connection)
            if connection.end != "eof":
                # The application was told, and has nothing more to say.
                connection.finish()
            return None
        if self._waiting:
            connection.forget()
            self._read(self._waiting.popleft())
            return self.next_message()
        if self.lasting:
            return None
        self._disconnects += 1
        if self._disconnects > DISCONNECTS:
            self.loop.call_soon(self._cancel, context=outside())
            return None
        return self._disconnect(connection)

    def tell_again(self, connection: StreamConnection) -> None:
        """Tell the application of an end for another reason than it was told before."""
        if connection is self.reading and self.told == ENDED:
            self.told = OPEN

    def _cannot_write(self, connection: StreamConnection) -> bool:
        return (
            connection.closing or connection.transport.is_closing() or (connection.eof and connection.tls is not None)
        )

    def _disconnect(self, connection: StreamConnection, rest: bytes = b"") -> dict[str, Any]:
        message = {
            "type": "stream.disconnect",
            "reason": connection.end,
            "detail": connection.detail,
            "writable": self.told == ENDED,
        }
        if rest:
            message["rest"] = rest
        return message

    def _cancel(self) -> None:
        if self.instance is not None:
            logger.debug("an application goes on receiving although its client has gone, and is cancelled")
            self.server.end_instance(self.instance)

    def last_message(self) -> Any:
        """Return what is received after the application has ended."""
        return {"type": "stream.disconnect", "reason": "closed", "detail": "", "writable": False}

    def push(self, message: Any, size: int) -> bool:
        """Have the application receive a message from outside, of this size; return whether there was room for it."""
        instance = self.instance
        if instance is None or instance.ended:
            return False
        if not self.pushed and not self.soon and instance.idle and not instance.full():
            instance.put_nowait(message)
            return True
        if self._sizes is None:
            self.pushed, self._sizes = deque(), PushedSizes()
        waiting = len(self.pushed)
        if waiting >= self.server.max_pushed or not self._sizes.add(size, waiting, self.server.max_pushed_bytes):
            return False
        self.pushed.append(message)
        self.look()
        return True

    # What the application sends.

    async def send_later(self, message: Any) -> None:
        await Pass()
        while True:
            connection = self.writing
            if connection is None or connection.closing:
                await self._wait_for_client()
            elif connection.paused:
                await connection.writable()
            elif connection.send(message):
                break
            else:
                # It was lost, and `gone` is called soon.
                await self._wait_for_client()
        await self.drain(connection)

    def unreachable(self, message: Any) -> Any:
        """Send a message when the client has come back, if it may come back.

        Raises:
            StreamClosed: it does not.
        """
        self._check_lasts()
        return self.send_later(message)

    async def drain(self, connection: StreamConnection) -> None:
        while connection.paused and not connection.closing:
            await connection.writable()

    async def _wait_for_client(self) -> None:
        """Return when the client has come back, or will not: look again then.

        Raises:
            StreamClosed: it will not.
        """
        self._check_lasts()
        # A future for each: cancelling one sender must not reach the others.
        future: asyncio.Future[None] = self.loop.create_future()
        if self._senders is NONE:
            self._senders = deque()
        self._senders.append(future)
        await future

    def _check_lasts(self) -> None:
        if not self.lasting or self.server.stopping or self.instance is None:
            raise StreamClosed("the connection is closed")

    def _wake_senders(self) -> None:
        while self._senders:
            future = self._senders.popleft()
            if not future.done():
                future.set_result(None)

    # The end.

    def gone(self, connection: StreamConnection) -> None:
        """Take note that a connection is lost: what came by it can still be received."""
        if self.writing is connection:
            self.writing = None
            if self.instance is None:
                return
            if self.lasting and not self.server.stopping:
                self._deadline = self.server.deadlines.at(self.server.reconnect_timeout, self._not_back)
                self.server.away.add(self)
            else:
                self._wake_senders()
        self.look()

    def _not_back(self) -> None:
        """End the instance, whose client has not come back in time."""
        self._no_longer_away()
        if self.instance is not None and self.writing is None:
            self.server.end_instance(self.instance)

    def _no_longer_away(self) -> None:
        self.server.away.discard(self)
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()

    def give_up(self) -> None:
        """Wait for the client no longer, as the server stops."""
        self._no_longer_away()
        self._wake_senders()

    def application_ended(self, instance: Any) -> None:
        """End the session with its application; called from within the application's last step."""
        self.instance = None
        self.give_up()
        error = instance.error
        if error is not None and caused_by(error, StreamClosed):
            # It was told that its client has gone, if only by `send`: that is no failure.
            instance.take_error()
        self._leave(instance, instance.outcome == "returned")
        for connection in (self.reading, *self._waiting):
            if connection is not None:
                connection.forget()
                connection.finish()
        self.reading = self.writing = None
        self._waiting = NONE

    def _leave(self, instance: Any, returned: bool) -> None:
        """Have what the application has not received reported, unless it came from the client of one that returned."""
        queued = instance.take_all()
        for message in (*(queued or ()), *self.pushed):
            kind = message.get("type") if isinstance(message, dict) else None
            if kind in ("stream.connect", "stream.disconnect") or (returned and kind == "stream.receive"):
                continue
            instance.put_nowait(message)
        self.pushed = NONE
        if not returned:
            for connection in (self.reading, *self._waiting):
                if connection is not None and (connection is not self.reading or self.told == OPEN):
                    self._report(connection, instance)

    def _report(self, connection: StreamConnection, instance: Any) -> None:
        """Have what has come by a connection, and was not received, reported."""
        for _ in range(REPORTED):
            data = connection.take()
            if data is None:
                return
            instance.put_nowait({"type": "stream.receive", "data": data})
        rest = connection.take_all()
        if rest:
            # Unpacking all of them would keep the loop from others.
            instance.put_nowait({"type": "stream.unread", "data": rest})

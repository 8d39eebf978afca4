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

from ...core import SENT, Pass
from ...core.context import outside
from ...wire.stream import StreamClosed
from ..net.causes import caused_by
from .connection import StreamConnection
from .fast_path import give
from .port import StreamServerPort

logger = logging.getLogger("cyasgi.gateways.stream")

#: Messages that an application receives, or sends, without waiting, before others get their turn.
YIELD_EVERY = 64
#: Connections of one client whose messages wait behind those of the one before, at most.
MOST_WAITING = 4
#: How often an application may receive that its client has gone before it is cancelled.
DISCONNECTS = 100
#: Messages that an application has left unread and that are reported one by one, at most; of others, the bytes.
REPORTED = 256

#: What the application was told of the end of the connection that it reads: nothing; that nothing more comes; that what
#: it sends does not reach the client any more.
OPEN, ENDED, GONE = range(3)

NONE: Any = ()


class Session:
    """What the scope of a stream has as its connection (`cyasgi._types.Connection`).

    Args:
        server: whose session it is.
        lasting: whether its client may come back by another connection.
    """

    __slots__ = (
        "_deadline",
        "_disconnects",
        "_favour_pushed",
        "_greeted",
        "_pushed",
        "_reading",
        "_senders",
        "_sends",
        "_soon",
        "_told",
        "_turn",
        "_waiting",
        "_writing",
        "instance",
        "lasting",
        "loop",
        "server",
    )

    def __init__(self, server: StreamServerPort, lasting: bool) -> None:
        self.server = server
        self.loop = asyncio.get_running_loop()
        self.lasting = lasting
        #: None before it was made, and after its end.
        self.instance: Any = None
        #: The connection that is read, the one that is written to, and those that are to be read next.
        self._reading: StreamConnection | None = None
        self._writing: StreamConnection | None = None
        self._waiting: deque[StreamConnection] = NONE
        self._greeted = False
        self._told = OPEN
        self._disconnects = 0
        #: Messages received in this turn of the loop, and messages sent.
        self._turn = self._sends = 0
        #: Whether `_later` is under way.
        self._soon = False
        #: Messages from outside that wait.
        self._pushed: deque[Any] = NONE
        self._favour_pushed = True
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
        if self._writing is not None:
            self._writing.end_input("replaced", "the client has another connection")
            self._writing.finish()
        self._writing = connection
        if self._reading is None:
            self._read(connection)
        else:
            if self._waiting is NONE:
                self._waiting = deque()
            self._waiting.append(connection)
        self._wake_senders()
        self.look()
        return True

    def _read(self, connection: StreamConnection | None) -> None:
        self._reading = connection
        self._greeted = False
        self._told = OPEN
        self._disconnects = 0

    # What the application receives.

    def come(self, connection: StreamConnection) -> None:
        """Give the application what has come, if it waits for it; called by a connection, from the loop."""
        self._turn = 0
        instance = self.instance
        if instance is not None and instance.idle:
            message = self.next_message()
            if message is not None:
                give(self, instance, message)

    def look(self) -> None:
        """Give an application that waits what there is, after a turn of the loop."""
        if not self._soon and self.instance is not None and self.instance.waiting():
            self._later()

    def _later(self) -> None:
        self._soon = True
        self.loop.call_soon(self._go_on, context=self.server.outside)

    def _go_on(self) -> None:
        self._soon = False
        self._turn = 0
        instance = self.instance
        if instance is None or not instance.waiting():
            return
        if instance.qsize():
            # The task that this message is for has not run yet.
            self._later()
            return
        message = self.next_message()
        if message is not None:
            give(self, instance, message)
            # Several tasks of the application may wait side by side.
            self.look()

    def next_message(self) -> Any:
        """Return the next message for an application whose queue is empty; None: it has to wait."""
        self._turn += 1
        if self._turn > YIELD_EVERY:
            if not self._soon:
                self._later()
            return None
        if self._pushed and self._favour_pushed:
            # In turn with what the client sends, so that neither holds up the other.
            self._favour_pushed = False
            return self._pushed.popleft()
        connection = self._reading
        if connection is not None and self._told == OPEN:
            if not self._greeted:
                self._greeted = True
                return {"type": "stream.connect", "client": connection.client, "server": connection.address}
            data = connection.take()
            if data is not None:
                self._favour_pushed = True
                self.server.messages_received += 1
                return {"type": "stream.receive", "data": data}
        if self._pushed:
            self._favour_pushed = False
            return self._pushed.popleft()
        return None if connection is None or not connection.end else self._next_end(connection)

    def _next_end(self, connection: StreamConnection) -> Any:
        """Return what there is to be received once nothing more comes from the client."""
        if self._told == OPEN:
            self._told = GONE if self._cannot_write(connection) else ENDED
            return self._disconnect(connection, connection.take_rest())
        if self._told == ENDED:
            if self._cannot_write(connection):
                self._told = GONE
                return self._disconnect(connection)
            if connection.end != "eof":
                # The application was told, and has nothing more to say.
                connection.finish()
                return None
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
        if connection is self._reading and self._told == ENDED:
            self._told = OPEN

    def _cannot_write(self, connection: StreamConnection) -> bool:
        return (
            connection.closing or connection.transport.is_closing() or (connection.eof and connection.tls is not None)
        )

    def _disconnect(self, connection: StreamConnection, rest: bytes = b"") -> dict[str, Any]:
        message = {
            "type": "stream.disconnect",
            "reason": connection.end,
            "detail": connection.detail,
            "writable": self._told == ENDED,
        }
        if rest:
            message["rest"] = rest
        return message

    def _cancel(self) -> None:
        if self.instance is not None:
            logger.debug("an application goes on receiving although its client has gone, and is cancelled")
            self.server.delete_application_instance(self.instance.scope_id)

    def last_message(self) -> Any:
        """Return what is received after the application has ended."""
        return {"type": "stream.disconnect", "reason": "closed", "detail": "", "writable": False}

    def push(self, message: Any) -> bool:
        """Have the application receive a message from outside; return whether there was room for it."""
        instance = self.instance
        if instance is None or instance.ended:
            return False
        if not self._pushed and instance.idle:
            instance.put_nowait(message)
            return True
        if len(self._pushed) >= self.server.max_pushed:
            return False
        if self._pushed is NONE:
            self._pushed = deque()
        self._pushed.append(message)
        self.look()
        return True

    # What the application sends.

    def application_send(self, scope: Any, message: Any) -> Any:
        """Take a message of the application.

        Returns:
            An awaitable, done when the client takes more.

        Raises:
            TypeError, ValueError: the message is malformed, or the framing cannot take it.
            StreamClosed: it cannot reach the client, who does not come back.
        """
        connection = self._writing
        self._sends += 1
        if connection is None or connection.paused or not self._sends % YIELD_EVERY:
            return self._send_later(message)
        connection.send(message)
        # Writing may have paused it.
        return self._drain(connection) if connection.paused else SENT  # type: ignore[redundant-expr]

    async def _send_later(self, message: Any) -> None:
        await Pass()
        while True:
            connection = self._writing
            if connection is None or connection.closing:
                await self._wait_for_client()
            elif connection.paused:
                await connection.writable()
            else:
                break
        connection.send(message)
        await self._drain(connection)

    async def _drain(self, connection: StreamConnection) -> None:
        while connection.paused and not connection.closing:
            await connection.writable()

    async def _wait_for_client(self) -> None:
        """Return when the client has come back, or will not: look again then.

        Raises:
            StreamClosed: it will not.
        """
        if not self.lasting or self.server.stopping or self.instance is None:
            raise StreamClosed("the connection is closed")
        # A future for each: cancelling one sender must not reach the others.
        future: asyncio.Future[None] = self.loop.create_future()
        if self._senders is NONE:
            self._senders = deque()
        self._senders.append(future)
        await future

    def _wake_senders(self) -> None:
        while self._senders:
            future = self._senders.popleft()
            if not future.done():
                future.set_result(None)

    # The end.

    def gone(self, connection: StreamConnection) -> None:
        """Take note that a connection is lost: what came by it can still be received."""
        if self._writing is connection:
            self._writing = None
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
        if self.instance is not None and self._writing is None:
            self.server.delete_application_instance(self.instance.scope_id)

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
        returned = instance.outcome == "returned"
        if error is not None and caused_by(error, StreamClosed):
            # It was told that its client has gone, if only by `send`: as good as if it had returned.
            instance.take_error()
            returned = True
        self._leave(instance, returned)
        for connection in (self._reading, *self._waiting):
            if connection is not None:
                connection.forget()
                connection.finish()
        self._reading = self._writing = None
        self._waiting = NONE

    def _leave(self, instance: Any, returned: bool) -> None:
        """Have what the application has not received reported, unless it came from the client of one that returned."""
        queued = instance.take_all()
        for message in (*(queued or ()), *self._pushed):
            kind = message.get("type") if isinstance(message, dict) else None
            if kind in ("stream.connect", "stream.disconnect") or (returned and kind == "stream.receive"):
                continue
            instance.put_nowait(message)
        self._pushed = NONE
        if not returned:
            for connection in (self._reading, *self._waiting):
                if connection is not None and (connection is not self._reading or self._told == OPEN):
                    self._report(connection, instance)

    def _report(self, connection: StreamConnection, instance: Any) -> None:
        """Have what has come by a connection, and was not received, reported."""
        for _ in range(REPORTED):
            data = connection.take()
            if data is None:
                return
            instance.put_nowait({"type": "stream.receive", "data": data})
        # Unpacking all of them would keep the loop from others.
        self.server.left_unread(connection.framing.buffered)

"""The usual course of streams, the pure twin: the bases of `StreamConnection` and `Session`."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

from ..._common.cells import (
    STREAM_BYTES_RECEIVED,
    STREAM_BYTES_SENT,
    STREAM_MESSAGES_RECEIVED,
    STREAM_MESSAGES_SENT,
)
from ...core import SENT
from .phases import OPEN, YIELD_EVERY

INFINITE = math.inf


class Traffic:
    """How many messages the applications of a server have received and sent, and how many bytes have come and gone."""

    __slots__ = ("bytes_received", "bytes_sent", "cells", "received", "sent")

    def __init__(self) -> None:
        self.received = self.sent = self.bytes_received = self.bytes_sent = 0
        #: Where that is counted as well: see `cyasgi._common.cells`.
        self.cells: memoryview | None = None


def give(session: Any, instance: Any, message: Any) -> None:
    """Put a message into the queue of an instance that waits for it."""
    instance.put_nowait(message)


class FastConnection:
    """The fields of a connection that the usual course needs, and how messages usually come and go on it."""

    __slots__ = (
        "ahead",
        "buffering",
        "closing",
        "counted",
        "due_message",
        "end",
        "framing",
        "heard",
        "held",
        "paused",
        "quiet",
        "reading_paused",
        "server",
        "session",
        "traffic",
        "transport",
    )
    server: Any
    session: Any
    framing: Any
    transport: Any
    traffic: Traffic
    ahead: Any
    buffering: bool
    end: str
    closing: bool
    paused: bool
    reading_paused: bool
    counted: int
    heard: bool
    held: int
    quiet: float | None
    due_message: float

    if TYPE_CHECKING:

        def drop(self, data: bytes) -> None: ...
        def hear(self) -> None: ...
        def read_first_message(self) -> None: ...
        def settle(self) -> None: ...
        def send_other(self, message: Any) -> bool: ...

    def data_received(self, data: bytes) -> None:
        """Take in what has come on a connection."""
        if self.end:
            self.drop(data)
            return
        traffic = self.traffic
        traffic.bytes_received += len(data)
        if traffic.cells is not None:
            traffic.cells[STREAM_BYTES_RECEIVED] += len(data)
        framing, session = self.framing, self.session
        if self.quiet is not None or not self.heard:
            self.hear()
        if session is None:
            self.buffering = True
            framing.receive_data(data)
            self.read_first_message()
            return
        message = None if self.buffering or self.ahead is not None else framing.whole(data)
        if message is None:
            self.buffering = True
            framing.receive_data(data)
            session.come(self)
        elif (
            session.reading is self
            and session.greeted
            and not session.pushed
            and session.instance is not None
            and session.instance.idle
            and not session.instance.full()
        ):
            # The usual case: one message, and an application that waits for it.
            session.turn = 1
            session.favours_pushed = True
            traffic.received += 1
            if traffic.cells is not None:
                traffic.cells[STREAM_MESSAGES_RECEIVED] += 1
            session.instance.put_nowait({"type": "stream.receive", "data": message})
        else:
            self.ahead, self.held = message, len(data)
            session.come(self)
        if self.buffering or self.counted or self.reading_paused or self.ahead is not None:
            self.settle()

    def send(self, message: Any) -> bool:
        """Write a message to a connection, or close it; return False if it does not reach the client.

        Raises:
            TypeError, ValueError: the message is malformed, or the framing cannot take it.
        """
        usual = type(message) is dict and message.get("type") == "stream.send" and "data" in message
        if not usual and not self.send_other(message):
            return True
        data = self.framing.encode(message["data"])
        transport = self.transport
        if self.closing or transport.is_closing():
            return False
        traffic = self.traffic
        traffic.sent += 1
        traffic.bytes_sent += len(data)
        if traffic.cells is not None:
            traffic.cells[STREAM_MESSAGES_SENT] += 1
            traffic.cells[STREAM_BYTES_SENT] += len(data)
        transport.write(data)
        return True


class FastSession:
    """The fields of a session that the usual course needs, and how messages usually pass through it."""

    __slots__ = (
        "favours_pushed",
        "greeted",
        "instance",
        "loop",
        "pushed",
        "reading",
        "sends",
        "server",
        "soon",
        "told",
        "traffic",
        "turn",
        "writing",
    )
    server: Any
    loop: Any
    instance: Any
    traffic: Traffic
    reading: Any
    writing: Any
    greeted: bool
    told: int
    turn: int
    sends: int
    soon: bool
    pushed: deque[Any]
    favours_pushed: bool

    if TYPE_CHECKING:

        def later(self) -> None: ...
        def next_pushed(self) -> Any: ...
        def greet(self, connection: Any) -> Any: ...
        def next_end(self, connection: Any) -> Any: ...
        def unreachable(self, message: Any) -> Any: ...
        async def send_later(self, message: Any) -> None: ...
        async def drain(self, connection: Any) -> None: ...

    def come(self, connection: Any) -> None:
        """Give the application what has come, if it waits for it; called by a connection, from the loop."""
        self.turn = 0
        instance = self.instance
        # The free place of a bounded queue may belong to somebody who has waited for it: then `look` sees to the rest.
        if instance is not None and instance.idle and not instance.full():
            message = self.next_message()
            if message is not None:
                give(self, instance, message)

    def next_message(self) -> Any:
        """Return the next message for an application whose queue is empty; None: it has to wait."""
        self.turn += 1
        if self.turn > YIELD_EVERY:
            if not self.soon:
                self.later()
            return None
        connection = self.reading
        if connection is not None and self.told == OPEN:
            if not self.greeted:
                return self.greet(connection)
            if self.pushed and self.favours_pushed:
                # In turn with what the client sends, so that neither holds up the other.
                return self.next_pushed()
            if connection.buffering or connection.ahead is not None or connection.counted or connection.reading_paused:
                framing = connection.framing
                if connection.ahead is None and not connection.end and not connection.reading_paused:
                    # As `take` does.
                    try:
                        data = framing.next_message()
                    except Exception as error:
                        connection.fail(error)
                        data = None
                    if data is None:
                        connection.exhausted()
                    else:
                        connection.due_message = INFINITE
                        if connection.counted and not framing.buffered:
                            connection.exhausted()
                else:
                    data = connection.take()
                if data is not None:
                    self.favours_pushed = True
                    traffic = self.traffic
                    traffic.received += 1
                    if traffic.cells is not None:
                        traffic.cells[STREAM_MESSAGES_RECEIVED] += 1
                    return {"type": "stream.receive", "data": data}
        if connection is not None and connection.end:
            return self.next_end(connection)
        return self.next_pushed() if self.pushed else None

    def application_send(self, scope: Any, message: Any) -> Any:
        """Take a message of the application of a session.

        Returns:
            An awaitable, done when the client takes more.

        Raises:
            TypeError, ValueError: the message is malformed, or the framing cannot take it.
            StreamClosed: it cannot reach the client, who does not come back.
        """
        connection = self.writing
        self.sends += 1
        if connection is None or connection.paused or not self.sends % YIELD_EVERY:
            return self.send_later(message)
        if not connection.send(message):
            return self.unreachable(message)
        # Writing may have paused it.
        return self.drain(connection) if connection.paused else SENT

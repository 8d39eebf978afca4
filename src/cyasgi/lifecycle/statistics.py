"""What is counted of each instance, and how it is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .._types import Message, Receive, Send

if TYPE_CHECKING:
    from .limits import Key


@dataclass(frozen=True, slots=True)
class InstanceStatistics:
    """What an instance has done, as of one moment."""

    scope_id: Hashable
    #: When it was made; and when it was last looked up, received a message or sent one. Seconds since the epoch.
    created: float
    last_activity: float
    #: The same as seconds before this moment.
    age: float
    idle: float
    #: Messages that its application has received, and sent.
    messages_in: int
    messages_out: int
    #: Bytes in these messages, see `ManagedServer.message_size`.
    bytes_in: int
    bytes_out: int
    #: Calls of its application that raised an exception: at most one, unless a caller calls it again.
    errors: int


class Record:
    """What a server keeps about an instance; refers neither to the instance nor to the server."""

    __slots__ = (
        "active",
        "aging_from",
        "bytes_in",
        "bytes_out",
        "created",
        "errors",
        "key",
        "messages_in",
        "messages_out",
        "over",
    )

    def __init__(self, now: float) -> None:
        self.created = self.active = self.aging_from = now
        self.messages_in = self.messages_out = self.bytes_in = self.bytes_out = self.errors = 0
        #: The key whose limits it counts towards.
        self.key: Key | None = None
        #: Whether its run has ended, or it has left the table.
        self.over = False

    def statistics(self, scope_id: Hashable, now: float) -> InstanceStatistics:
        """Return the statistics as of `now`, in seconds of the server's clock."""
        epoch = time.time() - now
        return InstanceStatistics(
            scope_id=scope_id,
            created=epoch + self.created,
            last_activity=epoch + self.active,
            age=now - self.created,
            idle=now - self.active,
            messages_in=self.messages_in,
            messages_out=self.messages_out,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            errors=self.errors,
        )


class Measuring(Protocol):
    """Whoever measures messages: a managed server."""

    def clock(self) -> float:
        """Return the time in seconds of a monotonic clock."""
        ...

    def message_size(self, message: Message) -> int:
        """Return the bytes of a message."""
        ...


def _uncounted(message: Message) -> int:
    return 0


class Counting:
    """The `receive` and `send` of one run, which count into a record."""

    __slots__ = ("_clock", "_receive", "_record", "_send", "_size")
    _clock: Callable[[], float]
    _size: Callable[[Message], int]

    def __init__(self, record: Record, receive: Receive, send: Send, server: Measuring) -> None:
        self._record, self._receive, self._send = record, receive, send
        self._clock, self._size = server.clock, server.message_size

    def detach(self) -> None:
        """Let go of the server when the run has ended: a task that outlives the run may still receive and send."""
        self._clock, self._size = time.monotonic, _uncounted

    async def receive(self) -> Message:
        message = await self._receive()
        record = self._record
        record.active = self._clock()
        record.messages_in += 1
        record.bytes_in += self._size(message)
        return message

    async def send(self, message: Message) -> None:
        await self._send(message)
        record = self._record
        record.active = self._clock()
        record.messages_out += 1
        record.bytes_out += self._size(message)

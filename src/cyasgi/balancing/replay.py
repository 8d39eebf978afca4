"""What an application has read of a scope, kept within a bound, so that another one may read it again."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

#: What a message counts for beside its bytes: about what a small dict takes.
OVERHEAD = 256

Receive = Callable[[], Awaitable[Any]]


def size_of(message: dict[Any, Any]) -> int:
    """About how many bytes of memory a message takes, if it is made of bytes, text and small things."""
    return OVERHEAD + sum(len(value) for value in message.values() if isinstance(value, (bytes, str, bytearray)))


class Replay:
    """The messages of one scope. Kept whole or not at all: once they exceed the limit they are forgotten.

    Args:
        receive: where messages come from.
        limit: bytes to keep at most, `OVERHEAD` for each message included; 0 keeps nothing.
    """

    __slots__ = ("_limit", "_messages", "_receive", "_size", "kept", "pending", "read")

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._messages: list[dict[Any, Any]] = []
        self._size = 0
        #: Whether all that was read can be read again.
        self.kept = True
        #: Messages read.
        self.read = 0
        #: Calls that wait for a message now.
        self.pending = 0

    def again(self) -> deque[dict[Any, Any]]:
        """Copies of all messages read, for who reads them again."""
        return deque(dict(message) for message in self._messages)

    async def receive(self) -> Any:
        """The next message that nobody has read."""
        self.pending += 1
        try:
            message = await self._receive()
        finally:
            self.pending -= 1
        self.read += 1
        if self.kept:
            self._keep(message)
        return message

    def _keep(self, message: Any) -> None:
        if type(message) is dict:
            self._size += size_of(message)
            if self._size <= self._limit:
                # A copy: the application may change what it was given.
                self._messages.append(dict(message))
                return
        self.forget()

    def forget(self) -> None:
        """Nothing will be read again."""
        self.kept = False
        self._messages.clear()

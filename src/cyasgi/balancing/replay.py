"""The messages that an application has read, kept within a bound so that another one can read them again."""

from __future__ import annotations

from typing import Any

from .._types import Receive

#: Bytes that a message counts for beyond its content: about the size of a small dict.
OVERHEAD = 256


def size_of(message: dict[Any, Any]) -> int:
    """Estimate the bytes of memory that a message takes, assuming bytes, text and small values."""
    size = OVERHEAD
    for value in message.values():
        if isinstance(value, (bytes, str, bytearray)):
            size += len(value)
    return size


class Budget:
    """How much may be kept at a time.

    Args:
        each: bytes for one scope, counting `OVERHEAD` for each message; 0 to keep nothing.
        total: bytes for all scopes together.
    """

    __slots__ = ("each", "total", "used")

    def __init__(self, each: int, total: int) -> None:
        self.each = each
        self.total = total
        self.used = 0


class Replay:
    """The messages of one scope, kept all or not at all: once they exceed the budget, they are forgotten.

    Args:
        receive: the server's callable, from which messages come.
        budget: how much may be kept.
    """

    __slots__ = ("_budget", "_messages", "_size", "kept", "pending", "read", "source")

    def __init__(self, receive: Receive, budget: Budget) -> None:
        self.source = receive
        self._budget = budget
        self._messages: list[dict[Any, Any]] = []
        self._size = 0
        #: Whether all messages read so far can be read again.
        self.kept = True
        #: Messages read.
        self.read = 0
        #: Calls that are waiting for a message from the source.
        self.pending = 0

    def again(self) -> list[dict[Any, Any]]:
        """Return copies of all messages read, the last one first, to be popped by whoever reads them again."""
        return [dict(message) for message in reversed(self._messages)]

    def note(self, message: Any) -> None:
        """Note that this message was read from the source."""
        self.read += 1
        if self.kept:
            self._keep(message)

    def _keep(self, message: Any) -> None:
        if isinstance(message, dict):
            size, budget = size_of(message), self._budget
            self._size += size
            budget.used += size
            if self._size <= budget.each and budget.used <= budget.total:
                # A copy: the application may change what it was given.
                self._messages.append(dict(message))
                return
        self.forget()

    def forget(self) -> None:
        """Keep nothing from now on, and drop what was kept."""
        self.kept = False
        self._messages.clear()
        self._budget.used -= self._size
        self._size = 0

"""What an application has read of a scope, kept within a bound, so that another one may read it again."""

from __future__ import annotations

from typing import Any

from .._types import Receive

#: What a message counts for beside its bytes: about what a small dict takes.
OVERHEAD = 256


def size_of(message: dict[Any, Any]) -> int:
    """About how many bytes of memory a message takes, if it is made of bytes, text and small things."""
    size = OVERHEAD
    for value in message.values():
        if isinstance(value, (bytes, str, bytearray)):
            size += len(value)
    return size


class Budget:
    """What all that is kept at a time may amount to.

    Args:
        each: bytes for one scope, `OVERHEAD` for each message included; 0 keeps nothing.
        total: bytes for all scopes together.
    """

    __slots__ = ("each", "total", "used")

    def __init__(self, each: int, total: int) -> None:
        self.each = each
        self.total = total
        self.used = 0


class Replay:
    """The messages of one scope. Kept whole or not at all: once they exceed the budget they are forgotten.

    Args:
        receive: where messages come from.
        budget: how much may be kept.
    """

    __slots__ = ("_budget", "_messages", "_size", "kept", "pending", "read", "source")

    def __init__(self, receive: Receive, budget: Budget) -> None:
        self.source = receive
        self._budget = budget
        self._messages: list[dict[Any, Any]] = []
        self._size = 0
        #: Whether all that was read can be read again.
        self.kept = True
        #: Messages read.
        self.read = 0
        #: Calls that wait for a message of the source now.
        self.pending = 0

    def again(self) -> list[dict[Any, Any]]:
        """Copies of all messages read, the last one first, for who reads them again: to be popped."""
        return [dict(message) for message in reversed(self._messages)]

    def note(self, message: Any) -> None:
        """This message has been read from the source."""
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
        """Nothing will be read again."""
        self.kept = False
        self._messages.clear()
        self._budget.used -= self._size
        self._size = 0

"""Awaitables that cost little: one pass of the loop, and nothing at all."""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Iterator
from typing import Any


class Pass:
    """Let the event loop turn once when awaited."""

    __slots__ = ("_turned",)

    def __init__(self) -> None:
        self._turned = False

    def __await__(self) -> Generator[None, None, None]:
        return self  # type: ignore[return-value]

    def __iter__(self) -> Iterator[None]:
        return self

    def __next__(self) -> None:
        if self._turned:
            self._turned = False
            raise StopIteration
        self._turned = True

    def send(self, value: None) -> None:
        self.__next__()

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> None:
        raise error_of(kind, value)

    def close(self) -> None:
        pass


class Sent:
    """Be done at once when awaited: what a `send` returns that has nothing to wait for."""

    __slots__ = ()

    def __await__(self) -> Iterator[None]:
        return _NOTHING

    def send(self, value: None) -> None:
        raise StopIteration

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> None:
        raise error_of(kind, value)

    def close(self) -> None:
        pass


#: An iterator that is exhausted: it has no state.
_NOTHING: Iterator[None] = iter(())

Coroutine.register(Pass)
Coroutine.register(Sent)
SENT = Sent()


def error_of(kind: Any, value: Any) -> BaseException:
    """Return the exception that the arguments of a coroutine's throw() stand for."""
    error: BaseException = kind if isinstance(kind, BaseException) else (kind() if value is None else value)
    return error

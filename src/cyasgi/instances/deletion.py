"""What the delete methods return: the deletion has been done, and awaiting it waits for the end of the old run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any


class Deletion(Coroutine[Any, Any, bool]):
    """The outcome of a deletion that has already been carried out; may be dropped.

    Awaiting it waits for the end of the instance's run, for `shutdown_timeout` seconds at most and never for the run
    in which it is awaited, and returns whether there was such an instance. For create_task and gather it is a
    coroutine.
    """

    __slots__ = ("_coroutine", "_found", "_wait")

    def __init__(self, found: bool, wait: Callable[[], Awaitable[None]] | None = None) -> None:
        self._found = found
        self._wait = wait
        self._coroutine: Coroutine[Any, Any, bool] | None = None

    def __bool__(self) -> bool:
        """Return whether there was such an instance."""
        return self._found

    async def _run(self) -> bool:
        if self._wait is not None:
            await self._wait()
        return self._found

    def __await__(self) -> Generator[Any, Any, bool]:
        return self._run().__await__()

    def send(self, value: Any) -> Any:
        if self._coroutine is None:
            self._coroutine = self._run()
        return self._coroutine.send(value)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        error = kind if isinstance(kind, BaseException) else (kind() if value is None else value)
        if self._coroutine is None:
            self._coroutine = self._run()
        return self._coroutine.throw(error)

    def close(self) -> None:
        if self._coroutine is not None:
            self._coroutine.close()

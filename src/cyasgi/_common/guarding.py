"""Errors of users' code, such as hooks and overrides.

Whatever it raises is its own failure, to be logged, except what interrupts the caller: KeyboardInterrupt, SystemExit,
and a cancellation of the task that runs the code.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

#: What interrupts the caller of a plain function; a cancellation can arrive only at an await.
INTERRUPTS = (KeyboardInterrupt, SystemExit)


class Guard:
    """Tells errors of awaited code from interrupts of the awaiting task, which is the one that makes the guard."""

    __slots__ = ("_cancelled", "_task")

    def __init__(self) -> None:
        task = _current_task()
        # Weak, or else a task that ends with an error is part of a cycle: task, frame, guard, task.
        self._task = None if task is None else weakref.ref(task)
        #: How often the task had been cancelled before.
        self._cancelled = 0 if task is None else task.cancelling()

    def interrupted(self, error: BaseException) -> bool:
        """Return whether the error interrupts the task, and so must be raised again.

        A CancelledError does only if the task was cancelled: any code may raise one, for example by asking for the
        result of a cancelled future.
        """
        task = None if self._task is None else self._task()
        if isinstance(error, asyncio.CancelledError):
            return task is not None and task.cancelling() > self._cancelled
        if isinstance(error, GeneratorExit):
            # A coroutine is closed from outside its task, or when the task is gone.
            return _current_task() is not task or (self._task is not None and task is None)
        return isinstance(error, INTERRUPTS)


def _current_task() -> asyncio.Task[Any] | None:
    loop = asyncio._get_running_loop()
    return None if loop is None else asyncio.current_task(loop)


def error_of(task: asyncio.Task[Any]) -> BaseException | None:
    """Return the error that a task has ended with; a RuntimeError in place of a CancelledError."""
    try:
        return task.exception()
    except asyncio.CancelledError as cancelled:
        error = RuntimeError(f"{task!r} ended with a CancelledError, and nobody had cancelled it")
        error.__cause__ = cancelled
        return error

"""What code of users (hooks, overrides) may raise. All of it is that code's failure and is logged, except what
interrupts whoever runs the code: KeyboardInterrupt, SystemExit, and a cancellation of the task that runs it."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

#: Around a plain call nothing else gets through: a cancellation arrives only at an await.
INTERRUPTS = (KeyboardInterrupt, SystemExit)


class Guard:
    """Tells, in the task that made it, what code that was awaited has raised from what interrupts the task."""

    __slots__ = ("_cancelled", "_task")

    def __init__(self) -> None:
        task = _current_task()
        # Weak: a frame of the task that ends with an error refers to the guard, and the task to the frame.
        self._task = None if task is None else weakref.ref(task)
        #: Cancellations that the task had been asked for before.
        self._cancelled = 0 if task is None else task.cancelling()

    def interrupted(self, error: BaseException) -> bool:
        """Whether the error has to be raised again.

        A CancelledError counts only if somebody has cancelled the task: any code can come by one, for example from the
        result of a cancelled future.
        """
        task = None if self._task is None else self._task()
        if isinstance(error, asyncio.CancelledError):
            return task is not None and task.cancelling() > self._cancelled
        if isinstance(error, GeneratorExit):
            # A coroutine is closed from outside its task, or when that is gone.
            return _current_task() is not task or (self._task is not None and task is None)
        return isinstance(error, INTERRUPTS)


def _current_task() -> asyncio.Task[Any] | None:
    loop = asyncio._get_running_loop()
    return None if loop is None else asyncio.current_task(loop)


def error_of(task: asyncio.Task[Any]) -> BaseException | None:
    """What a task has ended with; a RuntimeError if that is a CancelledError."""
    try:
        return task.exception()
    except asyncio.CancelledError as cancelled:
        error = RuntimeError(f"{task!r} ended with a CancelledError, and nobody had cancelled it")
        error.__cause__ = cancelled
        return error

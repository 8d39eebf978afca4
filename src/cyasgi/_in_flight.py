"""Messages that child tasks of an application have in flight: taken from `receive()`, and not come back from."""

from __future__ import annotations

import asyncio
from typing import Any

NO_TASK = object()


class TakenByTasks:
    """What each task has in flight beside the application's own, of which its run knows.

    A message is settled by the next call of `receive()` in the task that called for it. If that task has ended it may
    have handed the message to another, and the next call in any task settles it.
    """

    __slots__ = ("_ended", "_taken", "_tasks")

    def __init__(self) -> None:
        #: By task, or NO_TASK.
        self._taken: dict[Any, Any] = {}
        #: Those that have ever taken one and go on; and those that have ended since the last call.
        self._tasks: set[Any] = set()
        self._ended: list[Any] = []

    def called(self, task: Any) -> None:
        """`receive()` was called in this task."""
        self._taken.pop(task, None)
        if self._ended:
            for ended in self._ended:
                self._taken.pop(ended, None)
            self._ended.clear()

    def took(self, task: Any, message: Any) -> None:
        """What this task called for has come."""
        self._taken[task] = message
        if task is NO_TASK or task.done():
            self._ended.append(task)
        elif task not in self._tasks:
            self._tasks.add(task)
            task.add_done_callback(self._task_ended)

    def _task_ended(self, task: Any) -> None:
        self._tasks.discard(task)
        self._ended.append(task)

    def messages(self) -> list[Any]:
        """Those in flight."""
        return list(self._taken.values())


def calling_task() -> Any:
    """The current task; NO_TASK in a callback, and in a thread without a loop."""
    task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
    return NO_TASK if task is None else task

"""Messages that child tasks of an application have in flight: received, and not finished by the next `receive()`."""

from __future__ import annotations

import asyncio
from typing import Any

NO_TASK = object()


class TakenByTasks:
    """What each child task has in flight; the run itself knows what the application's own task has.

    A message is settled by the next call of `receive()` in the task that has received it. If that task has ended, it
    may have handed the message to another one: then the next call in any task settles it. If it has failed or was
    cancelled, only a call in a task that has received none itself does: such a task has dealt with the failure, and is
    no sibling.
    """

    __slots__ = ("_broken", "_ended", "_taken", "_tasks", "ever")

    def __init__(self) -> None:
        #: Whether any message was taken.
        self.ever = False
        #: By task, or NO_TASK.
        self._taken: dict[Any, Any] = {}
        #: Tasks that have received a message and go on; and those that have ended, or failed, and are to be settled.
        self._tasks: set[Any] = set()
        self._ended: list[Any] = []
        self._broken: list[Any] = []

    def called(self, task: Any) -> None:
        """Note that `receive()` was called in this task."""
        self._taken.pop(task, None)
        if self._ended:
            self._settle(self._ended)
        if self._broken and task not in self._tasks:
            self._settle(self._broken)

    def _settle(self, tasks: list[Any]) -> None:
        for task in tasks:
            self._taken.pop(task, None)
        tasks.clear()

    def took(self, task: Any, message: Any) -> None:
        """Note that this task has received a message."""
        self.ever = True
        self._taken[task] = message
        if task is NO_TASK:
            self._ended.append(task)
        elif task not in self._tasks:
            self._tasks.add(task)
            task.add_done_callback(self._task_ended)

    def _task_ended(self, task: Any) -> None:
        self._tasks.discard(task)
        # Not exception(), after which asyncio would not complain any more that nobody has looked at it.
        broken = task.cancelled() or task._exception is not None
        (self._broken if broken else self._ended).append(task)

    def messages(self) -> list[Any]:
        """Return the messages in flight."""
        return list(self._taken.values())


def calling_task() -> Any:
    """Return the current task; NO_TASK in a callback, and in a thread without a loop."""
    task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
    return NO_TASK if task is None else task

"""Messages that child tasks of an application have in flight: received, and not finished by the next `receive()`."""

from __future__ import annotations

import asyncio
from typing import Any

from .tracking import DONE, TAKEN, tell_all

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
        done = [task, *self._ended]
        self._ended.clear()
        if self._broken and task not in self._tasks:
            done += self._broken
            self._broken.clear()
        items = [self._taken.pop(one) for one in done if one in self._taken]
        tell_all(items, DONE)

    def took(self, task: Any, message: Any, own: bool = False) -> None:
        """Note that this task has received a message; tell who has sent it, if it is tracked.

        Args:
            own: whether it is the application's own task, which is nobody's sibling.
        """
        self.ever = True
        before = self._taken.get(task)
        self._taken[task] = message
        if task is NO_TASK:
            self._ended.append(task)
        elif not own and task not in self._tasks:
            self._tasks.add(task)
            task.add_done_callback(self._task_ended)
        # A task that waits in several calls at a time has the last message that came in flight: the others are done.
        tell_all((before,), DONE)
        tell_all((message,), TAKEN)

    def _task_ended(self, task: Any) -> None:
        self._tasks.discard(task)
        # Not exception(), after which asyncio would not complain any more that nobody has looked at it.
        broken = task.cancelled() or task._exception is not None
        (self._broken if broken else self._ended).append(task)

    def messages(self) -> list[Any]:
        """Return the messages in flight, tracked ones as they were put."""
        return list(self._taken.values())


def calling_task() -> Any:
    """Return the current task; NO_TASK in a callback, and in a thread without a loop."""
    task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
    return NO_TASK if task is None else task

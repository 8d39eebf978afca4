"""What the core asks of tasks, futures and loops.

The task of an instance is named by the instance's scope_id if that is a str. All others share one name, which costs
nothing: asyncio's own, "Task-1234", is a new string for each.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Hashable
from typing import Any

#: The name of the tasks of instances whose scope_id is no str.
NAME = "cyasgi"


def resolved(future: asyncio.Future[None]) -> bool:
    """Resolve the future of a waiter; return False if it is done already, or its loop is closed."""
    if future.done():
        return False
    try:
        future.set_result(None)
    except RuntimeError:
        if not future.get_loop().is_closed():
            raise
        return False
    return True


def leave_pending(task: asyncio.Future[Any]) -> None:
    """Let a task that will take no further step be destroyed without asyncio's complaint that it is pending."""
    any_task: Any = task
    any_task._log_destroy_pending = False


def is_left_pending(task: asyncio.Future[Any]) -> bool:
    """Return whether `leave_pending` was called for the task."""
    return not getattr(task, "_log_destroy_pending", True)


def runs_elsewhere(loop: asyncio.AbstractEventLoop | None) -> bool:
    """Return whether the loop runs in another thread than this one."""
    return loop is not None and loop.is_running() and asyncio._get_running_loop() is not loop


def name_of(scope_id: Hashable) -> str:
    return scope_id if isinstance(scope_id, str) else NAME


def has_plain_tasks(loop: asyncio.AbstractEventLoop | None) -> bool:
    """Return whether the loop's `create_task` is asyncio's or uvloop's: without a factory, both only create an
    asyncio.Task."""
    create_task = getattr(type(loop), "create_task", None)
    uvloop = getattr(sys.modules.get("uvloop"), "Loop", asyncio.BaseEventLoop)
    known = create_task in (asyncio.BaseEventLoop.create_task, uvloop.create_task)
    return known and "create_task" not in getattr(loop, "__dict__", ())


def takes_names(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether `create_task` certainly accepts a name, which a task factory need not."""
    return has_plain_tasks(loop) and loop.get_task_factory() is None


def current_tasks() -> dict[Any, Any] | None:
    """Return where asyncio keeps the task at work of each loop; None if that is not a dict, as from Python 3.14 on."""
    found = getattr(sys.modules.get("_asyncio"), "_current_tasks", None)
    if type(found) is not dict or asyncio.Task is not getattr(sys.modules["_asyncio"], "Task", None):
        return None
    loop: Any = object()
    task: Any = object()
    asyncio.tasks._enter_task(loop, task)
    try:
        return found if found.get(loop) is task else None
    finally:
        asyncio.tasks._leave_task(loop, task)

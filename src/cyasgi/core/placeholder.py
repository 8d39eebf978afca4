"""What an instance's `future` is until an event loop has started the instance."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent import futures
from functools import partial
from typing import Any


def make_placeholder() -> futures.Future[Any]:
    """Return a future that is done when the instance's task is. Cancelling it cancels the run, begun or not."""
    placeholder: futures.Future[Any] = futures.Future()
    placeholder.add_done_callback(_notify)
    return placeholder


def follow(placeholder: futures.Future[Any], task: asyncio.Task[Any]) -> None:
    """Tie the placeholder to the task, which has been created now."""
    task.add_done_callback(partial(_task_done, placeholder))
    placeholder.add_done_callback(partial(_cancel_task, task))


def _notify(placeholder: futures.Future[Any]) -> None:
    if placeholder.cancelled():
        # concurrent.futures.wait() waits for this.
        placeholder.set_running_or_notify_cancel()


def _task_done(placeholder: futures.Future[Any], task: asyncio.Task[Any]) -> None:
    # It may be cancelled at any moment, from any thread.
    with contextlib.suppress(futures.InvalidStateError):
        if task.cancelled():
            placeholder.cancel()
        elif (error := task.exception()) is not None:
            placeholder.set_exception(error)
        else:
            placeholder.set_result(task.result())


def _cancel_task(task: asyncio.Task[Any], placeholder: futures.Future[Any]) -> None:
    if placeholder.cancelled() and not task.done():
        loop = task.get_loop()
        try:
            loop.call_soon_threadsafe(task.cancel)
        except RuntimeError:
            if not loop.is_closed():
                raise

"""Waiting for room in an instance's queue without a task: how a slow application pauses reading."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import Any


def when_room(instance: Any, context: Context, callback: Callable[[], object]) -> None:
    """Call the function once, soon after the instance's full queue has room again or the instance has ended.

    Raises:
        ValueError: the queue is not full.
    """
    if not instance.full() or instance.ended:
        raise ValueError(f"there is room in the queue of {instance!r}")
    # The future that a waiting put() waits for; the put itself is given up once that is done.
    waiting = instance.put(None)
    future = waiting.send(None)

    def room(_: Any) -> None:
        waiting.close()
        callback()

    future.add_done_callback(room, context=context)

"""The queue of an instance that a connection feeds: waiting for room without a task, and what is left in the end."""

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


def drop_own(instance: Any, prefix: str) -> None:
    """Drop what is queued in an instance that has ended and came from its client: messages whose types begin so.

    What was pushed from outside goes to the hook `application_undelivered`.
    """
    for message in instance.take_all():
        if not (isinstance(message, dict) and str(message.get("type")).startswith(prefix)):
            instance.put_nowait(message)

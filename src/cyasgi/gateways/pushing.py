"""Messages from outside an instance: into its queue, or behind it, within bounds and in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent import futures
from functools import partial
from typing import Any

from ..core.context import outside
from .net.queue_room import when_room

#: Seconds between two looks, from another thread, whether the server still runs.
LOOK = 1.0


class Mailboxes:
    """The messages that wait for room in the queues of the instances of one server, by instance."""

    def __init__(self) -> None:
        self._boxes: dict[Any, deque[Any]] = {}

    def push(self, instance: Any, message: Any, most: int) -> bool:
        """Put a message into the instance's queue, or let it wait for room there, behind those that wait already.

        Args:
            most: how many may wait; in a queue without a bound, how many it may hold.

        Returns:
            Whether the message was accepted. What an instance that ends has not received goes to the hook
            `application_undelivered`.
        """
        if instance.ended:
            return False
        box = self._boxes.get(instance)
        if box is None:
            if not instance.full():
                if not instance.maxsize and instance.qsize() >= most:
                    return False
                instance.put_nowait(message)
                return True
            box = self._boxes[instance] = deque()
            self._wait(instance)
        elif len(box) >= most:
            return False
        box.append(message)
        return True

    def _wait(self, instance: Any) -> None:
        when_room(instance, outside(), partial(self._room, instance))

    def _room(self, instance: Any) -> None:
        """Go on: there is room in the queue of the instance, or it has ended."""
        box = self._boxes[instance]
        while box and (instance.ended or not instance.full()):
            # One that has ended passes it on to the hook.
            instance.put_nowait(box.popleft())
        if box:
            self._wait(instance)
        else:
            del self._boxes[instance]


def check_pushed(message: Any) -> dict[str, Any]:
    """Return the message, if it is one that an application may be sent from outside.

    Raises:
        TypeError: it is not a dict.
        ValueError: it has no type.
    """
    if not isinstance(message, dict):
        raise TypeError(f"a message must be a dict, got {message!r}")
    if not isinstance(message.get("type"), str):
        raise ValueError(f"a message must have a 'type', a str, got {message!r}")
    return message


def in_loop(
    loop: asyncio.AbstractEventLoop | None,
    runs: Callable[[], bool],
    push_all: Callable[[Iterable[Hashable]], list[Hashable]],
    scope_ids: list[Hashable],
) -> list[Hashable]:
    """Call the function with the ids in the thread of this loop, and return what it returns: the ids not reached.

    Args:
        loop: the server's; None if it does not run.
        runs: whether the server still runs in it.
    """
    here = asyncio._get_running_loop()
    if loop is None or loop is here:
        return push_all(scope_ids) if here is not None else scope_ids
    done: futures.Future[list[Hashable]] = futures.Future()

    def push() -> None:
        if done.set_running_or_notify_cancel():
            try:
                done.set_result(push_all(scope_ids))
            except BaseException as error:
                done.set_exception(error)

    try:
        loop.call_soon_threadsafe(push)
    except RuntimeError:
        # It is closed.
        return scope_ids
    while True:
        try:
            return done.result(LOOK)
        except futures.TimeoutError:
            if done.done():
                raise
            if not runs() and done.cancel():
                return scope_ids

"""Messages from outside an instance: into its queue, or behind it, within bounds and in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent import futures
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from ..core.context import outside
from .net.queue_room import when_room

#: Seconds between two looks, from another thread, whether the server still runs.
LOOK = 1.0
#: Bytes that a value costs beside its own.
OVERHEAD = 64


class PushedLimits(Protocol):
    """The server, as far as it bounds messages from outside."""

    @property
    def max_pushed(self) -> int: ...
    @property
    def max_pushed_bytes(self) -> int: ...


class PushedSizes:
    """The sizes of the messages from outside that wait for one instance.

    Which of them wait is told by how many messages do: the last ones. Where others wait among these, some are counted
    longer than they wait.
    """

    __slots__ = ("_sizes", "_total")

    def __init__(self) -> None:
        self._sizes: deque[int] = deque()
        self._total = 0

    def add(self, size: int, waiting: int, most: int) -> bool:
        """Count a message of this size; return False, and count nothing, if as many bytes as there may be wait already.

        Args:
            waiting: how many messages wait before it.
            most: how many bytes may wait before it is too much.
        """
        sizes = self._sizes
        while len(sizes) > waiting:
            self._total -= sizes.popleft()
        if self._total >= most:
            return False
        sizes.append(size)
        self._total += size
        return True


class Mailboxes:
    """The messages from outside that wait for the instances of one server: in their queues, and for room there."""

    def __init__(self, limits: PushedLimits) -> None:
        self._limits = limits
        self._boxes: dict[Any, deque[Any]] = {}
        self._sizes: WeakKeyDictionary[Any, PushedSizes] = WeakKeyDictionary()

    def push(self, instance: Any, message: Any, size: int) -> bool:
        """Put a message into the instance's queue, or let it wait for room there, behind those that wait already.

        At most `max_pushed` wait for room; in a queue without a bound, it may hold as many.

        Args:
            size: of the message, see `size_of`.

        Returns:
            Whether the message was accepted. What an instance that ends has not received goes to the hook
            `application_undelivered`.
        """
        if instance.ended:
            return False
        # The free place of a bounded queue may belong to somebody who has waited for it.
        if instance.idle and not instance.full():
            instance.put_nowait(message)
            return True
        queued = instance.qsize()
        box = self._boxes.get(instance, ())
        if (len(box) if box or instance.maxsize else queued) >= self._limits.max_pushed:
            return False
        sizes = self._sizes.get(instance)
        if sizes is None:
            sizes = self._sizes[instance] = PushedSizes()
        if not sizes.add(size, queued + len(box), self._limits.max_pushed_bytes):
            return False
        if box:
            box.append(message)
        elif instance.full():
            self._boxes[instance] = deque((message,))
            self._wait(instance)
        else:
            instance.put_nowait(message)
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


def size_of(message: dict[str, Any], most: int) -> int:
    """Return how many bytes a message takes, roughly: its strings, and something for each value.

    Args:
        most: where to stop counting.
    """
    size = 0
    values: list[Any] = [message]
    while values and size < most:
        value = values.pop()
        size += OVERHEAD
        if isinstance(value, (bytes, str, bytearray)):
            size += len(value)
        elif isinstance(value, memoryview):
            size += value.nbytes
        elif isinstance(value, dict):
            values += value.values()
        elif isinstance(value, (list, tuple, set, frozenset)):
            values += value
    return size


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
                # Just now, or with such an error.
                return done.result()
            if not runs() and done.cancel():
                return scope_ids

"""Instances held by a task that has awaited them, and orphans: those whose holder has ended."""

from __future__ import annotations

import asyncio
import collections
import time
from typing import Any

from ..core import ApplicationInstance
from ..core.constants import CALLER, HELD


class HeldInstances:
    """The tasks that hold instances, and the instances whose task has ended."""

    __slots__ = ("holders", "orphans")

    def __init__(self) -> None:
        self.holders: dict[asyncio.Task[Any], Holder] = {}
        #: When each became an orphan, in seconds of the monotonic clock; the oldest first. Not a plain dict, which
        #: walks over the slots of all removed entries to find its first one.
        self.orphans: collections.OrderedDict[ApplicationInstance, float] = collections.OrderedDict()

    def hold(self, instance: ApplicationInstance) -> None:
        """Note that the current task has awaited the instance."""
        task = asyncio.current_task()
        if instance._holder is not None:
            instance._holder.drop(instance)
        if task is None:
            return
        holder = self.holders.get(task)
        if holder is None:
            holder = self.holders[task] = Holder(self, task)
        holder.hold(instance)

    def pop_orphan(self, before: float) -> ApplicationInstance | None:
        """Remove and return an instance that has been an orphan since before that time; None if there is none."""
        while self.orphans:
            instance, since = next(iter(self.orphans.items()))
            if since > before:
                return None
            del self.orphans[instance]
            if instance._table is not None and is_held(instance):
                return instance
        return None


class Holder:
    """A task that holds instances by having awaited them; when it ends, those that are not run become orphans."""

    __slots__ = ("_holding", "_instances", "_task")

    def __init__(self, holding: HeldInstances, task: asyncio.Task[Any]) -> None:
        self._holding = holding
        self._task = task
        self._instances: dict[ApplicationInstance, None] = {}
        task.add_done_callback(self._ended)

    def hold(self, instance: ApplicationInstance) -> None:
        self._instances[instance] = None
        instance._holder = self

    def drop(self, instance: ApplicationInstance) -> None:
        """Let go of an instance, which has ended or is held by another task."""
        instance._holder = None
        self._instances.pop(instance, None)
        self._holding.orphans.pop(instance, None)
        if not self._instances:
            self._task.remove_done_callback(self._ended)
            self._holding.holders.pop(self._task, None)

    def serves(self) -> bool:
        """Return whether one of the instances is run by a caller, or waits for the caller to run it."""
        return any(instance._state in (HELD, CALLER) for instance in self._instances)

    def _ended(self, _: object) -> None:
        self._holding.holders.pop(self._task, None)
        for instance in list(self._instances):
            if is_held(instance):
                self._holding.orphans[instance] = time.monotonic()


def is_held(instance: ApplicationInstance) -> bool:
    """Return whether the instance waits for a caller that has not begun to run it."""
    call = instance._call
    return instance._state == HELD or (instance._state == CALLER and call is not None and not call.started)

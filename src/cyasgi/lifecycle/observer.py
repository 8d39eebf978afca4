"""The records of a server's instances, kept by what its instance manager tells."""

from __future__ import annotations

import asyncio
import collections
import math
from typing import Any

from .._common.guarding import INTERRUPTS
from .._types import Application, Receive, Scope, Send
from ..core.constants import AGE, IDLE, REASONS
from ..core.context import current_instance
from .clock import time_or
from .hooks import overrides_hook
from .limits import Key, Keys, release
from .statistics import Counting, Record

#: Reasons for which `on_expired` is called.
EXPIRED = (REASONS[IDLE], REASONS[AGE])


class LifecycleObserver:
    """The records of a server's instances, and its keys. The server's instance manager tells it what happens.

    It refers to no server: instances know theirs.
    """

    def __init__(self) -> None:
        self.records: dict[Any, Record] = {}
        #: Instances that `max_age` applies to, the oldest first.
        self.aging: collections.OrderedDict[Any, Record] = collections.OrderedDict()
        self.keys = Keys()
        self.counts = dict.fromkeys(("limited_instances", "limited_messages", "limited_hooks", "aged"), 0)
        #: When the next error of `on_limited` may be logged.
        self.next_complaint = -math.inf

    def begin(self, server: Any, instance: Any, key: Key | None = None) -> None:
        """Begin the record of an instance that was made, or begins again.

        Args:
            server: the instance's server.
            key: the key in which a place is held for it.
        """
        record = self.records[instance] = Record(server.clock())
        record.key = key
        self.aging[instance] = record
        self._call_hook(server, instance, "on_created", instance)

    @staticmethod
    def _call_hook(server: Any, instance: Any, name: str, *arguments: Any) -> None:
        if overrides_hook(server, name):
            server._cyasgi.reports.event(server, name, arguments, instance)

    # What the instance manager tells its observer

    def counted(self, application: Application) -> Application:
        """Wrap the application in one whose `receive` and `send` count."""

        async def managed(scope: Scope, receive: Receive, send: Send) -> Any:
            instance = current_instance()
            if instance is None:
                return await application(scope, receive, send)
            # No variable here may refer to the instance: a traceback keeps them.
            server: Any = instance.server
            record = self.records.get(instance)
            if record is not None:
                counting = Counting(record, receive, send, server)
            del instance, server
            if record is None:
                return await application(scope, receive, send)
            try:
                return await application(scope, counting.receive, counting.send)
            except (asyncio.CancelledError, GeneratorExit, *INTERRUPTS):
                raise
            except BaseException:
                record.errors += 1
                raise
            finally:
                counting.detach()

        return managed

    def kept(self, instance: Any) -> None:
        """Note that an override has kept an instance that was to be deleted: its age begins anew."""
        record = self.records.get(instance)
        if record is not None:
            record.aging_from = time_or(instance.server, record.aging_from)
            if instance in self.aging:
                self.aging.move_to_end(instance)

    def left(self, instance: Any, reason: str) -> None:
        """Note that an instance has left the table, or its run has ended, for this reason."""
        record = self.records.get(instance)
        if record is not None and not record.over:
            record.over = True
            self.aging.pop(instance, None)
            key, record.key = record.key, None
            if key is not None:
                release(instance.server, self.keys, key)
            if reason in EXPIRED:
                self.counts["aged"] += reason == REASONS[AGE]
                self._call_hook(instance.server, instance, "on_expired", instance, reason)

    def ended(self, instance: Any) -> None:
        """Note that the run of an instance has ended."""
        self.left(instance, instance.end_reason or "")

    def closed(self, instance: Any) -> None:
        """Note that an instance has left the table and its run has ended."""
        self.left(instance, instance.end_reason or "")
        record = self.records.pop(instance, None)
        if record is None:
            return
        server = instance.server
        if overrides_hook(server, "on_closed"):
            now = time_or(server, record.active)
            self._call_hook(server, instance, "on_closed", instance, record.statistics(instance.scope_id, now))

    def begins_again(self, instance: Any) -> None:
        """Note that a caller calls the application of an instance whose run has ended."""
        record = self.records.get(instance)
        if record is None:
            self.begin(instance.server, instance)
        elif record.over:
            record.over = False
            record.aging_from = instance.server.clock()
            self.aging[instance] = record

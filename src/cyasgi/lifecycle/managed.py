"""ManagedServer: statistics of each instance, a maximum age, limits for each client, and hooks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from .._common.guarding import INTERRUPTS
from .._settings import Integer, Number
from .._types import Scope
from ..core import ApplicationInstance, Pass, Setting
from ..core.constants import AGE
from ..core.settings import (
    IDLE_TIMEOUT,
    MAX_APPLICATIONS,
    clamped_interval,
)
from ..instances.checker import UNEVENTFUL
from ..instances.limits import LimitExceeded
from ..instances.pacing import pace_of_round
from ..server import StatelessServer
from .hooks import LifecycleHooks, follows_instances
from .limits import Key, admit, network_of, release
from .observer import LifecycleObserver
from .statistics import InstanceStatistics

logger = logging.getLogger("cyasgi.lifecycle")

#: Calls of hooks that may be waiting when another instance is made.
HOOKS_BEHIND = 10_000


class ManagedServer(LifecycleHooks, StatelessServer):
    """A server that counts what each instance does and limits what each client may do.

    Subclass it on its own, or put it before any other server class:

        class Server(ManagedServer, DatagramServer):
            max_age = 3600
            max_instances_per_key = 10
            max_messages_per_second = 100

    Limits apply to each key that `limit_key` returns, by default to each client host. One message is one call of
    `get_or_create_application_instance`: a datagram, an HTTP request or a WebSocket. Beyond a limit that call raises
    `LimitExceeded` after `on_limited` was called, and changes nothing else: `DatagramServer` drops the datagram,
    `HTTPServer` answers 429. Every operation takes O(1).

    The hooks `on_created`, `on_expired` and `on_closed` may be overridden with ``def`` or ``async def``. For each
    instance they are called in this order, one after the other and once each, `on_expired` only if a timeout has ended
    the instance. They run in the background; what they raise is logged and stops nothing. A server that stops calls
    them for the instances that it ends, within `shutdown_timeout`.
    """

    #: Seconds after which an instance is deleted even if it is busy; None for never.
    max_age = Setting[float | None](None, IDLE_TIMEOUT)
    #: Instances that one key may have at a time; None for no limit.
    max_instances_per_key = Setting[int | None](None, MAX_APPLICATIONS)
    #: Messages a second that one key may send, on average; None for no limit.
    max_messages_per_second = Setting[float | None](None, Number(none="no limit"))
    #: Messages that one key may send at once after a silence; None for as many as in one second, at least 1.
    message_burst = Setting[int | None](None, MAX_APPLICATIONS)
    #: Keys without instances that are remembered; the one that has been silent longest is forgotten first.
    max_limit_keys = Setting[int](10_000, Integer(1))

    # What subclasses override

    @staticmethod
    def clock() -> float:
        """Return the time in seconds of a monotonic clock, for ages, rates, and idle times in statistics."""
        return time.monotonic()

    def limit_key(self, scope: Scope) -> Hashable | None:
        """Return the key whose limits apply to a message of this scope; None for no limits.

        By default it is the host in ``scope["client"]``, or the /64 network of an IPv6 address, since a single client
        has all of that; None if there is no client. Called only if a limit is set.
        """
        client = scope.get("client")
        return network_of(client[0]) if client else None

    @staticmethod
    def message_size(message: Any) -> int:
        """Return the bytes of a message for the statistics: of its ``data``, ``body``, ``bytes`` or UTF-8 ``text``."""
        if not isinstance(message, dict):
            return 0
        data = message.get("data") or message.get("body") or message.get("bytes") or message.get("text")
        if isinstance(data, (bytes, bytearray)):
            return len(data)
        if isinstance(data, str):
            return len(data) if data.isascii() else len(data.encode(errors="surrogatepass"))
        return data.nbytes if isinstance(data, memoryview) else 0

    # Statistics

    def instance_statistics(self, scope_id: Hashable) -> InstanceStatistics:
        """Return what the instance with this id has done.

        Raises:
            KeyError: there is no such instance.
        """
        observer = self._observer()
        record = observer.records.get(self._cyasgi_table.entry(scope_id))
        if record is None:
            raise KeyError(scope_id)
        return record.statistics(scope_id, self.clock())

    def snapshot(self) -> dict[Hashable, InstanceStatistics]:
        """Return the statistics of all instances in the table, in its order; takes O(n)."""
        records = self._observer().records
        now = self.clock()
        entries = ((scope_id, self._cyasgi_table.entry(scope_id)) for scope_id in self._cyasgi_table)
        return {
            scope_id: record.statistics(scope_id, now)
            for scope_id, entry in entries
            if (record := records.get(entry)) is not None
        }

    def stats(self) -> dict[str, int]:
        """Return the counters of the server, with these added.

        `limited_instances`, `limited_messages` and `limited_hooks` were refused for the `limit` of that name in
        `LimitExceeded`; `aged` instances have reached `max_age`, and are counted in `expired` as well; `limit_keys` are
        remembered now.
        """
        observer = self._observer()
        return {**super().stats(), **observer.counts, "limit_keys": len(observer.keys)}

    # Instances

    def get_or_create_application_instance(self, scope_id: Hashable, scope: Any) -> ApplicationInstance:
        """Do as `StatelessServer.get_or_create_application_instance`, within the limits.

        Raises:
            LimitExceeded: a limit of this scope's key has been reached, or hooks are so far behind that no further
                instance is made.
        """
        observer = self._observer()
        before = self._cyasgi_table.entry(scope_id)
        record = observer.records.get(before)
        usable = before is not None and not before.ended
        key = None
        if not usable or self.max_messages_per_second is not None:
            try:
                key = self._admit(observer, scope, usable)
            except LimitExceeded as error:
                self._limited(observer, scope, error)
                raise
        instance: Any = before
        try:
            instance = super().get_or_create_application_instance(scope_id, scope)
        finally:
            if key is not None and instance is before:
                release(self, observer.keys, key)
        if instance is before and record is not None:
            record.active = self.clock()
        elif type(instance) is ApplicationInstance and instance not in observer.records:
            observer.begin(self, instance, key)
        elif key is not None and instance is not before:
            # Counted already: an override has made it by another call of this method.
            release(self, observer.keys, key)
        made: ApplicationInstance = instance
        return made

    def _observer(self) -> LifecycleObserver:
        manager = self._cyasgi
        observer = manager.observer
        if type(observer) is not LifecycleObserver:
            observer = manager.observer = LifecycleObserver()
        return observer

    def _admit(self, observer: LifecycleObserver, scope: Scope, usable: bool) -> Key | None:
        manager = self._cyasgi
        if not usable and manager.reports.pending > HOOKS_BEHIND and follows_instances(self):
            raise LimitExceeded(f"more than {HOOKS_BEHIND:,} calls of hooks are waiting", None, "hooks")
        return admit(self, observer.keys, scope, usable, manager.lost)

    def _limited(self, observer: LifecycleObserver, scope: Scope, error: LimitExceeded) -> None:
        observer.counts[f"limited_{error.limit}"] += 1
        try:
            hook: Callable[[Scope, LimitExceeded], Any] = self.on_limited
            result = hook(scope, error)
            if asyncio.iscoroutine(result):
                result.close()
                raise TypeError("on_limited is an async def; accepted is a def")
        except INTERRUPTS:
            raise
        except BaseException as failure:
            now = time.monotonic()
            if now >= observer.next_complaint:
                observer.next_complaint = now + 1
                logger.error("the hook on_limited raised %r", failure, exc_info=failure)

    # The checker

    async def application_checker(self) -> None:
        """Do as `StatelessServer.application_checker`, and delete instances older than `max_age`."""
        aging = asyncio.get_running_loop().create_task(self._watch_ages())
        try:
            await super().application_checker()
        finally:
            aging.cancel()
            await asyncio.wait({aging})

    async def _watch_ages(self) -> None:
        while True:
            interval = clamped_interval(self.application_checker_interval)
            # max_age may be set at any time.
            await asyncio.sleep(interval if self.max_age is not None else max(interval, UNEVENTFUL))
            try:
                if type(self).expire_aged is not ManagedServer.expire_aged:
                    self.expire_aged()
                    continue
                rounds, pace = 0, pace_of_round(0)
                for _ in self._aged():
                    if pace.over(1):
                        await Pass()
                        rounds += 1
                        pace = pace_of_round(rounds)
            except INTERRUPTS:
                raise
            except BaseException:
                logger.exception("looking for instances older than max_age failed")

    def expire_aged(self) -> int:
        """Delete all instances older than `max_age` at once, and return how many there were.

        The checker does the same in portions, between which the event loop turns.
        """
        return sum(1 for _ in self._aged())

    def _aged(self) -> Iterator[ApplicationInstance]:
        """Delete instances older than `max_age` one by one, and yield each."""
        observer = self._observer()
        manager = self._cyasgi
        # Each one at most once: those that an override refuses to delete are put to the end.
        for _ in range(len(observer.aging)):
            max_age = self.max_age
            if max_age is None or not observer.aging:
                break
            instance, record = next(iter(observer.aging.items()))
            age: float = self.clock() - record.aging_from
            if age <= max_age:
                break
            if not manager.is_listed(instance):
                # Taken out of the table by hand: no longer the server's.
                del observer.aging[instance]
                continue
            manager.expire(self, instance, AGE)
            yield instance

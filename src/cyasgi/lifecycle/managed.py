"""Managed instances: statistics, a maximum age, limits for each client, and hooks for the life of an instance."""

from __future__ import annotations

import asyncio
import collections
import logging
import math
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from .._common.guarding import INTERRUPTS
from .._settings import Integer, Number
from .._types import Application, Message, Receive, Scope, Send
from ..core import ApplicationInstance, Pass, Setting
from ..core.constants import (
    AGE,
    IDLE,
    REASONS,
)
from ..core.context import current_instance
from ..core.settings import (
    IDLE_TIMEOUT,
    MAX_APPLICATIONS,
    clamped_interval,
)
from ..instances.limits import (
    Key,
    Keys,
    LimitExceeded as LimitExceeded,
    network_of,
)
from ..instances.manager import UNEVENTFUL
from ..instances.pacing import pace_of_round
from ..server import StatelessServer

logger = logging.getLogger("cyasgi.lifecycle")

#: Seconds for which what has piled up while the event loop stood still is taken in.
CATCHING_UP = 1.0
#: Calls of hooks that may be waiting when another instance is made.
HOOKS_BEHIND = 10_000


@dataclass(frozen=True, slots=True)
class InstanceStatistics:
    """What an instance has done, at one moment."""

    scope_id: Hashable
    #: When it was made, and when it was last asked for or a message came or went: seconds since the epoch.
    created: float
    last_activity: float
    #: The same in seconds before this moment.
    age: float
    idle: float
    #: Messages that its application has received, and sent.
    messages_in: int
    messages_out: int
    #: Bytes in these, see `ManagedServer.message_size`.
    bytes_in: int
    bytes_out: int
    #: Calls of its application that ended with an exception: at most one, unless a caller calls it again.
    errors: int


class Record:
    """What a server keeps of an instance; it refers neither to the instance nor to the server."""

    __slots__ = (
        "active",
        "aging_from",
        "bytes_in",
        "bytes_out",
        "created",
        "errors",
        "key",
        "messages_in",
        "messages_out",
        "over",
    )

    def __init__(self, now: float) -> None:
        self.created = self.active = self.aging_from = now
        self.messages_in = self.messages_out = self.bytes_in = self.bytes_out = self.errors = 0
        #: The key that it counts for.
        self.key: Key | None = None
        #: Its run has ended, or it has left the table.
        self.over = False

    def statistics(self, scope_id: Hashable, now: float) -> InstanceStatistics:
        epoch = time.time() - now
        return InstanceStatistics(
            scope_id=scope_id,
            created=epoch + self.created,
            last_activity=epoch + self.active,
            age=now - self.created,
            idle=now - self.active,
            messages_in=self.messages_in,
            messages_out=self.messages_out,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            errors=self.errors,
        )


def _uncounted(message: Message) -> int:
    return 0


class Counting:
    """The `receive` and the `send` of one run, which count for a record."""

    __slots__ = ("_clock", "_receive", "_record", "_send", "_size")
    _clock: Callable[[], float]
    _size: Callable[[Message], int]

    def __init__(self, record: Record, receive: Receive, send: Send, server: ManagedServer) -> None:
        self._record, self._receive, self._send = record, receive, send
        self._clock, self._size = server.clock, server.message_size

    def apart(self) -> None:
        """The run has ended; a task that goes on without it may still receive and send."""
        self._clock, self._size = time.monotonic, _uncounted

    async def receive(self) -> Message:
        message = await self._receive()
        record = self._record
        record.active = self._clock()
        record.messages_in += 1
        record.bytes_in += self._size(message)
        return message

    async def send(self, message: Message) -> None:
        await self._send(message)
        record = self._record
        record.active = self._clock()
        record.messages_out += 1
        record.bytes_out += self._size(message)


class Manager:
    """The records of a server's instances, and its keys: the `Observer` of its InstanceManager. Refers to no server."""

    def __init__(self) -> None:
        self.records: dict[Any, Record] = {}
        #: Instances that a maximum age is for, the oldest first.
        self.aging: collections.OrderedDict[Any, Record] = collections.OrderedDict()
        self.keys = Keys()
        self.counts = dict.fromkeys(("limited_instances", "limited_messages", "limited_hooks", "aged"), 0)
        self.next_complaint = -math.inf

    def begin(self, instance: Any, key: Key | None = None) -> None:
        """An instance was made, or begins again; it counts for this key, in which a place is held for it."""
        record = self.records[instance] = Record(instance._server.clock())
        record.key = key
        self.aging[instance] = record
        self.tell(instance, "on_created", instance)

    def release(self, server: ManagedServer, key: Key) -> None:
        rate = server.max_messages_per_second
        if self.keys.release(key) and rate is not None:
            burst = server._burst(rate)
            key.refill(_now(server, key.stamp), rate, burst)
            self.keys.remember(key, rate, burst, server.max_limit_keys)

    @staticmethod
    def tell(instance: Any, name: str, *arguments: Any) -> None:
        server = instance._server
        if server._overrides_hook(name):
            server._cyasgi.reports.event(server, name, arguments, instance)

    # What an InstanceManager tells its observer

    def counted(self, application: Application) -> Application:
        """The application with a `receive` and a `send` that count."""

        async def managed(scope: Scope, receive: Receive, send: Send) -> Any:
            instance = current_instance()
            if instance is None:
                return await application(scope, receive, send)
            # No variable here may refer to the instance: a traceback keeps them.
            server: Any = instance._server
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
                counting.apart()

        return managed

    def kept(self, instance: Any) -> None:
        record = self.records.get(instance)
        if record is not None:
            # Its time begins anew.
            record.aging_from = _now(instance._server, record.aging_from)
            if instance in self.aging:
                self.aging.move_to_end(instance)

    def left(self, instance: Any) -> None:
        record = self.records.get(instance)
        if record is not None and not record.over:
            record.over = True
            self.aging.pop(instance, None)
            key, record.key = record.key, None
            if key is not None:
                self.release(instance._server, key)
            if instance._reason in (IDLE, AGE):
                self.counts["aged"] += instance._reason == AGE
                self.tell(instance, "on_expired", instance, REASONS[instance._reason])

    def ended(self, instance: Any) -> None:
        self.left(instance)

    def closed(self, instance: Any) -> None:
        self.left(instance)
        record = self.records.pop(instance, None)
        if record is None:
            return
        server = instance._server
        if server._overrides_hook("on_closed"):
            now = _now(server, record.active)
            self.tell(instance, "on_closed", instance, record.statistics(instance.scope_id, now))

    def begins_again(self, instance: Any) -> None:
        record = self.records.get(instance)
        if record is None:
            self.begin(instance)
        elif record.over:
            record.over = False
            record.aging_from = instance._server.clock()
            self.aging[instance] = record


def _now(server: ManagedServer, otherwise: float) -> float:
    """What time it is, where an instance's end must not fail for want of it."""
    try:
        return server.clock()
    except INTERRUPTS:
        raise
    except BaseException as error:
        logger.error("clock() raised %r", error, exc_info=error)
        return otherwise


class ManagedServer(StatelessServer):
    """A server that knows what each instance has done, and what each client may do. On its own, or put before any other
    server class:

        class Server(ManagedServer, DatagramServer):
            max_age = 3600
            max_instances_per_key = 10
            max_messages_per_second = 100

    Limits are kept for each key that `limit_key` gives, by default for each client host. One message is one call of
    `get_or_create_application_instance`: a datagram, an HTTP request, a WebSocket. Beyond a limit that call raises
    `LimitExceeded`, `on_limited` is told, and nothing else has changed: `DatagramServer` drops the datagram,
    `HTTPServer` answers 429. Every operation is O(1).

    Hooks are methods to override, with ``def`` or ``async def``: `on_created`, then `on_expired` if that is why, then
    `on_closed`, once each for every instance, one after the other. They are called in the background; what they raise
    is logged and stops nothing. A server that stops calls them for the instances that it ends, within
    `shutdown_timeout`.
    """

    #: Seconds after which an instance is deleted, busy or not; None for never.
    max_age = Setting[float | None](None, IDLE_TIMEOUT)
    #: Instances that one key may have at a time; None for no limit.
    max_instances_per_key = Setting[int | None](None, MAX_APPLICATIONS)
    #: Messages a second that one key may send, on average; None for no limit.
    max_messages_per_second = Setting[float | None](None, Number(none="no limit"))
    #: Messages that one key may send at once, after a silence; None for those of one second, and at least 1.
    message_burst = Setting[int | None](None, MAX_APPLICATIONS)
    #: Keys without instances that are remembered. When there are more, the longest silent one may begin anew.
    max_limit_keys = Setting[int](10_000, Integer(1))
    # What subclasses override.

    @staticmethod
    def clock() -> float:
        """What time it is, in seconds of any monotonic clock: for ages, idle times in statistics, and rates."""
        return time.monotonic()

    def limit_key(self, scope: Scope) -> Hashable | None:
        """Whose limits apply to a message of this scope; None for no limits. Called only where a limit is set.

        By default the host in ``scope["client"]``, of an IPv6 address its /64 network, which a single client has at
        its disposal; None where there is no client.
        """
        client = scope.get("client")
        return network_of(client[0]) if client else None

    @staticmethod
    def message_size(message: Any) -> int:
        """The bytes of a message, for the statistics: of its ``data``, ``body``, ``bytes`` or, in UTF-8, ``text``."""
        if not isinstance(message, dict):
            return 0
        data = message.get("data") or message.get("body") or message.get("bytes") or message.get("text")
        if isinstance(data, (bytes, bytearray)):
            return len(data)
        if isinstance(data, str):
            return len(data) if data.isascii() else len(data.encode(errors="surrogatepass"))
        return data.nbytes if isinstance(data, memoryview) else 0

    def on_created(self, instance: ApplicationInstance) -> Any:
        """An instance was made."""

    def on_expired(self, instance: ApplicationInstance, reason: str) -> Any:
        """An instance was deleted because it was idle for `idle_timeout` ("idle") or there for `max_age` ("age")."""

    def on_closed(self, instance: ApplicationInstance, statistics: InstanceStatistics) -> Any:
        """An instance has left the table and its application has ended, for whatever reason. A caller that calls it
        again after that begins with `on_created` again."""

    def on_limited(self, scope: Scope, error: LimitExceeded) -> None:
        """A message or an instance was refused. Called at once, with ``def`` only: whoever sends a million messages too
        many calls it a million times. What it raises is logged, once a second at most."""

    # Statistics.

    def instance_statistics(self, scope_id: Hashable) -> InstanceStatistics:
        """What the instance of this id has done.

        Raises:
            KeyError: there is none.
        """
        manager = self._manager()
        record = manager.records.get(self._cyasgi_table.entry(scope_id))
        if record is None:
            raise KeyError(scope_id)
        return record.statistics(scope_id, self.clock())

    def snapshot(self) -> dict[Hashable, InstanceStatistics]:
        """The same for all instances in the table, in the table's order. It takes its time: O(n)."""
        records = self._manager().records
        now = self.clock()
        entries = ((scope_id, self._cyasgi_table.entry(scope_id)) for scope_id in self._cyasgi_table)
        return {
            scope_id: record.statistics(scope_id, now)
            for scope_id, entry in entries
            if (record := records.get(entry)) is not None
        }

    def stats(self) -> dict[str, int]:
        """The snapshot of the server without limits and, since it was made: `limited_instances`, `limited_messages`
        and `limited_hooks`, refused for the `limit` of that name in `LimitExceeded`; `aged` instances, which
        `expired` includes; and now: `limit_keys`, which are remembered."""
        manager = self._manager()
        return {**super().stats(), **manager.counts, "limit_keys": len(manager.keys)}

    # Instances.

    def get_or_create_application_instance(self, scope_id: Hashable, scope: Any) -> ApplicationInstance:
        """As `StatelessServer.get_or_create_application_instance`, within the limits.

        Raises:
            LimitExceeded: a limit of this scope's key has been reached; or hooks are so far behind that no further
                instance is made.
        """
        manager = self._manager()
        before = self._cyasgi_table.entry(scope_id)
        record = manager.records.get(before)
        usable = before is not None and not before.ended
        key = None
        if not usable or self.max_messages_per_second is not None:
            try:
                key = self._admit(manager, scope, usable)
            except LimitExceeded as error:
                self._limited(manager, scope, error)
                raise
        instance: Any = before
        try:
            instance = super().get_or_create_application_instance(scope_id, scope)
        finally:
            if key is not None and instance is before:
                manager.release(self, key)
        if instance is before and record is not None:
            record.active = self.clock()
        elif type(instance) is ApplicationInstance and instance not in manager.records:
            manager.begin(instance, key)
        elif key is not None and instance is not before:
            # An override has made it from within.
            manager.release(self, key)
        return instance  # type: ignore[no-any-return]

    def _manager(self) -> Manager:
        life = self._cyasgi
        manager = life.observer
        if type(manager) is not Manager:
            manager = life.observer = Manager()
        return manager

    def _burst(self, rate: float) -> float:
        burst = self.message_burst
        return max(1.0, rate) if burst is None else float(burst)

    def _admit(self, manager: Manager, scope: Any, usable: bool) -> Key | None:
        """The key of a new instance, with a place held for it; None where there is nothing to count."""
        if not usable and self._cyasgi.reports.pending > HOOKS_BEHIND and self._tells:
            raise LimitExceeded(f"more than {HOOKS_BEHIND:,} calls of hooks are waiting", None, "hooks")
        most, rate = self.max_instances_per_key, self.max_messages_per_second
        if most is None and rate is None:
            return None
        name = self.limit_key(scope)
        if name is None:
            return None
        try:
            hash(name)
        except TypeError:
            raise TypeError(f"limit_key gave {name!r}: accepted is a hashable, or None for no limits") from None
        keys = manager.keys
        now = self.clock()
        burst = 1.0 if rate is None else self._burst(rate)
        if rate is not None:
            # What has piled up while the loop stood still comes at once, and was not sent at once.
            burst += rate * self._cyasgi.lost.within(time.monotonic(), CATCHING_UP)
        key = keys.find(name, burst, now)
        if rate is not None:
            wait = key.take(now, rate, burst)
            if not key.instances:
                keys.remember(key, rate, burst, self.max_limit_keys)
            if wait:
                raise LimitExceeded(
                    f"{name!r} sends more than {rate:g} messages a second, or {burst:g} at once", name, "messages", wait
                )
        if usable:
            return None
        if most is not None and key.instances >= most:
            raise LimitExceeded(f"{name!r} has {key.instances} instances; {most} are allowed", name, "instances")
        keys.hold(key)
        return key

    def _limited(self, manager: Manager, scope: Any, error: LimitExceeded) -> None:
        manager.counts[f"limited_{error.limit}"] += 1
        try:
            result: Any = self.on_limited(scope, error)  # type: ignore[func-returns-value]
            if asyncio.iscoroutine(result):
                result.close()
                raise TypeError("on_limited is an async def; accepted is a def")
        except INTERRUPTS:
            raise
        except BaseException as failure:
            now = time.monotonic()
            if now >= manager.next_complaint:
                manager.next_complaint = now + 1
                logger.error("the hook on_limited raised %r", failure, exc_info=failure)

    def _overrides_hook(self, name: str) -> bool:
        return name in self.__dict__ or getattr(type(self), name) is not getattr(ManagedServer, name)

    @property
    def _tells(self) -> bool:
        return any(map(self._overrides_hook, ("on_created", "on_expired", "on_closed")))

    # The checker.

    async def application_checker(self) -> None:
        """As `StatelessServer.application_checker`; and sees off what has been there for longer than `max_age`."""
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
                logger.exception("instances could not be looked through for their age")

    def expire_aged(self) -> int:
        """Deletes the instances that have been there for longer than `max_age`, all at once; the checker does it in
        portions, between which the loop turns. Returns how many there were."""
        return sum(1 for _ in self._aged())

    def _aged(self) -> Iterator[ApplicationInstance]:
        """Those that have just been deleted, one by one."""
        manager = self._manager()
        life = self._cyasgi
        # As many as there are now: those that an override refuses to delete are at the end again.
        for _ in range(len(manager.aging)):
            max_age = self.max_age
            if max_age is None or not manager.aging:
                break
            instance, record = next(iter(manager.aging.items()))
            age: float = self.clock() - record.aging_from
            if age <= max_age:
                break
            if instance._table is not life.table:
                # Taken out of the table by hand: it is nobody's any more.
                del manager.aging[instance]
                continue
            life.expire(self, instance, AGE)
            yield instance

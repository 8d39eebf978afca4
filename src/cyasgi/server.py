"""StatelessServer: the class that servers subclass."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable, Mapping
from functools import partial
from typing import Any, ClassVar

from ._common.control import Control
from ._types import Details, Message, Scope
from .core import InstanceTable, Setting, get_or_create_application_instance
from .core.settings import (
    EVICTION_POLICY,
    IDLE_TIMEOUT,
    MAX_APPLICATIONS,
    MAX_QUEUE_SIZE,
    SHUTDOWN_TIMEOUT,
    UNDELIVERED_TO,
    adopt_class_settings,
    segments_changed,
)
from .instances.deletion import Deletion
from .instances.hooks import (
    logger,
)
from .instances.manager import InstanceManager
from .instances.summary import log_exception
from .serving.running import (
    ServerRun,
    request_stop,
    run_in_own_loop,
)


class _NewManager:
    """Makes a server's InstanceManager at its first use, whether or not `__init__` was called."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        manager = instance.__dict__["_cyasgi"] = InstanceManager(StatelessServer)
        instance.__dict__["_cyasgi_table"] = manager.table
        manager.table.follow(instance)
        return manager


class _NewTable:
    """The same for the table, which is looked up once per message."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else instance._cyasgi.table


class StatelessServer:
    """Base of servers that keep an application instance per `scope_id`, whatever their transport.

    Override `handle` (take messages in, find the instance by `get_or_create_application_instance`, put the message
    into it) and `application_send` (send out what applications send). A drop-in for `asgiref.server.StatelessServer`:

        instance = self.get_or_create_application_instance("user-7", {"type": "chat", "user": 7})
        instance.put_nowait({"type": "chat.message", "text": "hello"})

    Args:
        application: an ASGI application: a single callable (ASGI 3), a double callable (ASGI 2), or a plain callable
            that returns a coroutine. May be replaced at run time.
        max_applications: how many instances the table keeps at most; None for no limit. At the limit a finished
            instance goes first, then the least recently used idle one, then the least recently used; see
            `eviction_policy`.

    Raises:
        TypeError, ValueError: `max_applications` is neither None nor an int of at least 1.
    """

    #: Seconds between two rounds of the checker that nothing else woke; read each time, clamped to 0.001 ... 3600, and
    #: at least 1 while there is no `idle_timeout` and nobody holds an instance.
    application_checker_interval: float = 0.1
    #: Seconds after which an idle instance is deleted; None for never.
    idle_timeout = Setting[float | None](None, IDLE_TIMEOUT)
    #: Seconds that stopping waits for instances to drain, and again for cancelled ones to clean up.
    shutdown_timeout = Setting[float](10.0, SHUTDOWN_TIMEOUT)
    #: Messages that the queue of an instance made from now on holds at most; 0 for no bound.
    max_queue_size = Setting[int](0, MAX_QUEUE_SIZE)
    #: Instances that the table keeps at most; None for no limit.
    max_applications = Setting[int | None](1000, MAX_APPLICATIONS, segments_changed)
    #: Who makes room first: "lru", the least recently used; or "slru", which resists floods of ids that never come
    #: again: a new instance is on probation and is promoted when it is looked up again. Those on probation make room
    #: for each other, the least recently used first, and for nobody else does a protected one go. At most four fifths
    #: of `max_applications` are protected; those beyond, least recently used first, go on probation again. May be
    #: changed at any time: under "slru" those that are there begin as protected ones.
    eviction_policy = Setting[str]("lru", EVICTION_POLICY, segments_changed)

    #: Where messages go that wait behind an application which fails or returns: to "hook", `application_undelivered`;
    #: or to "successor", the next instance of the id, which is made for them with the same scope. They come before
    #: whatever is newer, even if they are more than `max_queue_size`; the message that made the application fail is not
    #: among them. The hook gets them all the same if the application has taken no message, at the limit of
    #: `max_applications`, if the server stops, and from instances that are deleted, evicted, expired or cancelled.
    undelivered_to = Setting[str]("hook", UNDELIVERED_TO)
    #: Whether `handle` says by `announce_started` when it serves; else it serves when `handle` has begun.
    announces_start: ClassVar[bool] = False
    #: Whether an application that is called as in ASGI 2 finds that version in ``scope["asgi"]``, whatever was there.
    tells_asgi_version: ClassVar[bool] = False

    _cyasgi: InstanceManager = _NewManager()  # type: ignore[assignment]
    _cyasgi_table: InstanceTable = _NewTable()  # type: ignore[assignment]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        adopt_class_settings(cls)

    def __init__(self, application: Any, max_applications: int | None = 1000) -> None:
        self.application = application
        self.max_applications = max_applications
        # There from now on: a copy of the server shares the table, as a copy of the reference's does.
        _ = self.application_instances

    @property
    def application_instances(self) -> InstanceTable:
        """The table: a MutableMapping from scope_id to instance, least recently used first; under the eviction policy
        "slru" those on probation first, then the protected ones."""
        return self._cyasgi_table

    @application_instances.setter
    def application_instances(self, value: Mapping[Any, Any]) -> None:
        if not isinstance(value, Mapping):
            raise TypeError(f"application_instances={value!r}: accepted is a mapping from scope_id to instance")
        table = value if isinstance(value, InstanceTable) else InstanceTable(value)
        self._cyasgi.table = table
        table.closing_ids = self._cyasgi.closing_ids
        self.__dict__["_cyasgi_table"] = table
        table.follow(self)

    # Running

    def run(self) -> None:
        """Runs the server in an event loop of its own (uvloop's where installed) until `handle` ends or it is
        interrupted.

        In the main thread SIGINT and SIGTERM stop it in order, as `arun` describes; a second one at once.
        KeyboardInterrupt out of `handle` ends it in order as well; out of an application or a hook it is raised again,
        as SystemExit is in any case. In the main thread, too,
        the garbage collector's thresholds are raised to (5,000, 10, 100) for as long as it runs, unless they are
        other than the interpreter's own.

        It returns even if a thread that an application has started is blocked, but the interpreter waits for that
        thread before the process ends: nothing can end a thread from without. `cyasgi serve` does not wait.

        Raises:
            RuntimeError: an event loop runs in this thread already; or as `arun`.
        """
        self._cyasgi.control.expect()
        run_in_own_loop(self, partial(request_stop, self._cyasgi))

    async def arun(self) -> None:
        """Runs the server in the caller's event loop.

        It ends when `handle` has returned and the listeners that `handle` opened are closed, or when `handle` or a
        spawned task has raised. Then listeners are closed and all tasks that `handle` started, by whatever means, are
        cancelled and awaited, up to `shutdown_timeout` seconds; but those that run an application as its caller only
        when that has ended, and those of a listener's connections only after the instances. Every instance gets up to
        `shutdown_timeout` seconds to drain (its queue empty, its application waiting in `receive`), and is cancelled
        and awaited. If `arun` is cancelled, everything is cancelled at once. The server can be run again afterwards.

        Raises:
            RuntimeError: the server is running already.
            Exception: what `handle`, or a task started with `spawn`, raised.
        """
        manager = self._cyasgi
        if manager.server_run is not None and not manager.server_run.stale:
            raise RuntimeError("this server is running already; a second arun() at the same time is refused")
        loop = asyncio.get_running_loop()
        running = manager.server_run = ServerRun(self, manager, loop)
        manager.control.begin(loop, running.request_stop)
        error: BaseException | None = None
        try:
            await running.serve()
        except BaseException as raised:
            error = raised
            raise
        finally:
            if manager.server_run is running:
                manager.server_run = None
                manager.control.end(error)
            # The traceback of what is raised refers to this frame.
            del error

    def stop(self) -> None:
        """Ask the server to end, from any thread and at any time: in order as by the first signal, or, asked again, at
        once.

        Before the first run, or while `run` is about to begin, the stop is kept for that run. After a run has ended it
        does nothing.
        """
        self._cyasgi.control.stop()

    async def wait_started(self) -> None:
        """Return when the server serves: a gateway when it listens, any other one when `handle` has begun. If it does
        not run yet, its next run is waited for. From any event loop.

        Raises:
            Exception: what the run ended with before it served; RuntimeError if it ended without an error.
        """
        await self._cyasgi.control.wait_started()

    @property
    def control(self) -> Control:
        """What `cyasgi.embedding` waits for in another thread."""
        return self._cyasgi.control

    def announce_started(self) -> None:
        """For the `handle` of a subclass with `announces_start`: from now on the server serves."""
        self._cyasgi.control.started()

    async def handle(self) -> None:
        """Override: takes messages in and puts them into instances."""
        raise NotImplementedError("You must implement handle()")

    async def application_send(self, scope: Scope, message: Message) -> None:
        """Override: sends out a message that the application of this scope has sent."""
        raise NotImplementedError("You must implement application_send()")

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Starts a task that belongs to the server: it is cancelled when the server ends, and its failure ends the
        server with that error.

        Raises:
            RuntimeError: the server is not running.
        """
        running = self._cyasgi.server_run
        if running is None or running.stale:
            coroutine.close()
            raise RuntimeError("spawn() needs a running server: call it from handle() or later")
        return running.spawn(coroutine)

    # Instances

    # A function of the core, so that the lookup of a live instance costs no Python frame.
    get_or_create_application_instance = get_or_create_application_instance

    def delete_application_instance(self, scope_id: Hashable) -> Deletion:
        """Takes the instance of this id out of the table and cancels its application, at once.

        Overrides may be `def` or `async def` and clean up: every instance that leaves by the server's hand comes
        through here once.

        Returns:
            An awaitable that may be dropped: it waits (at most `shutdown_timeout` seconds) for the run's end, and
            gives True if there was such an instance, else False.
        """
        return self._cyasgi.delete(self, scope_id)

    def delete_oldest_application_instance(self) -> Deletion:
        """Deletes the instance that is to make room for another, through `delete_application_instance`."""
        return self._cyasgi.delete_oldest(self)

    async def application_checker(self) -> None:
        """Sees off what has ended, what was idle for longer than `idle_timeout`, and instances that were awaited by a
        task that has ended. Never returns; several at once, or none, do no harm."""
        manager = self._cyasgi
        manager.adopt(asyncio.get_running_loop())
        while True:
            await manager.nap(self)
            await manager.sweep(self)

    # Hooks

    async def application_exception(self, exception: BaseException, application_details: Details) -> None:
        """Called once for each application that the server ran and that failed; logs an error with its traceback, and
        with the request's method and path, or the scope's type and id.

        Overrides may be `def` or `async def`.
        """
        log_exception(exception, application_details)

    def application_undelivered(self, messages: list[Message], application_details: Details) -> None:
        """Called with the messages left in the queue of an instance that has ended, oldest first: its application has
        begun none of them. What it has begun and not finished is `application_details.in_flight`. Logs a warning with
        their numbers. Overrides may be `def` or `async def`."""
        in_flight = getattr(application_details, "in_flight", ())
        logger.warning(
            "%d undelivered message(s) were left in the queue of scope_id %r%s",
            len(messages),
            getattr(application_details, "scope_id", None),
            f", and {len(in_flight)} in flight, begun and not finished" if in_flight else "",
        )

    def application_ended(self, application_details: Details, reason: str) -> None:
        """Called once for each instance that has ended and left the table, after the other hooks for it have returned.
        Overrides may be `def` or `async def`.

        Not overridden, it is called only for an application that was cancelled with a message in flight of which no
        other hook has heard, and logs a warning.

        Args:
            application_details: the instance. Its `in_flight` has the messages that the application had begun and not
                finished: none, if it has returned.
            reason: "returned", "failed" or "cancelled", if the application came to its end by itself; else who
                ended it: "idle" or "age" (it expired), "evicted", "deleted", "stopping" (the server stops) or
                "orphaned" (it was awaited by a task that has ended).
        """
        in_flight = getattr(application_details, "in_flight", ())
        if in_flight:
            logger.warning(
                "%d message(s) in flight, begun and not finished, when the application of scope_id %r ended: %s",
                len(in_flight),
                getattr(application_details, "scope_id", None),
                reason,
            )

    def stats(self) -> dict[str, int]:
        """A snapshot: `live` and `idle` instances now, `closing` runs that have left the table and not ended, and
        since the server was made: `created`, `reused`, `evicted`, `expired`, `orphaned` instances, `finished`,
        `failed`, `cancelled` runs, `undelivered` messages and those `interrupted`: begun and not finished by
        applications that failed or were cancelled."""
        return self._cyasgi.stats()

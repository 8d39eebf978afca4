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
from .instances.hooks import logger, remember_default_hooks
from .instances.manager import InstanceManager
from .instances.summary import log_exception
from .serving.running import (
    ServerRun,
    request_stop,
    run_in_own_loop,
)


class _NewManager:
    """Creates a server's instance manager when it is first used, whether or not `__init__` was called."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        manager = instance.__dict__["_cyasgi"] = InstanceManager(StatelessServer)
        instance.__dict__["_cyasgi_table"] = manager.table
        manager.table.follow(instance)
        return manager


class _NewTable:
    """Does the same for the server's table, which is looked up once per message."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else instance._cyasgi.table


class StatelessServer:
    """Base class of servers that keep an application instance per `scope_id`, whatever their transport.

    A drop-in for `asgiref.server.StatelessServer`. Subclasses override `handle`, which receives messages and puts each
    into the instance that `get_or_create_application_instance` returns, and `application_send`, which sends out what
    applications send:

        instance = self.get_or_create_application_instance("user-7", {"type": "chat", "user": 7})
        instance.put_nowait({"type": "chat.message", "text": "hello"})

    Args:
        application: an ASGI application: a single callable (ASGI 3), a double callable (ASGI 2), or a plain callable
            that returns a coroutine. May be replaced at run time.
        max_applications: maximum number of instances in the table; None for no limit. At the limit, a finished
            instance is evicted first, then the least recently used idle one, then the least recently used; see
            `eviction_policy`.

    Raises:
        TypeError, ValueError: `max_applications` is neither None nor an int of at least 1.
    """

    #: Seconds between two rounds of the checker, unless something wakes it earlier. Read for each round and clamped to
    #: 0.001 ... 3600; at least 1 while there is no `idle_timeout` and no instance is held.
    application_checker_interval: float = 0.1
    #: Seconds after which an idle instance is deleted; None for never.
    idle_timeout = Setting[float | None](None, IDLE_TIMEOUT)
    #: Seconds that instances may take to drain when the server stops, and again to clean up once they are cancelled.
    shutdown_timeout = Setting[float](10.0, SHUTDOWN_TIMEOUT)
    #: Maximum number of messages in the queue of an instance created from now on; 0 for no bound.
    max_queue_size = Setting[int](0, MAX_QUEUE_SIZE)
    #: Maximum number of instances in the table; None for no limit.
    max_applications = Setting[int | None](1000, MAX_APPLICATIONS, segments_changed)
    #: Which instance makes room for a new one: "lru", the least recently used; or "slru", which resists floods of ids
    #: that never come again. Under "slru" a new instance is on probation, and is protected once it is looked up again.
    #: The least recently used one on probation makes room; a protected instance is evicted only if it has finished or
    #: nothing is on probation. At most four fifths of `max_applications` are protected; those beyond, the least
    #: recently used first, go back on probation. May be changed at any time: existing instances begin as protected.
    #: Or "refuse": no live instance makes room, and creating one more raises `cyasgi.TableFull`.
    eviction_policy = Setting[str]("lru", EVICTION_POLICY, segments_changed)

    #: Where messages go that are waiting when the application fails or returns: to "hook", `application_undelivered`;
    #: or to "successor", the next instance of the id, which is created for them with the same scope. There they come
    #: before newer messages, even if they exceed `max_queue_size`, without the message on which the application has
    #: failed. The hook still gets them if the application has received no message, at the limit of `max_applications`,
    #: when the server stops, and from instances that are deleted, evicted, expired or cancelled.
    undelivered_to = Setting[str]("hook", UNDELIVERED_TO)
    #: Whether `handle` calls `announce_started` when the server is ready; else it is ready once `handle` has begun.
    announces_start: ClassVar[bool] = False
    #: Whether ``scope["asgi"]`` is made to say version 2 to an application that is called as in ASGI 2.
    tells_asgi_version: ClassVar[bool] = False

    _cyasgi: InstanceManager = _NewManager()  # type: ignore[assignment]
    _cyasgi_table: InstanceTable = _NewTable()  # type: ignore[assignment]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        adopt_class_settings(cls)

    def __init__(self, application: Any, max_applications: int | None = 1000) -> None:
        self.application = application
        self.max_applications = max_applications
        # Create the table now, so that copies of the server share it, as copies of the reference do.
        _ = self.application_instances

    @property
    def application_instances(self) -> InstanceTable:
        """The table: a MutableMapping from scope_id to instance, the least recently used first.

        Under the eviction policy "slru" those on probation come before the protected ones.
        """
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
        """Run the server in a new event loop, uvloop's if it is installed, until `handle` ends or it is interrupted.

        In the main thread, SIGINT and SIGTERM stop it gracefully, as described for `arun`; a second one stops it at
        once. KeyboardInterrupt raised by `handle` stops it gracefully as well. Raised by an application or a hook it is
        raised again, and SystemExit always is. While the server runs in the main thread, the garbage collector's
        thresholds are raised to (5,000, 10, 100), unless they were changed from the interpreter's defaults.

        It returns even if a thread that an application has started is blocked. But the interpreter waits for that
        thread before the process exits, since nothing can end a thread from outside; `cyasgi serve` does not wait.

        Raises:
            RuntimeError: this thread already runs an event loop; or as for `arun`.
        """
        self._cyasgi.control.expect()
        run_in_own_loop(self, partial(request_stop, self._cyasgi))

    async def arun(self) -> None:
        """Run the server in the caller's event loop.

        It ends when `handle` has returned and the listeners that `handle` has opened are closed, or when `handle` or a
        spawned task raises. Then:

        1. Listeners are closed. All tasks that `handle` has started, by whatever means, are cancelled and awaited for
           up to `shutdown_timeout` seconds, except those that call an application, which go on until that has ended,
           and those of a listener's connections, which go on until after step 2.
        2. Every instance has up to `shutdown_timeout` seconds to drain: its queue empty, its application waiting in
           `receive`. Then it is cancelled and awaited.

        If `arun` is cancelled, everything is cancelled at once. The server can be run again afterwards.

        Raises:
            RuntimeError: the server is already running.
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
        """Ask the server to end, from any thread and at any time: gracefully, or at once if it was asked before.

        Before the first run, or just before `run` begins, the stop is kept for that run. After a run has ended it does
        nothing.
        """
        self._cyasgi.control.stop()

    async def wait_started(self) -> None:
        """Return when the server is ready: a gateway when it listens, any other server when `handle` has begun.

        If the server is not running yet, its next run is waited for. May be awaited in any event loop.

        Raises:
            RuntimeError: the run ended without an error before it was ready.
            Exception: what the run raised before it was ready.
        """
        await self._cyasgi.control.wait_started()

    async def wait_stopping(self) -> None:
        """Return when the server begins to stop, for whatever reason: it takes in no more messages from then on.

        Raises:
            RuntimeError: the server is not running.
        """
        running = self._cyasgi.server_run
        if running is None or running.stale:
            raise RuntimeError("wait_stopping() needs a running server")
        await running.wait_stopping()

    @property
    def control(self) -> Control:
        """What other threads, such as those of `cyasgi.embedding`, stop the server by, and wait for its start."""
        return self._cyasgi.control

    def announce_started(self) -> None:
        """Announce that the server is ready; for the `handle` of subclasses with `announces_start`."""
        self._cyasgi.control.started()

    async def handle(self) -> None:
        """Receive messages and put them into instances; to be overridden."""
        raise NotImplementedError("You must implement handle()")

    async def handle_stop(self) -> None:
        """Stop fetching messages; to be overridden by servers whose source has to be told.

        Called once when the server begins to stop gracefully, while `handle` is still running, and awaited for up to
        `shutdown_timeout` seconds. Then `handle` is cancelled, and the instances drain. What has to go on until they
        have, such as acknowledgements, must not be a task of `handle`: start it in an override of `arun`, before
        calling the original, and end it afterwards. What this raises is logged.
        """

    async def application_send(self, scope: Scope, message: Message) -> None:
        """Send out a message from the application of this scope; to be overridden."""
        raise NotImplementedError("You must implement application_send()")

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task that is cancelled when the server ends; if the task fails, the server ends with its error.

        Raises:
            RuntimeError: the server is not running.
        """
        running = self._cyasgi.server_run
        if running is None or running.stale:
            coroutine.close()
            raise RuntimeError("spawn() needs a running server: call it from handle() or later")
        return running.spawn(coroutine)

    # Instances

    # A function of the core: looking up a live instance takes no Python frame.
    get_or_create_application_instance = get_or_create_application_instance

    def delete_application_instance(self, scope_id: Hashable) -> Deletion:
        """Remove the instance with this id from the table and cancel its application, at once.

        Overrides may be `def` or `async def`, and clean up: this is called once for every instance that the server
        removes.

        Returns:
            An awaitable, which may be dropped. It waits up to `shutdown_timeout` seconds for the end of the run, and
            returns whether there was such an instance.
        """
        return self._cyasgi.delete(self, scope_id)

    def delete_oldest_application_instance(self) -> Deletion:
        """Delete the instance that has to make room for a new one, by `delete_application_instance`."""
        return self._cyasgi.delete_oldest(self)

    async def application_checker(self) -> None:
        """Delete instances that have ended, were idle for `idle_timeout`, or were awaited by a task that has ended.

        Never returns. Running several at once, or none, does no harm.
        """
        manager = self._cyasgi
        manager.adopt(asyncio.get_running_loop())
        while True:
            await manager.nap(self)
            await manager.sweep(self)

    # Hooks

    async def application_exception(self, exception: BaseException, application_details: Details) -> None:
        """Log the failure of an application, with its traceback and the request's method and path, or the scope's type
        and id.

        Called once for each application that the server has run and that has failed. Overrides may be `def` or
        `async def`.
        """
        log_exception(exception, application_details)

    def application_undelivered(self, messages: list[Message], application_details: Details) -> None:
        """Log how many messages were left in the queue of an instance that has ended.

        Overrides may be `def` or `async def`.

        Args:
            messages: those that the application has not received, oldest first.
            application_details: the instance. Its `in_flight` has the messages that the application has received but
                not finished.
        """
        in_flight = getattr(application_details, "in_flight", ())
        logger.warning(
            "%s left in the queue of scope_id %r%s",
            "1 undelivered message was" if len(messages) == 1 else f"{len(messages)} undelivered messages were",
            getattr(application_details, "scope_id", None),
            f", and {len(in_flight)} in flight, begun and not finished" if in_flight else "",
        )

    def application_ended(self, application_details: Details, reason: str) -> None:
        """Log the messages in flight of an application that has ended, unless another hook was given them.

        Called once for each instance that has ended and left the table, after the other hooks for it have returned; if
        it is not overridden, only for applications that were cancelled with such messages. Overrides may be `def` or
        `async def`.

        Args:
            application_details: the instance. Its `in_flight` has the messages that the application has received but
                not finished: none, if it has returned.
            reason: "returned", "failed" or "cancelled" if the application has ended by itself; otherwise why the server
                has ended it: "idle" or "age" (it expired), "evicted", "deleted", "stopping" (the server stops) or
                "orphaned" (it was awaited by a task that has ended).
        """
        in_flight = getattr(application_details, "in_flight", ())
        if in_flight:
            logger.warning(
                "%s in flight, begun and not finished, when the application of scope_id %r ended: %s",
                "1 message" if len(in_flight) == 1 else f"{len(in_flight)} messages",
                getattr(application_details, "scope_id", None),
                reason,
            )

    def stats(self) -> dict[str, int]:
        """Return a snapshot of the counters.

        Current: `live` and `idle` instances, and `closing` runs, whose instances have left the table. Since the server
        was made: `created`, `reused`, `evicted`, `expired` and `orphaned` instances; `finished`, `failed` and
        `cancelled` runs; `undelivered` messages; and `interrupted` ones, which applications that failed or were
        cancelled had received but not finished.
        """
        return self._cyasgi.stats()


remember_default_hooks(StatelessServer)

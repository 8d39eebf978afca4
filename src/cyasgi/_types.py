"""The types of ASGI, and what rooms know of each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, MutableMapping
from concurrent import futures
from typing import Any, ClassVar, Protocol

# Of any type: servers pass on what was put into an instance, and reject what an application sends.
Scope = Any
Message = Any
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
#: An application of ASGI 3, called with all three by position.
Application = Callable[[Scope, Receive, Send], Coroutine[Any, Any, Any]]
#: An instance, or a mapping with the keys of one that was written into the table.
Details = MutableMapping[str, Any]


class ServerPort(Protocol):
    """What the core, the manager of instances and a run know of the server that they work for."""

    application: Any
    announces_start: ClassVar[bool]

    @property
    def application_checker_interval(self) -> float: ...
    @property
    def eviction_policy(self) -> str: ...
    @property
    def idle_timeout(self) -> float | None: ...
    @property
    def max_applications(self) -> int | None: ...
    @property
    def max_queue_size(self) -> int: ...
    @property
    def shutdown_timeout(self) -> float: ...
    @property
    def tells_asgi_version(self) -> bool: ...
    @property
    def undelivered_to(self) -> str: ...

    #: Not among the names that a subclass may take.
    @property
    def _cyasgi(self) -> ManagerPort: ...
    @property
    def _cyasgi_table(self) -> Any: ...

    async def handle(self) -> None: ...
    async def handle_stop(self) -> None: ...
    async def application_send(self, scope: Scope, message: Message) -> None: ...
    async def application_checker(self) -> None: ...
    def get_or_create_application_instance(self, scope_id: Hashable, scope: Scope) -> Any: ...
    def delete_application_instance(self, scope_id: Hashable) -> Any: ...
    def delete_oldest_application_instance(self) -> Any: ...
    async def application_exception(self, exception: BaseException, application_details: Details) -> None: ...
    def application_undelivered(self, messages: list[Message], application_details: Details) -> Any: ...
    def application_ended(self, application_details: Details, reason: str) -> Any: ...


class HeldPort(Protocol):
    """What an instance knows of those that are held."""

    def hold(self, instance: Any) -> None:
        """Take note that the current task has awaited the instance."""


class ManagerPort(Protocol):
    """What an instance and the table know of the manager of a server's instances: what leaves the usual course."""

    @property
    def held(self) -> HeldPort: ...

    def obtain(self, server: Any, scope_id: Hashable, scope: Scope) -> Any:
        """Return the instance of this id, or create one."""

    def ended(self, instance: Any) -> None:
        """Take note that the run of an instance has ended."""

    def report(self, server: Any, entry: Any) -> None:
        """Tell the hooks of an entry that has ended and left the table."""

    def put_after_end(self, instance: Any, message: Message) -> None:
        """Accept a message that was put into an instance that has ended."""

    def make_room(self, server: Any, limit: int) -> None:
        """Evict until there is room for one more; raise `TableFull` if the policy is to refuse it."""

    def put_threadsafe(self, instance: Any, message: Message) -> futures.Future[None]:
        """Accept a message from another thread."""

    def call_again(self, instance: Any) -> None:
        """Revive an instance whose caller calls its application again."""

    async def wait_for_predecessor(self, instance: Any) -> None:
        """Wait until the run of an older instance of the same id has ended, within bounds."""


class Observer(Protocol):
    """Told of what happens to every instance of a server: the records of a `ManagedServer`."""

    def counted(self, application: Application) -> Application:
        """Return the application to be called in place of this one."""

    def left(self, instance: Any, reason: str) -> None:
        """Take note that the server has removed it from the table.

        Args:
            reason: why, one of those of `ApplicationInstance.end_reason`; empty if its run has ended by itself.
        """

    def kept(self, instance: Any) -> None:
        """Take note that it was idle, or there, for too long, and that an override has refused to delete it."""

    def ended(self, instance: Any) -> None:
        """Take note that its run has ended."""

    def closed(self, instance: Any) -> None:
        """Take note that it has both ended and left the table: nothing more will happen to it."""

    def begins_again(self, instance: Any) -> None:
        """Take note that a caller calls it again after its end."""


class Connection(Protocol):
    """What the scope of an instance may have as `connection`: it provides messages, and takes what is sent.

    It is asked from within `receive` and `send`, without a task or a queue between them: see `connect()`.
    """

    def next_message(self) -> Message | None:
        """Return the message that is to be received next, where the queue has none; None if there is none yet."""

    def application_send(self, scope: Scope, message: Message) -> Awaitable[None]:
        """Send what the application sends."""

    def last_message(self) -> Message | None:
        """Return what `receive` returns again and again after the end; None for nothing."""


class IntakePort(Protocol):
    """What the manager knows of the tasks and listeners by which one `arun()` takes messages in."""

    @property
    def over(self) -> bool: ...

    def belongs_to(self, manager: Any) -> bool: ...


class OriginPort(Protocol):
    """Which `arun()` has started the code at work, and whether by way of a listener."""

    @property
    def intake(self) -> Any: ...
    @property
    def by_listener(self) -> bool: ...


class Stoppable(Protocol):
    """One run of a server, as those know it who stop it or create instances in it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def intake(self) -> IntakePort: ...
    @property
    def stale(self) -> bool:
        """Whether its loop was closed before it ended."""

    @property
    def stopping(self) -> bool:
        """Whether it takes in no more messages."""

    @property
    def graceful(self) -> bool:
        """Whether it was asked to stop once and not twice, so that work in hand may end."""

    def request_stop(self) -> None:
        """Ask it to end: the first request drains, the second one cancels at once."""

    async def wait_stopping(self) -> None:
        """Return when it begins to stop."""

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task that ends with the server."""

    async def serve(self) -> None:
        """Run the server to its end."""

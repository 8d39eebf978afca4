"""An application run by its caller: `instance["application"](scope, receive, send)`, and what may end such a call."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine, Hashable
from typing import Any, Protocol

from asgiref.sync import markcoroutinefunction

from .._types import Application, Receive, Scope, Send
from .context import enter, leave


class Callee(Protocol):
    """What a call needs of the instance whose application it runs."""

    @property
    def scope_id(self) -> Hashable: ...
    @property
    def _application(self) -> Application: ...

    def _take_over(self, call: Any) -> None: ...
    async def _predecessor_ended(self) -> None: ...
    def _call_ended(self, call: Any, error: BaseException | None) -> None: ...


class InstanceDeleted(Exception):
    """Raised in callers that run an application themselves, if its instance was deleted, evicted or expired."""


class HeldApplication:
    """`instance["application"]`: an ASGI 3 callable, whatever kind of application the server has."""

    __slots__ = ("_instance",)
    _asgi_single_callable = True

    def __init__(self, instance: Callee) -> None:
        self._instance = instance

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, Any]:
        """Take over the run at once, and return a coroutine that runs the application to its end.

        Raises:
            RuntimeError: the server or another call runs it already, or its id has a newer instance.
            InstanceDeleted: (raised by the coroutine) the instance was deleted meanwhile.
        """
        call = Call(self._instance)
        coroutine = call.run(scope, receive, send)
        call.watch(coroutine)
        return coroutine

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeldApplication) and other._instance is self._instance

    def __hash__(self) -> int:
        return hash((HeldApplication, id(self._instance)))

    def __repr__(self) -> str:
        return f"<application of {self._instance!r}>"


markcoroutinefunction(HeldApplication)


class Call:
    """One run of an application by its caller, from the call to its end."""

    __slots__ = ("__weakref__", "_coroutine", "_deleted", "_instance", "_task")

    def __init__(self, instance: Callee) -> None:
        instance._take_over(self)
        self._instance: Callee | None = instance
        self._task: asyncio.Task[Any] | None = None
        self._deleted = False
        self._coroutine: weakref.ref[Any] | None = None

    def watch(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """End the call also if the coroutine is dropped or cancelled before its first step, which runs no line."""
        self._coroutine = weakref.ref(coroutine, self._gone)

    def _gone(self, _: object) -> None:
        if self._instance is not None:
            self._instance._call_ended(self, asyncio.CancelledError())
            self._instance = None

    @property
    def started(self) -> bool:
        return self._task is not None

    @property
    def task(self) -> asyncio.Task[Any] | None:
        """The task in which the run is."""
        return self._task

    def cancel(self) -> None:
        """End the run by cancelling its task, since the instance is being deleted."""
        if self._deleted:
            return
        self._deleted = True
        task = self._task
        if task is None:
            return
        if task is asyncio.current_task():
            # The application deletes itself. Were it to return before its next await, a request made now would
            # surface in the caller's code behind the call (uncancel() takes it back from 3.13 on only).
            task.get_loop().call_soon(self._cancel_running)
        else:
            task.cancel()

    def _cancel_running(self) -> None:
        if self._task is not None and self._instance is not None:
            self._task.cancel()

    def cancel_again(self) -> None:
        """Cancel a run again that has ignored `cancel`; both requests are taken back together."""
        if self._task is not None and self._instance is not None:
            self._task.cancel()
            self._task.uncancel()

    async def run(self, scope: Scope, receive: Receive, send: Send) -> Any:
        # The mechanism of asyncio.timeout: cancel, convert at the boundary, uncancel. A cancellation from anywhere
        # else, even at the same moment, leaves the count above where it was and so stays one.
        instance = self._instance
        assert instance is not None
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        before = task.cancelling()
        cell, token = enter(instance)
        error: BaseException | None = None
        try:
            if self._deleted:
                self._deleted = False
                raise InstanceDeleted(f"the instance of scope_id {instance.scope_id!r} was deleted before its run")
            await instance._predecessor_ended()
            return await instance._application(scope, receive, send)
        except asyncio.CancelledError as cancelled:
            error = cancelled
            if self._deleted and task.uncancel() <= before:
                self._deleted = False
                raise InstanceDeleted(
                    f"the instance of scope_id {instance.scope_id!r} was deleted while its application ran"
                ) from cancelled
            raise
        except BaseException as failure:
            error = failure
            raise
        finally:
            if self._deleted and task.cancelling() > before:
                task.uncancel()
            leave(cell, token)
            self._instance = None
            instance._call_ended(self, error)
            # The traceback of what is raised here refers to this frame.
            del instance, error, task

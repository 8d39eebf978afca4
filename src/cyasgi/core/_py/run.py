"""What an instance's task drives, and the `receive` and `send` that its application is given."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine
from threading import get_ident
from typing import Any

from ..constants import (
    AUTO,
    DONE,
    NEW,
)
from ..context import at_work
from ..in_flight import TakenByTasks, calling_task
from ..tracking import Tracked, outcome_of, tell_all
from .awaitables import Pass, error_of


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


async def _send_there(server: Any, scope: Any, message: Any) -> None:
    """Send a message when called in another thread than the event loop's, which is the one that awaits it."""
    await server.application_send(scope, message)


class Receive:
    """The `receive` of an application that the server runs; the end of the run detaches it from the instance."""

    __slots__ = ("_last", "_run")

    def __init__(self, run: Run) -> None:
        self._run = run
        #: After the end, what comes last, again and again; None for nothing.
        self._last: Any = None

    def __call__(self) -> Coroutine[Any, Any, Any]:
        run = self._run
        if not run._stepping:
            return _call_in(self, run, calling_task())
        if run._in_flight:
            run._in_flight = ()
        return run.instance._get(run)  # type: ignore[no-any-return]


def _call_in(receive: Receive, run: Run, task: Any) -> Coroutine[Any, Any, Any]:
    """Call `receive()` in what may be a child task, perhaps after the end of the run."""
    instance: Any = run.instance
    if instance is None:
        return _after_end(receive._last)
    own = instance._pulls or task is instance._task
    if not own and instance._taken is None:
        instance._taken = TakenByTasks()
        # From now on every call has to be noted.
        run._trusted = run._stepping = False
    if instance._taken is not None:
        instance._taken.called(task)
    if not own:
        return _get_in(instance, run, task)
    if run._in_flight:
        run._in_flight = ()
    return instance._get(run)  # type: ignore[no-any-return]


class Child:
    """Takes the place of a run if a child task receives a message."""

    __slots__ = ("_in_flight", "_run")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._in_flight: tuple[Any, ...] = ()

    @property
    def instance(self) -> Any:
        return self._run.instance

    def took(self, instance: Any, item: Tracked) -> Any:
        """Note a tracked message, and return what the application gets."""
        self._in_flight = (item,)
        return item.message


async def _get_in(instance: Any, run: Run, task: Any) -> Any:
    """Receive a message in a child task."""
    child = Child(run)
    try:
        message = await instance._get(child)
        if run.instance is not None:
            for item in child._in_flight:
                instance._taken.took(task, item)
        return message
    finally:
        # This frame is part of the traceback, which the task keeps.
        del instance, run, task, child


async def _after_end(last: Any) -> Any:
    """Return the last message to a child task that outlives its application, or end its wait if there is none."""
    # A task that never stops asking must not keep the loop to itself.
    await Pass()
    if last is None:
        raise asyncio.CancelledError
    return dict(last)


class Run:
    """What an instance's task drives: decides who runs the application, then passes everything through to it."""

    __slots__ = (
        "_coroutine",
        "_entered",
        "_in_flight",
        "_receive",
        "_step",
        "_stepping",
        "_trusted",
        "instance",
    )

    def __init__(self, instance: Any) -> None:
        self.instance = instance
        #: Messages in flight that the application has received in its own task; None if it never received one there.
        self._in_flight: tuple[Any, ...] | None = None
        #: Whether the code that runs now is certainly in the run's own task: within its step, where no task factory can
        #: have begun a child task.
        self._stepping = False
        self._trusted = False
        self._step: Callable[[None], Any] | None = None
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._receive: Receive | None = None
        self._entered = False

    def took(self, instance: Any, item: Tracked) -> Any:
        """Note a tracked message as those of child tasks are, and return what the application gets."""
        if instance._taken is None:
            instance._taken = TakenByTasks()
        # The next call has to be noted.
        self._trusted = self._stepping = False
        instance._taken.took(instance._task, item, own=True)
        return item.message

    def __await__(self) -> Run:
        return self

    def __iter__(self) -> Run:
        return self

    def __next__(self) -> Any:
        try:
            if self._step is None:
                waits_for = self._start()
                if waits_for is not self:
                    return waits_for
            assert self._step is not None
            self._stepping = self._trusted
            waits_for = self._step(None)
            self._stepping = False
            return waits_for
        except BaseException as error:
            self._ended(error)
            raise

    def send(self, value: None) -> Any:
        return self.__next__()

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        try:
            if self._coroutine is None:
                raise error_of(kind, value)
            return self._coroutine.throw(error_of(kind, value))
        except BaseException as raised:
            self._ended(raised)
            raise
        finally:
            # This frame is part of the exception's traceback.
            del kind, value

    def close(self) -> None:
        if self._coroutine is not None:
            self._coroutine.close()
        self._ended(asyncio.CancelledError())

    def _start(self) -> Any:
        """Return what the task waits for until the application begins, None for one pass; self once it has begun."""
        instance = self.instance
        if instance is None:
            raise RuntimeError("cannot reuse the run of an instance")
        if not self._entered:
            self._entered = True
            at_work.set(self)
            if instance._state == NEW:
                return None
        if instance._state == NEW:
            instance._state = AUTO
        if instance._state == DONE:
            raise StopIteration
        if instance._state != AUTO or instance._predecessor is not None:
            gate = instance._gate = asyncio.get_running_loop().create_future()
            gate._asyncio_future_blocking = True
            return gate
        instance._begun = 1
        self._receive = receive = Receive(self)
        scope, application = instance.scope, instance._application
        server = scope.connection if instance._direct else instance._server
        # A callable that raises leaves this frame in its traceback.
        del instance
        thread = get_ident()

        def send(message: Any) -> Any:
            if get_ident() != thread:
                return _send_there(server, scope, message)
            return server.application_send(scope, message)

        coroutine = application(scope, receive, send)
        if type(coroutine) is not types.CoroutineType:
            coroutine = _awaited(coroutine)
        self._coroutine = coroutine
        self._step = coroutine.send
        return self

    def _ended(self, error: BaseException) -> None:
        instance, self.instance = self.instance, None
        receive, self._receive = self._receive, None
        if receive is not None:
            receive._run = ENDED
        if instance is not None:
            items: tuple[Any, ...] = ()
            failure = None if isinstance(error, StopIteration) else error
            if self._in_flight is not None or instance._taken is not None:
                items = instance._interrupt(self, failure)
            instance._run_ended(error)
            if receive is not None:
                receive._last = instance._last_message()
            # Last: who is told may ask for another instance.
            tell_all(items, outcome_of(failure), failure)
            del failure

    # What asyncio's repr of a task and its get_stack() look for.
    @property
    def cr_await(self) -> Any:
        return self._coroutine

    @property
    def cr_code(self) -> Any:
        return getattr(self._coroutine, "cr_code", Run.send.__code__)

    @property
    def cr_frame(self) -> Any:
        return getattr(self._coroutine, "cr_frame", None)

    @property
    def cr_running(self) -> bool:
        return bool(getattr(self._coroutine, "cr_running", False))

    @property
    def __name__(self) -> str:
        return str(getattr(self._coroutine, "__qualname__", "Run"))


Coroutine.register(Run)
#: What a `receive` has when it is severed from its run.
ENDED = Run(None)

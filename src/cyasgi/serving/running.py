"""Running a server and stopping it: handle(), the checker, listeners, draining, signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any, Protocol

from .._common.guarding import Guard, error_of
from .._common.signals import let_go
from .._types import ServerPort
from ..core import ApplicationInstance, ForeignEntry, Pass
from ..core.constants import STOPPING
from ..core.context import outside
from ..core.describe import describe
from ..core.tasks import resolved
from ..instances.held import is_held
from ..instances.hooks import logger
from ..instances.manager import InstanceManager
from .collector import rare_collections
from .intake import (
    PAUSE,
    POLL,
    Intake,
)
from .listeners import (
    is_server,
    is_serving,
    watched,
)
from .loop_end import close_loop, with_executor

#: Seconds that the caller of an application has to end by itself after the application was cancelled.
GRACE = 1.0


class ServerRun:
    """One arun() of a server, from its start to its end."""

    def __init__(self, server: ServerPort, manager: InstanceManager, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._manager = manager
        self._loop = loop
        self.intake = Intake(manager, loop)
        self._spawned: set[asyncio.Task[Any]] = set()
        self._requests = 0
        #: Resolved by the first request to stop, or by a spawned task's failure.
        self._stop: asyncio.Future[None] = loop.create_future()
        self._stopping = False
        #: Set when the run begins to stop, for whatever reason.
        self._stop_begun = asyncio.Event()
        #: Resolved by the second request: what is still running is cancelled at once.
        self._force: asyncio.Future[None] = loop.create_future()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    @property
    def stale(self) -> bool:
        """Whether its loop was closed before it ended."""
        return self._loop.is_closed()

    @property
    def stopping(self) -> bool:
        """Whether it takes in no more messages."""
        return self._stopping

    @property
    def graceful(self) -> bool:
        """Whether it was asked to stop once and not twice, so that work in hand may end."""
        return self._stop.done() and not self._force.done()

    def request_stop(self) -> None:
        """Ask the run to end: the first request drains, the second cancels at once."""
        self._requests += 1
        if self._requests == 1:
            resolved(self._stop)
        elif not self._force.done():
            self._force.set_result(None)
            # Tasks that are cleaning up after the first request have had their time.
            self.intake.hurry()

    async def wait_stopping(self) -> None:
        """Return when the run begins to stop."""
        await self._stop_begun.wait()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.intake.create_task(coroutine, outside())
        self._spawned.add(task)
        task.add_done_callback(self._spawned_ended)
        return task

    def _spawned_ended(self, task: asyncio.Task[Any]) -> None:
        self._spawned.discard(task)
        if task.cancelled() and task.cancelling():
            return
        error = error_of(task)
        if error is not None and not self._stop.done():
            self._stop.set_exception(error)
        elif error is not None:
            logger.error("a spawned task failed while the server stopped", exc_info=error)

    async def serve(self) -> None:
        """Run the server to its end."""
        manager, server = self._manager, self._server
        manager.end_stale(server)
        manager.adopt(self._loop)
        with watched(self._loop):
            handle = self.intake.create_task(server.handle(), outside())
            checker = outside().run(self._loop.create_task, self._check())
            # After the first step of handle().
            self._loop.call_soon(self._begun, handle)
            cause: BaseException | None = None
            graceful = False
            try:
                cause = await self._ended(handle)
                graceful = True
            finally:
                try:
                    # A coroutine that is closed after its loop has no loop to wait in.
                    if not self.stale:
                        await self._shut_down(checker, graceful)
                except BaseException:
                    # Whatever has interrupted the shutdown is raised instead.
                    cause = None
                    raise
                finally:
                    self._tell_of(handle, cause)
            if cause is not None:
                raise cause

    def _begun(self, handle: asyncio.Task[None]) -> None:
        """Announce that the server is ready, after the first step of handle()."""
        failed = handle.done() and (handle.cancelled() or handle.exception() is not None)
        if not self._server.announces_start and not failed:
            self._manager.control.started()

    @staticmethod
    def _tell_of(handle: asyncio.Task[None], raised: BaseException | None) -> None:
        """Log an error of handle() that serve() does not raise."""
        error = handle.exception() if handle.done() and not handle.cancelled() else None
        # Interrupts went through the loop.
        if isinstance(error, Exception) and error is not raised:
            logger.error("handle() failed while the server stopped", exc_info=error)

    async def _check(self) -> None:
        guard = Guard()
        try:
            await self._server.application_checker()
        except BaseException as error:
            if guard.interrupted(error):
                raise
            logger.exception("application_checker raised; the server goes on without it")

    async def _ended(self, handle: asyncio.Task[None]) -> BaseException | None:
        """Wait until handle() has returned and its listeners are closed, or until a stop is asked for.

        Returns:
            The error that ends the server. A CancelledError that is raised instead is a cancellation of arun() itself.
        """
        await asyncio.wait({handle, self._stop}, return_when=asyncio.FIRST_COMPLETED)
        if handle.done() and not handle.cancelled() and handle.exception() is None:
            while not self._stop.done() and any(map(is_serving, self.intake.listeners)):
                await asyncio.wait({self._stop}, timeout=POLL)
        for future in (self._stop, handle):
            try:
                if future.done():
                    future.result()
            except BaseException as error:
                return error
        return None

    async def _shut_down(self, checker: asyncio.Task[None], graceful: bool) -> None:
        """End the intake, let the instances drain if `graceful`, dismiss them, and end all the rest."""
        self._stopping = True
        self._stop_begun.set()
        server, manager, intake = self._server, self._manager, self.intake
        bound = server.shutdown_timeout
        for listener in intake.listeners:
            if is_server(listener):
                listener.close()
        if graceful:
            await self._tell_source(bound)
        intake.pause = min(PAUSE, bound / 4)
        intake.scan()
        intake.press()
        follower = outside().run(self._loop.create_task, intake.follow())
        try:
            if graceful:
                await self._within(intake.ended(), bound)
                await self._within(self._drained(), bound)
                self._tell_of_cut(bound)
            callers = intake.spare_callers()
            self._dismiss_all()
            await self._within(self._closed(callers), bound, forced=False)
            for entry in list(manager.closing):
                manager.cancel_again(entry)
            if manager.closing:
                await self._within(self._closed(callers), min(bound, 1.0), forced=False)
            await self._within(manager.reports.flush(), bound)
        finally:
            if not self.stale:
                await self._end_rest(checker, follower, bound)

    async def _tell_source(self, bound: float) -> None:
        """Have the server stop fetching, before what handle() has started is cancelled."""
        server = self._server
        if type(server).handle_stop is self._manager.base.handle_stop and "handle_stop" not in server.__dict__:
            return
        try:
            await self._within(server.handle_stop(), bound)
        except Exception:
            logger.exception("handle_stop() failed")

    async def _end_rest(self, checker: asyncio.Task[None], follower: asyncio.Task[None], bound: float) -> None:
        """Cancel what is still running, and give up what goes on even then."""
        manager, intake = self._manager, self.intake
        self._dismiss_all()
        for listener in intake.listeners:
            listener.close()
        intake.scan()
        cut = intake.tasks()
        if cut:
            logger.warning(
                "%s cut when the server stopped (shutdown_timeout is %g s)",
                "1 task that handle() has started was"
                if len(cut) == 1
                else f"{len(cut)} tasks that handle() has started were",
                bound,
            )
        rest = {checker, follower, *manager.overrides, *manager.reports.cancel(), *cut}
        for task in rest:
            task.cancel()
        rest = {task for task in rest if not task.done()}
        if rest:
            await asyncio.wait(rest, timeout=max(bound, POLL))
        left = intake.close()
        await self._dismiss_late(bound)
        await Pass()
        manager.reports.kick()
        if checker.done() and not checker.cancelled():
            # Interrupts went through the loop.
            checker.exception()
        self._give_up(left)

    async def _dismiss_late(self, bound: float) -> None:
        """Delete instances that an override has kept, or that were created by the tasks that were cancelled last."""
        manager = self._manager
        tasks = manager.delete_all(self._server, STOPPING)
        manager.is_over()
        if tasks:
            await asyncio.wait(tasks, timeout=min(bound, 1.0))

    def _tell_of_cut(self, bound: float) -> None:
        """Log how many applications have not drained and are about to be cancelled."""
        cut = [entry for entry in self._manager.table.entries() if not _is_drained(entry)]
        if cut:
            logger.warning(
                "%s with work in hand%s: %s",
                "1 application was cut" if len(cut) == 1 else f"{len(cut)} applications were cut",
                ", at the second stop of the server"
                if self._force.done()
                else f" when the server stopped (shutdown_timeout is {bound:g} s)",
                f"{'' if len(cut) == 1 else 'one of them is '}{describe(cut[0].public)}",
            )

    def _give_up(self, intake: set[asyncio.Task[Any]]) -> None:
        """Log what is still running, and leave it to itself."""
        if self._manager.closing:
            count = len(self._manager.closing)
            logger.warning(
                "%s after cancellation", "1 application goes on" if count == 1 else f"{count} applications go on"
            )
        if intake:
            count = len(intake)
            logger.warning(
                "%s on after cancellation",
                "1 task that handle() has started goes"
                if count == 1
                else f"{count} tasks that handle() has started go",
            )
        self._manager.give_up_closing()

    async def _within(self, coroutine: Coroutine[Any, Any, Any], seconds: float, *, forced: bool = True) -> None:
        """Await the coroutine for this many seconds or, if `forced`, until a second request to stop; then cancel it."""
        task = self._loop.create_task(coroutine)
        until = {task, self._force} if forced else {task}
        try:
            await asyncio.wait(until, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done() and not self.stale:
                task.cancel()
                await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    async def _drained(self) -> None:
        """Wait until every instance has drained: its queue is empty and its application waits in receive()."""
        manager, table = self._manager, self._manager.table
        while busy := [entry for entry in table.entries() if not _is_drained(entry)]:
            while busy:
                if _is_drained(busy[-1]):
                    busy.pop()
                    continue
                changed: asyncio.Future[None] = self._loop.create_future()
                table.on_idle = manager.on_ended = tell = partial(resolved, changed)
                try:
                    await asyncio.wait({changed}, timeout=POLL if table.foreign else None)
                finally:
                    if manager.on_ended is tell:
                        table.on_idle = manager.on_ended = None

    def _dismiss_all(self) -> None:
        self._manager.dismiss_all(self._server, STOPPING)

    async def _closed(self, callers: set[asyncio.Task[Any]]) -> None:
        """Wait until every run and every override that deletes has ended, and then all that handle() has started."""
        manager, intake = self._manager, self.intake
        while True:
            while (entry := manager.table.pop_finished()) is not None:
                manager.delete_entry(self._server, entry)
            waiting: set[asyncio.Future[Any]] = {task for task in manager.overrides if not task.done()}
            if not waiting and not manager.closing:
                break
            changed: asyncio.Future[None] = self._loop.create_future()
            manager.on_ended = tell = partial(resolved, changed)
            try:
                await asyncio.wait({changed, *waiting}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if manager.on_ended is tell:
                    manager.on_ended = None
        # Callers whose call has just ended may take care of their clients.
        if callers:
            await asyncio.wait(callers, timeout=min(self._server.shutdown_timeout, GRACE))
        intake.end_all()
        await intake.ended()


def _is_drained(entry: ApplicationInstance | ForeignEntry) -> bool:
    if entry.idle or entry.ended:
        return True
    return type(entry) is ApplicationInstance and is_held(entry)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop: uvloop's if that is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _factories() -> tuple[Any, ...]:
    """Return the loop factories whose loops are known to have no default executor yet."""
    return new_event_loop, getattr(sys.modules.get("uvloop"), "new_event_loop", None)


class Runnable(Protocol):
    """A server, or several, to be run in an event loop of its own."""

    @property
    def shutdown_timeout(self) -> float: ...

    def arun(self) -> Coroutine[Any, Any, None]: ...


def request_stop(manager: InstanceManager) -> bool:
    """Ask the server of this manager to end, as by `ServerRun.request_stop`; return False if it is not running."""
    if manager.server_run is None or manager.server_run.stale:
        return False
    manager.server_run.request_stop()
    return True


def run_in_own_loop(
    server: Runnable,
    stop: Callable[[], bool],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = new_event_loop,
    signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
) -> signal.Signals | None:
    """Run the server to its end in a new event loop.

    Each of the signals calls `stop`. If that returns False, because there is nobody to ask, the server's `arun` is
    cancelled.

    Returns:
        The first signal that arrived.

    Raises:
        RuntimeError: this thread already runs an event loop; or as for the server's `arun`.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("run() cannot be called where an event loop runs already; await arun() there")
    loop = loop_factory()
    find_executor = with_executor(loop, replaceable=loop_factory in _factories())
    try:
        asyncio.set_event_loop(loop)
        with rare_collections():
            return _run_to_end(server, stop, loop, signals)
    finally:
        try:
            close_loop(loop, find_executor, server.shutdown_timeout)
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _run_to_end(
    server: Runnable,
    request: Callable[[], bool],
    loop: asyncio.AbstractEventLoop,
    signals: Sequence[signal.Signals],
) -> signal.Signals | None:
    main = loop.create_task(server.arun())

    def stop() -> None:
        # An overridden arun() may not run ours.
        if main.done() or not request():
            main.cancel()

    interrupted: BaseException | None = None
    signalled: list[int] = []
    with _signals(loop, stop, signalled, signals):
        while not main.done():
            try:
                loop.run_until_complete(main)
            except (KeyboardInterrupt, SystemExit) as error:
                # Raised in some task, which has stopped the loop and changed nothing else. The same error arrives again
                # if a task has waited for the one that raised it, and then asks for nothing new.
                again = error is interrupted
                if interrupted is None:
                    interrupted = error
                if main.done():
                    break
                if not again:
                    stop()
            except asyncio.CancelledError:
                if not signalled:
                    raise
    if interrupted is not None:
        raised = None if main.cancelled() else main.exception()
        # Raised by handle(), as by Ctrl-C, it is a way to end; raised by an application or a hook, it is an error.
        if raised is not interrupted or not isinstance(raised, KeyboardInterrupt):
            raise interrupted
        logger.info("Exiting due to KeyboardInterrupt")
    elif signalled:
        logger.info("Exiting due to %s", signal.Signals(signalled[0]).name)
    return signal.Signals(signalled[0]) if signalled else None


@contextlib.contextmanager
def _signals(
    loop: asyncio.AbstractEventLoop, stop: Callable[[], None], seen: list[int], numbers: Sequence[signal.Signals]
) -> Iterator[None]:
    """In the main thread, let these signals call `stop` in the loop; restore their handlers afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}

    def received(number: int) -> None:
        seen.append(number)
        stop()

    def handler(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(received, number)

    wakeup = None
    for number in numbers:
        try:
            loop.add_signal_handler(number, received, number)
        except NotImplementedError:
            signal.signal(number, handler)
            wakeup = wakeup or loop.call_soon(_keep_awake, loop)
    try:
        yield
    finally:
        for number, previous in before.items():
            let_go(loop, number, previous)


def _keep_awake(loop: asyncio.AbstractEventLoop) -> None:
    # If a loop does not support signal handlers, Python's run only when the loop wakes up.
    loop.call_later(0.2, _keep_awake, loop)

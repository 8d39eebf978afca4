"""Several servers at once, in one event loop and under one set of signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from ._common.control import Control
from .server import StatelessServer
from .serving.running import (
    new_event_loop,
    request_stop,
    run_in_own_loop,
)

logger = logging.getLogger(__name__)


class Supervisor:
    """Runs servers together: they begin together, and when one ends, for whatever reason, the others end in order.

        Supervisor([HTTPServer(application), DatagramServer(application)]).run()

    Args:
        servers: `StatelessServer` objects of any kind, each once.
        around: makes an asynchronous context manager that is entered before any server starts and left after all have
            ended: what they have in common, such as a lifespan.

    Raises:
        TypeError: one of the servers is none.
        ValueError: there is no server, or one comes twice.
    """

    def __init__(
        self,
        servers: Iterable[StatelessServer],
        *,
        around: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext,
    ) -> None:
        self.servers = list(servers)
        self.around = around
        for server in self.servers:
            if not isinstance(server, StatelessServer):
                raise TypeError(f"each of servers must be a StatelessServer, got {server!r}")
        if not self.servers:
            raise ValueError("servers must name at least one server, got none")
        if len({id(server) for server in self.servers}) < len(self.servers):
            raise ValueError("each of servers must come once, got one twice")
        #: The servers' tasks while they run.
        self._tasks: dict[asyncio.Task[None], StatelessServer] = {}
        #: How often `stop` was called in this run.
        self._requests = 0
        #: The servers have been asked to end.
        self._ending = False
        self._running = False
        #: The signal that ended the last run before any of the servers served.
        self.interrupted: signal.Signals | None = None
        self._control = Control()
        #: Whether one of the servers has served in this run.
        self._served = False
        #: The task of `arun`, and whether a stop has cancelled it.
        self._main: asyncio.Task[Any] | None = None
        self._cancelled_by_stop = False

    @property
    def shutdown_timeout(self) -> float:
        """The longest of the servers': they drain at the same time."""
        return max(server.shutdown_timeout for server in self.servers)

    def run(
        self,
        *,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] = new_event_loop,
        signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    ) -> None:
        """Runs the servers in an event loop of their own until one ends or, in the main thread, a signal comes.

        The first of `signals` stops all in order, as `arun` describes; a second one at once.

        Raises:
            RuntimeError: an event loop runs in this thread already; or as `arun`.
        """
        self._control.expect()
        self.interrupted = None
        signalled = run_in_own_loop(self, self._request_stop, loop_factory=loop_factory, signals=signals)
        self.interrupted = None if self._served else signalled

    def stop(self) -> bool:
        """Ask the servers to end, from any thread and at any time: in order, and at once if they were asked already.

        While `around` is entered, `arun` ends without having started a server. Before the first run, or while `run` is
        about to begin, the stop is kept for that run; after a run has ended it does nothing.

        Returns:
            Whether a server runs that was asked.
        """
        asked = bool(self._tasks) or (self._ending and self._requests == 0)
        self._control.stop()
        return asked

    async def wait_started(self) -> None:
        """Return when all servers serve; as `StatelessServer.wait_started`."""
        await self._control.wait_started()

    @property
    def control(self) -> Control:
        """What `cyasgi.embedding` waits for in another thread."""
        return self._control

    def _stop_or_cancel(self) -> None:
        if not self._request_stop() and self._main is not None:
            self._cancelled_by_stop = True
            self._main.cancel()

    def _request_stop(self) -> bool:
        """False if there is no server to ask: then whoever cancels `arun` ends what `around` does."""
        if not self._tasks and not self._ending:
            return False
        self._requests += 1
        if self._requests == 1:
            logger.info(
                "stopping: work in hand has %g s to end; a second request to stop ends it at once",
                self.shutdown_timeout,
            )
        # The first request does not hurry those that another one's end has stopped.
        if self._requests > 1 or not self._ending:
            self._ask()
        return bool(self._tasks) or self._requests == 1

    def _ask(self) -> None:
        self._ending = True
        for task, server in self._tasks.items():
            # One that does not run yet, or only closes what it had open, has no work to finish.
            if not task.done() and not request_stop(server._cyasgi):
                task.cancel()

    async def arun(self) -> None:
        """Runs the servers in the caller's event loop.

        When one has ended, or on `stop`, all are stopped in order, at the same time, each within its own bounds. If
        this is cancelled they are cancelled. It returns when the last one has ended.

        Raises:
            RuntimeError: it is running already.
            Exception: what the first server that failed raised, or what `around` did; what others raised is logged.
        """
        if self._running:
            raise RuntimeError("these servers are running already; a second arun() at the same time is refused")
        self._running = True
        self._served = False
        self._requests = 0
        main = self._main = asyncio.current_task()
        assert main is not None
        self._cancelled_by_stop = False
        error: BaseException | None = None
        self._control.begin(asyncio.get_running_loop(), self._stop_or_cancel)
        try:
            async with self.around():
                await self._serve()
        except asyncio.CancelledError as cancelled:
            error = cancelled
            if not self._cancelled_by_stop or main.uncancel():
                raise
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._running = self._ending = False
            self._main = None
            self._control.end(error)
            # The traceback of what is raised refers to this frame.
            del error, main

    async def _tell_of_start(self) -> None:
        with contextlib.suppress(Exception):
            # What keeps a server from starting ends all of them, and is told there.
            for server in self.servers:
                await server.wait_started()
            self._control.started()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        tasks = self._tasks = {loop.create_task(server.arun()): server for server in self.servers}
        ended: list[asyncio.Task[None]] = []
        for task in tasks:
            task.add_done_callback(ended.append)
        starting = loop.create_task(self._tell_of_start())
        cancelled = False
        try:
            while running := [task for task in tasks if not task.done()]:
                try:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                except asyncio.CancelledError:
                    cancelled = self._ending = True
                    for task in running:
                        task.cancel()
                else:
                    if not self._ending:
                        self._ask()
        finally:
            self._tasks = {}
            starting.cancel()
            self._served = any(server.control.served for server in self.servers)
        ended += [task for task in tasks if task not in ended]
        errors = [error for task in ended if not task.cancelled() and (error := task.exception()) is not None]
        for error in errors[1:]:
            logger.error("a server failed while the others stopped", exc_info=error)
        if errors:
            raise errors[0]
        if cancelled or (ended[0].cancelled() and not self._requests):
            raise asyncio.CancelledError

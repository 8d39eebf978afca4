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
    """Run servers together: they start together, and when one ends, for whatever reason, the others stop gracefully.

        Supervisor([HTTPServer(application), DatagramServer(application)]).run()

    Args:
        servers: `StatelessServer` objects of any kind, each once.
        around: returns an asynchronous context manager, which is entered before any server starts and left after all
            have ended, for what they have in common, such as a lifespan.

    Raises:
        TypeError: one of `servers` is not a `StatelessServer`.
        ValueError: `servers` is empty, or has a server twice.
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
        #: The tasks of the servers while they run.
        self._tasks: dict[asyncio.Task[None], StatelessServer] = {}
        #: How often `stop` was called in this run.
        self._requests = 0
        #: Whether the servers have been asked to end.
        self._ending = False
        self._running = False
        #: The signal that ended the last run before any server was ready; None otherwise.
        self.interrupted: signal.Signals | None = None
        #: Called once in each run, when the servers are asked to end.
        self.on_stopping: Callable[[], object] = bool
        self._control = Control()
        #: Whether one of the servers has served in this run.
        self._served = False
        #: The task of `arun`, and whether a stop has cancelled it.
        self._main: asyncio.Task[Any] | None = None
        self._cancelled_by_stop = False

    @property
    def shutdown_timeout(self) -> float:
        """The longest one of the servers, since they drain at the same time."""
        return max(server.shutdown_timeout for server in self.servers)

    def run(
        self,
        *,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] = new_event_loop,
        signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    ) -> None:
        """Run the servers in a new event loop until one ends or, in the main thread, a signal arrives.

        The first of `signals` stops all servers gracefully, as described for `arun`; a second one stops them at once.

        Raises:
            RuntimeError: this thread already runs an event loop; or as for `arun`.
        """
        self._control.expect()
        self.interrupted = None
        signalled = run_in_own_loop(self, self._request_stop, loop_factory=loop_factory, signals=signals)
        self.interrupted = None if self._served else signalled

    def stop(self) -> bool:
        """Ask the servers to end, from any thread and at any time: gracefully, or at once if they were asked before.

        While `around` is being entered, `arun` ends without starting a server. Before the first run, or just before
        `run` begins, the stop is kept for that run; after a run has ended it does nothing.

        Returns:
            Whether any running server was asked.
        """
        asked = bool(self._tasks) or (self._ending and self._requests == 0)
        self._control.stop()
        return asked

    async def wait_started(self) -> None:
        """Return when all servers are ready; apart from that, as `StatelessServer.wait_started`."""
        await self._control.wait_started()

    @property
    def control(self) -> Control:
        """What other threads, such as those of `cyasgi.embedding`, stop the servers by, and wait for their start."""
        return self._control

    def _stop_or_cancel(self) -> None:
        if not self._request_stop() and self._main is not None:
            self._cancelled_by_stop = True
            self._main.cancel()

    def _request_stop(self) -> bool:
        """Ask the servers to end; return False if there is none, so that `arun` has to be cancelled inside `around`."""
        if not self._tasks and not self._ending:
            return False
        self._requests += 1
        if self._requests == 1:
            logger.info(
                "stopping: work in hand has %g s to end; a second request to stop ends it at once",
                self.shutdown_timeout,
            )
        # The first request does not hurry servers that are stopping because another one has ended.
        if self._requests > 1 or not self._ending:
            self._ask()
        return bool(self._tasks) or self._requests == 1

    def _ask(self) -> None:
        if not self._ending:
            self.on_stopping()
        self._ending = True
        for task, server in self._tasks.items():
            # A server that is not running yet, or is only closing what it had open, has no work to finish.
            if not task.done() and not request_stop(server._cyasgi):
                task.cancel()

    async def arun(self) -> None:
        """Run the servers in the caller's event loop, and return when the last one has ended.

        When one has ended, or on `stop`, all of them stop gracefully at the same time, each within its own bounds. If
        this call is cancelled, the servers are cancelled.

        Raises:
            RuntimeError: the supervisor is already running.
            Exception: what the first server to fail raised, or `around`; what other servers raised is logged.
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

    async def _announce_start(self) -> None:
        with contextlib.suppress(Exception):
            # A server that fails to start ends all of them, and its error is raised there.
            for server in self.servers:
                await server.wait_started()
            self._control.started()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        tasks = self._tasks = {loop.create_task(server.arun()): server for server in self.servers}
        ended: list[asyncio.Task[None]] = []
        for task in tasks:
            task.add_done_callback(ended.append)
        starting = loop.create_task(self._announce_start())
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

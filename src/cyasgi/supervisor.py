"""Several servers at once, in one event loop and under one set of signals."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from ._running import new_event_loop, request_stop, run_in_own_loop
from .server import StatelessServer

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
        run_in_own_loop(self, self.stop, loop_factory=loop_factory, signals=signals)

    def stop(self) -> bool:
        """Asks the servers to end: in order, and at once if they were asked already.

        False if there is none to ask, because they have not started or because they have ended: then whoever cancels
        `arun` ends what `around` does.
        """
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
        self._requests = 0
        try:
            async with self.around():
                await self._serve()
        finally:
            self._running = self._ending = False

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        tasks = self._tasks = {loop.create_task(server.arun()): server for server in self.servers}
        ended: list[asyncio.Task[None]] = []
        for task in tasks:
            task.add_done_callback(ended.append)
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
        ended += [task for task in tasks if task not in ended]
        errors = [error for task in ended if not task.cancelled() and (error := task.exception()) is not None]
        for error in errors[1:]:
            logger.error("a server failed while the others stopped", exc_info=error)
        if errors:
            raise errors[0]
        if cancelled or (ended[0].cancelled() and not self._requests):
            raise asyncio.CancelledError

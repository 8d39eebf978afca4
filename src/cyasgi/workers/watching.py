"""Metrics, health and the live page of all workers, served by the process that supervises them."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from .._common.cells import CELLS, Page
from ..gateways.http import HTTPServer
from ..metrics.application import MetricsApplication
from ..metrics.overview import MOST_FAILURES, Failure, Overview
from ..metrics.snapshot import SERVING, STARTING, STOPPING, Snapshot, Totals, WorkerView, latest
from ..wire.address import format_address
from .process import WorkerProcess

logger = logging.getLogger("cyasgi.workers")

#: Connections to the page at a time, at most.
MOST_CONNECTIONS = 100
#: Seconds that requests to the page may take to end when the process ends.
END = 1.0


class MetricsServer(HTTPServer):
    """Serves the page, and says nothing of it: whoever starts it does."""

    lifespan = "off"
    #: For its user and group alone: the page has client addresses and tracebacks.
    unix_permissions = 0o660
    max_connections = MOST_CONNECTIONS
    shutdown_timeout = END
    _listening_level = logging.DEBUG


class PoolWatch:
    """Knows what the workers of a pool do, and serves that at an address: see `Watch`.

    Args:
        address: as one of `HTTPServer.binds`.

    Raises:
        TypeError, ValueError: the address is malformed.
    """

    def __init__(self, address: Any) -> None:
        self._server = MetricsServer(MetricsApplication(self), binds=address)
        self._state = STARTING
        self._workers: dict[WorkerProcess, Overview] = {}
        #: The counters, and the last failures, of workers that have ended.
        self._ended = Totals()
        self._past_failures: collections.deque[tuple[int, Failure]] = collections.deque(maxlen=MOST_FAILURES)
        self._started = 0
        self._restarts = {"replaced": 0, "died": 0}
        #: The worker that has last sent what is no overview.
        self._garbled: WorkerProcess | None = None

    def bind(self) -> None:
        """Bind the address, and import what serving takes: with `--user`, modules may be closed to this process later.

        Raises:
            ListenError: it cannot be listened on.
        """
        _ = self._server.websocket_protocol_class
        self._server.bind()

    @property
    def name(self) -> str:
        """The addresses that were bound, as logs have them."""
        return ", ".join(
            f"unix:{host}" if port is None else f"http://{format_address((host, port))}"
            for host, port in self._server.addresses
        )

    @property
    def paths(self) -> list[str]:
        """The path of a Unix socket that was bound."""
        return [host for host, port in self._server.addresses if port is None]

    def close(self) -> None:
        """Close what was bound and never served."""
        self._server.close()

    # What the pool tells

    def page(self) -> Page:
        return Page.shared()

    def started(self, worker: WorkerProcess) -> None:
        self._started += 1
        self._workers[worker] = Overview()

    def replaces(self, cause: str) -> None:
        self._restarts[cause] = self._restarts.get(cause, 0) + 1

    def heard(self, worker: WorkerProcess, overview: object) -> None:
        if worker not in self._workers:
            return
        try:
            found = Overview.from_json(overview)
        except ValueError as error:
            if self._garbled is not worker:
                self._garbled = worker
                logger.error("%s does not tell what it does: %s", worker, error)
            return
        if found.failures is None:
            found = replace(found, failures=self._workers[worker].failures)
        self._ended.name_types(found.failure_types)
        self._workers[worker] = found

    def ended(self, worker: WorkerProcess) -> None:
        overview = self._workers.pop(worker)
        # What it has counted up to its last moment.
        self._ended.add_ended(_cells(worker), overview)
        self._past_failures.extend((worker.number, failure) for failure in reversed(overview.failures or ()))
        if worker.page is not None:
            worker.page.unmap()
        if self._garbled is worker:
            self._garbled = None

    def pool_serves(self) -> None:
        self._state = SERVING

    def pool_stops(self) -> None:
        self._state = STOPPING

    # What is shown

    @contextlib.asynccontextmanager
    async def showing(self) -> AsyncIterator[None]:
        """Serve the page; the workers go on if it fails."""
        serving = asyncio.create_task(self._server.arun())
        serving.add_done_callback(self._server_ended)
        try:
            with contextlib.suppress(Exception):
                # An error is told when the server has ended.
                await self._server.wait_started()
                logger.info("metrics and health on %s", self.name)
            yield
        finally:
            if not serving.done():
                serving.remove_done_callback(self._server_ended)
                self._server.stop()
                await asyncio.wait({serving})
                self._server_ended(serving, expected=True)

    def _server_ended(self, serving: asyncio.Task[None], *, expected: bool = False) -> None:
        error = None if serving.cancelled() else serving.exception()
        if error is not None or not expected:
            logger.error("metrics and health are served no more", exc_info=error)

    def snapshot(self) -> Snapshot:
        """Return what the workers do now."""
        views = [_view(worker, overview) for worker, overview in self._workers.items()]
        views.sort(key=lambda view: (view.number, view.pid))
        failures = [
            (worker.number, failure)
            for worker, overview in self._workers.items()
            for failure in overview.failures or ()
        ]
        return Snapshot(
            moment=time.monotonic(),
            state=self._state,
            workers=views,
            ended=self._ended,
            started=self._started,
            restarts=dict(self._restarts),
            failures=latest([*failures, *self._past_failures], MOST_FAILURES),
        )


def _cells(worker: WorkerProcess) -> list[int]:
    return [0] * CELLS if worker.page is None else worker.page.cells.tolist()


def _view(worker: WorkerProcess, overview: Overview) -> WorkerView:
    state = SERVING if worker.serving else STARTING if not worker.ready.done() and not worker.ending else STOPPING
    # Two heartbeats may be on their way: only what is missing beyond them tells of a loop that does not turn.
    overdue = worker.silence if worker.silence > 2 * worker.beat else 0.0
    age = asyncio.get_running_loop().time() - worker.started
    return WorkerView(worker.number, worker.pid, state, age, max(overview.lag, overdue), _cells(worker), overview)

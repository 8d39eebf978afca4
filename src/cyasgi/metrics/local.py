"""Metrics of the servers of this process, for a program of one's own."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from .._common.cells import Page
from ..server import StatelessServer
from .application import LAG_BOUND, MetricsApplication
from .overview import MOST_FAILURES
from .recorder import Recorder
from .snapshot import SERVING, STARTING, STOPPING, Snapshot, WorkerView, latest

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


class Metrics:
    """Measures servers that run in one event loop of this process, and shows what is measured.

        metrics = Metrics(http=server)
        async with metrics.measuring():
            await server.arun()

    The core measures for the whole process, so one `Metrics` at a time measures, and names all servers.

    Args:
        lag_bound: seconds by which the event loop may be late until `/readyz` says that it is not ready; default 5.
        servers: by the names that metrics have for them, as their label `server`; at most 16, of any kind.

    Raises:
        TypeError, ValueError: `lag_bound` is no positive number; a server is none; or there is none, or too many.
    """

    def __init__(self, *, lag_bound: float = LAG_BOUND, **servers: StatelessServer) -> None:
        if not servers:
            raise ValueError("no server is named: accepted are one or more, as in Metrics(http=server)")
        self._page = Page()
        self._recorder = Recorder(servers, self._page)
        self._began = time.monotonic()
        #: The ASGI application with `/metrics`, `/healthz`, `/readyz` and the live page, to be mounted in another one
        #: or to be served by an `HTTPServer` of its own.
        self.application = MetricsApplication(self, lag_bound=lag_bound)

    @property
    def collector(self) -> Collector:
        """A collector for a registry of `prometheus_client`, for programs that expose their metrics themselves.

        Raises:
            ModuleNotFoundError: prometheus_client is missing, which the extra `metrics` installs.
        """
        from .exposition import CyasgiCollector

        return CyasgiCollector(self)

    @asynccontextmanager
    async def measuring(self) -> AsyncIterator[None]:
        """Measure while the block runs, in which the servers run; what was counted stays.

        Raises:
            RuntimeError: servers of this process are measured already, or one of these is running.
        """
        self._recorder.start()
        try:
            yield
        finally:
            self._recorder.stop()

    def snapshot(self) -> Snapshot:
        """Return what the servers do now."""
        overview = self._recorder.overview()
        state, now = self._state(), time.monotonic()
        worker = WorkerView(1, os.getpid(), state, now - self._began, overview.lag, self._page.cells.tolist(), overview)
        failures = latest(((1, failure) for failure in overview.failures or ()), MOST_FAILURES)
        return Snapshot(now, state, (worker,), failures=failures)

    def _state(self) -> str:
        servers = self._recorder.servers.values()
        runs = [server._cyasgi.server_run for server in servers]
        if any(run is not None and run.stopping for run in runs):
            return STOPPING
        if all(run is not None and server.control.served for run, server in zip(runs, servers, strict=True)):
            return SERVING
        return STARTING

"""One of the workers of a pool, and those that come after it in its place."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Protocol

from .process import WorkerProcess
from .settings import Supervision
from .sockets import SocketSet

logger = logging.getLogger("cyasgi.workers")

#: Seconds before a worker is started again, at first and at most; they double with each failure.
FIRST_PAUSE, LAST_PAUSE = 0.1, 10.0
#: A worker that ends within as many seconds after its start is taken for one that fails again and again.
SHORT_LIFE = 5.0

#: Why a worker is started in place of another one.
REPLACED, DIED = "replaced", "died"


class WorkerFailedError(Exception):
    """A worker has ended before it served; `code` is its exit code."""

    def __init__(self, worker: WorkerProcess, text: str, code: int) -> None:
        super().__init__(f"{worker} {text} before it served")
        self.code = code


class Pool(Protocol):
    """The pool, as its slots know it."""

    supervision: Supervision

    async def start_worker(self, sets: Sequence[SocketSet], number: int, cause: str = "") -> WorkerProcess:
        """Start a worker and wait until it serves."""

    def fail(self, error: str) -> None:
        """End the pool with an error."""


class Slot:
    """A place for one worker at a time.

    Args:
        pool: starts the workers.
        sets: the sockets that they serve.
        number: theirs among the workers.
    """

    def __init__(self, pool: Pool, sets: Sequence[SocketSet], number: int) -> None:
        self._pool = pool
        self.number = number
        self.sets = list(sets)
        self.worker: WorkerProcess | None = None
        #: Held while a worker is being replaced, by whatever reason.
        self._lock = asyncio.Lock()
        self._hurry = asyncio.Event()
        self._pauses = 0
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the first worker, and keep one at work from then on.

        Raises:
            WorkerFailedError, OSError: it did not come to serve.
        """
        self.worker = await self._pool.start_worker(self.sets, self.number)
        self._keeper = asyncio.create_task(self._keep())

    async def replace(self, sets: Sequence[SocketSet] | None = None) -> None:
        """Start another worker, and have the one at work drain once that serves.

        Args:
            sets: the sockets that this slot serves from then on; None for those that it has.

        Raises:
            WorkerFailedError, OSError: it did not come to serve; all is as before.
        """
        self._hurry.set()
        async with self._lock:
            before = self.worker
            wanted = self.sets if sets is None else list(sets)
            self.worker = await self._pool.start_worker(wanted, self.number, REPLACED)
            self.sets = wanted
            if before is not None:
                before.drain()

    async def close(self) -> None:
        """Start no more workers."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper

    async def _keep(self) -> None:
        """Start a new worker whenever the one at work has died."""
        while True:
            worker = self.worker
            assert worker is not None
            await asyncio.wait({worker.gone})
            async with self._lock:
                if worker is self.worker:
                    await self._revive(worker)

    async def _revive(self, died: WorkerProcess) -> None:
        logger.error("%s %s: another one is started", died, died.ended_by())
        short = asyncio.get_running_loop().time() - died.started < SHORT_LIFE
        self._pauses = self._pauses + 1 if short else 0
        failures = 0
        while True:
            await self._pause()
            try:
                self.worker = await self._pool.start_worker(self.sets, self.number, DIED)
            except (WorkerFailedError, OSError) as error:
                failures += 1
                self._pauses += 1
                if failures >= self._pool.supervision.start_attempts:
                    self._pool.fail(
                        f"{error}, and so did {failures - 1} before it: giving up" if failures > 1 else f"{error}"
                    )
                    # Until the pool is closed.
                    await asyncio.get_running_loop().create_future()
                logger.error("%s: trying again", error)
            else:
                return

    async def _pause(self) -> None:
        """Wait before a worker is started again: not after the first failure, and not when one is asked for."""
        if self._pauses:
            self._hurry.clear()
            seconds = min(LAST_PAUSE, FIRST_PAUSE * 2 ** min(self._pauses - 1, 32))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._hurry.wait()

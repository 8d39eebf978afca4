"""What the pool tells of its workers, to whoever watches them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Protocol

from .._common.cells import Page
from .process import WorkerProcess


class Watch(Protocol):
    """Is told of what happens to workers."""

    def page(self) -> Page | None:
        """Return where a worker that is about to be started counts; None if it counts nothing.

        It is unmapped by the pool if the worker cannot be started, and by the watch when that has ended.

        Raises:
            OSError: the system has no memory for it.
        """

    def started(self, worker: WorkerProcess) -> None:
        """Take note of a worker that was started."""

    def replaces(self, cause: str) -> None:
        """Take note that a worker serves in place of another one, which was "replaced" or has "died"."""

    def heard(self, worker: WorkerProcess, overview: object) -> None:
        """Take note of what a worker tells of its servers."""

    def ended(self, worker: WorkerProcess) -> None:
        """Take note that a worker has ended."""

    def pool_serves(self) -> None:
        """Take note that all workers serve."""

    def pool_stops(self) -> None:
        """Take note that all workers are about to be ended."""

    def showing(self) -> AbstractAsyncContextManager[None]:
        """Show meanwhile what is known."""


class Unwatched:
    """Nobody watches."""

    def page(self) -> Page | None:
        return None

    def started(self, worker: WorkerProcess) -> None:
        pass

    def replaces(self, cause: str) -> None:
        pass

    def heard(self, worker: WorkerProcess, overview: object) -> None:
        pass

    def ended(self, worker: WorkerProcess) -> None:
        pass

    def pool_serves(self) -> None:
        pass

    def pool_stops(self) -> None:
        pass

    def showing(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

"""The pool of workers: started, replaced, and ended, by signals and by what they say."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from .._common.log_files import reopen_all
from .._common.signals import let_go
from .notify import Notifier
from .process import WorkerProcess, how_ended
from .settings import MOST_WORKERS, Supervision
from .slot import Slot, WorkerFailedError
from .sockets import SharedSockets, SocketSet
from .watch import Unwatched, Watch

#: What signals do once the pool has ended, other than nothing.
ENDING = {signal.SIGINT: signal.default_int_handler, signal.SIGCHLD: signal.SIG_DFL}

logger = logging.getLogger("cyasgi.workers")


class PoolError(Exception):
    """The workers cannot be kept at work; `code` is the exit code that they ended with, or 1."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class WorkerPool:
    """Run workers until SIGTERM or SIGINT, which drain them; a second one ends them at once.

    SIGHUP replaces all of them, one by one. SIGTTIN and SIGTTOU start one more, and end one.

    Args:
        command: starts a worker, which finds what it inherits by `WorkerLink.inherited`.
        shared: the sockets, with a set for each worker that there is at first; closed by `run`.
        supervision: how many workers, and their bounds.
        started: called when all of them serve.
        notifier: tells the service manager.
        watch: is told of what happens to the workers, and shows it.
    """

    def __init__(
        self,
        command: Sequence[str],
        shared: SharedSockets,
        supervision: Supervision,
        started: Callable[[], None] = lambda: None,
        notifier: Notifier | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._command = list(command)
        self._shared = shared
        self.supervision = supervision
        self._started = started
        self._notifier = Notifier({}) if notifier is None else notifier
        self._watch = Unwatched() if watch is None else watch
        self._slots: list[Slot] = []
        #: All processes that have not ended.
        self._workers: set[WorkerProcess] = set()
        #: How many workers there shall be, and what else is asked for.
        self._wanted = supervision.count
        self._reload = False
        self._recycle: dict[WorkerProcess, str] = {}
        self._asked = asyncio.Event()
        #: How often the pool was asked to end, by which signal first, and why it has to.
        self._stops = 0
        self._interrupted = False
        self._error: PoolError | None = None
        self._stopping = asyncio.Event()
        self._served = False

    async def run(self) -> bool:
        """Run the workers until a signal ends them.

        Returns:
            Whether they have served, or were ended by SIGTERM; False if SIGINT came before they served.

        Raises:
            PoolError: the first one did not come to serve; or one of them did not, again and again.
        """
        looking = asyncio.create_task(self._look_after())
        try:
            with self._signals():
                async with self._watch.showing():
                    try:
                        async with self._notifier.watched():
                            await self._until_stopped(self._serve())
                    finally:
                        self._notifier.stopping()
                        self._watch.pool_stops()
                        await self._end()
        finally:
            looking.cancel()
            self._shared.close()
        if self._error is not None:
            raise self._error
        return self._served or not self._interrupted

    # Starting

    async def _serve(self) -> None:
        try:
            # First one alone: if the application does not start, that is told once.
            await self._start_all([self._shared.sets[:1]])
            await self._start_all([[one] for one in self._shared.sets[1:]])
        except WorkerFailedError as error:
            raise PoolError(str(error) if error.code < 0 else "", max(error.code, 1)) from None
        except OSError as error:
            raise PoolError(f"a worker cannot be started: {error}") from None
        self._served = True
        self._watch.pool_serves()
        self._started()
        self._notifier.ready(self._status())
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self._answer()

    async def _start_all(self, sets: Sequence[Sequence[SocketSet]]) -> None:
        taken = {slot.number for slot in self._slots}
        free = (number for number in itertools.count(1) if number not in taken)
        slots = [Slot(self, own, next(free)) for own in sets]
        results = await asyncio.gather(*(slot.start() for slot in slots), return_exceptions=True)
        self._slots += [slot for slot, result in zip(slots, results, strict=True) if result is None]
        for result in results:
            if result is not None:
                raise result

    async def start_worker(self, sets: Sequence[SocketSet], number: int, cause: str = "") -> WorkerProcess:
        """Start a worker and wait until it serves.

        Args:
            number: its number.
            cause: why it is started in place of another one; empty if it is not.

        Raises:
            WorkerFailedError: it has ended before, or took too long.
            OSError: the system cannot start one.
        """
        page = self._watch.page()
        try:
            worker = WorkerProcess(
                self._command,
                self._shared,
                sets,
                self.supervision,
                self._wants_recycling,
                number=number,
                page=page,
                heard=self._watch.heard,
            )
        except BaseException:
            if page is not None:
                page.unmap()
            raise
        self._workers.add(worker)
        self._watch.started(worker)
        worker.gone.add_done_callback(lambda _: self._ended(worker))
        limit = self.supervision.start_timeout
        either: set[asyncio.Future[Any]] = {worker.ready, worker.gone}
        try:
            await asyncio.wait(either, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # Its slot has gone, or the pool ends.
            worker.drain()
            raise
        if worker.gone.done():
            code = worker.gone.result()
            raise WorkerFailedError(worker, how_ended(code), code)
        if not worker.ready.done():
            worker.ending = True
            worker.abort()
            raise WorkerFailedError(worker, f"took longer than {limit:g} s", -signal.SIGABRT)
        logger.info("%s serves", worker)
        if cause:
            self._watch.replaces(cause)
        return worker

    def _ended(self, worker: WorkerProcess) -> None:
        self._workers.discard(worker)
        self._recycle.pop(worker, None)
        self._watch.ended(worker)
        if worker.ending and worker.ready.done() and worker.gone.result():
            logger.warning("%s %s", worker, worker.ended_by())

    # While they serve

    def _wants_recycling(self, worker: WorkerProcess, reason: str) -> None:
        self._recycle[worker] = reason
        self._asked.set()

    async def _answer(self) -> None:
        """Do what has been asked for by now, one thing after the other."""
        while True:
            try:
                if self._wanted > len(self._slots):
                    await self._grow()
                elif self._wanted < len(self._slots):
                    await self._shrink()
                elif self._reload:
                    self._reload = False
                    await self._replace_all()
                elif self._recycle:
                    worker, reason = self._recycle.popitem()
                    await self._recycled(worker, reason)
                else:
                    return
            except (WorkerFailedError, OSError) as error:
                logger.error("%s: the workers at work stay", error)
                self._wanted = len(self._slots)

    async def _replace_all(self) -> None:
        logger.info("replacing %d workers one by one", len(self._slots))
        self._notifier.reloading()
        try:
            for slot in list(self._slots):
                await slot.replace()
        finally:
            self._notifier.ready(self._status())
        logger.info("all workers have been replaced")

    def _status(self) -> str:
        count = len(self._slots)
        return "1 worker serves" if count == 1 else f"{count} workers serve"

    async def _recycled(self, worker: WorkerProcess, reason: str) -> None:
        for slot in self._slots:
            if slot.worker is worker and worker.serving:
                logger.info("%s is replaced: %s", worker, reason)
                await slot.replace()

    async def _grow(self) -> None:
        """Start one more worker: with sockets of one that has those of several, or with new ones."""
        crowded = max(self._slots, key=lambda slot: len(slot.sets))
        if len(crowded.sets) > 1:
            half = len(crowded.sets) // 2
            kept, given = crowded.sets[:-half], crowded.sets[-half:]
            await self._start_all([given])
            await crowded.replace(kept)
        else:
            await self._start_all([[self._shared.add()]])

    async def _shrink(self) -> None:
        """End one worker: another one takes over its sockets, which stay open, if it has any."""
        closing = self._slots[-1]
        if any(one.sockets for one in closing.sets):
            taking = min(self._slots[:-1], key=lambda slot: len(slot.sets))
            await taking.replace([*taking.sets, *closing.sets])
        self._slots.remove(closing)
        await closing.close()
        if closing.worker is not None:
            closing.worker.drain()

    async def _look_after(self) -> None:
        """Look after the workers."""
        beat = self.supervision.beat
        while True:
            await asyncio.sleep(beat)
            # What a worker has sent while this process was held up is read only after this.
            self._look(beat)

    def _look(self, passed: float = 0.0) -> None:
        for worker in list(self._workers):
            worker.look(passed)

    # Signals

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: self.stop,
            signal.SIGINT: self._interrupt,
            signal.SIGHUP: self.reload,
            signal.SIGTTIN: lambda: self.resize(1),
            signal.SIGTTOU: lambda: self.resize(-1),
            signal.SIGUSR1: self.reopen,
            signal.SIGCHLD: self._look,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            # The process ends, by its exit code. SIGINT is left, in case something keeps it from that.
            for number in handlers:
                let_go(loop, number, ENDING.get(number, signal.SIG_IGN))

    def _interrupt(self) -> None:
        self._interrupted = self._interrupted or not self._stops
        self.stop()

    def reload(self) -> None:
        """Replace all workers, one by one."""
        self._reload = True
        self._asked.set()

    def resize(self, more: int) -> None:
        """Have more workers, or fewer; at least one stays."""
        wanted = min(max(1, self._wanted + more), MOST_WORKERS)
        if wanted == self._wanted:
            logger.warning("there %s: no change", "is one worker" if wanted == 1 else f"are {wanted} workers")
        self._wanted = wanted
        self._asked.set()

    def reopen(self) -> None:
        """Have all processes reopen their log files."""
        reopen_all()
        for worker in self._workers:
            worker.channel.send("reopen")

    def stop(self) -> None:
        """End the workers: gracefully, or at once if this was called before."""
        self._stops += 1
        self._stopping.set()
        if self._stops > 1:
            for worker in self._workers:
                worker.stop(now=True)

    def fail(self, error: str) -> None:
        """End the pool with an error."""
        if self._error is None:
            self._error = PoolError(error)
        self._stopping.set()

    # The end

    async def _until_stopped(self, serve: Coroutine[Any, Any, None]) -> None:
        serving = asyncio.create_task(serve)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            serving.cancel()
            await asyncio.wait({serving})
        if not serving.cancelled() and (error := serving.exception()) is not None:
            if not isinstance(error, PoolError):
                raise error
            self._error = self._error or error

    async def _end(self) -> None:
        """End all workers, and wait until they have ended, within bounds."""
        await asyncio.gather(*(slot.close() for slot in self._slots))
        # Nobody accepts connections on them from now on.
        self._shared.close()
        if self._workers:
            logger.info("stopping %s", "1 worker" if len(self._workers) == 1 else f"{len(self._workers)} workers")
        for worker in self._workers:
            worker.stop()
        while self._workers:
            # Each is killed if it takes too long.
            await asyncio.wait({worker.gone for worker in self._workers}, return_when=asyncio.FIRST_COMPLETED)
            # Callbacks of what has ended.
            await asyncio.sleep(0)

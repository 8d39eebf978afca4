"""``--workers``: a process that supervises others, which serve."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .. import __version__
from .._common.log_files import survive_signal
from ..server import StatelessServer
from ..workers import Recycling, SharedSockets, Supervision, WorkerPool
from ..workers.cores import usable_cores
from ..workers.notify import Notifier
from ..workers.pool import PoolError
from .binding import bind_for_others
from .errors import FAILED, INTERRUPTED, CommandError
from .hangup import Terminal
from .logs import configure_logging, logger
from .reloading import BOUNDS, GRACE, command_line
from .servers import Options
from .service import become
from .values import AUTO

if TYPE_CHECKING:
    from ..workers.watching import PoolWatch


class CommandPool(WorkerPool):
    """The pool of a command, which ends with the terminal that it was started on."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._terminal = Terminal()

    def reload(self) -> None:
        if self._terminal.has_gone():
            logger.warning("the terminal has gone: stopping")
            self.stop()
        else:
            super().reload()


def needs_supervisor(options: Options) -> bool:
    """Return whether the options ask for more than one process, or for what takes another process.

    Raises:
        CommandError: this system cannot do that.
    """
    supervision = options.supervision
    alone = supervision.count == 1 and not supervision.recycling.wanted
    if alone and options.identity is None and options.metrics is None:
        return False
    check_system()
    return True


def check_system() -> None:
    """Raise CommandError if this system has no workers."""
    if os.name != "posix":
        raise CommandError(
            "--workers, --limit-max-requests, --worker-max-rss, --worker-lifetime, --metrics need a system whose "
            "processes inherit sockets and get signals, which Windows is not; accepted here is --workers 1"
        )


def supervision_of(values: dict[str, Any]) -> Supervision:
    """Return what the options of a command whose workers listen on nothing say of these."""
    return Supervision(
        count=usable_cores() if values["workers"] == AUTO else values["workers"],
        timeout=values["worker_timeout"],
        start_timeout=values["worker_start_timeout"],
        start_attempts=values["worker_start_attempts"],
        recycling=Recycling(
            max_rss=values["worker_max_rss"],
            lifetime=values["worker_lifetime"],
            lifetime_jitter=values["worker_lifetime_jitter"],
        ),
    )


def supervise(options: Options, arguments: Sequence[str] | None) -> int:
    """Serve in worker processes until a signal arrives, and return the exit code.

    Raises:
        CommandError: the workers could not start, or did not go on.
    """
    survive_signal()
    configure_logging(options.log, options.ignored, name_process=True)
    # All of them now: no client of UDP changes its worker when more workers start, and root's rights may end here.
    shared = bind_for_others(options, options.supervision.count)
    with contextlib.closing(shared), watching(options.metrics) as watch:
        if options.identity is not None:
            before = os.geteuid()
            become(options.identity, shared.paths if watch is None else [*shared.paths, *watch.paths])
            if os.geteuid() != before:
                shared.user = options.identity.user
        return _run(options, arguments, shared, watch)


@contextlib.contextmanager
def watching(address: Any) -> Iterator[PoolWatch | None]:
    """Have the address for metrics bound meanwhile, if there is one.

    Raises:
        CommandError: it cannot be listened on, or a library is missing.
    """
    if address is None:
        yield None
        return
    try:
        # The libraries that it needs; nobody is to learn of a missing one by the first request.
        from ..metrics import exposition  # noqa: F401
        from ..workers.watching import PoolWatch
    except ModuleNotFoundError as error:
        if error.name not in ("httptools", "prometheus_client"):
            raise
        raise CommandError(f"--metrics needs {error.name}: pip install 'cyasgi[metrics]'") from None
    watch = PoolWatch(address)
    try:
        watch.bind()
    except OSError as error:
        raise CommandError(f"--metrics: {error.strerror or error}") from None
    try:
        yield watch
    finally:
        watch.close()


def _run(options: Options, arguments: Sequence[str] | None, shared: SharedSockets, watch: PoolWatch | None) -> int:
    bound = options.limits.get("shutdown_timeout", StatelessServer.shutdown_timeout)
    supervision = options.supervision

    def started() -> None:
        logger.info(
            "cyasgi %s serves %s by %s: %s",
            __version__,
            ", ".join(options.applications),
            in_number(supervision.count),
            ", ".join(shared.names),
        )

    for name in shared.names:
        logger.info("listening on %s", name)
    return run_pool(arguments, shared, supervision, bound, started, watch)


def in_number(count: int) -> str:
    """Return so many workers in words."""
    return "1 worker" if count == 1 else f"{count} workers"


def run_pool(
    arguments: Sequence[str] | None,
    shared: SharedSockets,
    supervision: Supervision,
    shutdown_timeout: float,
    started: Callable[[], None],
    watch: PoolWatch | None,
) -> int:
    """Run workers, by the command line of this process, until a signal arrives, and return the exit code.

    Args:
        shutdown_timeout: that of the servers of each worker.
        started: called when all of them serve.

    Raises:
        CommandError: the workers could not start, or did not go on.
    """
    supervision = supervision.with_end_timeout(BOUNDS * shutdown_timeout + GRACE)

    async def run() -> bool:
        return await CommandPool(command_line(arguments), shared, supervision, started, Notifier(), watch).run()

    try:
        return 0 if asyncio.run(run()) else INTERRUPTED
    except PoolError as error:
        if not str(error):
            # The worker has said why.
            return error.code
        raise CommandError(str(error), FAILED) from None

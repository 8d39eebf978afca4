"""``--workers``: a process that supervises others, which serve."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence

from .. import __version__
from .._common.log_files import survive_signal
from ..server import StatelessServer
from ..workers import SharedSockets, WorkerPool
from ..workers.notify import Notifier
from ..workers.pool import PoolError
from .binding import bind_for_others
from .errors import FAILED, INTERRUPTED, CommandError
from .logs import configure_logging, logger
from .reloading import BOUNDS, GRACE, command_line
from .servers import Options
from .service import become


def needs_supervisor(options: Options) -> bool:
    """Return whether the options ask for more than one process, or for what takes another process.

    Raises:
        CommandError: this system cannot do that.
    """
    supervision = options.supervision
    if supervision.count == 1 and not supervision.recycling.wanted and options.identity is None:
        return False
    if os.name != "posix":
        raise CommandError(
            "--workers, --limit-max-requests, --worker-max-rss, --worker-lifetime need a system whose processes "
            "inherit sockets and get signals, which Windows is not; accepted here is --workers 1"
        )
    return True


def supervise(options: Options, arguments: Sequence[str] | None) -> int:
    """Serve in worker processes until a signal arrives, and return the exit code.

    Raises:
        CommandError: the workers could not start, or did not go on.
    """
    survive_signal()
    configure_logging(options.log, options.ignored, name_process=True)
    # All of them now: no client of UDP changes its worker when more workers start, and root's rights may end here.
    shared = bind_for_others(options, options.supervision.count)
    with contextlib.closing(shared):
        if options.identity is not None:
            become(options.identity, shared.paths)
        return _run(options, arguments, shared)


def _run(options: Options, arguments: Sequence[str] | None, shared: SharedSockets) -> int:
    bound = options.limits.get("shutdown_timeout", StatelessServer.shutdown_timeout)
    supervision = options.supervision.with_end_timeout(BOUNDS * bound + GRACE)

    def started() -> None:
        count = supervision.count
        logger.info(
            "cyasgi %s serves %s by %s: %s",
            __version__,
            ", ".join(options.applications),
            "1 worker" if count == 1 else f"{count} workers",
            ", ".join(shared.names),
        )

    for name in shared.names:
        logger.info("listening on %s", name)

    async def run() -> bool:
        return await WorkerPool(command_line(arguments), shared, supervision, started, Notifier()).run()

    try:
        return 0 if asyncio.run(run()) else INTERRUPTED
    except PoolError as error:
        if not str(error):
            # The worker has said why.
            return error.code
        raise CommandError(str(error), FAILED) from None

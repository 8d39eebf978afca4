"""``cyasgi consume``: an application that works on the messages of a queue."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from .. import __version__, backend
from .._common.log_files import survive_signal
from ..gateways.lifespan import STARTUP_TIMEOUT, LifespanError
from ..sources.queue import EngineError, MemoryEngine, QueueServer
from ..supervisor import Supervisor
from ..workers import SharedSockets, Supervision, WorkerLink
from ..workers.notify import Notifier
from . import configuration, service, supervising
from .allocator import keep_freed_memory
from .consume_options import ATTRIBUTES, MEMORY, MOST_INSTANCES, consume_parameters
from .errors import INTERRUPTED, MISUSED, CommandError
from .feeding import fed_by_lines
from .hangup import HangUps
from .logs import LogOptions, configure_logging, enable_loggers, logger
from .option import ServeCommand
from .service import notifying
from .serving import deaf_at_the_end, reopening
from .starting import choose_loop, exited, in_one_line, lifespan as lifespan_of, load_each

EPILOG = (
    f"Every option can also be set in the environment, as {configuration.CONSUME_PREFIX}_MAX_APPLICATIONS for "
    "--max-applications, or in the file that --config names, as max-applications. "
    "Exit codes: 0 stopped by SIGINT or SIGTERM, 1 failed, 2 wrong usage, 130 interrupted before it worked."
)
#: Counters that are logged even if they are 0.
ALWAYS_LOGGED = {"received", "acknowledged"}
#: The name of the server in metrics.
QUEUE = "queue"


def command() -> click.Command:
    """Return the command."""
    return ServeCommand(
        "consume",
        callback=consume,
        params=consume_parameters(),
        help="Work on the messages of a queue with the application that MODULE:ATTRIBUTE names, until SIGINT or "
        "SIGTERM: each message at least once, those of one scope_id in order. Start it as often as you like, on "
        "any machine: all share the queue. Without --amqp, the messages are the lines of standard input.",
        epilog=EPILOG,
        context_settings={"auto_envvar_prefix": configuration.CONSUME_PREFIX, "max_content_width": 100},
    )


@click.pass_context
def consume(context: click.Context, /, **values: Any) -> int:
    """Work on the messages of a queue until a signal arrives, and return the exit code.

    Raises:
        CommandError: it could not start, or failed.
    """
    link = WorkerLink.inherited()
    engine, path = _engine_and_application(values.pop("words"), values.pop("amqp"))
    supervision, metrics = supervising.supervision_of(values), values.pop("metrics")
    supervised = supervision.count > 1 or supervision.recycling.wanted or metrics is not None
    if supervised and isinstance(engine, MemoryEngine):
        raise click.UsageError(
            "--workers, --worker-max-rss, --worker-lifetime and --metrics are for a queue that several processes "
            "share: give --amqp URL"
        )
    pid_file = values.pop("pid_file")
    given = {name for name in values if context.get_parameter_source(name) is not ParameterSource.DEFAULT}
    log = LogOptions(
        level=values.pop("log_level"),
        level_given="log_level" in given,
        format=values.pop("log_format"),
        config=values.pop("log_config"),
        colours=values.pop("use_colors"),
    )
    if link is not None:
        configure_logging(log, name_process=True)
        with contextlib.closing(link):
            return _run(engine, path, values, given, work=_Work(link, supervision))
    survive_signal()
    ignored = configuration.unknown_variables(context.command.params, context.auto_envvar_prefix)
    hang_ups = None if supervised else HangUps()
    configure_logging(log, ignored, name_process=supervised)
    with service.pid_file(pid_file):
        if not supervised:
            return _run(engine, path, values, given, hang_ups=hang_ups)
        supervising.check_system()
        configuration.pass_on(context)
        return _supervise(engine, path, values, context.find_root().obj, supervision, metrics)


def _supervise(
    engine: Any,
    path: str,
    values: dict[str, Any],
    arguments: Sequence[str] | None,
    supervision: Supervision,
    metrics: Any,
) -> int:
    """Have workers share the queue, as they would if each were started alone."""

    def started() -> None:
        logger.info(
            "cyasgi %s works with %s by %s: %s of %s",
            __version__,
            path,
            supervising.in_number(supervision.count),
            values["name"],
            engine.describe(),
        )

    # They listen on nothing.
    shared = SharedSockets({}, supervision.count)
    with contextlib.closing(shared), supervising.watching(metrics) as watch:
        return supervising.run_pool(arguments, shared, supervision, values["shutdown_timeout"], started, watch)


class _Work(NamedTuple):
    """What this process is as a worker."""

    link: WorkerLink
    supervision: Supervision


def _engine_and_application(words: Sequence[str], amqp: Any) -> tuple[Any, str]:
    """Return the engine and the path of the application that the arguments name."""
    if len(words) == 2 and words[0] == MEMORY and amqp is None:
        words = words[1:]
    if len(words) != 1 or words[0] == MEMORY:
        raise click.UsageError(
            f"accepted are MODULE:ATTRIBUTE and, in front of it where there is no --amqp, {MEMORY}; "
            f"got {' '.join(words)!r}{'' if amqp is None else ' and --amqp'}"
        )
    return MemoryEngine() if amqp is None else amqp, words[0]


def _run(
    engine: Any,
    path: str,
    values: dict[str, Any],
    given: set[str],
    *,
    work: _Work | None = None,
    hang_ups: HangUps | None = None,
) -> int:
    """Work with these values of options until a signal arrives, and return the exit code.

    Args:
        work: what this process is as a worker; None if it is none.
        hang_ups: deals with SIGHUP; None if another process does.
    """
    keep_freed_memory()
    sys.path.insert(0, values["app_dir"])
    application = next(iter(load_each([path], values["factory"]).values()))
    enable_loggers()
    # Its errors are told in one line each.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    loop_factory, loop = choose_loop(values["loop"])
    try:
        server = QueueServer(
            application,
            values[MOST_INSTANCES.attribute],
            engine=engine,
            name=values["name"],
            partitions=values["partitions"],
        )
        for one in ATTRIBUTES:
            setattr(server, one.attribute, values[one.attribute])
    except (TypeError, ValueError) as error:
        raise CommandError(str(error), MISUSED) from None
    startup_timeout = values["startup_timeout"] if "startup_timeout" in given else STARTUP_TIMEOUT

    def around() -> AbstractAsyncContextManager[None]:
        inner = reopening(
            lifespan_of(application, values["lifespan"], [server], startup_timeout, server.shutdown_timeout)
        )
        if isinstance(engine, MemoryEngine):
            inner = _both(inner, fed_by_lines(server, engine))
        if work is not None:
            return deaf_at_the_end(work.link.around(inner))
        inner = notifying(Notifier(), several, inner)
        return inner if hang_ups is None else hang_ups.around(several.stop, inner)

    several = Supervisor([server], around=around)
    if work is not None:
        work.link.attach(several, [QUEUE], work.supervision.recycling)
    # A worker's link takes care of its signals.
    signals = [signal.SIGINT, signal.SIGTERM] if work is None else []
    level = logging.INFO if work is None else logging.DEBUG
    logger.log(level, "cyasgi %s works with %s (back end %s, loop %s)", __version__, path, backend, loop)
    began = time.monotonic()
    try:
        several.run(loop_factory=loop_factory, signals=signals)
    except LifespanError as error:
        raise in_one_line(error) from None
    except EngineError as error:
        raise CommandError(str(error)) from None
    except SystemExit as error:
        raise exited(error) from None
    finally:
        counted = " ".join(
            f"{name}={value}" for name, value in server.stats().items() if value or name in ALWAYS_LOGGED
        )
        logger.info("stopped after %.1f s: %s", time.monotonic() - began, counted)
    return INTERRUPTED if several.interrupted is signal.SIGINT else 0


@contextlib.asynccontextmanager
async def _both(
    outer: AbstractAsyncContextManager[None], inner: AbstractAsyncContextManager[None]
) -> AsyncIterator[None]:
    async with outer, inner:
        yield

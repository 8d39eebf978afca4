"""``cyasgi work``: an application fed by the channels of a channel layer, until SIGINT or SIGTERM."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import click
from click.core import ParameterSource

from .. import __version__, backend
from .._common.log_files import survive_signal
from ..gateways.lifespan import LifespanError
from ..sources.channels import ChannelLayerServer, LayerError
from ..sources.channels.redis.hosts import make_layer
from ..supervisor import Supervisor
from ..workers import SharedSockets, Supervision, WorkerLink
from ..workers.notify import Notifier
from . import configuration, service, supervising
from .allocator import keep_freed_memory
from .errors import INTERRUPTED, MISUSED, CommandError
from .hangup import HangUps
from .loading import load_attribute
from .logs import LogOptions, configure_logging, enable_loggers, logger
from .option import ServeCommand
from .serving import deaf_at_the_end, reopening
from .starting import choose_loop, exited, in_one_line, in_words, lifespan, load_each
from .work_options import LIMITS, PREFIX, parameters

EPILOG = (
    f"Every option can also be set in the environment, as {PREFIX}_MESSAGE_TIMEOUT for --message-timeout, or in the "
    "file that --config names, as message-timeout. "
    "Exit codes: 0 stopped by SIGINT or SIGTERM, 1 failed, 2 wrong usage, 130 interrupted before it worked."
)


def command() -> click.Command:
    """Return the command."""
    return ServeCommand(
        "work",
        callback=work,
        params=parameters(),
        help="Run the application that MODULE:ATTRIBUTE names for messages on channels of Django Channels.",
        epilog=EPILOG,
        context_settings={"auto_envvar_prefix": PREFIX, "max_content_width": 100},
    )


@click.pass_context
def work(context: click.Context, /, **values: Any) -> int:
    """Work until a signal arrives, and return the exit code.

    Raises:
        CommandError: it could not start, or failed.
    """
    link = WorkerLink.inherited()
    log = LogOptions(
        level=values["log_level"],
        level_given=context.get_parameter_source("log_level") is not ParameterSource.DEFAULT,
        format=values["log_format"],
        config=values["log_config"],
        colours=values["use_colors"],
    )
    if link is not None:
        configure_logging(log, name_process=True)
        with contextlib.closing(link):
            return run(values, link, None)
    ignored = configuration.unknown_variables(context.command.params, PREFIX)
    # Others have taken over the messages of a worker by the time at which it is taken for hung.
    supervision = supervising.supervision_of(values)
    survive_signal()
    with service.pid_file(values["pid_file"]):
        if supervision.count > 1 or supervision.recycling.wanted or values["metrics"] is not None:
            supervising.check_system()
            configuration.pass_on(context)
            configure_logging(log, ignored, name_process=True)
            return supervise(values, supervision, context.find_root().obj)
        hang_ups = HangUps()
        configure_logging(log, ignored)
        return run(values, None, hang_ups)


def supervise(values: dict[str, Any], supervision: Supervision, arguments: Sequence[str] | None) -> int:
    """Have workers share the channels, as they would if each were started alone, and return the exit code.

    Args:
        arguments: those of the whole command; None for those of the process.
    """

    def started() -> None:
        workers = supervising.in_number(supervision.count)
        logger.info("cyasgi %s works with %s by %s", __version__, values["application"], workers)

    # They listen on nothing.
    shared = SharedSockets({}, supervision.count)
    with contextlib.closing(shared), supervising.watching(values["metrics"]) as watch:
        return supervising.run_pool(arguments, shared, supervision, values["shutdown_timeout"], started, watch)


def run(values: dict[str, Any], link: WorkerLink | None, hang_ups: HangUps | None) -> int:
    """Work with these values of options until a signal arrives, and return the exit code.

    Args:
        link: what this process has inherited as a worker; None if it is none.
        hang_ups: deals with SIGHUP; None if another process does.
    """
    keep_freed_memory()
    sys.path.insert(0, values["app_dir"])
    (application,) = load_each([values["application"]], values["factory"]).values()
    server = make_server(values, application)
    enable_loggers()
    loop_factory, loop = choose_loop(values["loop"])

    def around() -> AbstractAsyncContextManager[None]:
        inner = reopening(
            lifespan(application, values["lifespan"], [server], values["startup_timeout"], several.shutdown_timeout)
        )
        if link is not None:
            return deaf_at_the_end(link.around(inner))
        inner = service.notifying(Notifier(), several, inner)
        return inner if hang_ups is None else hang_ups.around(several.stop, inner)

    several = Supervisor([server], around=around)
    if link is not None:
        link.attach(several, ["channels"], supervising.supervision_of(values).recycling)
    level = logging.INFO if link is None else logging.DEBUG
    path = values["application"]
    logger.log(level, "cyasgi %s works with %s (back end %s, loop %s)", __version__, path, backend, loop)
    began = time.monotonic()
    try:
        # A worker's link takes care of its signals.
        several.run(loop_factory=loop_factory, signals=[signal.SIGINT, signal.SIGTERM] if link is None else [])
    except LifespanError as error:
        raise in_one_line(error) from None
    except SystemExit as error:
        raise exited(error) from None
    except LayerError as error:
        raise CommandError(str(error)) from None
    finally:
        logger.info("stopped after %.1f s: %s", time.monotonic() - began, in_words(server.stats(), {"messages"}))
    return INTERRUPTED if several.interrupted is signal.SIGINT else 0


def make_server(values: dict[str, Any], application: Any) -> ChannelLayerServer:
    """Return the server that the options describe.

    Raises:
        CommandError: a library is missing, or a value is not accepted.
    """
    names = [one for one in values["layer"] if isinstance(one, str)]
    if names and len(values["layer"]) > 1:
        raise CommandError(f"--layer {names[0]}: a layer of a module is given once, and alone", MISUSED)
    try:
        layer = load_attribute(names[0]) if names else make_layer(values["layer"], values["prefix"])
    except LayerError as error:
        raise CommandError(str(error)) from None
    if names and not hasattr(layer, "receive"):
        raise CommandError(f"--layer {names[0]}: it is no channel layer, but {layer!r}", MISUSED)
    try:
        server = ChannelLayerServer(application, values["channel"], layer)
        for name, _, _ in LIMITS:
            setattr(server, name, values[name])
    except (AttributeError, TypeError, ValueError) as error:
        raise CommandError(str(error), MISUSED) from None
    return server

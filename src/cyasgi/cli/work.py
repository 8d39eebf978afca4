"""``cyasgi work``: an application fed by the channels of a channel layer, until SIGINT or SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from contextlib import AbstractAsyncContextManager
from typing import Any

import click
from click.core import ParameterSource

from .. import __version__, backend
from .._common.log_files import reopened_by_signal, survive_signal
from ..gateways.lifespan import LifespanError
from ..sources.channels import ChannelLayerServer, LayerError
from ..sources.channels.redis.hosts import make_layer
from ..supervisor import Supervisor
from ..workers.notify import Notifier
from . import configuration, service
from .allocator import keep_freed_memory
from .errors import INTERRUPTED, MISUSED, CommandError
from .loading import load_attribute
from .logs import LogOptions, configure_logging, enable_loggers, logger
from .option import ServeCommand
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
    ignored = configuration.unknown_variables(context.command.params, PREFIX)
    given = context.get_parameter_source("log_level") is not ParameterSource.DEFAULT
    with service.pid_file(values["pid_file"]):
        return run(values, ignored, given)


def run(values: dict[str, Any], ignored: list[str], given: bool) -> int:
    """Work with these values of options until a signal arrives, and return the exit code."""
    survive_signal()
    log = LogOptions(
        level=values["log_level"],
        level_given=given,
        format=values["log_format"],
        config=values["log_config"],
        colours=values["use_colors"],
    )
    configure_logging(log, ignored)
    keep_freed_memory()
    sys.path.insert(0, values["app_dir"])
    (application,) = load_each([values["application"]], values["factory"]).values()
    server = make_server(values, application)
    enable_loggers()
    loop_factory, loop = choose_loop(values["loop"])

    def around() -> AbstractAsyncContextManager[None]:
        inner = _reopening(
            lifespan(application, values["lifespan"], [server], values["startup_timeout"], several.shutdown_timeout)
        )
        return service.notifying(Notifier(), several, inner)

    several = Supervisor([server], around=around)
    logger.info("cyasgi %s works with %s (back end %s, loop %s)", __version__, values["application"], backend, loop)
    began = time.monotonic()
    try:
        several.run(loop_factory=loop_factory)
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


@contextlib.asynccontextmanager
async def _reopening(inner: AbstractAsyncContextManager[None]) -> Any:
    """Reopen log files on SIGUSR1 within the application's lifespan."""
    async with inner:
        with reopened_by_signal():
            yield

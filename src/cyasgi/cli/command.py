"""The command line, built with click."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

from .. import __version__, backend
from ..workers import Recycling, Supervision, WorkerLink
from ..workers.cores import usable_cores
from . import (
    activation,
    checking,
    configuration,
    hints,
    reloading,
    service,
    serving,
    supervising,
)
from .completion import completion_command
from .limits import (
    OWN,
    SERVERS,
    SETTINGS,
    Switch,
    key_of,
)
from .logs import LogOptions
from .option import ServeCommand
from .options import parameters
from .servers import Options
from .values import AUTO

EPILOG = (
    f"Every option can also be set in the environment, as {configuration.PREFIX}_MAX_APPLICATIONS for "
    "--max-applications, or in the file that --config names, as max-applications. "
    "Exit codes: 0 stopped by SIGINT or SIGTERM, 1 failed, 2 wrong usage, 130 interrupted before it served."
)


def command(arguments: Sequence[str] | None = None) -> click.Group:
    """Return the command.

    Args:
        arguments: those that it is about to be called with; None for those of the process.
    """

    @click.group(context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(
        __version__,
        "--version",
        prog_name="cyasgi",
        message=f"%(prog)s %(version)s (back end {backend}, {platform.python_implementation()} "
        f"{platform.python_version()} on {platform.system()})",
    )
    def cyasgi() -> None:
        """Serve ASGI applications, each client by an instance of its own."""

    @click.pass_context
    def serve(context: click.Context, /, **values: Any) -> int:
        link = WorkerLink.inherited()
        options = collect(context, values)
        if link is not None:
            return serving.serve(options, link)
        if options.reload and (sockets := reloading.inherited()) is not None:
            return serving.serve(options, sockets=sockets)
        with service.pid_file(options.pid_file):
            if options.reload or supervising.needs_supervisor(options):
                activation.pass_on(options.passed)
                configuration.pass_on(context)
            if supervising.needs_supervisor(options):
                return supervising.supervise(options, arguments)
            return reloading.supervise(options, arguments) if options.reload else serving.serve(options)

    cyasgi.add_command(
        ServeCommand(
            "serve",
            callback=serve,
            params=list(parameters()),
            help="Serve the application that MODULE:ATTRIBUTE names, until SIGINT or SIGTERM.",
            epilog=EPILOG,
            context_settings={"auto_envvar_prefix": configuration.PREFIX, "max_content_width": 100},
        )
    )
    cyasgi.add_command(
        ServeCommand(
            "check",
            callback=checking.check,
            params=[one for one in parameters() if one.name in checking.OPTIONS],
            help="Load the application that MODULE:ATTRIBUTE names, start it and stop it, without serving it.",
            epilog="Exit codes: 0 all is well, 1 it failed, 2 wrong usage.",
            context_settings={"auto_envvar_prefix": configuration.PREFIX, "max_content_width": 100},
        )
    )
    cyasgi.add_command(completion_command(cyasgi))
    return cyasgi


def collect(context: click.Context, values: dict[str, Any]) -> Options:
    """Return the options of ``cyasgi serve`` from what click has parsed.

    Raises:
        click.UsageError: options contradict each other, or something is missing.
    """
    listeners = {kind: values.pop(kind) for kind in SERVERS}
    hosts, port = values.pop("host"), values.pop("port")
    if hosts or port is not None:
        listeners["http"] += [((host, 8000 if port is None else port), None) for host in hosts or ["127.0.0.1"]]
    listeners["http"] += values.pop("unix") + values.pop("fd")
    passed = activation.take_passed()
    try:
        activation.resolve(listeners, passed)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if not any(listeners.values()):
        raise click.UsageError(
            "nothing to listen on: give --http ADDRESS, --websocket ADDRESS, --unix PATH or --udp ADDRESS, "
            "as in --http 127.0.0.1:8000"
        )
    applications, weights = len(values["applications"]), len(values["weight"])
    if applications == 1 and (values["balance"] or weights):
        raise click.UsageError("--balance and --weight are for several applications, but there is only one")
    if weights not in (0, applications):
        raise click.UsageError(
            f"--weight is given {'once' if weights == 1 else f'{weights} times'} for {applications} applications: "
            "give it once for each, in their order"
        )
    given = {name for name in values if context.get_parameter_source(name) is not ParameterSource.DEFAULT}
    ineffective = list(hints.ineffective(given, listeners, values))
    limits = {}
    for setting in SETTINGS:
        name = setting.names[0].removeprefix("--").replace("-", "_")
        value = values.pop(name)
        # Attributes of options that were not given stay at the server's default.
        if name in given:
            if isinstance(setting, Switch):
                value = setting.values[not value]
            if value is not OWN:
                limits[key_of(setting)] = value
    tls = {name.removeprefix("ssl_"): values.pop(name) for name in list(values) if name.startswith("ssl_")}
    if tls["certfile"] is None and any(value for name, value in tls.items() if name != "cert_reqs"):
        raise click.UsageError("options for TLS need a certificate: give --ssl-certfile")
    recycling = Recycling(
        max_requests=values.pop("limit_max_requests"),
        max_requests_jitter=values.pop("limit_max_requests_jitter"),
        max_rss=values.pop("worker_max_rss"),
        lifetime=values.pop("worker_lifetime"),
        lifetime_jitter=values.pop("worker_lifetime_jitter"),
    )
    workers = values.pop("workers")
    supervision = Supervision(
        count=usable_cores() if workers == AUTO else workers,
        timeout=values.pop("worker_timeout"),
        start_timeout=values.pop("worker_start_timeout"),
        start_attempts=values.pop("worker_start_attempts"),
        recycling=recycling,
    )
    try:
        identity = service.find_identity(values.pop("user"), values.pop("group"))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    supervised = supervision.count > 1 or recycling.wanted or identity is not None or values["metrics"] is not None
    if values["reload"] and supervised:
        raise click.UsageError(
            "--reload serves by one process, which is replaced when files change: leave out --workers, "
            "--limit-max-requests, --worker-max-rss, --worker-lifetime, --metrics, --user and --group"
        )
    log = LogOptions(
        level=values.pop("log_level"),
        level_given="log_level" in given,
        format=values.pop("log_format"),
        config=values.pop("log_config"),
        colours=values.pop("use_colors"),
        access_file=values.pop("access_log_file"),
    )
    return Options(
        supervision=supervision,
        log=log,
        passed=passed,
        identity=identity,
        listeners=listeners,
        limits=limits,
        tls=tls,
        ignored=[*configuration.unknown_variables(context.command.params), *ineffective],
        **values,
    )


def explain(error: click.ClickException) -> str:
    """Return what was wrong, and where if not on the command line."""
    if isinstance(error, click.NoSuchOption):
        parameters = () if error.ctx is None else error.ctx.command.params
        return hints.about_option(error.option_name, [name for one in parameters for name in one.opts])
    message = error.format_message()
    if isinstance(error, click.BadParameter) and error.ctx is not None and error.param is not None:
        return configuration.origin(error.ctx, error.param) + message
    return message

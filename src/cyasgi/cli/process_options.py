"""The options of ``cyasgi serve`` for the processes that serve, by section of the help."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import click

from .._settings import Bound, Integer, Number
from ..gateways.lifespan import MODES
from ..workers.settings import START_ATTEMPTS, START_TIMEOUT, TIMEOUT
from . import configuration
from .logs import FORMATS, LEVELS
from .option import Option, parsed
from .values import parse_metrics_address, parse_workers

#: The options of ``cyasgi serve`` that the commands have whose messages come from an engine.
SHARED = (
    "factory",
    "app_dir",
    "startup_timeout",
    "loop",
    "log_level",
    "log_format",
    "log_config",
    "use_colors",
    "config",
    "pid_file",
    "env_file",
    "metrics",
    "workers",
    "worker_start_timeout",
    "worker_start_attempts",
    "worker_max_rss",
    "worker_lifetime",
    "worker_lifetime_jitter",
)
RELOAD_DELAY = Number("number of seconds", least=0.001, most=60)


def process_parameters() -> Iterator[click.Parameter]:
    """Yield the options for processes, logs, metrics and development."""
    yield from _process()
    yield from _workers()
    yield from _metrics()
    yield from _service()
    yield from _development()


def _process() -> Iterator[click.Option]:
    section = "Process"
    yield Option(
        "--loop",
        section=section,
        type=click.Choice(["auto", "asyncio", "uvloop"]),
        default="auto",
        show_default=True,
        help="The event loop; auto is uvloop where it is installed.",
    )
    yield Option(
        "--log-level",
        section=section,
        type=click.Choice(LEVELS, case_sensitive=False),
        default="info",
        show_default=True,
        help="Minimum level that cyasgi logs to standard error; the application's loggers are not affected.",
    )
    yield from _logs(section)
    yield Option(
        "--config",
        section=section,
        type=click.Path(exists=True, dir_okay=False),
        is_eager=True,
        callback=configuration.use,
        help="Read options from this TOML file; the command line and the environment take precedence.",
    )


def _logs(section: str) -> Iterator[click.Option]:
    yield Option(
        "--log-format",
        section=section,
        type=click.Choice(FORMATS),
        default="text",
        show_default=True,
        help="What lines of the log are; with json, those of the access log are as well, unless --access-log-format "
        "says otherwise.",
    )
    yield Option(
        "--log-config",
        section=section,
        type=click.Path(exists=True, dir_okay=False),
        help="Configure Python's logging by this file (JSON, TOML, YAML or the format of configparser) instead.",
    )
    yield Option(
        "--use-colors/--no-use-colors",
        section=section,
        default=None,
        show_default="on a terminal",
        help="Colour the levels in the log.",
    )
    yield Option(
        "--access-log-file",
        section=section,
        type=click.Path(dir_okay=False),
        help="Write the access log to this file, which SIGUSR1 reopens.",
    )


def _metrics() -> Iterator[click.Option]:
    yield Option(
        "--metrics",
        section="Metrics",
        metavar="ADDRESS",
        callback=parsed(parse_metrics_address),
        help="Serve metrics for Prometheus at /metrics, health at /healthz and /readyz, and a live page at / on "
        "HOST:PORT or unix:PATH. Whoever connects sees tracebacks of the application.",
    )


def _workers() -> Iterator[click.Option]:
    section = "Workers"

    bounded = partial(bounded_option, section)
    seconds = Number("number of seconds", none="no limit")
    whole = Integer(1, none="no limit")
    yield Option(
        "--workers",
        section=section,
        metavar="NUMBER",
        default="1",
        show_default=True,
        callback=parsed(parse_workers),
        help="How many processes serve, or auto: one for each core that the process may use. More can be started by "
        "SIGTTIN, ended by SIGTTOU, and all of them replaced by SIGHUP; no request and no message is lost for that.",
    )
    yield bounded(
        "--worker-timeout",
        "SECONDS",
        seconds,
        TIMEOUT,
        "Kill and replace a worker whose event loop has not turned for this long; or none.",
    )
    yield bounded(
        "--worker-start-timeout",
        "SECONDS",
        seconds,
        START_TIMEOUT,
        "Kill a worker that does not serve this long after its start; or none.",
    )
    yield bounded(
        "--worker-start-attempts",
        "NUMBER",
        Integer(1),
        START_ATTEMPTS,
        "End with an error when a worker has ended this often in a row before it served.",
    )
    yield bounded(
        "--limit-max-requests",
        "NUMBER",
        whole,
        None,
        "Replace a worker that has taken this many requests, WebSockets, streams and datagrams, or none.",
    )
    yield bounded(
        "--limit-max-requests-jitter",
        "NUMBER",
        Integer(0),
        0,
        "Up to this many more, at random for each worker.",
    )
    yield bounded("--worker-max-rss", "BYTES", whole, None, "Replace a worker that occupies this much memory, or none.")
    yield bounded("--worker-lifetime", "SECONDS", seconds, None, "Replace a worker this long after its start, or none.")
    yield bounded(
        "--worker-lifetime-jitter",
        "SECONDS",
        Number("number of seconds", least=0),
        0,
        "Up to this many seconds more, at random for each worker.",
    )


def _service() -> Iterator[click.Option]:
    section = "Service"
    yield Option(
        "--pid-file",
        section=section,
        metavar="PATH",
        type=click.Path(dir_okay=False),
        help="Write the process id to this file, and remove it at the end.",
    )
    yield Option(
        "--user",
        section=section,
        metavar="USER",
        help="Run the application as this user, by name or number, once the addresses are bound; needs root.",
    )
    yield Option("--group", section=section, metavar="GROUP", help="The same for the group, instead of the user's own.")
    yield Option(
        "--env-file",
        section=section,
        is_eager=True,
        metavar="PATH",
        type=click.Path(exists=True, dir_okay=False, readable=False),
        callback=configuration.load_environment,
        expose_value=False,
        help="Set the environment variables of this file, unless they are set already; options among them count.",
    )


def _development() -> Iterator[click.Option]:
    section = "Development"
    yield Option(
        "--reload",
        section=section,
        is_flag=True,
        help="Restart whenever a Python file changes.",
    )
    yield Option(
        "--reload-dir",
        section=section,
        multiple=True,
        type=click.Path(exists=True, file_okay=False, resolve_path=True),
        help="Watch this directory instead of --app-dir. May be given several times.",
    )
    yield Option(
        "--reload-include",
        section=section,
        multiple=True,
        metavar="PATTERN",
        help="Watch files that match this pattern as well, as in '*.html'. May be given several times.",
    )
    yield Option(
        "--reload-exclude",
        section=section,
        multiple=True,
        metavar="PATTERN",
        help="Do not restart for files whose name or relative path matches this pattern. May be given several times.",
    )
    yield Option(
        "--reload-delay",
        section=section,
        metavar="SECONDS",
        default="0.05",
        show_default=True,
        callback=parsed(RELOAD_DELAY.parse),
        help="How long no file must have changed before a restart.",
    )


def lifespan_option() -> click.Option:
    """Return the option of commands whose applications serve no requests, and seldom know a lifespan."""
    return Option(
        "--lifespan",
        section="Application",
        type=click.Choice(MODES),
        default="off",
        show_default=True,
        help="Whether to tell the application when the worker starts and stops.",
    )


def bounded_option(section: str, name: str, metavar: str, bound: Bound, default: Any, text: str) -> Option:
    """Return an option whose text is read, checked and shown by a bound."""
    return Option(
        name,
        section=section,
        metavar=metavar,
        default=bound.written(default),
        show_default=True,
        callback=parsed(bound.parse),
        written=bound.written,
        help=text,
    )

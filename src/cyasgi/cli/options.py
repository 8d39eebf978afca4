"""The options of ``cyasgi serve``, by what they are about."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import click

from ..wire.address import parse_address
from . import configuration
from .values import parse_count, parse_interval, parse_limit, parse_number, parse_seconds, parse_timeout

LEVELS = ("debug", "info", "warning", "error", "critical")

#: The server of each kind of listener.
SERVERS = {"udp": ("cyasgi.gateways.datagram", "DatagramServer")}


class Limit(NamedTuple):
    """An option that sets an attribute of every server that has it, and has its default from there."""

    #: The first one is the one that is documented; others are what it is called elsewhere.
    names: tuple[str, ...]
    attribute: str
    parse: Callable[[str], Any]
    metavar: str
    text: str


LIMITS = (
    Limit(
        ("--max-applications",),
        "max_applications",
        parse_limit,
        "NUMBER",
        "Most instances at a time, of each kind of listener; further ones make room, or none.",
    ),
    Limit(
        ("--max-queue-size",),
        "max_queue_size",
        parse_count,
        "NUMBER",
        "Most messages waiting for one instance; further ones are dropped and counted. 0: no limit.",
    ),
    Limit(
        ("--max-datagram-size",),
        "max_datagram_size",
        parse_number,
        "BYTES",
        "The longest datagram; longer ones are dropped and counted.",
    ),
    Limit(
        ("--idle-timeout",),
        "idle_timeout",
        parse_timeout,
        "SECONDS",
        "Remove instances that have been idle for so long, or none.",
    ),
    Limit(
        ("--shutdown-timeout", "--timeout-graceful-shutdown"),
        "shutdown_timeout",
        parse_seconds,
        "SECONDS",
        "How long instances may take to finish their work at the end.",
    ),
    Limit(
        ("--checker-interval",),
        "application_checker_interval",
        parse_interval,
        "SECONDS",
        "How often to look for instances that have been idle for too long.",
    ),
)


class Option(click.Option):
    """An option that knows under which heading of the help it stands."""

    def __init__(self, *declarations: Any, section: str, **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self.section = section


class ServeCommand(click.Command):
    """A command whose help has its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", "Other"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def parsed(parse: Callable[[str], Any]) -> Callable[[Any, Any, Any], Any]:
    """A callback for click that makes of each text what `parse` does."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if value is None:
                return None
            return [parse(one) for one in value] if isinstance(value, tuple) else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return callback


def server_class(kind: str) -> Any:
    """The server class for listeners of this kind."""
    module, name = SERVERS[kind]
    return getattr(importlib.import_module(module), name)


def parameters() -> list[click.Parameter]:
    """What ``cyasgi serve`` accepts."""
    return [
        click.Argument(
            ["applications"],
            metavar="MODULE:ATTRIBUTE...",
            nargs=-1,
            required=True,
            envvar="CYASGI_SERVE_APPLICATION",
        ),
        *_listeners(),
        *_applications(),
        *_limits(),
        *_process(),
    ]


def _listeners() -> Iterator[click.Option]:
    section = "Listeners (each may be given several times)"
    yield Option(
        "--udp",
        section=section,
        multiple=True,
        metavar="ADDRESS",
        callback=parsed(parse_address),
        help="Listen for datagrams on HOST:PORT, [IPV6]:PORT or :PORT (every interface).",
    )


def _applications() -> Iterator[click.Option]:
    section = "Application"
    yield Option(
        "--factory", section=section, is_flag=True, help="The attribute is a function that returns the application."
    )
    yield Option(
        "--app-dir",
        section=section,
        type=click.Path(exists=True, file_okay=False, resolve_path=True),
        default=".",
        show_default=True,
        help="Look for the module in this directory first.",
    )


def _limits() -> Iterator[click.Option]:
    for limit in LIMITS:
        yield Option(
            *limit.names,
            section="Limits",
            callback=parsed(limit.parse),
            metavar=limit.metavar,
            help=limit.text,
            **_default(limit.attribute),
        )


def _default(attribute: str) -> dict[str, Any]:
    """The default of the servers that have this attribute, as click shows it."""
    defaults: dict[str, str] = {}
    for kind in SERVERS:
        value = getattr(server_class(kind), attribute, SERVERS)
        if value is not SERVERS:
            defaults[kind] = "none" if value is None else str(value)
    if len(set(defaults.values())) == 1:
        return {"default": next(iter(defaults.values())), "show_default": True}
    return {"show_default": ", ".join(f"{kind} {text}" for kind, text in defaults.items())}


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
        type=click.Choice(LEVELS),
        default="info",
        show_default=True,
        help="Write what is at least so grave.",
    )
    yield Option(
        "--config",
        section=section,
        type=click.Path(exists=True, dir_okay=False),
        is_eager=True,
        callback=configuration.use,
        help="Take what neither the command line nor the environment says from this TOML file.",
    )
    section = "Development"
    yield Option(
        "--reload",
        section=section,
        is_flag=True,
        help="Begin anew whenever a Python file changes.",
    )
    yield Option(
        "--reload-dir",
        section=section,
        multiple=True,
        type=click.Path(exists=True, file_okay=False, resolve_path=True),
        help="Look for changes in this directory, and not in --app-dir. May be given several times.",
    )
    yield Option(
        "--reload-include",
        section=section,
        multiple=True,
        metavar="PATTERN",
        help="Look at files of such a name too, as in '*.html'. May be given several times.",
    )

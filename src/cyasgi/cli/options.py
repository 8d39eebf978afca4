"""The options of ``cyasgi serve``, by what they are about."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import click

from ..balancing.balancer import STRATEGIES
from ..wire.address import parse_address
from . import configuration
from .errors import CommandError
from .tls import CERT_REQS
from .values import (
    parse_count,
    parse_host,
    parse_interval,
    parse_limit,
    parse_number,
    parse_path,
    parse_policy,
    parse_port,
    parse_seconds,
    parse_stream_address,
    parse_timeout,
    parse_weight,
)

LEVELS = ("debug", "info", "warning", "error", "critical")
LIFESPANS = ("auto", "on", "off")

#: The server for each kind of listener.
SERVERS = {
    "http": ("cyasgi.gateways.http", "HTTPServer"),
    "udp": ("cyasgi.gateways.datagram", "DatagramServer"),
}
ALL = tuple(SERVERS)
HTTP = ("http",)
UDP = ("udp",)


class Limit(NamedTuple):
    """An option that sets an attribute of the servers of some kinds, and has its default from there."""

    #: The first one is the one that is documented; others are what it is called elsewhere.
    names: tuple[str, ...]
    attribute: str
    parse: Callable[[str], Any]
    metavar: str
    text: str
    kinds: tuple[str, ...] = ALL


class Switch(NamedTuple):
    """An option that is on or off, and sets an attribute of the servers of some kinds."""

    names: str
    attribute: str
    text: str
    #: What the attribute is when the option is on, and off.
    values: tuple[Any, Any] = (True, False)
    kinds: tuple[str, ...] = HTTP


LIMITS = (
    Limit(
        ("--max-applications", "--limit-concurrency"),
        "max_applications",
        parse_limit,
        "NUMBER",
        "Most instances at a time, of each kind of listener, or none. Further requests are answered 503, further "
        "clients of UDP push out others.",
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
    Limit(
        ("--max-queue-size",),
        "max_queue_size",
        parse_count,
        "NUMBER",
        "Most datagrams waiting for one instance; further ones are dropped and counted. 0: no limit.",
        UDP,
    ),
    Limit(
        ("--max-datagram-size",),
        "max_datagram_size",
        parse_number,
        "BYTES",
        "The longest datagram; longer ones are dropped and counted.",
        UDP,
    ),
    Limit(
        ("--eviction-policy",),
        "eviction_policy",
        parse_policy,
        "POLICY",
        "Who makes room for a new client: lru, the least recently used one, or slru, one of those that have come once "
        "before any other.",
        UDP,
    ),
    Limit(
        ("--idle-timeout",),
        "idle_timeout",
        parse_timeout,
        "SECONDS",
        "Remove instances of UDP clients that have been idle for so long, or none.",
        UDP,
    ),
    Limit(
        ("--max-connections",),
        "max_connections",
        parse_number,
        "NUMBER",
        "Most connections at a time; further ones are answered 503.",
        HTTP,
    ),
    Limit(
        ("--max-target-size",),
        "max_target_size",
        parse_number,
        "BYTES",
        "The longest request target; beyond: 414.",
        HTTP,
    ),
    Limit(
        ("--max-header-size",),
        "max_header_size",
        parse_number,
        "BYTES",
        "Most bytes of all headers of a request; beyond: 431.",
        HTTP,
    ),
    Limit(
        ("--max-header-count",),
        "max_header_count",
        parse_number,
        "NUMBER",
        "Most headers of a request; beyond: 431.",
        HTTP,
    ),
    Limit(
        ("--max-body-size",),
        "max_body_size",
        parse_limit,
        "BYTES",
        "The longest request body, or none; beyond: 413.",
        HTTP,
    ),
    Limit(
        ("--first-byte-timeout",),
        "first_byte_timeout",
        parse_interval,
        "SECONDS",
        "From the beginning of a connection to its first byte.",
        HTTP,
    ),
    Limit(
        ("--header-timeout",),
        "header_timeout",
        parse_interval,
        "SECONDS",
        "From the first byte of a request to the end of its headers.",
        HTTP,
    ),
    Limit(
        ("--body-timeout",),
        "body_timeout",
        parse_interval,
        "SECONDS",
        "From the end of the headers to the end of the body.",
        HTTP,
    ),
    Limit(
        ("--request-timeout",),
        "request_timeout",
        parse_timeout,
        "SECONDS",
        "From the end of the headers to the end of the response, or none; beyond: 503.",
        HTTP,
    ),
    Limit(
        ("--keep-alive-timeout", "--timeout-keep-alive"),
        "keep_alive_timeout",
        parse_interval,
        "SECONDS",
        "How long a connection is kept open for another request.",
        HTTP,
    ),
    Limit(
        ("--write-timeout",),
        "write_timeout",
        parse_interval,
        "SECONDS",
        "How long a client may take nothing of what is sent to it.",
        HTTP,
    ),
    Limit(
        ("--backlog",),
        "backlog",
        parse_number,
        "NUMBER",
        "Connections that the system keeps until they are accepted.",
        HTTP,
    ),
)

SWITCHES = (
    Switch("--strict/--no-strict", "strict", "Refuse requests that are unambiguous and yet not allowed."),
    Switch("--server-header/--no-server-header", "server_header", "Send a Server header.", ("cyasgi", None)),
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
    """The server class for listeners of this kind.

    Raises:
        CommandError: it needs a library that is not installed.
    """
    module, name = SERVERS[kind]
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("cyasgi"):
            raise
        raise CommandError(f"--{kind} needs {error.name}: pip install 'cyasgi[{kind}]'") from None


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
        *_tls(),
        *_limits(),
        *_process(),
        *_development(),
    ]


def _listeners() -> Iterator[click.Option]:
    section = "Listeners (all but --host and --port may be given several times)"
    yield Option(
        "--http",
        section=section,
        multiple=True,
        metavar="ADDRESS",
        callback=parsed(partial(parse_stream_address, schemes=("http", "https"))),
        help="Serve HTTP on HOST:PORT, [IPV6]:PORT or :PORT (every interface); with TLS if there is a certificate, "
        "unless http:// stands before it.",
    )
    yield Option(
        "--unix",
        "--uds",
        section=section,
        multiple=True,
        metavar="PATH",
        callback=parsed(parse_path),
        help="Serve HTTP on this Unix socket, without TLS.",
    )
    yield Option(
        "--udp",
        section=section,
        multiple=True,
        metavar="ADDRESS",
        callback=parsed(parse_address),
        help="Serve datagrams on HOST:PORT, [IPV6]:PORT or :PORT (every interface).",
    )
    yield Option(
        "--host",
        section=section,
        metavar="HOST",
        callback=parsed(parse_host),
        help="Serve HTTP on this host's --port, or 8000; --http has both in one.",
    )
    yield Option(
        "--port",
        section=section,
        metavar="PORT",
        callback=parsed(parse_port),
        help="Serve HTTP on this port of --host, or 127.0.0.1.",
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
    yield Option(
        "--balance",
        section=section,
        type=click.Choice(list(STRATEGIES)),
        show_default="round-robin, or weighted with --weight",
        help="How several applications share the work.",
    )
    yield Option(
        "--weight",
        section=section,
        multiple=True,
        metavar="NUMBER",
        callback=parsed(parse_weight),
        help="The share of each of several applications; given once for each, in their order.",
    )
    yield Option(
        "--lifespan",
        section=section,
        type=click.Choice(LIFESPANS),
        default="auto",
        show_default=True,
        help="Tell the application when it starts and stops; auto: if it takes part, and not if UDP is all there is.",
    )
    yield Option(
        "--root-path",
        section=section,
        metavar="PATH",
        default="",
        help="The path that the application is mounted at, as in /api.",
    )


def _tls() -> Iterator[click.Option]:
    section = "TLS"
    path = click.Path(exists=True, dir_okay=False)
    yield Option("--ssl-certfile", section=section, type=path, help="The certificate, and those that vouch for it.")
    yield Option("--ssl-keyfile", section=section, type=path, help="Its key, unless that is in the same file.")
    yield Option(
        "--ssl-keyfile-password",
        section=section,
        metavar="TEXT",
        help="The password of the key. Others can read a command line: better in the environment.",
    )
    yield Option(
        "--ssl-ca-certs", section=section, type=path, help="Ask clients for certificates that one of these vouches for."
    )
    yield Option(
        "--ssl-cert-reqs",
        section=section,
        type=click.Choice(list(CERT_REQS)),
        default="required",
        show_default=True,
        help="Whether a client must have such a certificate.",
    )
    yield Option("--ssl-ciphers", section=section, metavar="LIST", help="Ciphers for TLS 1.2, as OpenSSL writes them.")


def _limits() -> Iterator[click.Option]:
    sections = {ALL: "Limits", HTTP: "HTTP", UDP: "UDP"}
    for limit in sorted(LIMITS, key=lambda limit: list(sections).index(limit.kinds)):
        yield Option(
            *limit.names,
            section=sections[limit.kinds],
            callback=parsed(limit.parse),
            metavar=limit.metavar,
            help=limit.text,
            **_default(limit),
        )
    for switch in SWITCHES:
        yield Option(switch.names, section=sections[switch.kinds], default=True, show_default=True, help=switch.text)


def _default(limit: Limit) -> dict[str, Any]:
    """The default that the servers have, as click shows it."""
    defaults: dict[str, str] = {}
    for kind in limit.kinds:
        # Help is to be had without the libraries of a server.
        with contextlib.suppress(CommandError):
            value = getattr(server_class(kind), limit.attribute)
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


def _development() -> Iterator[click.Option]:
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

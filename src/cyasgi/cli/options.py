"""The options of ``cyasgi serve``, by section of the help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import click

from .._settings import Bound, Integer, Number
from ..balancing.balancer import STRATEGIES
from ..balancing.checks import check_weight
from ..core.settings import ROOT_PATH
from ..gateways.lifespan import MODES
from ..workers.settings import START_ATTEMPTS, START_TIMEOUT, TIMEOUT
from . import configuration
from .hints import about_address
from .limits import (
    SECTIONS,
    Switch,
    default,
    parse,
    written,
)
from .logs import FORMATS, LEVELS
from .stream_options import TCP_LISTENER, parse_tcp_address
from .tls import CERT_REQS, VERSIONS
from .values import (
    parse_datagram_address,
    parse_descriptor,
    parse_header,
    parse_host,
    parse_path,
    parse_port,
    parse_stream_address,
    parse_workers,
)

RELOAD_DELAY = Number("number of seconds", least=0.001, most=60)


class Option(click.Option):
    """An option that knows its section of the help, and how to write a value of it as text."""

    def __init__(
        self, *declarations: Any, section: str, written: Callable[[Any], str] = str, **attributes: Any
    ) -> None:
        super().__init__(declarations, **attributes)
        self.section = section
        self.written = written


class ServeCommand(click.Command):
    """A command whose help groups options by section, and that rejects a single-valued option given twice."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        options = [parameter for parameter in order if isinstance(parameter, click.Option) and not parameter.multiple]
        for option in dict.fromkeys(options):
            if options.count(option) > 1:
                names = "/".join((*option.opts, *option.secondary_opts))
                raise click.UsageError(f"{names} is given {options.count(option)} times, but takes one value", ctx)
        return super().parse_args(ctx, args)

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
    """Return a callback for click that parses each text with `parse`."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if value is None:
                return None
            return [parse(one) for one in value] if isinstance(value, tuple) else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return callback


def _parse_http_address(text: str) -> Any:
    if (hint := about_address(text)) is not None:
        raise ValueError(hint)
    return parse_stream_address(text, schemes=("http", "https"))


def parameters() -> list[click.Parameter]:
    """Return the parameters of ``cyasgi serve``."""
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
        *_headers(),
        *_process(),
        *_workers(),
        *_service(),
        *_development(),
    ]


def _listeners() -> Iterator[click.Option]:
    section = "Listeners (all but --port may be given several times)"
    yield Option(
        "--http",
        section=section,
        multiple=True,
        metavar="ADDRESS",
        callback=parsed(_parse_http_address),
        help="Serve HTTP and WebSockets on HOST:PORT, [IPV6]:PORT or :PORT (every interface), or on fd://NUMBER or "
        "fd://NAME (a socket that the command has inherited, as of systemd); with TLS if there is a certificate, "
        "unless the address begins with http://.",
    )
    yield Option(
        "--websocket",
        section=section,
        multiple=True,
        metavar="ADDRESS",
        callback=parsed(partial(parse_stream_address, schemes=("ws", "wss"))),
        help="The same for WebSockets only; without TLS if the address begins with ws://.",
    )
    yield Option(
        "--unix",
        "--uds",
        section=section,
        multiple=True,
        metavar="PATH",
        callback=parsed(parse_path),
        help="Serve HTTP and WebSockets on this Unix socket, without TLS.",
    )
    yield Option(
        "--udp",
        section=section,
        multiple=True,
        metavar="ADDRESS",
        callback=parsed(parse_datagram_address),
        help="Serve datagrams on HOST:PORT, [IPV6]:PORT, :PORT (every interface), or fd://NUMBER or fd://NAME: a bound "
        "socket that the command has inherited.",
    )
    yield Option("--tcp", section=section, multiple=True, callback=parsed(parse_tcp_address), **TCP_LISTENER)
    yield Option(
        "--fd",
        section=section,
        multiple=True,
        metavar="NUMBER",
        callback=parsed(parse_descriptor),
        help="Serve HTTP and WebSockets on a socket that the command has inherited, as --http fd://NUMBER does.",
    )
    yield Option(
        "--host",
        section=section,
        multiple=True,
        metavar="HOST",
        callback=parsed(parse_host),
        help="Serve HTTP on this host, at --port or 8000; --http takes both in one.",
    )
    yield Option(
        "--port",
        section=section,
        metavar="PORT",
        callback=parsed(parse_port),
        help="Serve HTTP on this port, of --host or 127.0.0.1.",
    )


def _applications() -> Iterator[click.Option]:
    section = "Application"
    yield Option(
        "--factory", section=section, is_flag=True, help="ATTRIBUTE is a function that returns the application."
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
        help="How to choose among several applications.",
    )
    yield Option(
        "--weight",
        section=section,
        multiple=True,
        metavar="NUMBER",
        callback=parsed(check_weight.parse),
        help="The weight of one of several applications; give it once for each, in their order.",
    )
    yield Option(
        "--lifespan",
        section=section,
        type=click.Choice(MODES),
        default="auto",
        show_default=True,
        help="Whether to tell the application when the server starts and stops; auto: if the application supports "
        "that, and HTTP or WebSockets are served.",
    )
    yield Option(
        "--root-path",
        section=section,
        metavar="PATH",
        default="",
        callback=parsed(ROOT_PATH.parse),
        help="The path at which the application is mounted, as in /api.",
    )


def _headers() -> Iterator[click.Option]:
    yield Option(
        "--header",
        section="HTTP",
        multiple=True,
        metavar="NAME:VALUE",
        callback=parsed(parse_header),
        help="Send this header with every response. May be given several times.",
    )


def _tls() -> Iterator[click.Option]:
    section = "TLS"
    path = click.Path(exists=True, dir_okay=False)
    yield Option("--ssl-certfile", section=section, type=path, help="The certificate, followed by its chain.")
    yield Option("--ssl-keyfile", section=section, type=path, help="The private key, unless it is in the same file.")
    yield Option(
        "--ssl-keyfile-password",
        section=section,
        metavar="TEXT",
        help="The password of the key. Others can read a command line: better set it in the environment.",
    )
    yield Option(
        "--ssl-ca-certs",
        section=section,
        type=path,
        help="Ask clients for certificates issued by one of these authorities.",
    )
    yield Option(
        "--ssl-cert-reqs",
        section=section,
        type=click.Choice(list(CERT_REQS)),
        default="required",
        show_default=True,
        help="Whether clients must have such a certificate.",
    )
    yield Option(
        "--ssl-crl",
        section=section,
        type=path,
        help="Refuse clients whose certificate is in this list, in PEM, of those that its authority has revoked.",
    )
    yield Option("--ssl-ciphers", section=section, metavar="LIST", help="Ciphers for TLS 1.2, in OpenSSL's format.")
    yield Option(
        "--ssl-minimum-version",
        section=section,
        type=click.Choice(list(VERSIONS)),
        show_default="Python's, which is TLSv1.2",
        help="Refuse clients that have no newer version of TLS.",
    )


def _limits() -> Iterator[click.Option]:
    for section, settings in SECTIONS.items():
        for setting in settings:
            if isinstance(setting, Switch):
                names = "/".join(setting.names)
                yield Option(names, section=section, help=setting.text, **default(setting))
                continue
            yield Option(
                *setting.names,
                section=section,
                callback=parsed(partial(parse, setting)),
                written=partial(written, setting),
                metavar=setting.metavar,
                help=setting.text,
                **default(setting),
            )


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
        type=click.Path(exists=True, dir_okay=False),
        callback=configuration.load_environment,
        expose_value=False,
        help="Set the environment variables of this file, unless they are set already; options among them count.",
    )


def _workers() -> Iterator[click.Option]:
    section = "Workers"

    def bounded(name: str, metavar: str, bound: Bound, default: Any, text: str) -> Option:
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
        "SIGTTIN, ended by SIGTTOU, and all of them replaced by SIGHUP, without a lost request.",
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
        "Replace a worker that has taken this many requests, WebSockets and datagrams, or none.",
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

"""The options of ``cyasgi serve``, by what they are about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import click

from ..balancing.balancer import STRATEGIES
from ..balancing.checks import check_weight
from ..core.settings import ROOT_PATH
from ..gateways.lifespan import MODES
from ..wire.address import parse_address
from . import configuration
from .hints import about_address
from .limits import (
    SECTIONS,
    Switch,
    default,
    parse,
    written,
)
from .logs import LEVELS
from .tls import CERT_REQS
from .values import (
    parse_host,
    parse_path,
    parse_port,
    parse_stream_address,
)


class Option(click.Option):
    """An option that knows under which heading of the help it stands, and how a value of it is written."""

    def __init__(
        self, *declarations: Any, section: str, written: Callable[[Any], str] = str, **attributes: Any
    ) -> None:
        super().__init__(declarations, **attributes)
        self.section = section
        self.written = written


class ServeCommand(click.Command):
    """A command whose help has its options under headings, and that takes no option twice that has one value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        options = [parameter for parameter in order if isinstance(parameter, click.Option) and not parameter.multiple]
        for option in dict.fromkeys(options):
            if options.count(option) > 1:
                names = "/".join((*option.opts, *option.secondary_opts))
                raise click.UsageError(f"{names} is given {options.count(option)} times, and has one value", ctx)
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
    """A callback for click that makes of each text what `parse` does."""

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
    section = "Listeners (all but --port may be given several times)"
    yield Option(
        "--http",
        section=section,
        multiple=True,
        metavar="ADDRESS",
        callback=parsed(_parse_http_address),
        help="Serve HTTP and WebSockets on HOST:PORT, [IPV6]:PORT or :PORT (every interface); with TLS if there is a "
        "certificate, unless http:// stands before it.",
    )
    yield Option(
        "--websocket",
        section=section,
        multiple=True,
        metavar="ADDRESS",
        callback=parsed(partial(parse_stream_address, schemes=("ws", "wss"))),
        help="The same for WebSockets alone; with ws:// before it without TLS.",
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
        callback=parsed(parse_address),
        help="Serve datagrams on HOST:PORT, [IPV6]:PORT or :PORT (every interface).",
    )
    yield Option(
        "--host",
        section=section,
        multiple=True,
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
        callback=parsed(check_weight.parse),
        help="The share of each of several applications; given once for each, in their order.",
    )
    yield Option(
        "--lifespan",
        section=section,
        type=click.Choice(MODES),
        default="auto",
        show_default=True,
        help="Tell the application when it starts and stops; auto: if it takes part, and not if UDP is all there is.",
    )
    yield Option(
        "--root-path",
        section=section,
        metavar="PATH",
        default="",
        callback=parsed(ROOT_PATH.parse),
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
        help="The least level that the server logs to the standard error; the application's loggers are its own.",
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

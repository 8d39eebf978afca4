"""The options of ``cyasgi serve`` for what is served, by section of the help."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from functools import partial
from typing import Any

import click

from ..balancing.balancer import STRATEGIES
from ..balancing.checks import check_weight
from ..core.settings import ROOT_PATH
from ..gateways.lifespan import MODES
from .hints import about_address
from .limits import (
    SECTIONS,
    Switch,
    default,
    parse,
    written,
)
from .option import Option, parsed
from .process_options import process_parameters
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
)


def _parse_http_address(text: str) -> Any:
    if (hint := about_address(text)) is not None:
        raise ValueError(hint)
    return parse_stream_address(text, schemes=("http", "https"))


@functools.cache
def parameters() -> tuple[click.Parameter, ...]:
    """Return the parameters of ``cyasgi serve``; commands that share some of them share these objects."""
    return (
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
        *process_parameters(),
    )


def shared_parameters(*names: str) -> list[click.Parameter]:
    """Return those of these names, for the help of a command that listens for no client."""
    return [
        _about_application(one) if one.name == "startup_timeout" else one for one in parameters() if one.name in names
    ]


def _about_application(parameter: click.Parameter) -> click.Parameter:
    own = copy.copy(parameter)
    assert isinstance(own, Option)
    own.section = "Application"
    return own


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

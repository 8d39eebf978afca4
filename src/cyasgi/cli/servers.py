"""The servers, as the options describe them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._common.log_files import LogFile
from ..workers.settings import Supervision
from .activation import Passed
from .errors import MISUSED, CommandError
from .kinds import CONNECTIONS, TCP, WEB
from .limits import (
    MANAGED,
    SETTINGS,
    key_of,
    server_class,
)
from .logs import LogOptions
from .service import Identity
from .tls import make_context


@dataclass
class Options:
    """The values of the options, each named after it."""

    applications: tuple[str, ...]
    #: The addresses to listen on, by kind of server: (host, port) or ``"fd://3"`` for UDP, else what
    #: `parse_stream_address` returns or the path of a Unix socket.
    listeners: dict[str, list[Any]]
    #: The attributes of servers that were set.
    limits: dict[str, Any]
    balance: str | None
    weight: list[float]
    factory: bool
    app_dir: str
    lifespan: str
    root_path: str
    header: list[tuple[bytes, bytes]]
    loop: str
    log: LogOptions
    config: str | None
    reload: bool
    reload_dir: tuple[str, ...]
    reload_include: tuple[str, ...]
    reload_exclude: tuple[str, ...]
    reload_delay: float
    #: How many processes serve, and when they are replaced.
    supervision: Supervision
    #: Who the workers run as, if not as who has started the command.
    identity: Identity | None
    pid_file: str | None
    #: Where metrics are served, as a `Listener` has it.
    metrics: str | None
    #: The sockets that a service manager has passed.
    passed: list[Passed]
    #: The options that begin with --ssl-, without that prefix.
    tls: dict[str, Any]
    #: A sentence for each option that has no effect.
    ignored: list[str] = field(default_factory=list)


def make_servers(options: Options, application: Any) -> dict[str, Any]:
    """Return a server for each kind of listener, by kind, with its limits set.

    Raises:
        CommandError: a library is missing, or a value is not accepted.
    """
    contexts = _contexts(options)
    managed = any(options.limits.get(limit.attribute) is not None for limit in MANAGED)
    try:
        log_file = None if options.log.access_file is None else LogFile(options.log.access_file)
    except OSError as error:
        raise CommandError(f"--access-log-file {options.log.access_file}: {error.strerror}") from None
    servers = {}
    for kind, addresses in options.listeners.items():
        if not addresses:
            continue
        binds = addresses if kind == "udp" else list(_stream_binds(addresses, contexts.get(kind)))
        try:
            server = servers[kind] = server_class(kind, managed)(application, binds=binds)
            for setting in SETTINGS:
                if kind in setting.kinds and key_of(setting) in options.limits and (managed or setting not in MANAGED):
                    setattr(server, setting.attribute, options.limits[key_of(setting)])
            if kind in CONNECTIONS:
                # The application has one lifespan, and several servers may serve it.
                server.lifespan = "off"
            if kind in WEB:
                server.root_path = options.root_path
                server.headers = tuple(options.header)
                if log_file is not None:
                    server.access_log = log_file
                if options.log.format == "json" and "access_log_format" not in options.limits:
                    server.access_log_format = "json"
        except (TypeError, ValueError) as error:
            raise CommandError(str(error), MISUSED) from None
    return servers


def _contexts(options: Options) -> dict[str, ssl.SSLContext]:
    """Return the TLS of each kind of server that has addresses, if there is a certificate."""
    if not options.tls["certfile"]:
        return {}
    web = make_context(**options.tls)
    others = make_context(**options.tls, protocols=()) if options.listeners["tcp"] else web
    return {"http": web, "websocket": web, "tcp": others}


def resolve_framings(servers: Mapping[str, Any]) -> None:
    """Find out what the framings of servers of streams stand for.

    Raises:
        CommandError: one cannot be imported, or is none.
    """
    for kind in TCP:
        if kind in servers:
            try:
                servers[kind].resolve_framing()
            except ValueError as error:
                raise CommandError(str(error)) from None


def _stream_binds(addresses: list[Any], context: ssl.SSLContext | None) -> Iterator[Any]:
    from ..gateways.net.sockets import Listener

    for address in addresses:
        if isinstance(address, str):
            yield Listener(f"unix:{address}")
            continue
        where, wants_tls = address
        if wants_tls and context is None:
            raise CommandError("an address with https://, wss:// or tls:// needs --ssl-certfile", MISUSED)
        yield Listener(where, None if wants_tls is False else context)

"""The options that set attributes of servers, and where their defaults are from."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any, NamedTuple

from .._settings import Bound
from ..core import Setting
from ..core.settings import CHECKER_INTERVAL, STARTUP_TIMEOUT
from ..lifecycle.managed import ManagedServer
from .errors import CommandError

#: The server for each kind of listener.
SERVERS = {
    "http": ("cyasgi.gateways.http", "HTTPServer"),
    "websocket": ("cyasgi.gateways.websocket", "WebSocketServer"),
    "udp": ("cyasgi.gateways.datagram", "DatagramServer"),
}
ALL = tuple(SERVERS)
STREAMS = ("http", "websocket")
UDP = ("udp",)


#: The value of an attribute that is left as the server has it.
OWN = object()


class Limit(NamedTuple):
    """An option that sets an attribute of the servers of some kinds, and has its default from there."""

    #: The first one is the one that is documented; others are uvicorn's.
    names: tuple[str, ...]
    attribute: str
    metavar: str
    text: str
    kinds: tuple[str, ...] = STREAMS
    #: What is accepted, where that is not to be had from the servers' attribute.
    bound: Bound | None = None


class Switch(NamedTuple):
    """An option that is on or off, and sets an attribute of the servers of some kinds."""

    #: What turns it on, and off.
    names: tuple[str, str]
    attribute: str
    text: str
    #: What the attribute is when the option is on, and off.
    values: tuple[Any, Any] = (True, False)
    kinds: tuple[str, ...] = STREAMS


COMMON = (
    Limit(
        ("--max-applications", "--limit-concurrency"),
        "max_applications",
        "NUMBER",
        "Most instances at a time, of each kind of listener, or none. Further requests are answered 503, further "
        "clients of UDP push out others.",
        ALL,
    ),
    Limit(
        ("--shutdown-timeout", "--timeout-graceful-shutdown"),
        "shutdown_timeout",
        "SECONDS",
        "How long instances may take to finish their work at the end.",
        ALL,
    ),
    Limit(
        ("--checker-interval",),
        "application_checker_interval",
        "SECONDS",
        "How often to look for instances that have been idle for too long.",
        ALL,
        CHECKER_INTERVAL,
    ),
)

HTTP = (
    Limit(
        ("--startup-timeout",),
        "startup_timeout",
        "SECONDS",
        "How long the application may take to start, or none.",
        # It holds for servers of any kind.
        bound=STARTUP_TIMEOUT,
    ),
    Limit(
        ("--max-connections",),
        "max_connections",
        "NUMBER",
        "Most connections at a time; further ones are answered 503.",
    ),
    Limit(
        ("--max-target-size",),
        "max_target_size",
        "BYTES",
        "The longest request target; beyond: 414.",
    ),
    Limit(
        ("--max-header-size",),
        "max_header_size",
        "BYTES",
        "Most bytes of all headers of a request; beyond: 431.",
    ),
    Limit(
        ("--max-header-count",),
        "max_header_count",
        "NUMBER",
        "Most headers of a request; beyond: 431.",
    ),
    Limit(
        ("--max-partial-heads",),
        "max_partial_heads",
        "BYTES",
        "Most bytes of headers that have come in part, on all connections together; beyond: 503.",
    ),
    Limit(
        ("--max-body-size",),
        "max_body_size",
        "BYTES",
        "The longest request body, or none; beyond: 413.",
    ),
    Limit(
        ("--first-byte-timeout",),
        "first_byte_timeout",
        "SECONDS",
        "From the beginning of a connection to its first byte.",
    ),
    Limit(
        ("--tls-handshake-timeout",),
        "tls_handshake_timeout",
        "SECONDS",
        "How long a TLS handshake may take, from the client's first byte.",
    ),
    Limit(
        ("--header-timeout",),
        "header_timeout",
        "SECONDS",
        "From the first byte of a request to the end of its headers.",
    ),
    Limit(
        ("--body-timeout",),
        "body_timeout",
        "SECONDS",
        "From the end of the headers to the end of the body, and one more for each --min-rate bytes of it.",
    ),
    Limit(
        ("--request-timeout",),
        "request_timeout",
        "SECONDS",
        "From the end of the headers to the end of the response, or none; beyond: 503.",
    ),
    Limit(
        ("--keep-alive-timeout", "--timeout-keep-alive"),
        "keep_alive_timeout",
        "SECONDS",
        "How long a connection is kept open for another request.",
    ),
    Limit(
        ("--write-timeout",),
        "write_timeout",
        "SECONDS",
        "How long a client that falls behind may take.",
    ),
    Limit(
        ("--min-rate",),
        "min_rate",
        "BYTES",
        "Bytes a second; who sends or takes less, over all, is given up.",
    ),
    Limit(
        ("--backlog",),
        "backlog",
        "NUMBER",
        "Connections that the system keeps until they are accepted.",
    ),
    Limit(
        ("--unix-permissions", "--uds-permissions"),
        "unix_permissions",
        "MODE",
        "Permissions of Unix sockets, an octal number as in 660: who may write to one may connect.",
    ),
    Switch(
        ("--access-log", "--no-access-log"),
        "access_log",
        "Write a line for each response to the standard output.",
    ),
    Switch(
        ("--strict", "--no-strict"),
        "strict",
        "Refuse requests that are unambiguous and yet not allowed.",
    ),
    Switch(
        ("--server-header", "--no-server-header"),
        "server_header",
        "Send a Server header.",
        (OWN, None),
    ),
)

WEBSOCKETS = (
    Limit(
        ("--max-websocket-message-size", "--ws-max-size"),
        "max_websocket_message_size",
        "BYTES",
        "The longest message from a client, or none; beyond: closed with 1009.",
    ),
    Limit(
        ("--max-websocket-queue", "--ws-max-queue"),
        "max_websocket_queue",
        "NUMBER",
        "Messages of one client that wait before no more are read.",
    ),
    Limit(
        ("--websocket-handshake-timeout",),
        "websocket_handshake_timeout",
        "SECONDS",
        "For the application to accept or refuse; beyond: 504.",
    ),
    Limit(
        ("--websocket-close-timeout",),
        "websocket_close_timeout",
        "SECONDS",
        "For the client to answer a close frame.",
    ),
    Limit(
        ("--websocket-ping-interval", "--ws-ping-interval"),
        "websocket_ping_interval",
        "SECONDS",
        "Between pings, or none.",
    ),
    Limit(
        ("--websocket-ping-timeout", "--ws-ping-timeout"),
        "websocket_ping_timeout",
        "SECONDS",
        "How long a client may say nothing after a ping, or none.",
    ),
    Switch(
        ("--websocket-compression", "--no-websocket-compression"),
        "websocket_compression",
        "Compress messages for clients that ask for it.",
    ),
)

DATAGRAMS = (
    Limit(
        ("--max-queue-size",),
        "max_queue_size",
        "NUMBER",
        "Most datagrams waiting for one instance; further ones are dropped and counted. 0: no limit.",
        UDP,
    ),
    Limit(
        ("--max-datagram-size",),
        "max_datagram_size",
        "BYTES",
        "The longest datagram; longer ones are dropped and counted.",
        UDP,
    ),
    Limit(
        ("--eviction-policy",),
        "eviction_policy",
        "POLICY",
        "Who makes room for a new client: lru, the least recently used one, or slru, one of those that have come once "
        "before any other.",
        UDP,
    ),
    Limit(
        ("--undelivered-to",),
        "undelivered_to",
        "WHERE",
        "What becomes of datagrams that wait behind one that fails: reported (hook), or given to the client's next "
        "instance (successor).",
        UDP,
    ),
    Limit(
        ("--idle-timeout",),
        "idle_timeout",
        "SECONDS",
        "Remove instances of clients that have been idle for so long, or none.",
        UDP,
    ),
)

#: What `ManagedServer` has, and a server is one for that asks for any of these.
MANAGED = (
    Limit(
        ("--max-age",),
        "max_age",
        "SECONDS",
        "End instances after so long, busy or not, or none.",
        ALL,
    ),
    Limit(
        ("--max-instances-per-client",),
        "max_instances_per_key",
        "NUMBER",
        "Most instances at a time of one client host, or of one IPv6 /64 network, or none. Further requests are "
        "answered 429, further datagrams are dropped.",
        ALL,
    ),
    Limit(
        ("--max-messages-per-second",),
        "max_messages_per_second",
        "NUMBER",
        "Most requests, WebSockets or datagrams a second of one client host, on average, or none.",
        ALL,
    ),
    Limit(
        ("--message-burst",),
        "message_burst",
        "NUMBER",
        "Most of these at once, after a silence; none for those of one second.",
        ALL,
    ),
    Limit(
        ("--max-limit-keys",),
        "max_limit_keys",
        "NUMBER",
        "Clients without instances that are remembered.",
        ALL,
    ),
)

#: By the heading that they have in the help.
SECTIONS: dict[str, tuple[Limit | Switch, ...]] = {
    "Limits": COMMON,
    "Limits for each client": MANAGED,
    "HTTP": HTTP,
    "WebSockets": WEBSOCKETS,
    "UDP": DATAGRAMS,
}
SETTINGS: tuple[Limit | Switch, ...] = (*COMMON, *MANAGED, *HTTP, *WEBSOCKETS, *DATAGRAMS)


def server_class(kind: str, managed: bool = False) -> Any:
    """The server class for listeners of this kind, with or without the limits of `ManagedServer`.

    Raises:
        CommandError: it needs a library that is not installed.
    """
    module, name = SERVERS[kind]
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("cyasgi"):
            raise
        library = error.name.partition(".")[0]
        raise CommandError(f"--{kind} needs {library}: pip install 'cyasgi[{kind}]'") from None
    return type(f"Managed{name}", (ManagedServer, found), {}) if managed else found


def written(setting: Limit, value: Any) -> str:
    """The text that stands for a value of the attribute."""
    bound = setting.bound or _bound(setting)
    return str(value) if bound is None else bound.written(value)


def parse(setting: Limit, text: str) -> Any:
    """The value of the attribute that the text stands for.

    Raises:
        ValueError: the attribute does not accept it.
    """
    bound = setting.bound or _bound(setting)
    # Without a server that has the attribute it goes nowhere.
    return text if bound is None else bound.parse(text)


def _bound(setting: Limit) -> Bound | None:
    """What the servers accept; None where the libraries of all of them are missing."""
    for kind in setting.kinds:
        with contextlib.suppress(CommandError):
            for cls in (ManagedServer if setting in MANAGED else server_class(kind)).__mro__:
                found = vars(cls).get(setting.attribute)
                if isinstance(found, Setting):
                    assert isinstance(found.check, Bound)
                    return found.check
    return None


def default(setting: Limit | Switch) -> dict[str, Any]:
    """The default that the servers have, as click shows it."""
    defaults: dict[str, str | bool] = {}
    for kind in setting.kinds:
        # Help is to be had without the libraries of a server.
        with contextlib.suppress(CommandError):
            value = getattr(ManagedServer if setting in MANAGED else server_class(kind), setting.attribute)
            if isinstance(setting, Switch):
                defaults[kind] = value != setting.values[1]
            else:
                defaults[kind] = written(setting, value)
    if len(set(defaults.values())) == 1:
        return {"default": next(iter(defaults.values())), "show_default": True}
    return {"show_default": ", ".join(f"{kind} {text}" for kind, text in defaults.items())}

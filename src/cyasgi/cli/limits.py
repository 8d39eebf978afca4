"""The options that set attributes of servers; bounds and defaults are those of the attributes."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

from .._settings import Bound
from ..core import Setting
from ..core.settings import CHECKER_INTERVAL, STARTUP_TIMEOUT
from ..lifecycle import ManagedServer
from .errors import CommandError
from .kinds import (
    ALL,
    CONNECTIONS,
    OWN as OWN,
    SERVERS as SERVERS,
    TCP,
    UDP,
    Limit as Limit,
    Switch as Switch,
)
from .stream_limits import STREAMS

COMMON = (
    Limit(
        ("--max-applications", "--limit-concurrency"),
        "max_applications",
        "NUMBER",
        "Maximum number of instances at a time for each kind of listener, or none. Further requests are answered 503, "
        "further streams are closed, further UDP clients evict others.",
        ALL,
    ),
    Limit(
        ("--shutdown-timeout", "--timeout-graceful-shutdown"),
        "shutdown_timeout",
        "SECONDS",
        "How long instances may take to finish their work when the server stops.",
        ALL,
    ),
    Limit(
        ("--max-pushed",),
        "max_pushed",
        "NUMBER",
        "Maximum number of messages from outside, as of a chat room, that wait for one instance.",
        ALL,
    ),
    Limit(
        ("--max-pushed-bytes",),
        "max_pushed_bytes",
        "BYTES",
        "Maximum size of such messages that wait for one instance; one more may exceed it.",
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
        CONNECTIONS,
        # The lifespan is the command's own, whichever servers there are.
        bound=STARTUP_TIMEOUT,
    ),
    Limit(
        ("--max-connections",),
        "max_connections",
        "NUMBER",
        "Maximum number of connections at a time; further ones are answered 503, or closed.",
        CONNECTIONS,
    ),
    Limit(
        ("--max-target-size",),
        "max_target_size",
        "BYTES",
        "Maximum size of a request target; larger ones are answered 414.",
    ),
    Limit(
        ("--max-header-size",),
        "max_header_size",
        "BYTES",
        "Maximum size of all headers of a request; larger ones are answered 431.",
    ),
    Limit(
        ("--max-header-count",),
        "max_header_count",
        "NUMBER",
        "Maximum number of headers of a request; more are answered 431.",
    ),
    Limit(
        ("--max-partial-heads",),
        "max_partial_heads",
        "BYTES",
        "Maximum size of all incomplete request headers, on all connections together; more are answered 503.",
    ),
    Limit(
        ("--max-body-size",),
        "max_body_size",
        "BYTES",
        "Maximum size of a request body, or none; larger ones are answered 413.",
    ),
    Limit(
        ("--first-byte-timeout",),
        "first_byte_timeout",
        "SECONDS",
        "How long a client may take from connecting to its first byte.",
        CONNECTIONS,
    ),
    Limit(
        ("--tls-handshake-timeout",),
        "tls_handshake_timeout",
        "SECONDS",
        "How long a TLS handshake may take, from the client's first byte.",
        CONNECTIONS,
    ),
    Limit(
        ("--header-timeout",),
        "header_timeout",
        "SECONDS",
        "How long a request may take from its first byte to the end of its headers.",
    ),
    Limit(
        ("--body-timeout",),
        "body_timeout",
        "SECONDS",
        "How long a request body may take after the headers, plus one second for every --min-rate bytes.",
    ),
    Limit(
        ("--request-timeout",),
        "request_timeout",
        "SECONDS",
        "How long a response may take after the request's headers, or none; slower ones become a 503.",
    ),
    Limit(
        ("--keep-alive-timeout", "--timeout-keep-alive"),
        "keep_alive_timeout",
        "SECONDS",
        "How long to keep an idle connection open for another request.",
    ),
    Limit(
        ("--write-timeout",),
        "write_timeout",
        "SECONDS",
        "Stall timeout: in this time a slow client must drain the buffer, or read --min-rate bytes for each second.",
        CONNECTIONS,
    ),
    Limit(
        ("--min-rate",),
        "min_rate",
        "BYTES",
        "Minimum bytes a second, on average; clients that send or read more slowly are cut off.",
        CONNECTIONS,
    ),
    Limit(
        ("--backlog",),
        "backlog",
        "NUMBER",
        "How many connections the system queues until they are accepted.",
        CONNECTIONS,
    ),
    Limit(
        ("--unix-permissions", "--uds-permissions"),
        "unix_permissions",
        "MODE",
        "Permissions of Unix sockets, an octal number such as 660. Connecting takes write permission.",
        CONNECTIONS,
    ),
    Switch(
        ("--access-log", "--no-access-log"),
        "access_log",
        "Log each response to standard output.",
    ),
    Limit(
        ("--access-log-format",),
        "access_log_format",
        "FORMAT",
        "json, or Apache's directives, as in '%h \"%r\" %>s %B %D'; none for the Common Log Format and the duration.",
    ),
    Switch(
        ("--strict", "--no-strict"),
        "strict",
        "Reject requests that violate RFC 9112 even where parsing is unambiguous.",
    ),
    Switch(
        ("--server-header", "--no-server-header"),
        "server_header",
        "Send a Server header.",
        (OWN, None),
    ),
    Switch(
        ("--date-header", "--no-date-header"),
        "date_header",
        "Send a Date header.",
    ),
    Limit(
        ("--request-id-header",),
        "request_id_header",
        "NAME",
        "Give each request an id in this header, as in x-request-id, unless it has one; or none.",
    ),
    Switch(
        ("--cancel-on-disconnect", "--no-cancel-on-disconnect"),
        "cancel_on_disconnect",
        "Cancel an application whose client has gone before the response was complete.",
    ),
)

WEBSOCKETS = (
    Limit(
        ("--max-websocket-message-size", "--ws-max-size"),
        "max_websocket_message_size",
        "BYTES",
        "Maximum size of a message from a client, or none; a larger one closes the WebSocket with 1009.",
    ),
    Limit(
        ("--max-websocket-queue", "--ws-max-queue"),
        "max_websocket_queue",
        "NUMBER",
        "How many messages of one client may wait before reading pauses.",
    ),
    Limit(
        ("--websocket-handshake-timeout",),
        "websocket_handshake_timeout",
        "SECONDS",
        "How long the application may take to accept or refuse; slower handshakes are answered 504.",
    ),
    Limit(
        ("--websocket-close-timeout",),
        "websocket_close_timeout",
        "SECONDS",
        "How long a client may take to answer a close frame.",
    ),
    Limit(
        ("--websocket-ping-interval", "--ws-ping-interval"),
        "websocket_ping_interval",
        "SECONDS",
        "Time between pings, or none.",
    ),
    Limit(
        ("--websocket-ping-timeout", "--ws-ping-timeout"),
        "websocket_ping_timeout",
        "SECONDS",
        "How long a client may be silent after a ping, or none.",
    ),
    Switch(
        ("--websocket-compression", "--no-websocket-compression"),
        "websocket_compression",
        "Compress messages for clients that offer it.",
    ),
)

DATAGRAMS = (
    Limit(
        ("--receive-buffer",),
        "receive_buffer",
        "BYTES",
        "Size of the system's receive buffer for each socket, or none for its default.",
        UDP,
    ),
    Switch(
        ("--reuse-port", "--no-reuse-port"),
        "reuse_port",
        "Let other processes of this user listen on the same addresses; the system spreads clients over them.",
        kinds=UDP,
    ),
    Switch(
        ("--broadcast", "--no-broadcast"),
        "allow_broadcast",
        "Allow the application to send to broadcast addresses.",
        kinds=UDP,
    ),
    Limit(
        ("--multicast-groups",),
        "multicast_groups",
        "ADDRESSES",
        "Multicast groups to join, with commas between them, or none.",
        UDP,
    ),
    Limit(
        ("--multicast-interface",),
        "multicast_interface",
        "NAME",
        "The network interface for multicast, or none for the system's choice.",
        UDP,
    ),
    Limit(
        ("--max-queue-size",),
        "max_queue_size",
        "NUMBER",
        "Maximum number of datagrams waiting for one instance; further ones are dropped and counted. 0: no limit.",
        UDP,
    ),
    Limit(
        ("--max-datagram-size",),
        "max_datagram_size",
        "BYTES",
        "Maximum size of a datagram; larger ones are dropped and counted.",
        UDP,
    ),
    Limit(
        ("--eviction-policy",),
        "eviction_policy",
        "POLICY",
        "Which client makes room for a new one: the least recently used (lru), first of all those that have been heard "
        "of only once (slru), or none, so that the new one is turned away (refuse).",
        (*UDP, *TCP),
    ),
    Limit(
        ("--undelivered-to",),
        "undelivered_to",
        "WHERE",
        "Where datagrams go that wait when the application fails: to a report (hook), or to the client's next "
        "instance (successor).",
        UDP,
    ),
    Limit(
        ("--idle-timeout",),
        "idle_timeout",
        "SECONDS",
        "Delete the instances of clients that have been idle for this long, or none.",
        UDP,
    ),
)

PROXIES: tuple[Limit | Switch, ...] = (
    Switch(
        ("--proxy-protocol", "--no-proxy-protocol"),
        "proxy_protocol",
        "Expect a header of the PROXY protocol, version 1 or 2, from --forwarded-allow-ips at the beginning of each "
        "connection; others are closed.",
        kinds=CONNECTIONS,
    ),
    Switch(
        ("--udp-proxy-protocol", "--no-udp-proxy-protocol"),
        "proxy_protocol",
        "Expect a header of the PROXY protocol, version 2, from --forwarded-allow-ips in each datagram; others are "
        "dropped.",
        kinds=UDP,
        key="udp_proxy_protocol",
    ),
    Switch(
        ("--proxy-headers", "--no-proxy-headers"),
        "proxy_headers",
        "Take the client's address and scheme from --forwarded-headers of --forwarded-allow-ips.",
    ),
    Limit(
        ("--forwarded-allow-ips",),
        "forwarded_allow_ips",
        "PROXIES",
        "The proxies to believe, with commas between them: addresses, networks, unix (clients of Unix sockets), "
        "unix:PATH, or * for everybody.",
        ALL,
    ),
    Limit(
        ("--forwarded-headers",),
        "forwarded_headers",
        "NAMES",
        "The headers that the proxies set or remove, with commas between them: x-forwarded-for, x-forwarded-proto, "
        "x-forwarded-host, x-forwarded-port, x-forwarded-prefix; forwarded.",
    ),
)

#: Attributes of `ManagedServer`; a server is one only if any of these is set.
MANAGED = (
    Limit(
        ("--max-age",),
        "max_age",
        "SECONDS",
        "End instances after this long even if they are busy, or none.",
        ALL,
    ),
    Limit(
        ("--max-instances-per-client",),
        "max_instances_per_key",
        "NUMBER",
        "Maximum number of instances at a time of one client host or IPv6 /64 network, or none. Further requests are "
        "answered 429, further datagrams are dropped, further streams are closed.",
        ALL,
    ),
    Limit(
        ("--max-messages-per-second",),
        "max_messages_per_second",
        "NUMBER",
        "Maximum number of requests, WebSockets, datagrams or streams a second from one client host, on "
        "average, or none.",
        ALL,
    ),
    Limit(
        ("--message-burst",),
        "message_burst",
        "NUMBER",
        "How many of these may come at once after a silence; none for as many as in one second.",
        ALL,
    ),
    Limit(
        ("--max-limit-keys",),
        "max_limit_keys",
        "NUMBER",
        "How many clients without instances to remember.",
        ALL,
    ),
)

#: The options by their heading in the help.
SECTIONS: dict[str, tuple[Limit | Switch, ...]] = {
    "Limits": COMMON,
    "Limits for each client": MANAGED,
    "Proxies": PROXIES,
    "HTTP": HTTP,
    "WebSockets": WEBSOCKETS,
    "UDP": DATAGRAMS,
    "Streams": STREAMS,
}
SETTINGS: tuple[Limit | Switch, ...] = (*COMMON, *MANAGED, *PROXIES, *HTTP, *WEBSOCKETS, *DATAGRAMS, *STREAMS)


def key_of(setting: Limit | Switch) -> str:
    """Return the name of an option's value in `Options.limits`."""
    return setting.attribute if isinstance(setting, Limit) else setting.key or setting.attribute


def server_class(kind: str, managed: bool = False) -> Any:
    """Return the server class for listeners of this kind, with or without the limits of `ManagedServer`.

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
    """Return the text for a value of the attribute."""
    bound = setting.bound or _bound(setting)
    return str(value) if bound is None else bound.written(value)


def parse(setting: Limit, text: str) -> Any:
    """Return the value of the attribute for this text.

    Raises:
        ValueError: the attribute does not accept it.
    """
    bound = setting.bound or _bound(setting)
    # No server that has the attribute can be made, so the value is not used.
    return text if bound is None else bound.parse(text)


def _bound(setting: Limit) -> Bound | None:
    """Return what the servers accept; None if the libraries of all of them are missing."""
    for kind in setting.kinds:
        with contextlib.suppress(CommandError):
            for cls in (ManagedServer if setting in MANAGED else server_class(kind)).__mro__:
                found = vars(cls).get(setting.attribute)
                if isinstance(found, Setting):
                    assert isinstance(found.check, Bound)
                    return found.check
    return None


def default(setting: Limit | Switch) -> dict[str, Any]:
    """Return click's arguments for the servers' default."""
    defaults: dict[str, str | bool] = {}
    for kind in setting.kinds:
        # The help works without the libraries of a server. A `WebSocketServer` has the defaults of an `HTTPServer`,
        # which does not need `websockets`: a library that takes long to import.
        with contextlib.suppress(CommandError):
            alike = "http" if kind == "websocket" else kind
            value = getattr(ManagedServer if setting in MANAGED else server_class(alike), setting.attribute)
            if isinstance(setting, Switch):
                defaults[kind] = value != setting.values[1]
            else:
                defaults[kind] = written(setting, value)
    if len(set(defaults.values())) == 1:
        return {"default": next(iter(defaults.values())), "show_default": True}
    return {"show_default": ", ".join(f"{kind} {text}" for kind, text in defaults.items())}

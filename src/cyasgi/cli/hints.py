"""Hints for options that belong to another server, are mistyped, or have no effect."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Set as AbstractSet
from typing import Any

from .kinds import CONNECTIONS, UDP, WEB
from .limits import MANAGED, SETTINGS
from .other_servers import CALLED, MISSING

#: What the kinds of servers serve.
SERVED = {"http": "HTTP", "websocket": "WebSockets", "udp": "datagrams", "tcp": "streams"}

#: What the application's lifespan is not asked for alone.
ALONE = {"udp": "UDP", "tcp": "streams"}

#: Values of --http in uvicorn and granian, where it chooses a parser or a version.
_PARSERS = {"auto", "h11", "httptools", "1", "2"}


def about_address(text: str) -> str | None:
    """Return a hint if this value of --http is meant for another server, else None."""
    if text not in _PARSERS:
        return None
    return f"{text!r} is not an address: here --http is the address to listen on, as in --http 127.0.0.1:8000"


def about_option(name: str, known: Iterable[str]) -> str:
    """Say that there is no such option, and what to use instead if that is known.

    Args:
        name: the option as it was given, with its dashes.
        known: the names of all options, with their dashes.
    """
    return f"no such option: {name}{instead(name) or similar(name, known)}"


def instead(name: str) -> str:
    """Return what to use instead of another server's option, as the end of a message; empty for other names."""
    if name in CALLED:
        return f"; here that is {CALLED[name]}"
    return f"; {MISSING[name]}" if name in MISSING else ""


def similar(name: str, known: Iterable[str]) -> str:
    """Return a question that names what may have been meant, as the end of a message; empty if nothing is similar."""
    names = list(known)
    # Swapped letters are the most common mistake, which difflib does not rate higher than others.
    found = [one for one in names if sorted(one) == sorted(name)] or difflib.get_close_matches(name, names, 1, 0.75)
    return f"; did you mean {found[0]}?" if found else ""


def ineffective(given: AbstractSet[str], listeners: dict[str, list[Any]], values: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for each option that was given and has no effect, with the reason.

    Args:
        given: the options that were given, by the names of their values.
        listeners: the addresses of each kind of listener, as in `Options`.
        values: the values of the other options.
    """
    kinds = {kind for kind, addresses in listeners.items() if addresses}
    streams = [address for kind in kinds - {"udp"} for address in listeners[kind]]

    def options(names: Iterable[str]) -> str:
        return ", ".join(f"--{name.replace('_', '-')}" for name in sorted(names))

    if tls := {name for name in given if name.startswith("ssl_")}:
        if not any(not isinstance(address, str) and address[1] is not False for address in streams):
            yield f"{options(tls)}: no effect, since no listener has TLS"
        elif (clients := tls & {"ssl_cert_reqs", "ssl_crl"}) and not values.get("ssl_ca_certs"):
            yield f"{options(clients)}: no effect without --ssl-ca-certs"
    watched = {name for name in given if name.startswith("reload_")}
    if watched and not values.get("reload"):
        yield f"{options(watched)}: no effect without --reload"
    yield from _without_limits(given, values)
    for setting in SETTINGS:
        name = setting.names[0].removeprefix("--").replace("-", "_")
        if name in given and kinds.isdisjoint(setting.kinds) and name != "startup_timeout":
            yield f"{options([name])}: no effect, since {_lacking(setting.kinds)}"
    if "unix_permissions" in given and streams and not any(isinstance(address, str) for address in streams):
        yield "--unix-permissions: no effect without --unix, or --tcp unix:PATH"
    if (named := given & {"header", "root_path"}) and kinds.isdisjoint(WEB):
        yield f"{options(named)}: no effect, since {_lacking(WEB)}"
    yield from _about_logs(given, values)
    # Applications have one lifespan, whichever servers there are; "auto" leaves it out if none is for HTTP.
    lifespan = values.get("lifespan")
    if "startup_timeout" in given and (lifespan == "off" or (lifespan == "auto" and kinds.isdisjoint(WEB))):
        alone = " and ".join(ALONE[kind] for kind in sorted(kinds & ALONE.keys(), reverse=True))
        yield "--startup-timeout: no effect " + (
            "with --lifespan off" if lifespan == "off" else f"on {alone} alone without --lifespan on"
        )
    if not kinds.isdisjoint(WEB) and not values.get("proxy_headers") and "forwarded_headers" in given:
        yield "--forwarded-headers: no effect without --proxy-headers"
    headers = values.get("proxy_headers") and not kinds.isdisjoint(WEB)
    proxied = streams and (headers or values.get("proxy_protocol"))
    if "forwarded_allow_ips" in given and not proxied and not ("udp" in kinds and values.get("udp_proxy_protocol")):
        yield f"--forwarded-allow-ips: no effect without {' or '.join(_asking_for_proxies(kinds))}"
    if "message_burst" in given and "max_messages_per_second" not in given:
        yield "--message-burst: no effect without --max-messages-per-second"
    per_client = given & {setting.names[0].removeprefix("--").replace("-", "_") for setting in MANAGED} - {"max_age"}
    if per_client and not proxied and any(isinstance(address, str) for address in streams):
        yield f"{options(per_client)}: no effect on --unix without --proxy-headers or --proxy-protocol"


def _asking_for_proxies(kinds: AbstractSet[str]) -> Iterator[str]:
    """Yield the options that have servers of these kinds listen to proxies."""
    if not kinds.isdisjoint(WEB):
        yield "--proxy-headers"
    if not kinds.isdisjoint(CONNECTIONS):
        yield "--proxy-protocol"
    if not kinds.isdisjoint(UDP):
        yield "--udp-proxy-protocol"


def _without_limits(given: AbstractSet[str], values: dict[str, Any]) -> Iterator[str]:
    for limit in ("limit_max_requests", "worker_lifetime"):
        jitter = f"{limit}_jitter"
        if jitter in given and values.get(limit) is None:
            name = limit.replace("_", "-")
            yield f"--{name}-jitter: no effect without --{name}"


def _about_logs(given: AbstractSet[str], values: dict[str, Any]) -> Iterator[str]:
    if "access_log_format" in given and not (values.get("access_log") or values.get("access_log_file")):
        yield "--access-log-format: no effect without --access-log or --access-log-file"
    if values.get("log_config"):
        for name in sorted(given & {"log_format", "use_colors"}):
            yield f"--{name.replace('_', '-')}: no effect on the log, which --log-config configures"


def _lacking(kinds: tuple[str, ...]) -> str:
    names = [what for kind, what in SERVED.items() if kind in kinds]
    return f"nothing serves {' or '.join(names)}"

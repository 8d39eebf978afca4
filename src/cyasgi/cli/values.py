"""Values of options, from the text that was given."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Sequence

from .._settings import check_eviction_policy, check_undelivered_to
from ..wire.address import parse_address

#: For each scheme that may stand before an address whether it means TLS.
SCHEMES = {"http": False, "https": True, "ws": False, "wss": True}


def parse_stream_address(text: str, schemes: Sequence[str]) -> tuple[tuple[str, int], bool | None]:
    """The (host, port) that the text names, and whether a scheme before it says TLS; None if there is no scheme."""
    scheme, separator, address = text.partition("://")
    if not separator:
        return parse_address(text), None
    if scheme not in schemes:
        raise ValueError(f"{text!r}: accepted before :// are {' and '.join(schemes)}")
    return parse_address(address), SCHEMES[scheme]


def parse_host(text: str) -> str:
    """A host without a port; empty for every interface. An IPv6 address may stand in brackets."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        if ":" in host:
            return str(ipaddress.IPv6Address(host))
        return parse_address(f"{host}:0")[0]
    except ValueError:
        raise ValueError(f"{text!r} is not a host: accepted are a name and an IPv4 or IPv6 address") from None


def parse_port(text: str) -> int:
    """A port from 0 to 65535."""
    if text.isascii() and text.isdigit() and int(text) <= 65535:
        return int(text)
    raise ValueError(f"{text!r}: accepted is a port from 0 to 65535")


def parse_path(text: str) -> str:
    """The path of a Unix socket."""
    if not text or "\0" in text:
        raise ValueError(f"{text!r}: accepted is the path of a socket")
    return text


def parse_root_path(text: str) -> str:
    """A path that an application is mounted at: empty, or with a slash in front and none behind."""
    if text and (not text.startswith("/") or text.endswith("/")):
        raise ValueError(f"{text!r}: accepted is a path as in /api, that begins with a slash and does not end with one")
    return text


def parse_policy(text: str) -> str:
    """The name of an eviction policy."""
    check_eviction_policy("eviction_policy", text)
    return text


def parse_undelivered_to(text: str) -> str:
    """Where messages go that an instance leaves behind."""
    check_undelivered_to("undelivered_to", text)
    return text


def parse_limit(text: str) -> int | None:
    """A number of at least 1, or None for "none"."""
    if text == "none":
        return None
    if text.isascii() and text.isdigit() and int(text) >= 1:
        return int(text)
    raise ValueError(f"{text!r}: accepted are a whole number of at least 1, and none for no limit")


def parse_number(text: str) -> int:
    """A number of at least 1."""
    if text.isascii() and text.isdigit() and int(text) >= 1:
        return int(text)
    raise ValueError(f"{text!r}: accepted is a whole number of at least 1")


def parse_count(text: str) -> int:
    """A number of at least 0, which stands for no limit."""
    if text.isascii() and text.isdigit():
        return int(text)
    raise ValueError(f"{text!r}: accepted is a whole number of at least 0, where 0 stands for no limit")


def parse_seconds(text: str, *, zero: bool = True) -> float:
    """Seconds, 0 or more; more than 0 unless `zero`."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0 or not (seconds or zero):
        raise ValueError(f"{text!r}: accepted is a number of seconds, {'0 or more' if zero else 'more than 0'}")
    return seconds


def parse_interval(text: str) -> float:
    """Seconds, more than 0."""
    return parse_seconds(text, zero=False)


def parse_timeout(text: str) -> float | None:
    """Seconds, more than 0, or None for "none"."""
    try:
        return None if text == "none" else parse_seconds(text, zero=False)
    except ValueError as error:
        raise ValueError(f"{error}, and none for no timeout") from None


def parse_rate(text: str) -> float | None:
    """A finite number, more than 0, or None for "none"."""
    try:
        return None if text == "none" else parse_weight(text)
    except ValueError as error:
        raise ValueError(f"{error}, and none for no limit") from None


def parse_weight(text: str) -> float:
    """A finite number, more than 0."""
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise ValueError(f"{text!r}: accepted is a number, more than 0")
    return weight

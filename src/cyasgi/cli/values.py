"""Parsing of the values of options."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from .._settings import Integer
from ..gateways.net.datagram_sockets import parse_datagram_address as parse_datagram_bind
from ..wire.address import format_address, parse_address
from ..wire.headers import OWN_NAMES, encode_lines
from ..workers.settings import MOST_WORKERS

#: Schemes of addresses, and whether they stand for TLS.
SCHEMES = {"http": False, "https": True, "ws": False, "wss": True, "tcp": False, "tls": True}


#: As many workers as there are cores.
AUTO = "auto"


def parse_workers(text: str) -> int | str:
    """Parse a number of workers, or ``auto``."""
    try:
        return text if text == AUTO else Integer(1, MOST_WORKERS).parse(text)
    except ValueError:
        raise ValueError(f"{text!r}: accepted are a whole number from 1 to {MOST_WORKERS}, and auto") from None


def parse_stream_address(text: str, schemes: Sequence[str]) -> tuple[Any, bool | None]:
    """Return (host, port), and whether the scheme of the address stands for TLS; None if it has no scheme.

    ``fd://NUMBER`` and ``fd://NAME`` stay as they are.
    """
    scheme, separator, address = text.partition("://")
    if scheme == "fd" and address:
        return text, None
    if not separator:
        return parse_address(text), None
    if scheme not in schemes:
        raise ValueError(f"{text!r}: accepted before :// are {' and '.join(schemes)}")
    return parse_address(address), SCHEMES[scheme]


def parse_metrics_address(text: str) -> str:
    """Return an address for metrics as a `Listener` takes it: HOST:PORT, or ``unix:PATH``."""
    kind, _, path = text.partition(":")
    try:
        return f"unix:{parse_path(path)}" if kind == "unix" else format_address(parse_address(text))
    except ValueError:
        raise ValueError(f"{text!r}: accepted are HOST:PORT, [IPV6]:PORT, :PORT and unix:PATH") from None


def parse_datagram_address(text: str) -> Any:
    """Return (host, port), or the text itself if it is ``fd://NUMBER`` or ``fd://NAME``."""
    name = text.removeprefix("fd://")
    return text if name and name != text and not name.isdigit() else parse_datagram_bind(text)


def parse_descriptor(text: str) -> Any:
    """Parse a number of a descriptor, as the address of a listener."""
    try:
        return f"fd://{Integer(0, 999_999_999).parse(text)}", None
    except ValueError:
        raise ValueError(f"{text!r}: accepted is the number of a descriptor, as in 3") from None


def parse_host(text: str) -> str:
    """Parse a host without a port; empty for every interface. An IPv6 address may be in brackets."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        if ":" in host:
            return str(ipaddress.IPv6Address(host))
        return parse_address(f"{host}:0")[0]
    except ValueError:
        raise ValueError(f"{text!r} is not a host: accepted are a name and an IPv4 or IPv6 address") from None


def parse_port(text: str) -> int:
    """Parse a port from 0 to 65535."""
    try:
        return parse_address(f":{text}")[1]
    except ValueError:
        raise ValueError(f"{text!r}: accepted is a port from 0 to 65535") from None


def parse_header(text: str) -> tuple[bytes, bytes]:
    """Parse a header of every response, as in "x-frame-options: DENY"."""
    name, colon, value = text.partition(":")
    try:
        header = name.strip().lower().encode("ascii"), value.strip().encode("latin-1")
        encode_lines([header])
    except ValueError:
        colon = ""
    if not colon or header[0] in OWN_NAMES:
        raise ValueError(
            f"{text!r}: accepted is NAME:VALUE, as in x-frame-options:DENY, but for Connection, Content-Length and "
            "Transfer-Encoding"
        )
    return header


def parse_path(text: str) -> str:
    """Parse the path of a Unix socket."""
    if not text or "\0" in text:
        raise ValueError(f"{text!r}: accepted is the path of a socket")
    return text

"""Addresses as people write them and as ASGI scopes carry them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

ACCEPTED = "accepted are HOST:PORT, [IPV6]:PORT and :PORT, with a port from 0 to 65535"


def parse_address(text: str) -> tuple[str, int]:
    """Return the (host, port) that `text` names. The host is empty for ``:9999``: every interface.

    Raises:
        TypeError: `text` is not a str.
        ValueError: it is not an address; the message says what is accepted.
    """
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is not an address: {ACCEPTED}")
    host, colon, port = text.rpartition(":")
    # int() alone would take "+1", "1_0" and digits of every script.
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ValueError(f"{text!r} is not an address: {ACCEPTED}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise ValueError(f"{text!r} is not an address: only an IPv6 address stands in brackets; {ACCEPTED}")
    elif ":" in host:
        raise ValueError(f"{text!r} is not an address: an IPv6 address stands in brackets; {ACCEPTED}")
    if any(char.isspace() or char in "[]/@\0" for char in host):
        raise ValueError(f"{text!r} is not an address: {ACCEPTED}")
    return host, int(port)


def format_address(address: Sequence[Any]) -> str:
    """Return the address as `parse_address` reads it."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def client_text(address: Sequence[Any] | None) -> str:
    """Return the address of a scope's client for a log; "-" for none, and for that of a Unix socket."""
    return "-" if address is None or address[1] is None else format_address(address)


def check_address(address: Any, what: str = "an address") -> tuple[str, int]:
    """Return `address` as a (host, port) tuple, if it is a sequence of a string and a port number.

    Raises:
        TypeError: it is neither a tuple nor a list, or its items are of other types.
        ValueError: it does not have two items, or the port is out of range.
    """
    if not isinstance(address, (tuple, list)):
        raise TypeError(f"{what} must be (host, port), got {address!r}")
    if len(address) != 2:
        raise ValueError(f"{what} must be (host, port), got {address!r}")
    host, port = address
    if not isinstance(host, str) or not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"{what} must be (host, port), a string and a number, got {address!r}")
    if not 0 <= port <= 65535:
        raise ValueError(f"{what} must have a port from 0 to 65535, got {address!r}")
    return host, port


def from_socket_address(address: Sequence[Any]) -> tuple[str, int]:
    """Return the (host, port) of a socket address; the scope id of an IPv6 one, if any, follows a percent sign."""
    host: str = address[0]
    if len(address) > 3 and address[3] and "%" not in host:
        host = f"{host}%{address[3]}"
    return host, address[1]


def to_socket_address(address: tuple[str, int], family: int) -> tuple[Any, ...]:
    """Return what ``sendto`` takes for a numeric (host, port): never a name, which it would look up, blocking the loop.

    Raises:
        ValueError: the host is not a numeric address of that family.
    """
    host, port = address
    plain, percent, zone = host.partition("%")
    try:
        socket.inet_pton(family, plain)
        if not percent:
            return address
        if family != socket.AF_INET6:
            raise ValueError
        index = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
        if index >= 1 << 32:  # beyond that sendto raises what ends an asyncio transport
            raise ValueError
        return plain, port, 0, index
    except (OSError, ValueError):
        kind = "IPv6" if family == socket.AF_INET6 else "IPv4"
        raise ValueError(f"{host!r} is not a numeric {kind} address") from None

"""Sockets to listen on, opened before any event loop runs: errors come early, and one at a time."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping
from typing import Any

from ..wire.address import check_address, format_address, parse_address

#: Of the addresses that one name stands for, those that this machine does not have are passed over.
NOT_HERE = {errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL}


class ListenError(OSError):
    """An address cannot be listened on: taken, not permitted, not of this machine, unknown."""


def check_binds(binds: Any) -> list[tuple[str, int]]:
    """The addresses that a server's `binds` names, one of them or an iterable of several.

    Raises:
        TypeError, ValueError: they are none; the message says what was given and what is accepted.
    """
    if isinstance(binds, str) or (isinstance(binds, tuple) and len(binds) == 2 and isinstance(binds[1], int)):
        binds = [binds]
    if isinstance(binds, (bytes, Mapping)) or not isinstance(binds, Iterable):
        raise TypeError(f"binds must be addresses, each (host, port) or 'host:port', got {binds!r}")
    checked = [parse_address(one) if isinstance(one, str) else check_address(one, "each of binds") for one in binds]
    if not checked:
        raise ValueError("binds must name at least one address, got none")
    return checked


def open_datagram_sockets(host: str, port: int) -> list[socket.socket]:
    """A bound UDP socket for each address that the host has, for every interface if it is empty.

    Raises:
        ListenError: the host has no address, or one of them cannot be bound.
    """
    where = f"udp {format_address((host, port))}"
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"cannot listen on {where}: {getattr(error, 'strerror', None) or error}") from error
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            if family == socket.AF_INET6:
                # Each family has its own socket: no client appears as ::ffff:192.0.2.1.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
        except OSError as error:
            if sock is not None:
                sock.close()
            problem = problem or error
            if error.errno in NOT_HERE:
                continue
            break
        sockets.append(sock)
    else:
        if sockets:
            return sockets
    for sock in sockets:
        sock.close()
    assert problem is not None
    raise ListenError(problem.errno, f"cannot listen on {where}: {problem.strerror}") from problem

"""The addresses that this process has UDP sockets on: answers to them would go in circles."""

from __future__ import annotations

import errno
import socket
import time
from typing import Any

from ...wire.address import from_socket_address

#: For each port, the families and addresses of sockets. A list, as two sockets may share an address (SO_REUSEPORT).
OWN_PORTS: dict[int, list[tuple[int, tuple[str, int]]]] = {}

#: Seconds for which it is cached whether an address is one of this machine, and how many addresses are cached.
CACHE_SECONDS = 10.0
CACHE_SIZE = 1024

ANY = ("0.0.0.0", "::")

_local: dict[tuple[int, Any], tuple[bool, float]] = {}


def add_own(sock: socket.socket) -> tuple[int, tuple[str, int]]:
    """Remember the address of a socket until `remove_own` is called with what this returns."""
    own = int(sock.family), from_socket_address(sock.getsockname())
    OWN_PORTS.setdefault(own[1][1], []).append(own)
    return own


def remove_own(own: tuple[int, tuple[str, int]]) -> None:
    """Forget one socket of this address."""
    port = own[1][1]
    OWN_PORTS[port].remove(own)
    if not OWN_PORTS[port]:
        del OWN_PORTS[port]


def is_own(family: int, address: Any) -> bool:
    """Return whether this socket address, as ``recvfrom`` gives it, is that of one of this process's sockets."""
    host, port = from_socket_address(address)
    for own_family, (own_host, _) in OWN_PORTS.get(port, ()):
        if own_family == family and (own_host == host or (own_host in ANY and is_local(family, address))):
            return True
    return False


def is_local(family: int, address: Any) -> bool:
    """Return whether an address is one of this machine's, as the system has it: only those can be bound."""
    where = address[0], 0, *address[2:]
    now = time.monotonic()
    known = _local.get((family, where))
    if known is not None and known[1] > now:
        return known[0]
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(where)
        local = True
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            # For example, no descriptor is left: dropping a datagram is better than one that goes in circles.
            return True
        local = False
    if len(_local) >= CACHE_SIZE:
        _local.clear()
    _local[family, where] = local, now + CACHE_SECONDS
    return local

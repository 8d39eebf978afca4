"""UDP sockets: opened, or handed in by whoever has opened them; their options and multicast groups."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..._settings import Bound
from ...wire.address import format_address, from_socket_address, parse_address
from .own_addresses import ANY
from .sockets import ListenError, allow_reuse_port, check_bind, duplicate, each_bind, open_sockets, parse_descriptor

logger = logging.getLogger("cyasgi.gateways.datagram")

#: Of Linux; the module `socket` has not all of them in every version.
IP_PKTINFO, IPV6_RECVPKTINFO = 8, 49
IP_RECVERR, IPV6_RECVERR = 11, 25
IP_MULTICAST_ALL, IPV6_MULTICAST_ALL = 49, 29

#: What Linux accepts as the size of a buffer, at most.
LARGEST_BUFFER = (1 << 30) - 1


class Groups(Bound):
    """Multicast groups; as text with commas between them, or none."""

    def __init__(self) -> None:
        super().__init__(
            "a tuple or list of multicast addresses, as in ('239.1.2.3', 'ff02::fb')",
            "a list of multicast addresses with commas between them, as in 239.1.2.3,ff02::fb, or none",
        )

    def wrong(self, value: Any) -> type[Exception] | None:
        if not isinstance(value, (tuple, list)) or not all(isinstance(group, str) for group in value):
            return TypeError
        return None if all(map(_is_group, value)) else ValueError

    def read(self, text: str) -> tuple[str, ...]:
        return () if text == "none" else tuple(text.split(","))

    def written(self, value: Any) -> str:
        return ",".join(value) or "none"


def _is_group(text: str) -> bool:
    try:
        # A zone is what `multicast_interface` is for.
        return ipaddress.ip_address(text).is_multicast and "%" not in text
    except ValueError:
        return False


class Interface(Bound):
    """The name of a network interface."""

    def __init__(self) -> None:
        super().__init__(
            "the name of a network interface, as in 'eth0'",
            "the name of a network interface, as in eth0",
            none="the system's choice",
        )

    def wrong(self, value: Any) -> type[Exception] | None:
        if not isinstance(value, str):
            return TypeError
        return None if value and value.isprintable() and " " not in value else ValueError

    def read(self, text: str) -> str:
        return text


@dataclass(frozen=True)
class SocketOptions:
    """The options of the sockets of one server; see the attributes of `DatagramServer`."""

    receive_buffer: int | None = None
    reuse_port: bool = False
    broadcast: bool = False
    multicast_groups: Iterable[str] = ()
    multicast_interface: str | None = None


def check_datagram_binds(binds: Any) -> list[Any]:
    """Return what a datagram server's `binds` names: (host, port), sockets, and descriptors as ``"fd://3"``.

    Raises:
        TypeError, ValueError: they are malformed; the message says what was given and what is accepted.
    """
    if isinstance(binds, socket.socket):
        binds = [binds]
    accepted = "(host, port), 'host:port', a socket or 'fd://NUMBER'"
    return [_check_bind(one) for one in each_bind(binds, accepted)]


def _check_bind(bind: Any) -> Any:
    if isinstance(bind, socket.socket):
        return bind
    return parse_datagram_address(bind) if isinstance(bind, str) else check_bind(bind)


def parse_datagram_address(text: Any) -> Any:
    """Return the (host, port) that `text` names, or `text` itself if it is ``fd://NUMBER``.

    Raises:
        TypeError, ValueError: it is neither.
    """
    return (parse_descriptor(text) if isinstance(text, str) else None) or parse_address(text)


def open_datagram_sockets(bind: Any, options: SocketOptions) -> list[socket.socket]:
    """Return a bound UDP socket for each address of a host, where an empty one means every interface; or a duplicate of
    a socket, which stays its owner's.

    Raises:
        ListenError: the host has no address, one of its addresses cannot be bound, what was handed in is no such
            socket, or an option cannot be set.
    """
    if isinstance(bind, tuple):

        def prepare(sock: socket.socket) -> None:
            if options.reuse_port:
                allow_reuse_port(sock)

        if options.reuse_port and not hasattr(socket, "SO_REUSEPORT"):
            raise ListenError(f"cannot listen on udp {format_address(bind)}: this system has no SO_REUSEPORT")
        opened = open_sockets(bind[0], bind[1], socket.SOCK_DGRAM, prepare)
    else:
        opened = [_adopted(bind)]
    try:
        for sock in opened:
            set_options(sock, options)
    except BaseException:
        for sock in opened:
            sock.close()
        raise
    return opened


def _adopted(given: Any) -> socket.socket:
    """Return a duplicate of a socket that somebody else has bound."""
    sock, what = duplicate(given)
    try:
        if sock.type != socket.SOCK_DGRAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
            raise ListenError(f"cannot listen on {what}: it is not a UDP socket")
        if not sock.getsockname()[1]:
            raise ListenError(f"cannot listen on {what}: it is not bound to an address")
        # It is the same socket, for its owner too.
        sock.setblocking(False)
        if sys.platform == "linux":
            # A queue of errors that nobody reads would keep the loop awake.
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 0)
            else:
                sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 0)
    except BaseException:
        sock.close()
        raise
    return sock


def set_options(sock: socket.socket, options: SocketOptions) -> None:
    """Set what the options say on a bound socket.

    Raises:
        ListenError: the system refuses one of them.
    """
    where = f"udp {format_address(from_socket_address(sock.getsockname()))}"
    try:
        if options.broadcast and sock.family == socket.AF_INET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if options.receive_buffer is not None:
            _set_receive_buffer(sock, options.receive_buffer, where)
        interface = 0
        if options.multicast_interface is not None:
            interface = socket.if_nametoindex(options.multicast_interface)
            _send_multicast_by(sock, interface)
        for group in dict.fromkeys(options.multicast_groups):
            if (":" in group) == (sock.family == socket.AF_INET6):
                _join(sock, group, interface)
    except OSError as error:
        raise ListenError(error.errno, f"cannot listen on {where}: {_told(error, options)}") from error


def _told(error: OSError, options: SocketOptions) -> str:
    if options.multicast_interface is not None and error.errno in (None, errno.ENODEV):
        return f"there is no network interface {options.multicast_interface!r}"
    return error.strerror or str(error)


def _set_receive_buffer(sock: socket.socket, wanted: int, where: str) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, min(wanted, LARGEST_BUFFER))
    given = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    if sys.platform == "linux":
        # It doubles what it is asked for, to make room for its own bookkeeping, and says so.
        given //= 2
    if given < wanted:
        limit = "; its limit is net.core.rmem_max" if sys.platform == "linux" else ""
        logger.warning("receive_buffer of %d bytes: the system gave %s only %d%s", wanted, where, given, limit)
    else:
        logger.info("%s has a receive buffer of %d bytes", where, given)


def _send_multicast_by(sock: socket.socket, interface: int) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface)
    elif sys.platform == "win32":
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("!I", interface))
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), interface))


def _join(sock: socket.socket, group: str, interface: int) -> None:
    """Have the socket receive what is sent to the group, unless it is bound to an address that this never has."""
    host = sock.getsockname()[0]
    address = socket.inet_pton(sock.family, group)
    if host not in ANY and socket.inet_pton(sock.family, host.partition("%")[0]) != address:
        return
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, struct.pack("=16sI", address, interface))
        elif sys.platform == "win32":
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, address + struct.pack("!I", interface))
        else:
            joined = struct.pack("=4s4si", address, bytes(4), interface)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
    except OSError as error:
        # A socket that was handed in, and has joined the group before.
        if error.errno != errno.EADDRINUSE:
            raise
    if sys.platform == "linux":
        # Otherwise it gets what is sent to any group that any process of this machine has joined.
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)


def lost_groups(sockets: list[socket.socket], groups: Iterable[str]) -> list[str]:
    """Return the groups that none of the sockets can receive from."""
    bound = [(sock.family, sock.getsockname()[0]) for sock in sockets]

    def receives(group: str) -> bool:
        family = socket.AF_INET6 if ":" in group else socket.AF_INET
        address = socket.inet_pton(family, group)
        return any(
            own == family and (host in ANY or socket.inet_pton(family, host.partition("%")[0]) == address)
            for own, host in bound
        )

    return [group for group in groups if not receives(group)]


def ask_for_destinations(sock: socket.socket) -> bool:
    """Have a socket that is bound to every interface tell, on Linux, which address each datagram was sent to; return
    whether it does."""
    if sys.platform != "linux" or sock.getsockname()[0] not in ANY:
        return False
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    return True

"""The sockets that workers serve: bound by the supervisor, which keeps them open, and inherited by worker after worker.

On Linux the system spreads the clients of an address over all sockets that are bound to it with SO_REUSEPORT, by a hash
of the client's address. So there is a socket for each worker, and a client stays with it for as long as no socket is
added. Where the system does not do that, and for Unix sockets, the workers share one.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..gateways.net.datagram_sockets import lost_groups, open_datagram_sockets, set_options
from ..gateways.net.sockets import ListenError, Listening, open_listener, share_port
from ..wire.address import format_address, from_socket_address

#: Whether the system spreads clients over the sockets of one address.
SPREADS = sys.platform == "linux"


class SocketSet:
    """The sockets that belong to one worker, or to several together where they are shared.

    By kind of server, for each of its addresses.
    """

    def __init__(self, sockets: dict[str, list[list[socket.socket]]]) -> None:
        self.sockets = sockets


class SharedSockets:
    """The sockets of all workers.

    Args:
        servers: the servers of a worker by kind, which are not run here, but say what to bind, and how. That of kind
            `udp` is a `DatagramServer`, all others are `HTTPServer` objects.
        count: for how many workers.

    Raises:
        ListenError: an address cannot be listened on, or not by several processes.
    """

    def __init__(self, servers: Mapping[str, Any], count: int = 1) -> None:
        self._servers = dict(servers)
        self.sets: list[SocketSet] = []
        #: What is bound for all workers: Unix sockets, whose paths are removed with them.
        self._listening: list[Listening] = []
        self._opened: list[socket.socket] = []
        try:
            self.sets.append(SocketSet({kind: self._first(kind) for kind in self._servers}))
            for _ in range(count - 1):
                self.add()
        except BaseException:
            self.close()
            raise

    def _first(self, kind: str) -> list[list[socket.socket]]:
        server = self._servers[kind]
        opened: list[list[socket.socket]] = []
        for bind in server.binds:
            if kind == "udp":
                alone = _is_for_one(server, bind)
                options = server.socket_options
                if not alone and not options.reuse_port:
                    # Without SO_REUSEPORT: an address where another server of this user listens is taken.
                    if bind[1]:
                        for sock in open_datagram_sockets(bind, replace(options, multicast_groups=())):
                            sock.close()
                    options = replace(options, reuse_port=True)
                found = open_datagram_sockets(bind, options)
            else:
                listening = open_listener(bind, server.unix_permissions, reuse_port=SPREADS, schemes=server.schemes)
                self._listening += listening
                found = [one.sock for one in listening]
            self._opened += found
            opened.append(found)
        if kind == "udp":
            every = [sock for found in opened for sock in found]
            if lost := lost_groups(every, server.multicast_groups):
                raise ListenError(
                    f"no socket can receive from the multicast group {lost[0]}: it takes one that is bound to every "
                    "interface, or to the group"
                )
        return opened

    def add(self) -> SocketSet:
        """Bind the sockets of one more worker, to the same addresses.

        Raises:
            ListenError: the system refuses that.
        """
        mark = len(self._opened)
        try:
            made = SocketSet({kind: self._another(kind) for kind in self._servers})
        except BaseException:
            for sock in self._opened[mark:]:
                sock.close()
            del self._opened[mark:]
            raise
        self.sets.append(made)
        return made

    def _another(self, kind: str) -> list[list[socket.socket]]:
        server = self._servers[kind]
        another: list[list[socket.socket]] = []
        for bind, first in zip(server.binds, self.sets[0].sockets[kind], strict=True):
            if kind == "udp" and _is_for_one(server, bind):
                another.append([])
            elif kind != "udp" and (not SPREADS or bind.is_unix or bind.is_handed_in):
                another.append(first)
            else:
                another.append([self._bound_again(kind, sock) for sock in first])
        return another

    def _bound_again(self, kind: str, sock: socket.socket) -> socket.socket:
        other = share_port(sock)
        self._opened.append(other)
        if kind == "udp":
            set_options(other, self._servers[kind].socket_options)
        return other

    def descriptors(self, sets: Iterable[SocketSet]) -> dict[str, list[list[int]]]:
        """Return the descriptors for a worker that has these sets: by kind, for each address."""
        sets = list(sets)
        return {
            kind: [
                list(dict.fromkeys(sock.fileno() for one in sets for sock in one.sockets[kind][number]))
                for number in range(len(server.binds))
            ]
            for kind, server in self._servers.items()
        }

    @property
    def names(self) -> list[str]:
        """The addresses, as logs have them."""
        return [f"udp {_written(sock)}" for found in self.sets[0].sockets.get("udp", ()) for sock in found] + [
            str(one) for one in self._listening
        ]

    @property
    def paths(self) -> list[str]:
        """The paths of Unix sockets that were bound here."""
        return [one.address[0] for one in self._listening if one.listener.is_unix]

    def close(self) -> None:
        """Close all of them: what workers have inherited stays open there."""
        for one in self._listening:
            one.close()
        for sock in self._opened:
            sock.close()


def _is_for_one(server: Any, bind: Any) -> bool:
    """Return whether one worker alone is to read what comes to this address of a datagram server.

    Multicasts and broadcasts would reach each of several sockets. A socket that was handed in is one.
    """
    return not isinstance(bind, tuple) or not SPREADS or bool(server.multicast_groups) or server.allow_broadcast


def _written(sock: socket.socket) -> str:
    return format_address(from_socket_address(sock.getsockname()))

"""Sockets to listen on, opened before any event loop runs, so that errors come early and one at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl as ssl_module
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...wire.address import (
    check_address,
    format_address,
    from_socket_address,
    parse_address,
)

#: Errors of addresses that this machine does not have; of those that a name resolves to, such ones are skipped.
NOT_HERE = {errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL}


#: A descriptor that this process has inherited, such as a socket of systemd's.
DESCRIPTOR = "fd://"

#: What logs call listeners for HTTP, without TLS and with it.
HTTP_SCHEMES = ("http", "https")


class ListenError(OSError):
    """An address cannot be listened on: taken, not permitted, not of this machine, unknown."""


def check_bind(bind: Any) -> tuple[str, int]:
    """Return one of a server's `binds` that is not a string as (host, port).

    Raises:
        TypeError, ValueError: it is malformed; the message says what was given and what is accepted.
    """
    return check_address(bind, "each of binds")


def each_bind(binds: Any, accepted: str) -> list[Any]:
    """Return a list of `binds`, which is one address, one `Listener`, or an iterable of several."""
    if isinstance(binds, (str, Listener, socket.socket)) or (
        isinstance(binds, tuple) and len(binds) == 2 and isinstance(binds[1], int)
    ):
        return [binds]
    if isinstance(binds, (bytes, Mapping)) or not isinstance(binds, Iterable):
        raise TypeError(f"binds must be addresses, each {accepted}, got {binds!r}")
    each = list(binds)
    if not each:
        raise ValueError("binds must name at least one address, got none")
    return each


def open_sockets(
    host: str, port: int, kind: socket.SocketKind, prepare: Callable[[socket.socket], None] = lambda sock: None
) -> list[socket.socket]:
    """Return a bound socket for each address of the host; an empty host means every interface.

    Args:
        prepare: called with each socket before it is bound.

    Raises:
        ListenError: the host has no address, or one of its addresses cannot be bound.
    """
    where = f"{'udp' if kind == socket.SOCK_DGRAM else 'tcp'} {format_address((host, port))}"
    try:
        found = socket.getaddrinfo(host or None, port, type=kind, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"cannot listen on {where}: {getattr(error, 'strerror', None) or error}") from error
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    for family, _, protocol, _, address in dict.fromkeys(found):
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            if family == socket.AF_INET6:
                # Each family has its own socket: no client appears as ::ffff:192.0.2.1.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            prepare(sock)
            _bind(sock, address)
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


def _bind(sock: socket.socket, address: Any) -> None:
    """Bind a socket; fail also if another server is bound to the address and does not listen yet."""
    try:
        sock.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or sock.type != socket.SOCK_STREAM or os.name != "posix":
            raise
        _reuse_address(sock)
        sock.bind(address)


def _reuse_address(sock: socket.socket) -> None:
    """Let the address be bound again although connections of an earlier server are in TIME_WAIT there."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


@dataclass(frozen=True)
class Listener:
    """One address to listen on for connections, with settings of its own.

    Args:
        address: (host, port), a string as ``"127.0.0.1:8000"``, or ``"unix:/run/app.sock"``. Also a bound
            `socket.socket` for TCP or Unix, or ``"fd://3"`` for a descriptor that the process has inherited: the server
            duplicates it, and the original stays its owner's.
        ssl: its `ssl.SSLContext`; None for the server's, if there is one.
        strict: how strictly requests are checked; None for the server's setting.
        proxy_protocol: whether connections begin with a header of the PROXY protocol; None for the server's setting.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.
    """

    address: Any
    ssl: ssl_module.SSLContext | None = None
    strict: bool | None = None
    proxy_protocol: bool | None = None

    def __post_init__(self) -> None:
        address = self.address
        if isinstance(address, str) and address.startswith("unix:"):
            if len(address) == len("unix:") or "\0" in address:
                raise ValueError(f"{address!r} is not an address: accepted is unix:PATH")
        elif isinstance(address, str):
            object.__setattr__(self, "address", parse_descriptor(address) or parse_address(address))
        elif not isinstance(address, socket.socket):
            object.__setattr__(self, "address", check_bind(address))
        if self.ssl is not None and not isinstance(self.ssl, ssl_module.SSLContext):
            raise TypeError(f"ssl={self.ssl!r}: accepted is an ssl.SSLContext, or None")
        for name in ("strict", "proxy_protocol"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, bool):
                raise TypeError(f"{name}={value!r}: accepted is True, False or None")

    @property
    def is_unix(self) -> bool:
        """Whether the address is the path of a Unix socket."""
        return isinstance(self.address, str) and not self.is_handed_in

    @property
    def is_handed_in(self) -> bool:
        """Whether somebody else has bound the socket."""
        return isinstance(self.address, socket.socket) or self.address[:5] == DESCRIPTOR


#: What a server for connections may listen on.
Bind = str | tuple[str, int] | socket.socket | Listener


class Listening:
    """A socket bound to an address of a listener, open until `close`. Clients can connect after `listen`.

    Args:
        owned: whether the path of a Unix socket is removed with it.
        schemes: what logs call it without TLS, and with it.
    """

    def __init__(
        self, listener: Listener, sock: socket.socket, *, owned: bool = True, schemes: tuple[str, str] = HTTP_SCHEMES
    ) -> None:
        self.listener = listener
        self.sock = sock
        self._scheme = schemes[listener.ssl is not None]
        #: The address as ASGI has it: (host, port), or (path, None) for a Unix socket.
        self.address: tuple[str, int | None]
        self._file: tuple[int, int] | None = None
        if listener.is_unix:
            self.address = listener.address[len("unix:") :], None
            self._file = _identity(self.address[0]) if owned else None
        elif self.is_unix:
            self.address = _path(sock), None
        else:
            self.address = from_socket_address(sock.getsockname())

    @property
    def is_unix(self) -> bool:
        return self.sock.family == getattr(socket, "AF_UNIX", None)

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.address[0]}"
        return f"{self._scheme}://{format_address(self.address)}"

    def listen(self, backlog: int) -> None:
        """Let clients connect.

        Raises:
            ListenError: another socket was faster to listen on the same address.
        """
        try:
            if not self.is_unix and os.name == "posix":
                # Connections inherit it, and so do not keep the next server from binding the address.
                _reuse_address(self.sock)
            self.sock.listen(backlog)
        except OSError as error:
            raise ListenError(error.errno, f"cannot listen on {self}: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the socket. A Unix socket's path is removed, unless it is another socket's by now."""
        self.sock.close()
        if self._file is not None and self._file == _identity(self.address[0]):
            with contextlib.suppress(OSError):
                os.unlink(self.address[0])


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _path(sock: socket.socket) -> str:
    return os.fsdecode(sock.getsockname())


def check_listeners(binds: Any, ssl: Any) -> list[Listener]:
    """Return the listeners that a server's `binds` names, one or an iterable of several.

    Args:
        ssl: for listeners that have none of their own.

    Raises:
        TypeError, ValueError: they are malformed; the message says what was given and what is accepted.
    """
    each = each_bind(binds, "(host, port), 'host:port', 'unix:path', a socket or 'fd://NUMBER'")
    listeners = [one if isinstance(one, Listener) else Listener(one) for one in each]
    return [one if one.ssl is not None else replace(one, ssl=ssl) for one in listeners]


def open_listener(
    listener: Listener, permissions: int, *, reuse_port: bool = False, schemes: tuple[str, str] = HTTP_SCHEMES
) -> list[Listening]:
    """Return a bound socket for each address of the listener's host, or one on its path for ``unix:PATH``.

    Args:
        permissions: those of a Unix socket.
        reuse_port: whether `share_port` is to bind more TCP sockets to the same addresses.
        schemes: what logs call it without TLS, and with it.

    Raises:
        ListenError: the host has no address, one of its addresses cannot be bound, or what was handed in is no such
            socket.
    """
    if listener.is_handed_in:
        return [Listening(listener, _adopted(listener.address), owned=False, schemes=schemes)]
    if listener.is_unix:
        return [Listening(listener, _open_unix_socket(listener.address[len("unix:") :], permissions), schemes=schemes)]
    host, port = listener.address
    if not reuse_port:
        return [Listening(listener, sock, schemes=schemes) for sock in open_sockets(host, port, socket.SOCK_STREAM)]
    if port:
        # Without SO_REUSEPORT: an address where another server of this user listens is taken.
        for sock in open_sockets(host, port, socket.SOCK_STREAM):
            sock.close()
    return [
        Listening(listener, sock, schemes=schemes)
        for sock in open_sockets(host, port, socket.SOCK_STREAM, allow_reuse_port)
    ]


def parse_descriptor(text: str) -> str | None:
    """Return the text if it is ``fd://NUMBER``, None if it does not begin so.

    Raises:
        ValueError: it begins so, and goes on otherwise.
    """
    if not text.startswith(DESCRIPTOR):
        return None
    number = text.removeprefix(DESCRIPTOR)
    if not (number.isascii() and number.isdigit() and len(number) <= 9):
        raise ValueError(f"{text!r} is not a descriptor: accepted is fd://NUMBER, as in fd://3")
    return text


def duplicate(given: str | socket.socket) -> tuple[socket.socket, str]:
    """Return a duplicate of a socket that somebody else has bound, and what it is in words.

    Raises:
        ListenError: it is closed, or no socket.
    """
    what = given if isinstance(given, str) else f"the socket {given!r}"
    try:
        if not isinstance(given, str):
            return given.dup(), what
        own = os.dup(int(given.removeprefix(DESCRIPTOR)))
        try:
            return socket.socket(fileno=own), what
        except BaseException:
            os.close(own)
            raise
    except OSError as error:
        raise ListenError(error.errno, f"cannot listen on {what}: {error.strerror or error}") from error


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _adopted(given: str | socket.socket) -> socket.socket:
    sock, what = duplicate(given)
    try:
        families = (socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", None))
        if sock.type != socket.SOCK_STREAM or sock.family not in families:
            raise ListenError(f"cannot listen on {what}: it is not a TCP or Unix socket")
        name = sock.getsockname()
        if not (name[1] if isinstance(name, tuple) else name):
            raise ListenError(f"cannot listen on {what}: it is not bound to an address")
        if _is_connected(sock):
            raise ListenError(f"cannot listen on {what}: it is a connection")
        # It is the same socket, for its owner too.
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def allow_reuse_port(sock: socket.socket) -> None:
    """Let other sockets of this user be bound to the address that this socket is about to be bound to."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def share_port(sock: socket.socket) -> socket.socket:
    """Return another socket, bound to the same address as one that has SO_REUSEPORT.

    Raises:
        ListenError: the system refuses that.
    """
    address = sock.getsockname()
    other = socket.socket(sock.family, sock.type, sock.proto)
    try:
        other.setblocking(False)
        if sock.family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        allow_reuse_port(other)
        _bind(other, address)
    except OSError as error:
        other.close()
        where = f"{'udp' if sock.type == socket.SOCK_DGRAM else 'tcp'} {format_address(from_socket_address(address))}"
        raise ListenError(error.errno, f"cannot listen on {where} once more: {error.strerror}") from error
    return other


def _open_unix_socket(path: str, permissions: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound = False
    try:
        sock.setblocking(False)
        _remove_stale(path)
        sock.bind(path)
        bound = True
        # No client can connect before it listens.
        os.chmod(path, permissions)
    except OSError as error:
        sock.close()
        if bound:
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise ListenError(error.errno, f"cannot listen on unix:{path}: {error.strerror or error}") from error
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket of a server that has gone and left it behind; one that answers is kept."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.settimeout(1.0)
            probe.connect(path)
        except ConnectionRefusedError:
            if not _is_bound(path):
                os.unlink(path)
        except OSError:
            return


def _is_bound(path: str) -> bool:
    """Return whether a process has a socket bound to this path, also one that does not listen yet.

    Only Linux tells; elsewhere a server that does not listen yet is taken for one that has gone.
    """
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as table:
            names = {fields[7] for line in table if len(fields := line.rstrip("\n").split(maxsplit=7)) == 8}
    except OSError:
        return False
    return bool(names & {path, os.path.abspath(path)})

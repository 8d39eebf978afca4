"""The pure twin of what happens for each datagram: scopes, handing over, sending, reading and writing the socket."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

from ..._common.cells import DATAGRAMS_RECEIVED, DATAGRAMS_SENT
from ..._common.guarding import INTERRUPTS
from ...core import SENT
from ...core.full import TableFull
from ...wire.datagram import MAX_DATA, scope_fields
from ..net.own_addresses import OWN_PORTS, is_local

#: Datagrams that are read from one socket, or written to it, at a time.
BATCH = 64

#: Bytes that wait for the system to take them: beyond the one senders wait, down to the other.
HIGH_WATER, LOW_WATER = 65_536, 16_384

#: What a datagram counts beyond its payload: the headers of IPv6 and UDP.
OVERHEAD = 48

#: Errors by which the system says to try again later.
LATER = (BlockingIOError, InterruptedError)

#: Of Linux; the module `socket` has not all of them in every version.
IP_PKTINFO, IPV6_RECVPKTINFO, IPV6_PKTINFO = 8, 49, 50

#: Room for the ancillary data of a datagram.
CONTROL_SIZE = socket.CMSG_SPACE(20) if hasattr(socket, "CMSG_SPACE") else 0

#: Addresses asked that are cached for one socket.
CACHE_SIZE = 1024


class Asked:
    """An address of this machine that a datagram was sent to, on a socket that is bound to every interface."""

    __slots__ = ("server", "source")

    def __init__(self, server: tuple[str, int], source: bytes | None) -> None:
        #: As scopes and messages have it.
        self.server = server
        #: Where an answer is to leave from, as the system has it; None for wherever the system chooses.
        self.source = source


class DatagramScope(dict[str, Any]):
    """A scope that remembers its endpoint and its client's socket address, whatever the application writes into it."""

    __slots__ = ("address", "endpoint", "source")
    #: The client's address as sockets have it.
    address: tuple[Any, ...]

    def __init__(self, endpoint: EndpointBase) -> None:
        super().__init__(scope_fields(endpoint.server_address, None))
        self.endpoint = endpoint
        #: Where answers leave from, if the socket is bound to every interface.
        self.source: bytes | None = None

    def fill_in(self, client: tuple[str, int], address: tuple[Any, ...], asked: Asked | None = None) -> None:
        """Set the client, and the address that it has asked, once the scope is used."""
        self["client"] = client
        self.address = address
        if asked is not None:
            self["server"] = asked.server
            self.source = asked.source

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, deep copy or pickle is a plain dict: a socket has no place in it.
        return dict, (dict(self),)


class EndpointBase:
    """The fields of an endpoint, and what it does for each datagram in the usual case."""

    __slots__ = (
        "after_stop",
        "by_listener",
        "by_system",
        "cells",
        "custom",
        "drops_before",
        "errors",
        "family",
        "find",
        "gone",
        "limit",
        "limited",
        "noticed",
        "open",
        "oversized",
        "own",
        "own_address",
        "own_create",
        "own_id",
        "paused",
        "plain",
        "queue_full",
        "received",
        "refused",
        "sent",
        "server",
        "server_address",
        "sock",
        "spare",
        "stopping",
        "table_full",
        "tallied",
        "traffic",
        "transport",
        "waiters",
    )
    find: Callable[..., Any]
    transport: Any  # a BatchTransport, or the loop's
    sock: socket.socket
    server: Any
    traffic: Any
    spare: Any
    own_address: Any
    gone: Any
    family: int
    server_address: tuple[str, int]

    def __init__(self) -> None:
        #: Whether a sender has to wait, or to look twice: the transport takes no more, or is not open.
        self.paused = True
        self.waiters: deque[asyncio.Future[None]] = deque()
        self.stopping = self.open = False
        self.limit = 0
        self.received = self.sent = self.errors = 0
        self.queue_full = self.table_full = self.limited = self.oversized = 0
        self.refused = self.after_stop = self.own = 0
        #: Dropped by the system, as far as it was asked; and how much of that was given to the log.
        self.by_system = self.noticed = 0
        #: What the system had dropped before, as it counts; None where it does not tell.
        self.drops_before: int | None = None
        #: Whether `scope_id`, or the creation of instances, is overridden; whether the server has several sockets of
        #: this family.
        self.own_id = self.own_create = self.by_listener = False
        #: Whether `receive` takes each datagram.
        self.custom = False
        #: Whether the id of an instance is its client's socket address: IPv4, one socket, nothing overridden.
        self.plain = False
        #: Where datagrams are counted, too: see `cyasgi._common.cells`; and how many were received and sent by then.
        self.cells: memoryview | None = None
        self.tallied = 0, 0

    def tally(self) -> None:
        """Bring `cells` up to date; called for each batch, and for statistics."""
        cells = self.cells
        if cells is not None:
            received, sent = self.tallied
            self.tallied = self.received, self.sent
            cells[DATAGRAMS_RECEIVED] += self.received - received
            cells[DATAGRAMS_SENT] += self.sent - sent

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Hand over a datagram that a transport of the loop has read."""
        if not self.plain:
            self.receive(data, addr, None)
            return
        self.received += 1
        if (len(data) > self.limit or not addr or addr[1] in OWN_PORTS) and self.drops(addr, len(data)):
            return
        try:
            scope = self.spare
            instance = self.find(addr, scope)
            if instance.scope is scope:
                # Made for this datagram. No application runs before the message is put, or before the loop has turned.
                scope.fill_in(addr, addr)
                self.spare = DatagramScope(self)
            instance.put_nowait(
                {"type": "datagram.receive", "data": data, "client": addr, "server": self.server_address}
            )
        except asyncio.QueueFull:
            self.queue_full += 1
            self.traffic.lost()
        except TableFull:
            self.table_full += 1
            self.traffic.lost()
        except INTERRUPTS:
            raise
        except BaseException as error:
            self.refused += 1
            self.traffic.dropped(error, data, addr)

    # What `Endpoint` has.

    def drops(self, addr: Any, size: int) -> bool:
        raise NotImplementedError

    def receive(self, data: bytes, addr: Any, asked: Asked | None) -> Any:
        raise NotImplementedError

    def error_received(self, exc: Exception) -> None:
        raise NotImplementedError

    def notice_drops(self) -> None:
        raise NotImplementedError

    def pause_writing(self) -> None:
        raise NotImplementedError

    def resume_writing(self) -> None:
        raise NotImplementedError

    def connection_lost(self, exc: Exception | None) -> None:
        raise NotImplementedError


def application_send(self: Any, scope: Any, message: Any) -> Any:
    """Send the datagram of a ``datagram.send`` message.

    Returns:
        An awaitable, done when the system has taken the datagram, or is about to.

    Raises:
        TypeError, ValueError: the message is malformed; see `cyasgi.wire.datagram.parse_send`.
    """
    # The usual message goes straight out; `_send` takes all others.
    if (
        type(message) is dict
        and len(message) == 2
        and message.get("type") == "datagram.send"
        and type(data := message.get("data")) is bytes
        and 0 < len(data) <= MAX_DATA
        and type(scope) is DatagramScope
        and scope.source is None
        and not (endpoint := scope.endpoint).paused
    ):
        endpoint.sent += 1
        endpoint.transport.sendto(data, scope.address)
        return SENT
    return self._send(scope, message)


class Buffers:
    """What the sockets of one server read into, in turn."""

    __slots__ = ()


class BatchTransport:
    """Reads and writes a UDP socket, many datagrams at a time.

    Of an `asyncio.DatagramTransport` it has what endpoints use.

    For each time that the socket is readable, at most `BATCH` datagrams are read and handed over, so that a flood
    leaves the loop to others. What the system does not take waits here, and beyond `HIGH_WATER` senders wait.

    Args:
        loop: the running event loop.
        endpoint: hears of all, as a protocol does of its transport.
        buffers: of the server.
        asks: whether the socket tells which address each datagram was sent to.
    """

    __slots__ = (
        "_asked",
        "_asks",
        "_closing",
        "_endpoint",
        "_loop",
        "_size",
        "_sock",
        "_waiting",
        "_writing",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: EndpointBase, buffers: Buffers, asks: bool) -> None:
        self._loop = loop
        self._endpoint: EndpointBase | None = endpoint
        self._sock = endpoint.sock
        self._asks = asks
        self._asked: dict[tuple[bytes, int], Asked] = {}
        self._closing = self._writing = False
        #: What the system has not taken yet, and how much that is.
        self._waiting: deque[tuple[bytes, Any, bytes | None]] = deque()
        self._size = 0
        loop.add_reader(self._sock, self._readable)

    # Reading.

    def _readable(self) -> None:
        self.read()

    def read(self) -> bool:
        """Read what has reached the socket, at most `BATCH` datagrams; return whether there may be more.

        Raises:
            KeyboardInterrupt, SystemExit: by an override, once all of them were handed over.
        """
        interrupt: BaseException | None = None
        count, more = 0, True
        endpoint = self._endpoint
        while count < BATCH and endpoint is not None and not self._closing:
            try:
                # One byte more than the limit shows that a datagram is longer.
                room = max(endpoint.limit, 0) + 1
                if self._asks:
                    data, control, _, address = self._sock.recvmsg(room, CONTROL_SIZE)
                else:
                    control = None
                    data, address = self._sock.recvfrom(room)
            except OSError as error:
                if not count:
                    self._watch_again()
                if isinstance(error, LATER):
                    more = False
                else:
                    endpoint.error_received(error)
                break
            count += 1
            try:
                if control:
                    endpoint.receive(data, address, self._asked_by(control))
                else:
                    endpoint.datagram_received(data, address)
            except INTERRUPTS as error:
                interrupt = interrupt or error
            endpoint = self._endpoint
        if count and endpoint is not None:
            endpoint.notice_drops()
            if endpoint.cells is not None:
                endpoint.tally()
        if interrupt is not None:
            raise interrupt
        return more

    def _watch_again(self) -> None:
        """Have the loop watch the socket, as uvloop's no longer does once the socket has reported an error."""
        if not self._closing:
            self._loop.remove_reader(self._sock)
            self._loop.add_reader(self._sock, self._readable)

    def _asked_by(self, control: list[tuple[int, int, bytes]]) -> Asked | None:
        """Return the address that a datagram was sent to."""
        for level, kind, data in control:
            if (level, kind) in ((socket.IPPROTO_IP, IP_PKTINFO), (socket.IPPROTO_IPV6, IPV6_PKTINFO)):
                key = data, level
                found = self._asked.get(key)
                if found is None:
                    if len(self._asked) >= CACHE_SIZE:
                        self._asked.clear()
                    assert self._endpoint is not None
                    found = self._asked[key] = asked_of(data, level, self._endpoint.server_address[1])
                return found
        return None

    # Writing.

    def sendto(self, data: bytes, addr: Any, source: bytes | None = None) -> None:
        """Send a datagram: now, or when the system takes it.

        Args:
            source: where it is to leave from; see `Asked`.
        """
        if self._closing:
            return
        if self._endpoint is not None and self._endpoint.cells is not None:
            self._endpoint.tally()
        if not self._waiting:
            if self._sent(data, addr, source):
                return
            self._loop.add_writer(self._sock, self._writable)
            self._writing = True
        self._waiting.append((data, addr, source))
        self._size += len(data) + OVERHEAD
        if self._size > HIGH_WATER and self._endpoint is not None and not self._endpoint.paused:
            self._endpoint.pause_writing()

    def _sent(self, data: bytes, addr: Any, source: bytes | None) -> bool:
        """Return whether the system took the datagram, or refused it."""
        try:
            if source is None:
                self._sock.sendto(data, addr)
            else:
                self._sock.sendmsg([data], [packet_info(source)], 0, addr)
        except LATER:
            return False
        except OSError as error:
            assert self._endpoint is not None
            self._endpoint.error_received(error)
        return True

    def _writable(self) -> None:
        while self._waiting and self._sent(*self._waiting[0]):
            if self._endpoint is None:
                return
            self._size -= len(self._waiting.popleft()[0]) + OVERHEAD
        if not self._waiting:
            self._loop.remove_writer(self._sock)
            self._writing = False
            if self._closing:
                self._loop.call_soon(self._lost)
                return
        if not self._closing and self._size <= LOW_WATER and self._endpoint is not None and self._endpoint.paused:
            self._endpoint.resume_writing()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait for the system to take them, headers included."""
        return self._size

    # The end.

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Read no more, and close the socket when the system has taken what was sent."""
        if self._closing:
            return
        self._closing = True
        self._stop_reading()
        if not self._waiting:
            self._soon_lost()

    def abort(self) -> None:
        """Read no more, and close the socket."""
        if self._endpoint is None:
            return
        closing, self._closing = self._closing, True
        if not closing:
            self._stop_reading()
        if not closing or self._waiting:
            self._waiting.clear()
            self._size = 0
            self._soon_lost()

    def pause_reading(self) -> None:
        """Read no more, for good."""
        self._stop_reading()

    def _stop_reading(self) -> None:
        if not self._loop.is_closed():
            self._loop.remove_reader(self._sock)

    def _soon_lost(self) -> None:
        if self._loop.is_closed():
            # Nobody can be told any more.
            assert self._endpoint is not None
            self._endpoint.open = False
            self._endpoint = None
            self._sock.close()
            return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock)
        self._loop.call_soon(self._lost)

    def _lost(self) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            try:
                endpoint.connection_lost(None)
            finally:
                self._sock.close()


def asked_of(info: bytes, level: int, port: int) -> Asked:
    """Return the address of this machine that the system names in an ``in_pktinfo`` or ``in6_pktinfo``."""
    if level == socket.IPPROTO_IP:
        # An answer to a group or a broadcast leaves from the interface's own address.
        _, own, sent_to = struct.unpack("=i4s4s", info[:12])
        return Asked((socket.inet_ntop(socket.AF_INET, sent_to), port), own)
    sent_to, interface = struct.unpack("=16si", info[:20])
    host = socket.inet_ntop(socket.AF_INET6, sent_to)
    if sent_to[0] == 0xFF:
        return Asked((host, port), None)
    if sent_to[0] == 0xFE and sent_to[1] & 0xC0 == 0x80:
        return Asked((f"{host}%{interface}", port), info[:20])
    return Asked((host, port), sent_to + bytes(4))


def packet_info(source: bytes) -> tuple[int, int, bytes]:
    """Return the ancillary data for a datagram that is to leave from there."""
    if len(source) == 4:
        return socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=i4s4s", 0, source, bytes(4))
    return socket.IPPROTO_IPV6, IPV6_PKTINFO, source


def source_of(address: tuple[Any, ...], family: int) -> bytes | None:
    """Return where a datagram has to leave from, so that it comes from this socket address of ours; None if that is a
    group's, which nothing can come from.

    Raises:
        ValueError: it is not an address of this machine.
    """
    packed = socket.inet_pton(family, address[0])
    if packed[0] == 0xFF if family == socket.AF_INET6 else packed[0] >= 0xE0:
        return None
    if not is_local(family, address):
        raise ValueError(f"{address[0]!r} is not an address of this machine")
    return packed + struct.pack("=i", address[3] if len(address) > 3 else 0) if len(packed) == 16 else packed

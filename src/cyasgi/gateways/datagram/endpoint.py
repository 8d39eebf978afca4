"""The sockets of a datagram server: datagrams in to instances, and out."""

from __future__ import annotations

import asyncio
import inspect
import socket
import struct
import sys
from collections.abc import Hashable
from typing import Any, Protocol

from ..._common.guarding import INTERRUPTS, Guard
from ...core.full import TableFull
from ...instances.limits import LimitExceeded
from ...wire.address import (
    format_address,
    from_socket_address,
    to_socket_address,
)
from ..net.flow_control import FlowControl
from ..net.own_addresses import (
    OWN_PORTS,
    add_own,
    is_own,
    remove_own,
)
from .batches import BATCH, Asked, BatchTransport, DatagramScope, EndpointBase
from .traffic import Traffic

#: Datagrams that are still read from one socket when the server is told to stop, at most.
LAST_READ = 4096

#: No datagram is longer: the length field of UDP has 16 bits.
LARGEST = 65_536

#: Linux: what a socket says of its memory, in numbers of 32 bits, the last of which counts what was dropped.
SO_MEMINFO = 55
MEMINFO = struct.Struct("=32xI")


class DatagramServerPort(Protocol):
    """The server, as its endpoints know it."""

    #: Where datagrams are counted; see `cyasgi._common.cells`.
    cells: memoryview | None

    @property
    def max_datagram_size(self) -> int: ...
    @property
    def max_queue_size(self) -> int: ...

    def scope_id(self, data: bytes, client: tuple[str, int]) -> Hashable:
        """Return the id of the instance that is to receive this datagram; None drops it."""

    def get_or_create_application_instance(self, scope_id: Any, scope: Any) -> Any:
        """Return the instance of this id, made for this scope if there is none."""


class Endpoint(EndpointBase, FlowControl, asyncio.DatagramProtocol):
    """A socket of the server.

    A datagram to a live instance costs one lookup, one put and the message: the scope for the lookup, in case an
    instance has to be made, was made in advance, and is filled in only if it was used.

    Args:
        own_id, own_create: whether `scope_id`, or the creation of instances, is overridden.
        by_listener: whether the server has several sockets of this family.
    """

    __slots__ = ()
    #: Datagrams dropped for want of a header of the PROXY protocol.
    unproxied = 0
    server: DatagramServerPort
    traffic: Traffic

    def __init__(
        self,
        server: DatagramServerPort,
        traffic: Traffic,
        sock: socket.socket,
        *,
        own_id: bool = False,
        own_create: bool = False,
        by_listener: bool = False,
    ) -> None:
        super().__init__()
        self.server = server
        self.traffic = traffic
        self.sock = sock
        self.family = sock.family
        self.server_address = from_socket_address(sock.getsockname())
        self.find = server.get_or_create_application_instance
        self.limit = server.max_datagram_size
        self.own_id = own_id
        self.own_create = own_create
        self.custom = own_id or own_create
        self.by_listener = by_listener
        self.plain = sock.family == socket.AF_INET and not (own_id or own_create or by_listener)
        self.spare = DatagramScope(self)
        #: Done when the socket is closed.
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.own_address: Any = None
        self.drops_before = drops_of(sock)
        self.cells = server.cells

    # Receiving.

    def receive(self, data: bytes, addr: Any, asked: Asked | None, client: tuple[str, int] | None = None) -> Any:
        """Hand over a datagram in any case; return the instance that has got it, if any has by now.

        Args:
            asked: the address that it was sent to, if the socket is bound to every interface.
            client: whom a proxy has sent it for, if it is counted and checked already.
        """
        if client is None:
            self.received += 1
            if (len(data) > self.limit or not addr or addr[1] in OWN_PORTS) and self.drops(addr, len(data)):
                return None
            client = addr if len(addr) == 2 else from_socket_address(addr)
        server_address = self.server_address if asked is None else asked.server
        try:
            scope_id: Any = client
            if self.own_id:
                scope_id = self.server.scope_id(data, client)
                if scope_id is None:
                    self.refused += 1
                    return None
            elif self.by_listener or asked is not None:
                scope_id = client, server_address
            message = {"type": "datagram.receive", "data": data, "client": client, "server": server_address}
            scope = self.spare
            if self.own_create:
                # The override may read the scope that it is given, and keep it.
                scope.fill_in(client, addr, asked)
                self.spare = DatagramScope(self)
            instance = self.find(scope_id, scope)
            if inspect.iscoroutine(instance):
                self.put_later(instance, message, data, client, addr)
                return None
            if instance.scope is scope and not self.own_create:
                scope.fill_in(client, addr, asked)
                self.spare = DatagramScope(self)
            instance.put_nowait(message)
            return instance
        except asyncio.QueueFull:
            self.queue_full += 1
            self.traffic.lost()
        except LimitExceeded:
            self.limited += 1
            self.traffic.lost()
        except TableFull:
            self.table_full += 1
            self.traffic.lost()
        except INTERRUPTS:
            raise
        except BaseException as error:
            self.refused += 1
            self.traffic.dropped(error, data, client)
        return None

    def follow(self, instance: Any, client: tuple[str, int], addr: Any) -> None:
        """Have answers to a client go where its last datagram came from, if that may change."""

    def put_later(self, creation: Any, message: Any, data: bytes, client: tuple[str, int], addr: Any) -> None:
        """Put a message once an ``async def`` override has made the instance. Tasks start in the order of datagrams."""
        tasks = self.traffic.creations

        async def put() -> None:
            guard = Guard()
            try:
                instance = await creation
                instance.put_nowait(message)
                self.follow(instance, client, addr)
            except asyncio.QueueFull:
                self.queue_full += 1
                self.traffic.lost()
            except LimitExceeded:
                self.limited += 1
                self.traffic.lost()
            except TableFull:
                self.table_full += 1
                self.traffic.lost()
            except BaseException as error:
                self.refused += 1
                # It is lost too if the server stops and waits for the instance no longer.
                self.traffic.dropped(error, data, client)
                if guard.interrupted(error):
                    raise

        if self.server.max_queue_size and len(tasks) >= self.server.max_queue_size:
            creation.close()
            self.queue_full += 1
            self.traffic.lost()
            return
        task = asyncio.get_running_loop().create_task(put())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def drops(self, addr: Any, size: int) -> bool:
        """Drop and count a datagram that must not be passed on; return whether it was one."""
        if self.limit < 0:
            self.after_stop += 1
        elif not addr:  # uvloop, of a sender that has no address: nobody to answer
            self.refused += 1
        elif size > self.limit:
            self.oversized += 1
        elif is_own(self.family, addr):
            self.own += 1
        else:
            return False
        self.traffic.lost()
        return True

    def error_received(self, exc: Exception) -> None:
        self.errors += 1
        self.traffic.failed(exc)

    def count_drops(self) -> None:
        """Ask the system how many datagrams it has dropped, if it tells and the socket is open."""
        seen = drops_of(self.sock)
        if seen is not None and self.drops_before is not None:
            before = self.by_system
            # The system counts with 32 bits. Another thread that asks for statistics may have been told of more.
            more = (seen - self.drops_before - before) & 0xFFFFFFFF
            if more < 1 << 31:
                self.by_system = before + more

    def notice_drops(self) -> None:
        """Count what the system has dropped, and have it logged."""
        self.count_drops()
        if self.by_system != self.noticed:
            self.noticed = self.by_system
            self.traffic.lost()

    def set_limit(self, limit: int) -> None:
        """Drop datagrams that are longer from now on."""
        if not self.stopping:
            self.limit = limit

    # Sending.

    def socket_address(self, client: tuple[str, int]) -> tuple[Any, ...]:
        """Return where to send what is for this client.

        Raises:
            ValueError: nothing can be sent to it.
        """
        return to_socket_address(client, self.family)

    def send(self, data: bytes, address: tuple[Any, ...], source: bytes | None) -> None:
        """Send a datagram, from this address of the machine if it is not None."""
        if not self.open or self.transport.is_closing():
            self.traffic.failed_after_close(ConnectionError("the socket is closed"))
            return
        self.sent += 1
        if isinstance(self.transport, BatchTransport):
            self.transport.sendto(data, address, source)
            return
        if data:
            self.transport.sendto(data, address)
            return
        # asyncio before 3.13 and uvloop silently send nothing when there is nothing in it.
        try:
            self.sock.sendto(data, address)
        except OSError as error:
            self.error_received(error)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = self.transport.is_closing()
        self.wake()

    # Beginning and end.

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if hasattr(transport, "max_size"):
            # asyncio's transport allocates 256 KiB for each datagram: an mmap and a munmap, half of what it costs.
            transport.max_size = LARGEST
        self.open = True
        self.paused = False
        self.own_address = add_own(self.sock)

    def forget_own(self) -> None:
        own, self.own_address = self.own_address, None
        if own is not None:
            remove_own(own)

    def connection_lost(self, exc: Exception | None) -> None:
        self.notice_drops()
        self.open = False
        self.paused = True
        self.forget_own()
        if not self.gone.done():
            self.gone.set_result(None)
        self.wake()
        lost = self.traffic.lost_socket
        if not self.stopping and lost is not None and not lost.done():
            where = format_address(self.server_address)
            lost.set_exception(exc or ConnectionError(f"the socket on udp {where} was closed"))

    def stop_reading(self) -> None:
        """Read what has reached the socket by now, and nothing after it. Sending goes on."""
        if self.stopping or not self.open:
            self.stopping = True
            return
        try:
            self._read_rest()
        finally:
            self.stopping = True
            self.limit = -1  # then the only check on the way in finds every datagram too long

    def hand_over(self) -> None:
        """Read no more: what has reached the socket is left to another process. Sending goes on.

        A transport of the loop, which cannot stop reading, drops what it reads once the server stops.
        """
        if not isinstance(self.transport, BatchTransport):
            self.stop_reading()
        elif self.open:
            self.transport.pause_reading()
        self.stopping = True

    def _read_rest(self) -> None:
        if isinstance(self.transport, BatchTransport):
            for _ in range(LAST_READ // BATCH):
                if not self.transport.read():
                    break
            return
        try:
            for _ in range(LAST_READ):
                self.datagram_received(*self.sock.recvfrom(LARGEST))
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self.error_received(error)

    def close(self) -> None:
        """Close the socket when what was sent has left it."""
        self.stopping = True
        if self.open:
            self.paused = True
            self.transport.close()

    def abort(self) -> None:
        self.stopping = True
        # Now: a loop that is closed next would not call `connection_lost`.
        self.forget_own()
        if self.open:
            self.paused = True
            self.transport.abort()


def drops_of(sock: socket.socket) -> int | None:
    """Return how many datagrams the system has dropped, modulo 2**32, mostly since the receive buffer was full; None if
    it does not tell, or the socket is closed."""
    if sys.platform != "linux":
        return None
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size)
    except OSError:
        return None
    return int(MEMINFO.unpack(found)[0]) if len(found) == MEMINFO.size else None

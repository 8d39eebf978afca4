"""UDP: datagrams in, one application instance for each client, datagrams out.

The scope and the messages are described in `cyasgi.wire.datagram`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any, ClassVar

from ..._common.guarding import INTERRUPTS, Guard
from ..._settings import Integer
from ...core import SENT, Setting
from ...instances.limits import LimitExceeded
from ...server import StatelessServer
from ...wire.address import (
    check_address,
    format_address,
    from_socket_address,
    to_socket_address,
)
from ...wire.datagram import (
    MAX_DATA,
    parse_send,
    scope_fields,
)
from ..net.own_addresses import (
    OWN_PORTS,
    add_own,
    is_own,
    remove_own,
)
from ..net.rate_limited_log import RateLimitedLog
from ..net.sockets import (
    ListenError as ListenError,
    check_binds,
    open_datagram_sockets,
)

logger = logging.getLogger("cyasgi.gateways.datagram")

#: What one socket may still hold when the server is told to stop and is read then, in datagrams.
LAST_READ = 4096

#: No datagram is longer: the length field of UDP has 16 bits.
LARGEST = 65_536

COUNTERS = (
    "datagrams_received",
    "datagrams_sent",
    "dropped_queue_full",
    "dropped_oversized",
    "dropped_refused",
    "dropped_limited",
    "dropped_own",
    "dropped_stopping",
    "socket_errors",
)

#: What is logged of datagrams that went nowhere: the counter, and what it counts.
LOST = {
    "dropped_queue_full": "found a full queue",
    "dropped_oversized": "longer than max_datagram_size",
    "dropped_limited": "beyond a client's limit",
    "dropped_own": "with the address of one of our own sockets as the sender's",
    "dropped_stopping": "after the stop",
    "socket_errors": "failed at the socket",
}


def _size_changed(server: Any) -> None:
    """For the sockets that are open already."""
    for endpoint in server.__dict__.get("endpoints", ()):
        endpoint.set_limit(server.max_datagram_size)


class DatagramScope(dict[str, Any]):
    """A scope that remembers its socket and its client's socket address, whatever the application writes into it."""

    __slots__ = ("address", "endpoint")
    address: tuple[Any, ...]

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(scope_fields(endpoint.server_address, None))
        self.endpoint = endpoint

    def fill_in(self, client: tuple[str, int], address: tuple[Any, ...]) -> None:
        self["client"] = client
        self.address = address

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, deep copy or pickle is a plain dict: a socket has no place in it.
        return dict, (dict(self),)


class DatagramServer(StatelessServer):
    """Serves an ASGI application over UDP, IPv4 and IPv6.

    Each client address has an application instance of its own; override `scope_id` for any other rule. Datagrams wait
    in the instance's queue; when it is full the newest is dropped and counted. An application that sends faster than
    the network takes waits in ``send``.

    A server bound to every interface (``":9999"``) answers from whatever address the system chooses, as UDP does;
    clients that insist on the address they asked (``dig`` does) need a server bound to that address.

    Args:
        application: the ASGI application, for scopes of the type ``datagram`` (see `cyasgi.wire.datagram`).
        max_applications: most instances at a time; a client beyond makes room for itself. None: no limit.
        binds: addresses to listen on, each (host, port) or a string as ``"127.0.0.1:9999"``, ``"[::1]:9999"``,
            ``"localhost:9999"`` (every address that the name has) or ``":9999"`` (every interface). Port 0: a free one.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value; the message says which and what is accepted.
    """

    #: Datagrams waiting for one instance, at most.
    max_queue_size = 1024

    #: The longest payload passed on, in bytes (1 to 65,535); longer datagrams are dropped and counted.
    max_datagram_size = Setting[int](65_535, Integer(1, 65_535), _size_changed)

    #: Addresses listened on when `binds` is not given.
    default_binds: ClassVar[tuple[tuple[str, int], ...]] = (("127.0.0.1", 9999),)

    announces_start: ClassVar[bool] = True
    tells_asgi_version: ClassVar[bool] = True

    def __init__(
        self,
        application: Any,
        max_applications: int | None = 1000,
        *,
        binds: str | tuple[str, int] | Iterable[str | tuple[str, int]] | None = None,
    ) -> None:
        super().__init__(application, max_applications)
        self.binds: list[tuple[str, int]] = check_binds(self.default_binds if binds is None else binds)
        #: One for each socket while the server runs.
        self.endpoints: list[Endpoint] = []
        self._sockets: list[socket.socket] = []
        self._counted = dict.fromkeys(COUNTERS, 0)
        self._failed: asyncio.Future[None] | None = None
        self._feeding: set[asyncio.Task[None]] = set()
        self._next_complaint = float("-inf")
        self._losses = RateLimitedLog(self._log_losses)
        #: What was counted when losses were last logged, and what the system has refused last.
        self._logged = dict(self._counted)
        self._last_error: Exception | None = None

    # What subclasses override.

    def scope_id(self, data: bytes, client: tuple[str, int]) -> Hashable:
        """The id of the instance that is to receive this datagram; None drops it.

        By default that is `client`, or (`client`, address of the server) where the server listens on several
        addresses of one family: an answer must come from the address that was asked. An override decides alone, and
        may give datagrams of many clients, or of several listeners, to one instance: each message names the client
        that it came from and the server's address, and the answer has to name them too. If it raises, the datagram
        is dropped and counted and the error is logged.
        """
        return client

    # Starting and stopping.

    def bind(self) -> list[tuple[str, int]]:
        """Opens the sockets, if they are not open yet, and returns their addresses.

        `handle` does this too; call it before `run` to see the errors early or to learn which port was free.

        Raises:
            ListenError: an address cannot be listened on.
        """
        if not self._sockets:
            sockets: list[socket.socket] = []
            try:
                for host, port in self.binds:
                    sockets += open_datagram_sockets(host, port)
            except BaseException:
                for sock in sockets:
                    sock.close()
                raise
            self._sockets = sockets
        return self.addresses

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The addresses that sockets are open on."""
        return [from_socket_address(sock.getsockname()) for sock in self._sockets]

    def close(self) -> None:
        """Closes sockets that `bind` opened and no run has closed."""
        self._losses.close()
        self._counted = self._count()
        endpoints, self.endpoints = self.endpoints, []
        for endpoint in endpoints:
            endpoint.abort()
            del endpoint.spare  # it refers to the endpoint in turn
        for sock in self._sockets:
            sock.close()
        self._sockets = []

    async def handle(self) -> None:
        """Listens until it is cancelled, or until a socket is lost: then it raises what the loss was."""
        self.bind()
        loop = asyncio.get_running_loop()
        self._failed = loop.create_future()
        try:
            for sock in self._sockets:
                _, endpoint = await loop.create_datagram_endpoint(self._endpoint_factory(sock), sock=sock)
                logger.info("listening on udp %s", format_address(endpoint.server_address))
            self.announce_started()
            await self._failed
        finally:
            for endpoint in self.endpoints:
                endpoint.stop_reading()
            if self._feeding:
                await asyncio.wait(self._feeding, timeout=self.shutdown_timeout)

    async def arun(self) -> None:
        """As `StatelessServer.arun`; the sockets stay open for answers while applications finish, and no longer."""
        try:
            await super().arun()
        finally:
            # A second run at the same time is refused: the sockets are the first one's.
            if self._cyasgi.server_run is None:
                await self._close_sockets()

    async def _close_sockets(self) -> None:
        endpoints = self.endpoints
        for endpoint in endpoints:
            endpoint.close()
        waiting = [endpoint.gone for endpoint in endpoints if endpoint.open]
        try:
            if waiting:
                # What the system has not taken yet is sent, within the bound that all of stopping has.
                await asyncio.wait(waiting, timeout=self.shutdown_timeout)
                left = sum(endpoint.open for endpoint in endpoints)
                if left:
                    logger.warning("%d sockets were closed with datagrams that the system had not taken yet", left)
        finally:
            self.close()

    def _endpoint_factory(self, sock: socket.socket) -> Callable[[], Endpoint]:
        own_id = self._overrides("scope_id", DatagramServer)
        own_create = self._overrides("get_or_create_application_instance", StatelessServer)
        by_listener = not own_id and sum(other.family == sock.family for other in self._sockets) > 1
        plain = sock.family == socket.AF_INET and not (own_id or own_create or by_listener)

        def make() -> Endpoint:
            endpoint = Endpoint(self, sock) if plain else AnyEndpoint(self, sock, by_listener, own_create)
            self.endpoints.append(endpoint)
            return endpoint

        return make

    def _overrides(self, name: str, base: type) -> bool:
        return name in vars(self) or getattr(type(self), name) is not getattr(base, name)

    # Sending.

    def application_send(self, scope: Any, message: Any) -> Any:
        """Sends the datagram that a ``datagram.send`` message holds, and gives an awaitable: done when the system has
        taken it.

        Raises:
            TypeError, ValueError: the message is not such a message; see `cyasgi.wire.datagram.parse_send`.
        """
        # The usual message goes straight out; whatever is out of the ordinary is looked at below.
        if (
            type(message) is dict
            and len(message) == 2
            and message.get("type") == "datagram.send"
            and type(data := message.get("data")) is bytes
            and 0 < len(data) <= MAX_DATA
            and type(scope) is DatagramScope
            and not (endpoint := scope.endpoint).paused
        ):
            endpoint.sent += 1
            endpoint.transport.sendto(data, scope.address)
            return SENT
        return self._send(scope, message)

    async def _send(self, scope: Any, message: Any) -> None:
        data, client, server = parse_send(message)
        endpoint, address = self._route(scope, client, server)
        while endpoint.paused and endpoint.open:
            await endpoint.writable()
        endpoint.send(data, address)

    def _route(
        self, scope: Any, client: tuple[str, int] | None, server: tuple[str, int] | None
    ) -> tuple[Endpoint, tuple[Any, ...]]:
        """The endpoint and the socket address that a message goes by."""
        ours = type(scope) is DatagramScope
        if server is None and ours:
            endpoint = scope.endpoint
        else:
            server = server or check_address(scope["server"], "'server' of the scope")
            for endpoint in self.endpoints:
                if endpoint.server_address == server:
                    break
            else:
                raise ValueError(f"this server has no socket on {format_address(server)}")
        if client is None and ours and scope.endpoint.family == endpoint.family:
            return endpoint, scope.address
        client = client or check_address(scope["client"], "'client' of the scope")
        return endpoint, to_socket_address(client, endpoint.family)

    # Counting and complaining.

    def _count(self) -> dict[str, int]:
        counted = dict(self._counted)
        for endpoint in self.endpoints:
            counted["datagrams_received"] += endpoint.received
            counted["datagrams_sent"] += endpoint.sent
            counted["dropped_queue_full"] += endpoint.queue_full
            counted["dropped_oversized"] += endpoint.oversized
            counted["dropped_refused"] += endpoint.refused
            counted["dropped_limited"] += endpoint.limited
            counted["dropped_own"] += endpoint.own
            counted["dropped_stopping"] += endpoint.late
            counted["socket_errors"] += endpoint.errors
        return counted

    def stats(self) -> dict[str, int]:
        """The snapshot of `StatelessServer.stats`, and of datagrams since the server was made.

        ``datagrams_received`` counts all that came, also those that were then dropped: ``dropped_queue_full`` (the
        instance had `max_queue_size` waiting), ``dropped_oversized`` (over `max_datagram_size`), ``dropped_refused``
        (`scope_id` gave None or raised, or no instance could be made), ``dropped_limited`` (a limit of `ManagedServer`
        was reached), ``dropped_own`` (the sender's address was that of a UDP socket of this process: answers would go
        in circles) and ``dropped_stopping`` (came after the server was told to stop). ``datagrams_sent`` counts those
        handed to the system, ``socket_errors`` what it refused or reported, sending or receiving, and datagrams that
        found their socket closed. All of these but what `scope_id` drops are logged, in one line a second at most.
        """
        return {**super().stats(), **self._count()}

    def _log_losses(self) -> bool:
        counted = self._count()
        before, self._logged = self._logged, counted
        lost = {name: counted[name] - before[name] for name in LOST}
        if not any(lost.values()):
            return False
        text = ", ".join(f"{count:,} {LOST[name]}" for name, count in lost.items() if count)
        if lost["socket_errors"] and self._last_error is not None:
            text += f" (the last one: {self._last_error})"
        logger.warning("datagrams were lost: %s", text)
        return True

    def _complain(self, error: BaseException, data: bytes, client: object) -> None:
        # At most one a second: whoever can make a datagram fail can send a million of them.
        now = asyncio.get_running_loop().time()
        if now >= self._next_complaint:
            self._next_complaint = now + 1
            logger.error("a datagram of %d bytes from %r was dropped: %r", len(data), client, error, exc_info=error)


class Endpoint(asyncio.DatagramProtocol):
    """A socket of the server; this class is for the plain case, `AnyEndpoint` for the others.

    A datagram to a live instance costs one lookup, one put and the message: the scope that the lookup wants, if it has
    to make an instance, was made in advance, and is filled in only if it was taken.
    """

    __slots__ = (
        "errors",
        "family",
        "find",
        "gone",
        "late",
        "limit",
        "limited",
        "open",
        "oversized",
        "own",
        "own_address",
        "paused",
        "queue_full",
        "received",
        "refused",
        "sent",
        "server",
        "server_address",
        "sock",
        "spare",
        "stopping",
        "transport",
        "waiting",
    )
    find: Callable[..., Any]
    transport: Any  # an asyncio.DatagramTransport; uvloop's is one in all but name

    def __init__(self, server: DatagramServer, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.family = sock.family
        self.server_address = from_socket_address(sock.getsockname())
        self.find = server.get_or_create_application_instance
        self.spare = DatagramScope(self)
        self.limit = server.max_datagram_size
        self.stopping = self.open = False
        #: True while a send has to look twice: the transport takes no more, or is closed.
        self.paused = True
        self.waiting: deque[asyncio.Future[None]] = deque()
        #: Done when the socket is closed.
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received = self.sent = self.errors = 0
        self.queue_full = self.oversized = self.refused = self.limited = self.late = self.own = 0
        self.own_address: Any = None

    # Receiving.

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received += 1
        if (len(data) > self.limit or not addr or addr[1] in OWN_PORTS) and self.drops(addr, len(data)):
            return
        try:
            scope = self.spare
            instance = self.find(addr, scope)
            if instance.scope is scope:
                # Made for this datagram. No application runs before it is fed, or the loop has turned.
                scope.fill_in(addr, addr)
                self.spare = DatagramScope(self)
            instance.put_nowait(
                {"type": "datagram.receive", "data": data, "client": addr, "server": self.server_address}
            )
        except asyncio.QueueFull:
            self.queue_full += 1
            self.server._losses.notice()
        except INTERRUPTS:
            raise
        except BaseException as error:
            self.refused += 1
            self.server._complain(error, data, addr)

    def drops(self, addr: Any, size: int) -> bool:
        """Drop and count a datagram if it is none to be passed on: it only looks like that."""
        if self.limit < 0:
            self.late += 1
        elif not addr:  # uvloop, of a sender that has no address: nobody to answer
            self.refused += 1
        elif size > self.limit:
            self.oversized += 1
        elif is_own(self.family, addr):
            self.own += 1
        else:
            return False
        self.server._losses.notice()
        return True

    def error_received(self, exc: Exception) -> None:
        self.errors += 1
        self.server._last_error = exc
        self.server._losses.notice()

    def set_limit(self, limit: int) -> None:
        if not self.stopping:
            self.limit = limit

    # Sending.

    def send(self, data: bytes, address: tuple[Any, ...]) -> None:
        if not self.open or self.transport.is_closing():
            # Counted with the server: it may have forgotten its endpoints.
            self.server._counted["socket_errors"] += 1
            self.server._last_error = ConnectionError("the socket is closed")
            self.server._losses.notice()
            return
        self.sent += 1
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

    async def writable(self) -> None:
        """Returns when writing was resumed, or the socket closed. Look again then: others may have been faster."""
        # A future for each: cancelling one who waits must not reach the others.
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        await future

    def wake(self) -> None:
        while self.waiting:
            future = self.waiting.popleft()
            if not future.done():
                future.set_result(None)

    # Beginning and end.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        if hasattr(transport, "max_size"):
            # asyncio's own makes room for 256 KiB for each datagram: an mmap and a munmap, half of what it costs.
            transport.max_size = LARGEST
        self.open = True
        self.paused = False
        self.own_address = add_own(self.sock)

    def forget_own(self) -> None:
        own, self.own_address = self.own_address, None
        if own is not None:
            remove_own(own)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self.paused = True
        self.forget_own()
        if not self.gone.done():
            self.gone.set_result(None)
        self.wake()
        failed = self.server._failed
        if not self.stopping and failed is not None and not failed.done():
            where = format_address(self.server_address)
            failed.set_exception(exc or ConnectionError(f"the socket on udp {where} was closed"))

    def stop_reading(self) -> None:
        """Takes in what had reached the socket by now, and nothing after it; sending goes on."""
        if self.stopping or not self.open:
            self.stopping = True
            return
        try:
            for _ in range(LAST_READ):
                self.datagram_received(*self.sock.recvfrom(LARGEST))
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self.error_received(error)
        self.stopping = True
        self.limit = -1  # so that the one comparison on the way in finds every datagram too long

    def close(self) -> None:
        """Closes the socket once what was sent has left."""
        self.stopping = True
        if self.open:
            self.paused = True
            self.transport.close()

    def abort(self) -> None:
        self.stopping = True
        # Now: a loop that is closed next would not get to say that the connection is lost.
        self.forget_own()
        if self.open:
            self.paused = True
            self.transport.abort()


class AnyEndpoint(Endpoint):
    """A socket in all other cases: IPv6, several listeners of one family, overridden methods."""

    __slots__ = ("by_listener", "own_create")

    def __init__(self, server: DatagramServer, sock: socket.socket, by_listener: bool, own_create: bool) -> None:
        super().__init__(server, sock)
        self.by_listener = by_listener
        self.own_create = own_create

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received += 1
        if (len(data) > self.limit or not addr or addr[1] in OWN_PORTS) and self.drops(addr, len(data)):
            return
        server = self.server
        client = addr if len(addr) == 2 else from_socket_address(addr)
        try:
            scope_id = server.scope_id(data, client)
            if scope_id is None:
                self.refused += 1
                return
            if self.by_listener:
                scope_id = scope_id, self.server_address
            message = {"type": "datagram.receive", "data": data, "client": client, "server": self.server_address}
            scope = self.spare
            if self.own_create:
                # The override may look at the scope that it is given, and keep it.
                scope.fill_in(client, addr)
                self.spare = DatagramScope(self)
            instance = self.find(scope_id, scope)
            if inspect.iscoroutine(instance):
                self.feed_later(instance, message, data, client)
                return
            if instance.scope is scope and not self.own_create:
                scope.fill_in(client, addr)
                self.spare = DatagramScope(self)
            instance.put_nowait(message)
        except asyncio.QueueFull:
            self.queue_full += 1
            server._losses.notice()
        except LimitExceeded:
            self.limited += 1
            server._losses.notice()
        except INTERRUPTS:
            raise
        except BaseException as error:
            self.refused += 1
            server._complain(error, data, client)

    def feed_later(self, creation: Any, message: Any, data: bytes, client: tuple[str, int]) -> None:
        """For an ``async def`` override of the method that makes instances; tasks start in the order of datagrams."""
        tasks = self.server._feeding

        async def feed() -> None:
            guard = Guard()
            try:
                instance = await creation
                instance.put_nowait(message)
            except asyncio.QueueFull:
                self.queue_full += 1
                self.server._losses.notice()
            except LimitExceeded:
                self.limited += 1
                self.server._losses.notice()
            except BaseException as error:
                self.refused += 1
                # It is also lost where the server stops and waits for the instance no longer.
                self.server._complain(error, data, client)
                if guard.interrupted(error):
                    raise

        if self.server.max_queue_size and len(tasks) >= self.server.max_queue_size:
            creation.close()
            self.queue_full += 1
            self.server._losses.notice()
            return
        task = asyncio.get_running_loop().create_task(feed())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

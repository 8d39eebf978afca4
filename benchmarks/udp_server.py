"""The UDP echo servers under load: cyasgi's gateway, the same on the reference's class, and a bare protocol."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from benchmarks.probing import run
from benchmarks.sides import FLOOR, settle, stateless_server
from benchmarks.workload import Receive, Send

#: To be called with the port once the server listens.
Listening = Callable[[int], None]


async def echo(scope: Any, receive: Receive, send: Send) -> None:
    """Sends every datagram back."""
    while True:
        message = await receive()
        await send({"type": "datagram.send", "data": message["data"]})


class BareEcho(asyncio.DatagramProtocol):
    """Nothing between the datagram and its answer."""

    transport: asyncio.DatagramTransport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


def empty(sock: socket.socket) -> None:
    """Sends back whatever has reached the socket."""
    receive, send = sock.recvfrom, sock.sendto
    try:
        while True:
            send(*receive(2048))
    except BlockingIOError:
        pass


async def serve_bare(limit: int, listening: Listening) -> None:
    """uvloop's transport empties the socket, in C. asyncio's takes one datagram for each turn of the loop: so its floor
    does without a transport."""
    loop = asyncio.get_running_loop()
    if type(loop).__module__.partition(".")[0] == "uvloop":
        transport, _ = await loop.create_datagram_endpoint(BareEcho, local_addr=("127.0.0.1", 0))
        listening(transport.get_extra_info("sockname")[1])
        await loop.create_future()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        loop.add_reader(sock, empty, sock)
        listening(sock.getsockname()[1])
        await loop.create_future()


async def serve_reference(limit: int, listening: Listening) -> None:
    """As few lines as a datagram server on asgiref's class needs."""
    base: Any = stateless_server("reference")

    class Gateway(base, asyncio.DatagramProtocol):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.address = transport.get_extra_info("sockname")
            listening(self.address[1])

        def datagram_received(self, data: bytes, addr: Any) -> None:
            scope = {"type": "datagram", "asgi": {"version": "3.0"}, "client": addr, "server": self.address}
            message = {"type": "datagram.receive", "data": data, "client": addr, "server": self.address}
            self.get_or_create_application_instance(addr, scope).put_nowait(message)

        async def application_send(self, scope: Any, message: Any) -> None:
            self.transport.sendto(message["data"], scope["client"])

        async def handle(self) -> None:
            loop = asyncio.get_running_loop()
            await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
            await loop.create_future()

    gateway: Any = Gateway(echo, max_applications=limit)
    await gateway.arun()


async def serve_ours(limit: int, listening: Listening) -> None:
    from cyasgi.gateways.datagram import DatagramServer

    server = DatagramServer(echo, limit, binds=("127.0.0.1", 0))
    listening(server.bind()[0][1])
    await server.arun()


def serve(side: str, loop: str, limit: int, descriptor: int) -> None:
    """Writes its port to a descriptor and serves until it is killed; runs in a process of its own."""
    settle(side)

    def listening(port: int) -> None:
        os.write(descriptor, b"%d\n" % port)
        os.close(descriptor)

    serving = {FLOOR: serve_bare, "reference": serve_reference}.get(side, serve_ours)
    run(loop, serving(limit, listening))

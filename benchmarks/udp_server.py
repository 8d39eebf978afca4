"""The UDP echo servers under load: cyasgi's gateway, the same on the reference's class, and a bare protocol."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from benchmarks.probing import run
from benchmarks.sides import FLOOR, settle
from benchmarks.workload import Receive, Send


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


async def serve_bare(limit: int) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(BareEcho, local_addr=("127.0.0.1", 0))
    print_port(transport.get_extra_info("sockname")[1])
    await loop.create_future()


async def serve_reference(limit: int) -> None:
    """As few lines as a datagram server on asgiref's class needs."""
    from asgiref.server import StatelessServer

    class Gateway(StatelessServer, asyncio.DatagramProtocol):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.address = transport.get_extra_info("sockname")
            print_port(self.address[1])

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

    await Gateway(echo, max_applications=limit).arun()


async def serve_ours(limit: int) -> None:
    from cyasgi.gateways.datagram import DatagramServer

    server = DatagramServer(echo, limit, binds=("127.0.0.1", 0))
    print_port(server.bind()[0][1])
    await server.arun()


def print_port(port: int) -> None:
    """The first line of stderr is for whoever waits for the server."""
    print(port, file=sys.stderr, flush=True)


def serve(side: str, loop: str, limit: int) -> None:
    """Serves until it is killed; runs in a process of its own."""
    settle(side)
    serving = {FLOOR: serve_bare, "reference": serve_reference}.get(side, serve_ours)
    run(loop, serving(limit))

"""ManagedServer put before the gateways: what it counts there, and what a client beyond its limits is answered."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

import pytest

from support.managed_servers import lifecycle
from support.serving import in_time
from support.udp import clients, serving_datagrams
from support.websockets_serving import Client, serving

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": "datagram.send", "data": message["data"]})


def port_of(self: Any, scope: Any) -> Any:
    """Here all clients have one host."""
    return scope["client"][1]


def make_server(cy: Any, name: str, application: Any, binds: Any = "127.0.0.1:0", **attributes: Any) -> Any:
    """A managed server of this class of the gateways, with these attributes."""
    modules = {"DatagramServer": "datagram", "HTTPServer": "http", "WebSocketServer": "websocket"}
    base = getattr(importlib.import_module(f"{cy.__name__}.gateways.{modules[name]}"), name)

    class Server(lifecycle(cy).ManagedServer, base):
        def __init__(self) -> None:
            super().__init__(application, 100, binds=binds)
            self.closed: list[Any] = []
            self.limited: list[str] = []

        def on_closed(self, instance: Any, statistics: Any) -> None:
            self.closed.append(statistics)

        def on_limited(self, scope: Any, error: Any) -> None:
            assert scope["client"][0] == "127.0.0.1" and scope["type"]
            self.limited.append(error.limit)

    return type("Server", (Server,), attributes)()


# Datagrams


@pytest.mark.slow
@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
def test_datagrams_are_counted(cy, run, address):
    """Those of each client, and their bytes; readable by the id that the gateway gives it."""

    async def main():
        server = make_server(cy, "DatagramServer", echo, address)
        async with serving_datagrams(server) as [bound]:
            with clients(bound, bound) as [one, two]:
                for data in (b"1", b"22", b""):
                    assert await one.ask(data) == data
                assert await two.ask(b"4444") == b"4444"
                statistics = server.instance_statistics(one.address)
                assert (statistics.messages_in, statistics.bytes_in) == (3, 3)
                assert (statistics.messages_out, statistics.bytes_out, statistics.errors) == (3, 3, 0)
                assert [entry.messages_in for entry in server.snapshot().values()] == [3, 1]
        assert sorted(statistics.messages_in for statistics in server.closed) == [1, 3]

    run(main())


def test_datagrams_over_the_rate_are_dropped(cy, run):
    """And counted, and told to the hook; the log has nothing of it, other clients and later datagrams go on."""

    async def main():
        limits = {"max_messages_per_second": 1, "message_burst": 3, "limit_key": port_of, "now": 0.0}
        server = make_server(cy, "DatagramServer", echo, **limits, clock=lambda self: self.now)
        async with serving_datagrams(server) as [bound]:
            with clients(bound, bound) as [one, two]:
                one.send(*(b"%d" % number for number in range(10)))
                assert await one.receive(3) == [b"0", b"1", b"2"]
                assert await two.ask(b"hello") == b"hello"
                await in_time(lambda: server.stats()["datagrams_received"] == 11)
                server.now += 1
                assert await one.ask(b"again") == b"again"
        stats = server.stats()
        assert (stats["dropped_limited"], stats["dropped_refused"], stats["limited_messages"]) == (7, 0, 7)
        assert server.limited == ["messages"] * 7
        assert stats["datagrams_sent"] == 5

    run(main())


def test_no_instance_for_one_client_too_many(cy, run):
    """By default clients are told apart by their host: those of one host share what it may have."""

    async def main():
        server = make_server(cy, "DatagramServer", echo, max_instances_per_key=2)
        async with serving_datagrams(server) as [bound]:
            with clients(bound, bound, bound) as [one, two, three]:
                assert await one.ask(b"1") == b"1" and await two.ask(b"2") == b"2"
                three.send(b"3")
                await in_time(lambda: server.stats()["dropped_limited"] == 1)
                assert await one.ask(b"1") == b"1"
                await server.delete_application_instance(one.address)
                assert await three.ask(b"3") == b"3"
        assert server.limited == ["instances"]

    run(main())


def test_an_async_def_override(cy, run):
    """An override above that awaits makes instances in tasks: the limits hold there too."""

    async def main():
        async def get_or_create(self, scope_id, scope):
            return super(cls, self).get_or_create_application_instance(scope_id, scope)

        server = make_server(cy, "DatagramServer", echo, max_messages_per_second=0.001)
        cls = server.__class__
        server.__class__ = type("Server", (cls,), {"get_or_create_application_instance": get_or_create})
        async with serving_datagrams(server) as [bound]:
            with clients(bound) as [client]:
                client.send(b"1", b"2", b"3")
                assert await client.receive() == b"1"
                await in_time(lambda: server.stats()["dropped_limited"] == 2)

    run(main())


# HTTP


async def hello(scope: Any, receive: Any, send: Any) -> None:
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d bytes" % size})


async def ask(address: Any, request: bytes = REQUEST) -> tuple[int, dict[bytes, bytes], bytes]:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(request)
        async with asyncio.timeout(30):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
        await writer.wait_closed()
    status, *lines = head.split(b"\r\n")
    return int(status.split()[1]), dict(line.lower().split(b": ", 1) for line in lines), body


def test_requests_are_counted(cy, run):
    """What each request received and sent is known when it is over."""

    async def main():
        server = make_server(cy, "HTTPServer", hello, lifespan="off")
        async with serving(server) as address:
            post = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\n12345"
            assert (await ask(address, post))[2] == b"5 bytes"
            await in_time(lambda: server.closed)
        [statistics] = server.closed
        assert (statistics.bytes_in, statistics.messages_out, statistics.bytes_out) == (5, 2, 7)
        assert statistics.errors == 0

    run(main())


def test_requests_over_the_rate_are_answered_429(cy, run):
    """With the time to come back after; a request is one message, however long its body is."""

    async def main():
        limits = {"max_messages_per_second": 0.1, "message_burst": 2, "now": 0.0, "clock": lambda self: self.now}
        server = make_server(cy, "HTTPServer", hello, lifespan="off", **limits)
        async with serving(server) as address:
            assert [(await ask(address))[0] for _ in range(2)] == [200, 200]
            server.now += 2.5
            status, headers, _ = await ask(address)
            assert (status, headers[b"retry-after"], headers[b"connection"]) == (429, b"8", b"close")
            server.now += 7.5
            assert (await ask(address))[0] == 200
        stats = server.stats()
        assert (stats["created"], stats["refused"], stats["limited_messages"]) == (3, 1, 1)

    run(main())


def test_requests_at_a_time(cy, run):
    """A client with as many requests at work as it may have is answered 429, and others are not."""

    async def main():
        gate = asyncio.Event()

        async def application(scope, receive, send):
            if scope["path"] == "/slow":
                await gate.wait()
            await hello(scope, receive, send)

        def limit_key(self, scope):
            return dict(scope["headers"]).get(b"host")

        server = make_server(
            cy, "HTTPServer", application, lifespan="off", max_instances_per_key=1, limit_key=limit_key
        )
        async with serving(server) as address:
            slow = asyncio.create_task(ask(address, REQUEST.replace(b"/ ", b"/slow ")))
            await in_time(lambda: server.application_instances)
            status, headers, _ = await ask(address)
            assert (status, headers[b"retry-after"]) == (429, b"1")
            assert (await ask(address, REQUEST.replace(b"Host: x", b"Host: y")))[0] == 200
            gate.set()
            assert (await slow)[0] == 200
            assert (await ask(address))[0] == 200

    run(main())


# WebSockets


def test_websockets(cy, run):
    """Messages are counted while the WebSocket is open; one too many is answered 429 in place of the handshake."""

    async def main():
        async def application(scope, receive, send):
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})

        server = make_server(cy, "WebSocketServer", application, lifespan="off", max_instances_per_key=1)
        async with serving(server) as address:
            client = await Client(address).open()
            client.send(frame(b"hello"))
            assert await client.receive() == (0x81, b"hello")
            [statistics] = server.snapshot().values()
            assert (statistics.messages_in, statistics.bytes_in) == (2, 5)
            await in_time(lambda: next(iter(server.snapshot().values())).messages_out == 2)
            other = await Client(address).connect()
            head = await other.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 429 ")
            other.writer.close()
            client.writer.close()
            await in_time(lambda: server.closed)
        assert server.limited == ["instances"]
        assert server.closed[0].errors == 0

    run(main())


def frame(text: bytes) -> bytes:
    """A text frame of a client, its mask all zeros."""
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text

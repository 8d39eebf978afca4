"""Two servers on the same sockets: one leaves them to the other, and nothing is lost that was on its way."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import socket
import ssl
import sys

import pytest

from support.certificates import write_certificates
from support.loops import PATIENCE
from support.serving import in_time
from support.websockets_raw import request, text

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, sockets are not handed over")

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def answering(name):
    """An application that answers with this name, and notes what it is asked."""

    async def application(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": name})
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "bytes": name})
        elif scope["type"] == "datagram":
            while True:
                message = await receive()
                await send({"type": "datagram.send", "data": name + message["data"]})

    return application


@contextlib.asynccontextmanager
async def serving(cy, kind, sock, name, **settings):
    """A server of this kind at work on a duplicate of the socket."""
    module, cls = {"http": ("http", "HTTPServer"), "udp": ("datagram", "DatagramServer")}[kind]
    tls = {"ssl": settings.pop("tls")} if "tls" in settings else {}
    server = getattr(importlib.import_module(f"{cy.__name__}.gateways.{module}"), cls)(
        answering(name), binds="127.0.0.1:0", **tls
    )
    for setting, value in settings.items():
        setattr(server, setting, value)
    assert server.inherit([[os.dup(sock.fileno())]]) == [sock.getsockname()]
    running = asyncio.create_task(server.arun())
    await server.wait_started()
    try:
        yield server
    finally:
        server.stop()
        await running


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@contextlib.asynccontextmanager
async def connected(sock, **options):
    reader, writer = await asyncio.open_connection(*sock.getsockname(), **options)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def ask(reader, writer):
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    return head.lower(), await reader.readexactly(length)


@pytest.mark.slow
def test_connections(cy, run, listening):
    """An idle connection is served once more and told of the end; one that is new belongs to the other server."""

    async def main():
        async with (
            serving(cy, "http", listening, b"old") as old,
            connected(listening) as idle,
            connected(listening) as used,
        ):
            assert (await ask(*used))[1] == b"old"
            await in_time(lambda: len(old.connections) == 2)
            async with serving(cy, "http", listening, b"new"):
                leaving = asyncio.create_task(old.hand_over())
                for _ in range(10):
                    async with connected(listening) as other:
                        head, body = await ask(*other)
                        # While both accept, either may have got it; if the old one, for one request.
                        assert body == b"new" or b"connection: close" in head
                for one in (idle, used):
                    head, body = await ask(*one)
                    assert (b"connection: close" in head, body) == (True, b"old")
                    assert await one[0].read() == b""
                await asyncio.wait_for(leaving, PATIENCE)
                async with connected(listening) as other:
                    assert (await ask(*other))[1] == b"new"

    run(main())


@pytest.mark.slow
def test_who_says_nothing(cy, run, listening):
    """A connection that sends no request does not hold up the end for longer than it may be idle."""

    async def main():
        settings = {"keep_alive_timeout": 0.2}
        async with serving(cy, "http", listening, b"old", **settings) as old, connected(listening) as (reader, _):
            await in_time(lambda: old.connections)
            await asyncio.wait_for(old.hand_over(), PATIENCE)
            old.stop()
            assert await reader.read() == b""

    run(main())


@pytest.mark.slow
def test_a_handshake_that_has_not_begun(cy, run, listening, tmp_path):
    """Whoever has connected by TLS, and says nothing yet, is served."""
    write_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))

    async def main():
        async with serving(cy, "http", listening, b"old", tls=context) as old:
            with socket.create_connection(listening.getsockname()) as sock:
                # Accepted, since nothing else is there to accept it.
                with socket.create_connection(listening.getsockname()):
                    await in_time(lambda: old._accepting[0].beginning)
                sock.setblocking(False)
                leaving = asyncio.create_task(old.hand_over())
                for _ in range(20):
                    await asyncio.sleep(0)
                reader, writer = await asyncio.open_connection(sock=sock, ssl=trusting, server_hostname="127.0.0.1")
                assert (await ask(reader, writer))[1] == b"old"
                writer.close()
                await writer.wait_closed()
                await asyncio.wait_for(leaving, PATIENCE)

    run(main())


@pytest.mark.slow
def test_websockets(cy, run, listening):
    """One that is open is closed with 1012; one that is just being opened is accepted before that."""
    pytest.importorskip("websockets")

    async def main():
        async with (
            serving(cy, "http", listening, b"old") as old,
            connected(listening) as one,
            connected(listening) as two,
        ):
            one[1].write(request())
            await one[0].readuntil(b"\r\n\r\n")
            one[1].write(text("x"))
            assert await one[0].readexactly(5) == b"\x82\x03old"
            await in_time(lambda: len(old.connections) == 2)
            leaving = asyncio.create_task(old.hand_over())
            two[1].write(request())
            assert (await two[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            for reader, _ in (one, two):
                kind, _, *code = await reader.readexactly(4)
                assert (kind, int.from_bytes(bytes(code))) == (0x88, 1012)
            await asyncio.wait_for(leaving, PATIENCE)

    run(main())


@pytest.mark.slow
def test_datagrams(cy, run):
    """What has not been read is the other server's, also while the first one goes on to send."""

    async def main():
        loop = asyncio.get_running_loop()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
            client.setblocking(False)
            client.connect(sock.getsockname())
            async with serving(cy, "udp", sock, b"old") as old:
                client.send(b"1")
                assert await loop.sock_recv(client, 100) == b"old1"
                await old.hand_over()
                client.send(b"2")
                [[_, instance]] = old.application_instances.items()
                instance.put_nowait({"type": "datagram.receive", "data": b"3", "client": client.getsockname()})
                assert await loop.sock_recv(client, 100) == b"old3"
                old.stop()
                async with serving(cy, "udp", sock, b"new"):
                    client.send(b"4")
                    assert [await loop.sock_recv(client, 100) for _ in range(2)] == [b"new2", b"new4"]
                assert old.stats()["dropped_stopping"] == 0

    run(main())


def test_what_is_no_socket(cy):
    """An error that names the descriptor."""
    module = importlib.import_module(f"{cy.__name__}.gateways.http")
    server = module.HTTPServer(answering(b""), binds="127.0.0.1:0")
    reads, writes = os.pipe()
    with pytest.raises(module.ListenError, match=f"cannot listen on fd://{reads}: Socket operation on non-socket"):
        server.inherit([[reads]])
    os.close(reads)
    os.close(writes)

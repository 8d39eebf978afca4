"""Streams of real frameworks whose clients go away: their generators are closed, with all that hangs on them."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import pytest
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from support.loops import passes
from support.real_clients import serving
from support.serving import in_time

pytestmark = pytest.mark.slow

STREAMS = 20


def streaming(chunks, ended):
    async def page(request):
        return StreamingResponse(generate(ended))

    async def generate(ended):
        try:
            async for chunk in chunks():
                yield chunk
        finally:
            ended.append("closed")

    return Starlette(routes=[Route("/", page)])


async def steady():
    """A part now and then."""
    while True:
        await asyncio.sleep(0.001)
        yield b"x" * 65_536


async def ready():
    """A part whenever it is asked for, after a turn of the loop."""
    while True:
        await asyncio.sleep(0)
        yield b"x" * 65_536


@pytest.mark.parametrize("chunks", [steady, ready])
@pytest.mark.parametrize("how", ["closes", "resets"])
def test_a_client_that_fell_behind_goes_away(cy, run, chunks, how):
    """Whoever waits for the client to take more is woken before the application is told that the client has gone, so
    that it is cancelled in its own code and not in `send`: each generator's `finally` has run."""
    ended = []

    async def main():
        loop = asyncio.get_running_loop()
        async with serving(cy, streaming(chunks, ended), max_applications=None) as server:
            clients = []
            for _ in range(STREAMS):
                client = socket.socket()
                client.setblocking(False)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                await loop.sock_connect(client, server.addresses[0])
                await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                clients.append(client)
            await in_time(lambda: sum(connection.paused for connection in server.connections) == STREAMS)
            await passes(5)
            assert ended == []
            for client in clients:
                with closing(client):
                    if how == "resets":
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await in_time(lambda: not server.connections)
            await passes(20)
            assert len(ended) == STREAMS

    run(main())


def test_a_client_that_has_closed_its_half_gets_all_of_a_stream(cy, run):
    """The framework, which listens for the end of the client, does not stop while parts go out."""
    ended, gate = [], asyncio.Queue()

    async def chunks():
        while (chunk := await gate.get()) is not None:
            yield chunk

    async def main():
        async with serving(cy, streaming(chunks, ended)) as server:
            reader, writer = await asyncio.open_connection(*server.addresses[0])
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            writer.write_eof()
            for number in range(3):
                gate.put_nowait(b"%d" % number)
                if not number:
                    head = await reader.readuntil(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 200 ")
                assert await reader.readexactly(6) == b"1\r\n%d\r\n" % number
                # Longer than it takes the server to see the end of the client's half.
                await asyncio.sleep(0.05)
                assert ended == []
            gate.put_nowait(None)
            assert await reader.read() == b"0\r\n\r\n"
            writer.close()
            assert ended == ["closed"]

    run(main())

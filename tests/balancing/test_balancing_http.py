"""A LoadBalancer behind HTTPServer, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import struct
import sys

import pytest

from support.balancing import Held, answering, balancer_of, failing, tallies
from support.serving import in_time


@contextlib.asynccontextmanager
async def serving_http(cy, balancer, lifespan="off"):
    """An HTTPServer over the balancer at work in this loop; gives it and its address."""
    server = importlib.import_module(f"{cy.__name__}.gateways.http").HTTPServer(balancer, binds=("127.0.0.1", 0))
    server.lifespan = lifespan
    (address,) = server.bind()
    running = asyncio.create_task(server.arun())
    await in_time(lambda: server.serving)
    try:
        yield server, address
    finally:
        server.stop()
        await running
    assert not server.application_instances


async def request(address, method="GET", body=b"", parts=1):
    """The status, headers and body of the answer to this request; the body is sent in so many parts."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        head = f"{method} / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode())
        size = max(1, len(body) // parts)
        for start in range(0, len(body), size):
            writer.write(body[start : start + size])
            await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


async def echo(scope, receive, send):
    """Answers with the body of the request."""
    body = b""
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body += message["body"]
        more = message["more_body"]
    await answering(body.decode())(scope, receive, send)


async def reading_then_failing(scope, receive, send):
    """Reads a part of the body, then fails."""
    await receive()
    raise ZeroDivisionError


@pytest.mark.slow
def test_in_turn_and_repeated(cy, run):
    """Requests go to each in turn; a failure before the answer goes unnoticed by the client, the body is whole."""

    async def main():
        balancer = balancer_of(cy, {"ill": reading_then_failing, "well": echo}, failure_threshold=5)
        body = b"0123456789" * 1000
        async with serving_http(cy, balancer) as (server, address):
            for _ in range(4):
                status, _, answer = await request(address, "PUT", body, parts=3)
                assert (status, answer) == (200, body)
            # A POST is not repeated.
            assert [(await request(address, "POST", body))[0] for _ in range(2)] == [500, 200]
            assert balancer.stats()["applications"]["ill"]["state"] == "open"
            assert [(await request(address))[0] for _ in range(3)] == [200] * 3
            stats = server.stats()
        assert stats["failed"] == 1
        assert balancer.stats()["retried"] == 4

    run(main())


def test_nobody_left(cy, run):
    """503 with Retry-After once no application is left."""

    async def main():
        balancer = balancer_of(cy, [failing()], failure_threshold=1, failure_window=1, open_time=40)
        async with serving_http(cy, balancer) as (_, address):
            assert (await request(address))[0] == 500
            status, headers, body = await request(address, "HEAD")
            assert (status, body) == (503, b"")
            assert 30 <= int(headers["retry-after"]) <= 40

    run(main())


def test_clients_that_go_away(cy, run):
    """Requests whose clients close the connection are nobody's failure; they count as answered, and none is left."""

    async def main():
        held = Held()
        balancer = balancer_of(cy, {"held": held}, failure_threshold=1, failure_window=1)
        async with serving_http(cy, balancer) as (server, address):
            writers = []
            for _ in range(5):
                _, writer = await asyncio.open_connection(*address)
                # Closed, it is reset: a client that merely closes its half may still wait for the answer.
                reset = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
                writers.append(writer)
            await in_time(lambda: held.running == 5)
            for writer in writers:
                writer.transport.abort()
            await in_time(lambda: not server.connections)
            held.go.set()
            await in_time(lambda: tallies(balancer)["held"] == (0, 5, 0, 0))
            assert (await request(address))[0] == 200
        assert tallies(balancer)["held"] == (0, 6, 0, 0)

    run(main())


def test_lifespan(cy, run):
    """Each application finds in its requests what it wrote into its state at startup."""

    async def main():
        stopped = []

        def application(name):
            async def application(scope, receive, send):
                if scope["type"] == "lifespan":
                    await receive()
                    scope["state"]["name"] = name
                    await send({"type": "lifespan.startup.complete"})
                    await receive()
                    stopped.append(name)
                    await send({"type": "lifespan.shutdown.complete"})
                else:
                    await answering(scope["state"]["name"])(scope, receive, send)

            return application

        async with serving_http(cy, balancer_of(cy, [application("a"), application("b")]), lifespan="on") as (
            _,
            address,
        ):
            assert [(await request(address))[2] for _ in range(4)] == [b"a", b"b"] * 2
        assert stopped == ["b", "a"]

    run(main())

"""Slow clients of the HTTP gateway, and those who stop halfway. Others are served meanwhile, nothing is left.

Limits of time are set short and the attacker goes on until it is cut off: a deadline that each byte put off would let
it go on until the test's own patience ends.
"""

from __future__ import annotations

import asyncio
import importlib

import pytest

from support.http_corpus_heads import CHUNKED, END, get, post
from support.http_raw_client import (
    LONG,
    SHORT,
    RawClient,
    Recorder,
    Served,
    Streaming,
    beside,
    raw_client,
    server_of,
    serving_http,
    trickle,
)
from support.serving import in_time

pytestmark = pytest.mark.few_combinations


@pytest.fixture
def quick(cy, monkeypatch):
    """The gateway looks at its deadlines more often, and lets those who were refused something linger less long."""
    monkeypatch.setattr(importlib.import_module(f"{cy.__name__}.gateways.net.deadlines"), "RESOLUTION", 0.02)
    monkeypatch.setattr(importlib.import_module(f"{cy.__name__}.gateways.http.connection"), "LINGER", SHORT)


# ---- slow clients --------------------------------------------------------------------------------------------------

SLOW_HEADS = [
    pytest.param(b"GET /slow HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 100_000, 1, id="a byte at a time"),
    pytest.param(b"GET /" + b"a" * 100_000, 1, id="a target without end"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 50_000, 8, id="a line at a time"),
]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("data", "size"), SLOW_HEADS)
@pytest.mark.parametrize("before", [0, 1, 2], ids=lambda before: f"after {before}")
def test_slow_headers(cy, run, data, size, before):
    """A head has to be complete `header_timeout` seconds after its first byte, whatever comes in between."""

    async def main():
        application = Recorder()
        server = server_of(cy, beside(application), **{**LONG, "header_timeout": SHORT})
        async with serving_http(server) as (address,), Served(address), raw_client(address) as client:
            for _ in range(before):
                assert (await client.get(b"/before")).status == 200
            await trickle(client, data, size)
            if client.data:
                answer = await client.answer()
                assert answer.status == 408 and answer.closes
            await in_time(lambda: len(server.connections) == 1)
        assert len(application.begun) == before

    run(main())


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("data", [b"", b"\r\n"], ids=["silence", "empty lines"])
@pytest.mark.parametrize(
    ("limit", "before"), [("first_byte_timeout", 0), ("keep_alive_timeout", 1), ("keep_alive_timeout", 3)]
)
def test_idle_connections(cy, run, limit, before, data):
    """A connection without a request is closed after its time; empty lines, which are ignored, do not put that off."""
    limits = {**LONG, limit: SHORT}
    if data:
        # The first of them may count as the beginning of a request.
        limits["header_timeout"] = SHORT

    async def main():
        application = Recorder()
        server = server_of(cy, beside(application), **limits)
        async with serving_http(server) as (address,), Served(address), raw_client(address) as client:
            for _ in range(before):
                assert (await client.get(b"/before")).status == 200
            if data:
                await trickle(client, data, len(data))
            assert (await client.end())[0] in ("eof", "reset")
            if client.data:
                answer = await client.answer()
                assert answer.status in (400, 408) and answer.closes
            await in_time(lambda: len(server.connections) == 1)
        assert len(application.begun) == before

    run(main())


BODIES = [
    pytest.param(post(b"Content-Length: 1000000"), b"a", id="length"),
    pytest.param(post(CHUNKED), b"1\r\na\r\n", id="chunks"),
    pytest.param(post(CHUNKED) + b"fffff\r\n", b"a", id="one chunk"),
    pytest.param(post(CHUNKED) + b"1;", b"a", id="an extension"),
    pytest.param(post(CHUNKED) + b"0\r\n", b"X-A: b\r\n", id="trailers"),
]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("limit", ["body_timeout", "request_timeout"])
@pytest.mark.parametrize(("head", "data"), BODIES)
def test_slow_bodies(cy, run, head, data, limit):
    """A body has to be complete in time, whatever comes in between; the application is told of its end."""

    async def main():
        application = Recorder()
        server = server_of(cy, beside(application), **{**LONG, limit: SHORT})
        async with serving_http(server) as (address,), Served(address), raw_client(address) as client:
            assert await client.send(head)
            await trickle(client, data, len(data) if data.endswith(b"\n") else 1)
            if client.data:
                answer = await client.answer()
                assert answer.status in (400, 408, 431) or (limit == "request_timeout" and answer.status == 503)
                assert answer.closes
            await in_time(lambda: len(server.connections) == 1 and len(application.ended) == 1)
        assert application.begun == [("POST", b"/")] and application.requests == []

    run(main())


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("rate", [0, 1, 100], ids=lambda rate: f"reading {rate}")
def test_slow_reading(cy, run, rate):
    """A client that hardly reads, or not at all, holds its application back, and is cut off after `request_timeout`."""

    async def main():
        application = Streaming()
        server = server_of(cy, beside(application), **{**LONG, "request_timeout": SHORT})
        async with serving_http(server) as (address,), Served(address), raw_client(address) as client:
            assert await client.send(get())
            await in_time(lambda: application.running)
            loop = asyncio.get_running_loop()
            while application.running:
                if rate:
                    try:
                        await loop.sock_recv(client.socket, rate)
                    except ConnectionResetError:
                        break
                await asyncio.sleep(0.002)
            await in_time(lambda: len(server.connections) == 1 and not application.running)
            # What the system's buffers hold, and a little of our own.
            assert application.sent < 16_000_000

    run(main())


@pytest.mark.slow
def test_a_client_that_stops_reading_and_goes_on(cy, run):
    """The application waits in `send` while the client does not read, and goes on when it does; nothing is lost."""

    async def main():
        application = Streaming(times=1000)
        server = server_of(cy, beside(application))
        async with serving_http(server) as (address,), Served(address) as other, raw_client(address) as client:
            assert await client.send(get(b"Connection: close"))
            sent = -1
            while application.sent != sent:
                sent = application.sent
                count = other.count
                await in_time(lambda count=count: other.count > count + 20)
            assert application.running and sent < 16_000_000
            received = 0
            loop = asyncio.get_running_loop()
            while data := await loop.sock_recv(client.socket, 1_000_000):
                received += data.count(b"a")
            assert received >= 65_536_000
        assert not application.running

    run(main())


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_an_answer_is_not_waited_for_by_who_goes_on_sending(cy, run):
    """Who is refused and goes on sending for ever is cut off in the end; what it sends is thrown away."""

    async def main():
        server = server_of(cy, beside(Recorder()), **LONG, max_body_size=1000)
        async with serving_http(server) as (address,), Served(address), raw_client(address) as client:
            assert await client.send(post(b"Content-Length: 1000000000000"))
            while await client.send(b"a" * 65_536):
                await asyncio.sleep(0)
            await in_time(lambda: len(server.connections) == 1)

    run(main())


# ---- halves --------------------------------------------------------------------------------------------------------

HALVES = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"G", id="a letter"),
    pytest.param(b"GET / HTTP/1.1", id="a line without its end"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n", id="no end of the head"),
    pytest.param(post(b"Content-Length: 5") + b"hell", id="no end of the body"),
    pytest.param(post(b"Content-Length: 5"), id="no body"),
    pytest.param(post(CHUNKED) + b"5\r\nhello\r\n", id="no last chunk"),
    pytest.param(post(CHUNKED) + b"5\r\nhello\r\n0\r\n", id="no end of the trailers"),
    pytest.param(post(CHUNKED) + b"5\r\nhel", id="no end of a chunk"),
]


@pytest.mark.parametrize("data", HALVES)
@pytest.mark.parametrize("way", ["half", "whole", "reset"])
def test_incomplete_requests(cy, run, data, way):
    """A request whose end never comes is never served; its application is told, and nothing of it is left."""

    async def main():
        application = Recorder()
        server = server_of(cy, beside(application), **LONG)
        async with serving_http(server) as (address,), Served(address):
            async with raw_client(address) as client:
                await client.send(data)
                await in_time(lambda: len(server.connections) == 2)
                if b"POST" in data:
                    await in_time(lambda: application.begun)
                if way == "half":
                    client.half_close()
                    _, rest = await client.end()
                    assert rest == b"" or rest.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 408 "))
                elif way == "whole":
                    client.close()
                else:
                    client.abort()
                await in_time(lambda: len(server.connections) == 1)
            await in_time(lambda: len(application.ended) == len(application.begun))
        assert application.requests == []

    run(main())


@pytest.mark.parametrize("data", [get(), post(b"Content-Length: 5") + b"hello", post(CHUNKED) + END])
def test_half_closed_and_answered(cy, run, data):
    """A client that has closed its half behind a whole request gets its answer, and then the end."""

    async def main():
        application = Recorder()
        server = server_of(cy, beside(application), **LONG)
        async with serving_http(server) as (address,), raw_client(address) as client:
            await client.send(data + data)
            client.half_close()
            answers = [await client.answer(), await client.answer()]
            assert [answer.status for answer in answers] == [200, 200]
            assert await client.end() == ("eof", b"")
            await in_time(lambda: not server.connections)
        assert len(application.requests) == 2

    run(main())


def test_half_closed_behind_a_part_of_a_body(cy, run):
    """Of pipelined requests the whole ones are answered; one whose body never comes ends the connection."""

    async def main():
        application = Recorder()
        async with serving_http(server_of(cy, application, **LONG)) as (address,), raw_client(address) as client:
            await client.send(get() + post(b"Content-Length: 5") + b"hell")
            client.half_close()
            assert (await client.answer()).status == 200
            await client.end()
            assert client.data == b""
        assert len(application.requests) == 1

    run(main())


@pytest.mark.parametrize("way", ["close", "reset"])
def test_clients_that_leave_during_the_answer(cy, run, way):
    """When the client has gone, the application's `send` returns or raises: it neither waits nor writes for ever."""

    async def main():
        application = Streaming(times=10_000)
        server = server_of(cy, beside(application), **LONG)
        async with serving_http(server) as (address,), Served(address):
            for _ in range(20):
                client = await RawClient(address).connect()
                await client.send(get())
                await client.read_some()
                client.close() if way == "close" else client.abort()
            await in_time(lambda: len(server.connections) == 1 and not application.running)

    run(main())

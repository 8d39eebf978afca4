"""Floods of the HTTP gateway, applications that misbehave, and forged logs. Others are served meanwhile."""

from __future__ import annotations

import asyncio
import errno
import io
import logging

import pytest

from support.http_connection import Connection
from support.http_corpus_heads import CHUNKED, END, get, post
from support.http_raw_client import (
    LONG,
    RawClient,
    Recorder,
    Served,
    Streaming,
    beside,
    others,
    raw_client,
    server_of,
    serving_http,
)
from support.serving import in_time

pytestmark = pytest.mark.few_combinations


# ---- floods --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_connections_over_the_limit(cy, run):
    """`max_connections` bounds those that are open; clients that have one are served, and others once there is room."""

    async def main():
        server = server_of(cy, beside(Recorder()), **LONG, max_connections=10)
        async with serving_http(server) as (address,), Served(address):
            flood = [await RawClient(address).connect() for _ in range(60)]
            await in_time(lambda: len(server.connections) == 10)
            # One place is the well-behaved client's.
            for client in flood[9:]:
                answer = await client.answer()
                assert answer is None or (answer.status == 503 and int(answer.get(b"retry-after")) >= 0)
                assert (await client.end())[0] == "eof"
            for client in flood:
                client.close()
            await in_time(lambda: len(server.connections) == 1)
            async with raw_client(address) as client:
                assert (await client.get(b"/other")).status == 200

    run(main())


def test_requests_over_the_limit(cy, run):
    """At `max_applications` running requests, others get 503 with Retry-After; none that runs is given up."""
    release = asyncio.Event()

    async def waits(scope, receive, send):
        await release.wait()
        await others(scope, receive, send)

    async def main():
        server = server_of(cy, waits, 5, **LONG)
        async with serving_http(server) as (address,):
            clients = [await RawClient(address).connect() for _ in range(30)]
            for client in clients:
                await client.send(get())
            for client in clients[5:]:
                answer = await client.answer()
                assert answer.status == 503
                assert int(answer.get(b"retry-after")) >= 0
            assert len(server.application_instances) == 5
            release.set()
            for client in clients[:5]:
                assert (await client.answer()).status == 200
            for client in clients:
                client.close()
            async with raw_client(address) as client:
                assert (await client.get()).status == 200

    run(main())


def big(size: int, framing: str) -> bytes:
    body = b"a" * size
    if framing == "length":
        return post(b"Content-Length: %d" % size, body=body)
    return post(CHUNKED, body=b"".join(b"400\r\n%b\r\n" % body[:1024] for _ in range(size // 1024)) + END)


@pytest.mark.slow
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_bodies_over_the_limit(cy, run, framing):
    """A body over `max_body_size` is refused with 413, before the application has seen it if its length is said."""

    async def main():
        application = Recorder()
        server = server_of(cy, beside(application), **LONG, max_body_size=10_240)
        async with serving_http(server) as (address,), Served(address):
            async with raw_client(address) as client:
                assert (await client.ask(big(10_240, framing))).status == 200
                answer = await client.ask(big(11_264, framing) + get(start=b"GET /smuggled HTTP/1.1"))
                assert answer.status == 413 and answer.closes
                assert await client.end() == ("eof", b"")
            async with raw_client(address) as client:
                # Far more than the socket's buffers: the answer must arrive all the same.
                sending = asyncio.create_task(client.send(big(8_388_608, framing)))
                answer = await client.answer()
                assert answer.status == 413 and answer.closes
                await client.end()
                await sending
            await in_time(lambda: len(server.connections) == 1)
        assert len(application.requests) == 1
        assert len(application.begun) == (1 if framing == "length" else 3)

    run(main())


def test_a_body_over_the_limit_is_not_asked_for(cy, run):
    """A client that asks before it sends too long a body gets 413, and no 100."""

    async def main():
        server = server_of(cy, Recorder(), **LONG, max_body_size=1000)
        async with serving_http(server) as (address,), raw_client(address) as client:
            answer = await client.ask(post(b"Expect: 100-continue", b"Content-Length: 1001"))
            assert (answer.status, client.interim, answer.closes) == (413, [], True)
            assert await client.end() == ("eof", b"")

    run(main())


@pytest.mark.slow
def test_pipelined_requests_wait_their_turn(cy, run):
    """However many requests one client sends at once, one of them runs at a time, and the others are hardly read."""
    running = most = 0
    release = asyncio.Event()

    async def waits(scope, receive, send):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await release.wait()
        await others(scope, receive, send)
        running -= 1

    async def main():
        server = server_of(cy, beside(waits), **LONG)
        async with serving_http(server) as (address,), Served(address) as other, raw_client(address) as client:
            data = get() * 500_000
            sending = asyncio.create_task(client.send(data))
            await in_time(lambda: running)
            count = other.count
            await in_time(lambda: other.count > count + 50)
            assert not sending.done(), "17 MB were read of a client whose first request is not answered yet"
            assert most == 1
            sending.cancel()
            await asyncio.wait([sending])
            client.abort()
            release.set()
            await in_time(lambda: len(server.connections) == 1)
        assert most == 1

    run(main())


@pytest.mark.slow
def test_pipelined_requests_unread(cy, run):
    """Who pipelines requests without reading the answers is held back; reading, it gets each answer, in order."""
    count = 5000
    number = 0

    async def numbers(scope, receive, send):
        nonlocal number
        number += 1
        body = b"%08d" % number + b"." * 5000
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5008")]})
        await send({"type": "http.response.body", "body": body})

    async def main():
        server = server_of(cy, beside(numbers), **LONG)
        async with serving_http(server) as (address,), Served(address) as other, raw_client(address) as client:
            sending = asyncio.create_task(client.send(get() * count))
            before = -1
            while number != before:
                before = number
                asked = other.count
                await in_time(lambda asked=asked: other.count > asked + 20)
            assert 0 < number < count, "answers that nobody reads were all made"
            for expected in range(1, count + 1):
                answer = await client.answer()
                assert answer.body[:8] == b"%08d" % expected
            assert await sending

    run(main())


# ---- applications and event loops ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_who_streams_without_end_gives_way(cy, run):
    """An application that never waits, to a client that keeps up, does not keep the event loop to itself."""
    application = Streaming(size=10, times=10_000)

    async def main():
        connection = Connection(cy, application)
        connection.feed(get())
        turns = 0
        while application.sent < 100_000:
            await asyncio.sleep(0)
            turns += 1
        assert turns > 20
        await connection.end()

    run(main())


def test_a_connection_that_breaks_while_it_is_refused(cy, run):
    """A reset that the event loop tells of by an error of write_eof() leaves no instance behind."""

    async def fails(scope, receive, send):
        raise RuntimeError("as asked for")

    async def main():
        connection = Connection(cy, fails, application_exception=lambda exception, details: None)

        def write_eof():
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

        connection.transport.write_eof = write_eof
        assert (await connection.ask(get())).startswith(b"HTTP/1.1 500 ")
        assert connection.transport.aborted
        assert not connection.server.application_instances
        await connection.end()

    run(main())


def test_what_breaks_during_an_answer_is_not_written_to(cy, run):
    """Once its transport is closing, an application that streams is told, rather than heard for nothing."""
    written = []

    async def main():
        application = Streaming(size=10, times=1000)
        connection = Connection(cy, application, application_exception=lambda exception, details: None)
        write = connection.transport.write

        def breaks(data):
            write(data)
            written.append(data)
            if len(written) == 3:
                connection.transport.close()
                asyncio.get_running_loop().call_soon(connection.lose)

        connection.transport.write = breaks
        await connection.ask(get())
        assert len(written) == 3 and not application.running
        await connection.end()

    run(main())


# ---- the log -------------------------------------------------------------------------------------------------------

CURSED = [
    pytest.param(get(start=b"GET /%0a%0dINFO:%20forged HTTP/1.1"), id="escaped line ends"),
    pytest.param(get(start=b"GET /%1b%5b2J%00%7f HTTP/1.1"), id="escaped control characters"),
    pytest.param(get(start="GET /\u2028\u0085\u202e HTTP/1.1".encode()), id="separators of Unicode"),
    pytest.param(get(start=b"GET /%e2%80%a8%c2%85%e2%80%ae HTTP/1.1"), id="escaped separators of Unicode"),
    pytest.param(get(start=b'GET /"%22%20200%201 HTTP/1.1'), id="quotes"),
    pytest.param(get(b"User-Agent: \xe2\x80\xa8\xc2\x9b2J", b"Referer: \x85"), id="in headers"),
    pytest.param(get(start=b"GET /\x1b[2J HTTP/1.1"), id="control characters"),
    pytest.param(b"\x1b[2J\x07 / HTTP/1.1\r\nHost: x\r\n\r\n", id="in the method"),
    pytest.param(get(b"X-\x1bA: \x07"), id="in a refused header"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: \x1b[2J\r\n\r\n", id="in a refused Host"),
    pytest.param(post(CHUNKED) + b"\x1b[2J\n", id="in a refused chunk"),
]


@pytest.mark.parametrize("data", CURSED)
def test_log_lines_cannot_be_forged(cy, run, caplog, data):
    """No record that a request causes has more than one line, or a character that a terminal would act upon."""
    caplog.set_level(logging.DEBUG)
    log = io.StringIO()

    async def main():
        async with serving_http(server_of(cy, Recorder(), access_log=log)) as (address,):
            async with raw_client(address) as client:
                answer = await client.ask(data)
                assert answer is None or answer.status in (200, 400)
            async with raw_client(address) as client:
                assert (await client.get(b"/harmless")).status == 200

    run(main())
    *lines, nothing = log.getvalue().split("\n")
    assert nothing == "" and len(lines) == 2 and '"GET /harmless HTTP/1.1" 200 ' in lines[1]
    assert lines[0].count('"') == 2
    lines += [logging.Formatter().format(record) for record in caplog.records if record.name.startswith("cyasgi")]
    for line in lines:
        assert line.isascii() and line.isprintable(), repr(line)

"""Attacks on the HTTP gateway: those who are slow, stop, flood or abort. Others are served meanwhile, nothing is left.

Limits of time are set short and the attacker goes on until it is cut off: a deadline that each byte put off would let
it go on until the test's own patience ends.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import io
import logging

import pytest
from http_corpus import CHUNKED, END, get, post
from http_wire import Connection
from raw_http import RawClient, Recorder, raw_client, server_of, serving_http
from serving import in_time

#: Seconds that short deadlines are set to.
SHORT = 0.2
#: Every deadline that a server has, so that the one in question is the only short one.
LONG = dict.fromkeys(
    ("first_byte_timeout", "header_timeout", "keep_alive_timeout", "body_timeout", "request_timeout"), 60.0
)

pytestmark = pytest.mark.few_combinations


async def trickle(client: RawClient, data: bytes, size: int = 1) -> int:
    """Sends bytes, over and over, with pauses far shorter than any deadline, until the server ends the connection.

    Gives how many were sent.
    """
    sent = 0

    async def drip() -> None:
        nonlocal sent
        while client.ended is None:
            start = sent % len(data)
            if not await client.send(data[start : start + size]):
                return
            sent += size
            await asyncio.sleep(0.005)

    dripping = asyncio.create_task(drip())
    try:
        await client.end()
    finally:
        dripping.cancel()
        await asyncio.wait([dripping])
    return sent


class Served:
    """A well-behaved client that asks again and again while an attack goes on; each answer must be 200."""

    def __init__(self, address, path=b"/other"):
        self.address = address
        self.path = path
        self.count = 0

    async def __aenter__(self):
        self.client = await RawClient(self.address).connect()
        await self.ask()
        self.asking = asyncio.create_task(self.go_on())
        return self

    async def ask(self):
        answer = await self.client.get(self.path)
        assert answer is not None and answer.status == 200
        self.count += 1

    async def go_on(self):
        while True:
            await self.ask()
            await asyncio.sleep(0.001)

    async def __aexit__(self, kind, *_):
        before = self.count
        if kind is None:
            await in_time(lambda: self.count > before or self.asking.done())
        self.asking.cancel()
        await asyncio.wait([self.asking])
        self.client.close()
        if kind is None:
            assert self.asking.cancelled(), self.asking.exception()


async def others(scope, receive, send):
    """What the well-behaved client asks for."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


def beside(application):
    """The application, and the one for well-behaved clients beside it."""

    async def both(scope, receive, send):
        await (others if scope["path"] == "/other" else application)(scope, receive, send)

    return both


# ---- slow clients --------------------------------------------------------------------------------------------------

SLOW_HEADS = [
    pytest.param(b"GET /slow HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 100_000, 1, id="a byte at a time"),
    pytest.param(b"GET /" + b"a" * 100_000, 1, id="a target without end"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 50_000, 8, id="a line at a time"),
]


@pytest.fixture
def quick(cy, monkeypatch):
    """The gateway looks at its deadlines more often, and lets those who were refused something linger less long."""
    monkeypatch.setattr(importlib.import_module(f"{cy.__name__}.gateways.deadlines"), "RESOLUTION", 0.02)
    monkeypatch.setattr(importlib.import_module(f"{cy.__name__}.gateways.http_protocol"), "LINGER", SHORT)


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


class Streaming:
    """An application that sends without end, or so many times; it counts what was taken, and how calls ended."""

    def __init__(self, size=65_536, times=None):
        self.chunk = b"a" * size
        self.times = times
        self.sent = 0
        self.running = 0

    async def __call__(self, scope, receive, send):
        self.running += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(self.times or 1_000_000_000):
                await send({"type": "http.response.body", "body": self.chunk, "more_body": True})
                self.sent += len(self.chunk)
            await send({"type": "http.response.body"})
        finally:
            self.running -= 1


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


# ---- floods --------------------------------------------------------------------------------------------------------


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

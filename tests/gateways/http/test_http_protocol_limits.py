"""Limits and deadlines of a connection, and its end when the server stops."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from support.http_connection import Connection, echo, hello, http
from support.http_protocol_case import CHUNKED, GET, HELLO, POST, case, closing, part, sending, start
from support.loops import passes


@pytest.mark.slow
def test_at_max_applications(cy, run):
    """A new request is refused, and no running one is touched."""

    async def test(connection):
        await connection.ask(GET)
        second = connect_again(cy, connection)
        sent = await second.ask(GET)
        assert sent.startswith(b"HTTP/1.1 503 Service Unavailable\r\n") and b"\r\nretry-after: 1\r\n" in sent
        assert second.transport.eof
        assert len(connection.server.application_instances) == 1
        assert connection.server.stats()["refused"] == 1
        second.lose()

    case(cy, run, sending(received=[]), test, max_applications=1)


def connect_again(cy, connection):
    return Connection(cy, None, server=connection.server)


def test_refuse_request_can_be_overridden(cy, run):
    """Letting a request in pushes another one out, by the rules of the table."""

    async def main():
        class Server(http(cy).HTTPServer):
            def refuse_request(self, scope):
                return scope["path"] != "/important"

        server = Server(sending(received=[]), 1)
        first = Connection(cy, None, server=server)
        await first.ask(GET)
        second = Connection(cy, None, server=server)
        assert (await second.ask(GET)).startswith(b"HTTP/1.1 503 ")
        third = Connection(cy, None, server=server)
        assert await third.ask(GET.replace(b"/ ", b"/important ")) == b""
        assert (await first.ask()).startswith(b"HTTP/1.1 503 ")
        assert server.stats()["evicted"] == 1
        for connection in (first, second, third):
            connection.lose()
        await third.end()

    run(main())


def test_refuse_request_that_raises(cy, run, caplog):
    """A fault in an override is answered, and leaves no connection that nobody sees to."""
    gate = asyncio.Event()

    async def application(scope, receive, send):
        if scope["path"] == "/wait":
            await gate.wait()
        await hello(scope, receive, send)

    async def test(connection):
        def fail(scope):
            raise ZeroDivisionError

        connection.server.refuse_request = fail
        await connection.ask(GET.replace(b"/", b"/wait", 1))
        second = connect_again(cy, connection)
        assert (await second.ask(GET)).startswith(b"HTTP/1.1 500 ")
        assert second.transport.eof
        second.lose()
        gate.set()
        assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]

    case(cy, run, application, test, max_applications=1)


def test_max_connections(cy, run):
    """One more is told to come back later."""

    async def test(connection):
        second = connect_again(cy, connection)
        assert (await second.ask()).startswith(b"HTTP/1.1 503 ")
        assert second.transport.closed
        second.lose()
        assert await connection.ask(GET) == HELLO

    case(cy, run, hello, test, max_connections=1)


def test_deadlines(cy, run):
    """First byte, headers, keep-alive: each ends the connection when it is over, not before."""

    async def nothing(connection):
        await connection.later(9)
        assert not connection.transport.closed
        await connection.later(2)
        assert connection.transport.closed and connection.take() == b""

    case(cy, run, hello, nothing)

    async def headers(connection):
        for _ in range(9):
            connection.feed(b"A")
            await connection.later(1)
        assert not connection.transport.eof
        connection.feed(b"A")
        await connection.later(2)
        assert connection.take().startswith(b"HTTP/1.1 408 ") and connection.transport.eof

    case(cy, run, hello, headers)

    async def keep_alive(connection):
        await connection.ask(GET)
        await connection.later(4)
        await connection.ask(GET)
        await connection.later(4)
        assert not connection.transport.closed
        await connection.later(2)
        assert connection.transport.closed

    case(cy, run, hello, keep_alive)


def test_body_deadline(cy, run):
    """A byte now and then does not keep a request alive; what comes at the least rate does."""

    async def trickle(connection):
        await connection.ask(POST % 100_000)
        for _ in range(61):
            connection.feed(b"x")
            await connection.later(1)
        assert connection.take().startswith(b"HTTP/1.1 408 ") and connection.transport.eof

    case(cy, run, echo, trickle)

    async def steady(connection):
        await connection.ask(POST % 200_000)
        for _ in range(100):
            connection.feed(bytes(2000))
            await connection.later(1)
        assert connection.take().endswith(bytes(200_000))

    case(cy, run, echo, steady)


def test_the_application_s_time_is_not_the_client_s(cy, run):
    """While the body waits for the application, its deadline waits too."""
    gate = asyncio.Event()

    async def application(scope, receive, send):
        await gate.wait()
        await echo(scope, receive, send)

    async def test(connection):
        await connection.ask(POST % 200_000, bytes(70_000), bytes(70_000))
        assert not connection.transport.reading
        await connection.later(1000)
        gate.set()
        await passes(20)
        assert connection.transport.reading
        await connection.later(10)
        assert (await connection.ask(bytes(60_000))).endswith(bytes(200_000))

    case(cy, run, application, test)


def test_the_deadline_of_a_body_after_a_pause(cy, run):
    """That reading was paused, for this body or for what came before it, puts no end off."""
    gate = asyncio.Event()

    async def application(scope, receive, send):
        await gate.wait()
        await hello(scope, receive, send)

    async def discarded(connection):
        await connection.ask(CHUNKED + b"20000\r\n" + bytes(100), bytes(70_000))
        assert not connection.transport.reading
        await connection.later(1000)
        gate.set()
        await passes(20)
        assert connection.transport.reading
        await connection.later(100)
        assert connection.transport.aborted

    case(cy, run, application, discarded)

    async def pipelined(connection):
        await connection.later(1000)
        long = GET.replace(b"\r\n\r\n", b"\r\nX: " + bytes(b"x" * 30_000) + b"\r\n\r\n")
        answered = await connection.ask(long * 4 + POST % 100)
        assert answered.count(b"HTTP/1.1 200 ") == 4 and connection.transport.reading
        await connection.later(100)
        assert connection.take().startswith(b"HTTP/1.1 408 ")

    case(cy, run, echo, pipelined, first_byte_timeout=2000)


def test_request_timeout(cy, run):
    """503, and the application is cancelled; within a response the connection is cut."""
    received = []

    async def test(connection):
        await connection.ask(GET)
        await connection.later(2)
        assert connection.take().startswith(b"HTTP/1.1 503 ")
        assert not connection.server.application_instances
        assert connection.server.stats()["cancelled"] == 1

    case(cy, run, sending(received=received), test, request_timeout=1)

    async def within(connection):
        await connection.ask(GET)
        await connection.later(2)
        assert connection.transport.aborted
        assert not connection.server.application_instances

    case(cy, run, sending(start(), part(b"a", True), received=received), within, request_timeout=1)


def test_write_deadline(cy, run):
    """A client that takes nothing is given up; one that takes a long response slowly is not."""

    async def test(connection):
        await connection.ask(GET)
        connection.transport.unwritten = 10_000_000
        connection.protocol.pause_writing()
        for _ in range(5):
            connection.transport.unwritten -= 100_000
            await connection.later(61)
        assert not connection.transport.aborted
        connection.transport.unwritten -= 100
        await connection.later(61)
        assert connection.transport.aborted

    case(cy, run, hello, test)


@pytest.mark.parametrize("behind", [b"", b"GET"])
def test_write_deadline_of_the_last_response(cy, run, behind):
    """The same holds for what is still to be taken when the connection is to be closed, whatever came behind."""

    async def test(connection):
        connection.transport.unwritten = 10_000_000
        await connection.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + behind)
        assert connection.transport.eof if behind else connection.transport.closed
        await connection.later(3)
        assert not connection.transport.aborted
        for _ in range(5):
            connection.transport.unwritten -= 100_000
            await connection.later(61)
            assert not connection.transport.aborted
        connection.transport.unwritten -= 100
        await connection.later(61)
        assert connection.transport.aborted

    case(cy, run, hello, test)


def test_begin_shutdown(cy, run):
    """A connection at rest is closed; a request at work is finished, and the last one."""
    gate = asyncio.Event()

    async def application(scope, receive, send):
        await gate.wait()
        await hello(scope, receive, send)

    async def test(connection):
        second = connect_again(cy, connection)
        connection.feed(GET + GET)
        await passes(5)
        for one in (connection, second):
            one.protocol.begin_shutdown()
        assert second.transport.closed and not connection.transport.closed
        gate.set()
        await passes(20)
        assert connection.take() == closing(b"hello")
        second.lose()

    case(cy, run, application, test)


def test_begin_shutdown_while_the_client_takes_the_last_response(cy, run):
    """It is not closed until that is there: the next request, on its way, would have the system reset it."""

    async def test(connection):
        await connection.ask(GET)
        connection.transport.unwritten = 1000
        connection.protocol.begin_shutdown()
        assert connection.transport.eof and not connection.transport.closed
        assert await connection.ask(GET) == b""
        await connection.later(3)
        assert not connection.transport.aborted
        connection.transport.unwritten = 0
        await connection.later(61)
        assert connection.transport.aborted

    case(cy, run, hello, test)


def test_access_log(cy, run):
    """A line for each response, which nothing in a request can forge."""
    lines = []

    class Stream:
        def write(self, text):
            lines.extend(text.splitlines())

    async def test(connection):
        log = importlib.import_module(f"{cy.__name__}.gateways.access_log").AccessLog(Stream())
        connection.server.log = log
        log.tick(0)
        await connection.ask(b'GET /a"b?c HTTP/1.1\r\nHost: x\r\n\r\n')
        await connection.ask(b"GET / HTTP/9.9\r\nHost: x\r\n\r\n")
        log.tick(1)
        first, second = lines
        assert first.rpartition(" ")[0] == (
            '127.0.0.1:1234 - - [01/Jan/1970:00:00:00 +0000] "GET /a%22b?c HTTP/1.1" 200 5'
        )
        assert ' "-" 505 ' in second

    case(cy, run, hello, test)

    async def cut(connection):
        connection.server.log = log = importlib.import_module(f"{cy.__name__}.gateways.access_log").AccessLog(Stream())
        del lines[:]
        await connection.ask(GET)
        await connection.later(2)
        connection.lose()
        log.flush()
        assert [line.rpartition(" ")[0].partition('" ')[2] for line in lines] == ["200 1"]

    case(cy, run, sending(start(), part(b"a", True), received=[]), cut, request_timeout=1)


LENIENT = {
    "method": (b"BREW / HTTP/1.1", ("BREW", "1.1"), 501),
    "method in lower case": (b"head / HTTP/1.1", ("head", "1.1"), 501),
    "newer version": (b"POST / HTTP/1.2", ("POST", "1.1"), 400),
    "both": (b"BREW / HTTP/1.9", ("BREW", "1.1"), 400),
}
REFUSED = {
    "CONNECT": (b"CONNECT x:443 HTTP/1.1", 501),
    "HTTP/2.0": (b"POST / HTTP/2.0", 505),
    "transfer coding": (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked", 501),
    "user information": (b"POST http://user@x/ HTTP/1.1", 400),
}


@pytest.mark.parametrize("name", LENIENT)
def test_without_strictness(cy, run, name):
    """A request of any method, or of a newer version, is served with its body, and the connection goes on."""
    line, expected, status = LENIENT[name]
    data = line + b"\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
    seen = []

    async def application(scope, receive, send):
        seen.append((scope["method"], scope["http_version"], (await receive())["body"]))
        await hello(scope, receive, send)

    async def lenient(connection):
        assert await connection.ask(data + GET + data) == HELLO * 3
        assert seen == [(*expected, b"hi"), ("GET", "1.1", b""), (*expected, b"hi")]
        assert not connection.transport.closed

    async def strict(connection):
        assert (await connection.ask(data + GET)).startswith(b"HTTP/1.1 %d " % status)
        assert connection.transport.eof

    case(cy, run, application, lenient, strict=False)
    seen.clear()
    case(cy, run, application, strict)
    assert seen == []


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_that_tell_more(cy, run, name, strict):
    """However strict the server is."""
    line, status = REFUSED[name]

    async def test(connection):
        sent = await connection.ask(line + b"\r\nHost: x\r\n\r\n")
        assert sent.startswith(b"HTTP/1.1 %d " % status)
        assert connection.transport.eof

    case(cy, run, hello, test, strict=strict)

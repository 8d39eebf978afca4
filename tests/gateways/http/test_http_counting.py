"""What HTTP and WebSocket connections count for whoever watches the process, and the line that is logged with it."""

from __future__ import annotations

import importlib
import io
import re

import pytest

from cyasgi._common.cells import REQUEST_TIME, REQUESTS, RESPONSES, WEBSOCKETS, Page
from support.http_connection import Connection
from support.http_protocol_case import GET, case, part, sending, start
from support.websockets_serving import Client, server_of, serving


def counted(page):
    """Requests, responses by their class, and how many times were observed."""
    cells = page.cells
    return cells[REQUESTS], cells[RESPONSES : RESPONSES + 5].tolist(), page.histogram(REQUEST_TIME).count


@pytest.mark.parametrize("logged", [False, True])
def test_requests_and_responses(cy, run, logged):
    """One after the other, some at once, and with bodies."""

    async def test(connection):
        page = Page()
        connection.server.cells = page.cells
        for number in range(1, 4):
            await connection.ask(GET)
            assert counted(page) == (number, [0, number, 0, 0, 0], number)
        await connection.ask(GET + GET)
        await connection.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab")
        assert counted(page) == (6, [0, 6, 0, 0, 0], 6)
        assert 0 < page.histogram(REQUEST_TIME).sum < 60

    settings = {"log": access_log(cy, io.StringIO())} if logged else {}
    case(cy, run, sending(start(), part(b"a")), test, **settings)


def access_log(cy, stream):
    return importlib.import_module(f"{cy.__name__}.gateways.access_log").AccessLog(stream)


@pytest.mark.parametrize("status", [200, 204, 304, 404, 500, 599])
def test_classes(cy, run, status):
    async def test(connection):
        page = Page()
        connection.server.cells = page.cells
        await connection.ask(GET)
        assert counted(page) == (1, [int(status // 100 == first) for first in range(1, 6)], 1)

    case(cy, run, sending(start(status), {"type": "http.response.body"}), test)


def test_what_the_server_answers_itself(cy, run):
    """A malformed request was never one for the application."""

    async def test(connection):
        page = Page()
        connection.server.cells = page.cells
        await connection.ask(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")
        assert counted(page) == (0, [0, 0, 0, 1, 0], 1)

    case(cy, run, sending(start(), part(b"a")), test)


def test_too_many_connections(cy, run):
    """The answer is a response; nothing was timed, since nothing was read."""

    async def test(connection):
        page = Page()
        server = connection.server
        server.cells = page.cells
        server.max_connections = 1
        other = Connection(cy, None, server=server)
        assert other.transport.sent.startswith(b"HTTP/1.1 503 ")
        assert counted(page) == (0, [0, 0, 0, 0, 1], 0)
        other.lose()

    case(cy, run, sending(start(), part(b"a")), test)


def test_a_head_that_never_comes(cy, run):
    """It is answered 408, which took no time that says anything of the server."""

    async def test(connection):
        page = Page()
        connection.server.cells = page.cells
        connection.feed(b"GET / HT")
        await connection.later(connection.server.header_timeout + 2)
        assert connection.take().startswith(b"HTTP/1.1 408 ")
        assert counted(page) == (0, [0, 0, 0, 1, 0], 0)

    case(cy, run, sending(start(), part(b"a")), test)


def test_a_client_that_goes(cy, run):
    """It counts as 499, as in the access log."""

    async def waits(scope, receive, send):
        await receive()
        await receive()

    async def test(connection):
        page = Page()
        connection.server.cells = page.cells
        await connection.ask(GET)
        connection.lose()
        assert counted(page) == (1, [0, 0, 0, 1, 0], 1)

    case(cy, run, waits, test)


def test_cells_that_come_and_go(cy, run):
    """Counting begins, moves to another page, and ends with requests at work."""

    async def test(connection):
        first, second = Page(), Page()
        for page in (first, second, None):
            connection.server.cells = None if page is None else page.cells
            await connection.ask(GET)
        assert counted(first) == counted(second) == (1, [0, 1, 0, 0, 0], 1)

    case(cy, run, sending(start(), part(b"a")), test)


def test_websockets(cy, run):
    """Each counts when it begins, and is no request."""

    async def application(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    async def main():
        page = Page()
        server = server_of(cy, application)
        server.cells = page.cells
        async with serving(server) as address:
            for _ in range(2):
                client = await Client(address).open()
                await client.close()
        assert page.cells[WEBSOCKETS] == 2
        assert counted(page) == (0, [0, 0, 0, 0, 0], 0)

    run(main())


LINE = re.compile(r'127\.0\.0\.1:1234 - - (\[.*?\]) "(.*)" (\d+) (\d+) (\d+\.\d{3})\n')


@pytest.mark.parametrize(
    ("request_line", "logged"),
    [
        (b"GET / HTTP/1.1", "GET / HTTP/1.1"),
        (b"GET /a?b=c%20d HTTP/1.1", "GET /a?b=c%20d HTTP/1.1"),
        (b'GET /"quoted" HTTP/1.1', "GET /%22quoted%22 HTTP/1.1"),
        (b"GET /%s%d HTTP/1.1", "GET /%s%d HTTP/1.1"),
        (b"OPTIONS * HTTP/1.1", "OPTIONS * HTTP/1.1"),
        (b"PROPFIND /a HTTP/1.1", "PROPFIND /a HTTP/1.1"),
    ],
)
def test_the_line_of_a_request(cy, run, request_line, logged):
    """The usual line and the unusual one; `add` of a class derived from the log is still called."""
    usual, derived = io.StringIO(), io.StringIO()

    async def test(connection):
        log = access_log(cy, usual)
        further = type("Derived", (type(log),), {})(derived)
        for each in (log, further):
            each.tick(1_700_000_000)
            connection.server.log = each
            await connection.ask(request_line + b"\r\nHost: a\r\n\r\n")
            each.flush()
        lines = [LINE.fullmatch(stream.getvalue()) for stream in (usual, derived)]
        assert lines[0][2] == lines[1][2] == logged, (usual.getvalue(), derived.getvalue())
        assert lines[0][1] == lines[1][1] == "[14/Nov/2023:22:13:20 +0000]"
        assert lines[0].groups()[2:4] == lines[1].groups()[2:4] == ("200", "1")
        assert 0 <= float(lines[0][5]) < 60

    case(cy, run, sending(start(), part(b"a")), test, strict=False)

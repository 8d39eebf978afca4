"""What the messages of an application become, and which of them are refused."""

from __future__ import annotations

import asyncio
import logging
import os

import pytest

from support.http_connection import hello
from support.http_protocol_case import GET, HEAD_200, HELLO, case, closing, part, sending, start

TRAILERS = {"type": "http.response.trailers", "headers": [(b"a", b"b")]}
RESPONSES = {
    "one part": ([start(), part(b"abc")], HEAD_200 + b"content-length: 3\r\n\r\nabc"),
    "empty": ([start(), part()], HEAD_200 + b"content-length: 0\r\n\r\n"),
    "no body key": ([start(), {"type": "http.response.body"}], HEAD_200 + b"content-length: 0\r\n\r\n"),
    "no headers key": (
        [{"type": "http.response.start", "status": 200}, part()],
        HEAD_200 + b"content-length: 0\r\n\r\n",
    ),
    "length given": (
        [start(headers=[(b"Content-Length", b"3")]), part(b"abc")],
        HEAD_200 + b"content-length: 3\r\n\r\nabc",
    ),
    "length and parts": (
        [start(headers=[(b"content-length", b"3")]), part(b"a", True), part(b"bc", True), part()],
        HEAD_200 + b"content-length: 3\r\n\r\nabc",
    ),
    "parts": (
        [start(), part(b"a", True), part(b"", True), part(b"bc", True), part()],
        HEAD_200 + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
    ),
    "last part": (
        [start(), part(b"", True), part(b"bc")],
        HEAD_200 + b"transfer-encoding: chunked\r\n\r\n2\r\nbc\r\n0\r\n\r\n",
    ),
    "large parts": (
        [start(), part(bytes(5000), True), part(bytes(5000))],
        HEAD_200
        + b"transfer-encoding: chunked\r\n\r\n1388\r\n%b\r\n1388\r\n%b\r\n0\r\n\r\n" % (bytes(5000), bytes(5000)),
    ),
    "large": ([start(), part(bytes(100_000))], HEAD_200 + b"content-length: 100000\r\n\r\n" + bytes(100_000)),
    "memoryview": ([start(), part(memoryview(b"abc"))], HEAD_200 + b"content-length: 3\r\n\r\nabc"),
    "chunked by hand": (
        [start(headers=[(b"transfer-encoding", b"chunked")]), part(b"a")],
        HEAD_200 + b"content-length: 1\r\n\r\na",
    ),
    "204": ([start(204, [(b"content-length", b"3")]), part(b"abc")], b"HTTP/1.1 204 No Content\r\n\r\n"),
    "304": (
        [start(304, [(b"content-length", b"3")]), part()],
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n",
    ),
    "unknown status": ([start(599), part()], b"HTTP/1.1 599 \r\ncontent-length: 0\r\n\r\n"),
    "trailers": (
        [start(trailers=True), part(b"a"), TRAILERS],
        HEAD_200 + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\na: b\r\n\r\n",
    ),
    "more trailers": (
        [
            start(trailers=True),
            part(b"a"),
            {"type": "http.response.trailers", "headers": [(b"a", b"b")], "more_trailers": True},
            {"type": "http.response.trailers", "headers": [(b"c", b"d")]},
        ],
        HEAD_200 + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\na: b\r\nc: d\r\n\r\n",
    ),
}


#: A request of a client that takes trailers.
TAKING = GET[:-2] + b"TE: trailers\r\n\r\n"


@pytest.mark.parametrize("name", RESPONSES)
def test_responses(cy, run, name):
    """What an application sends, on the wire; then it is told that there is nothing more."""
    messages, wire = RESPONSES[name]
    received = []

    async def test(connection):
        assert await connection.ask(TAKING) == wire
        assert [message["type"] for message in received] == ["http.disconnect"]
        # The connection goes on.
        assert await connection.ask(TAKING) == wire

    case(cy, run, sending(*messages, received=received), test)


@pytest.mark.parametrize("name", RESPONSES)
def test_responses_to_head(cy, run, name):
    """The same headers, as far as they can be told, and no body."""
    messages, wire = RESPONSES[name]
    head = wire.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    head = head.replace(b"content-length: 0\r\n", b"").replace(b"transfer-encoding: chunked\r\n", b"")

    async def test(connection):
        sent = await connection.ask(TAKING.replace(b"GET", b"HEAD"))
        length = head[:-2] + b"content-length: 1\r\n\r\n" if "trailers" in name else head
        assert sent in (head, length, wire.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        assert not connection.transport.closed

    case(cy, run, sending(*messages), test)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "request_line", [b"GET / HTTP/1.1", b"GET / HTTP/1.0\r\nTE: trailers", b"HEAD / HTTP/1.1\r\nTE: trailers"]
)
def test_trailers_that_nobody_takes(cy, run, request_line, streamed, caplog):
    """They go nowhere: only clients of HTTP/1.1 that say so take them (ASGI, "HTTP Trailers"), and HEAD has no body."""
    data = request_line + b"\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"
    parts = [part(b"a", True), part(b"b")] if streamed else [part(b"ab")]
    more = {**TRAILERS, "more_trailers": True}

    async def test(connection):
        sent = await connection.ask(data)
        body = sent.partition(b"\r\n\r\n")[2]
        if data.startswith(b"HEAD"):
            assert body == b""
        elif streamed and data.startswith(b"GET / HTTP/1.1"):
            assert body == b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"
        else:
            assert body == b"ab"
        assert b"a: b" not in sent
        if streamed and b"HTTP/1.0" in data:
            assert connection.transport.closed
        else:
            assert await connection.ask(data) == sent
        assert not caplog.records

    case(cy, run, sending(start(trailers=True), *parts, more, TRAILERS), test)


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("headers", [[], [(b"content-length", b"0")]])
def test_trailers_without_a_chunked_body(cy, run, status, headers, caplog):
    """They have nowhere to go behind a body that has a length, or is none."""

    async def test(connection):
        for _ in range(2):
            sent = await connection.ask(TAKING)
            assert sent.startswith(b"HTTP/1.1 %d " % status) and sent.endswith(b"\r\n\r\n")
            assert b"a: b" not in sent and b"chunked" not in sent
        assert not connection.transport.closed
        assert not caplog.records

    case(cy, run, sending(start(status, headers, trailers=True), part(), TRAILERS), test)


def test_trailers_are_announced(cy, run, caplog):
    """Without that they are no part of the response; with it they have to come."""

    async def test(connection):
        await connection.ask(TAKING)
        assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [RuntimeError]

    case(cy, run, sending(start(), part(b"a"), TRAILERS), test)


@pytest.mark.parametrize("asks", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize(
    ("value", "rest", "closes"),
    [
        (b"close, x-hop", b"connection: x-hop\r\n", True),
        (b"x-hop, close", b"connection: x-hop\r\n", True),
        (b"keep-alive, Close", b"", True),
        (b"Keep-Alive", b"", False),
        (b"keep-alive, x-hop", b"connection: x-hop\r\n", False),
        (b"x-hop", b"connection: x-hop\r\n", False),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_connection_header(cy, run, asks, value, rest, closes, streamed):
    """Whoever asks for the end of the connection gets it, and is told so in one line."""
    messages = [start(headers=[(b"Connection", value)]), *([part(b"a", True), part()] if streamed else [part(b"a")])]

    async def test(connection):
        head = (await connection.ask(GET[:-2] + asks + b"\r\n")).partition(b"\r\n\r\n")[0]
        lines = [line + b"\r\n" for line in head.split(b"\r\n") if line.startswith(b"connection:")]
        ends = closes or bool(asks)
        assert sorted(lines) == sorted(filter(None, [rest, b"connection: close\r\n" if ends else b""]))
        assert connection.transport.closed is ends

    case(cy, run, sending(*messages), test)


def test_http_1_0(cy, run):
    """No chunks: the end of the connection is the end of a response without a length."""

    async def test(connection):
        sent = await connection.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert sent == HEAD_200 + b"connection: close\r\n\r\nab"
        assert connection.transport.closed

    case(cy, run, sending(start(), part(b"a", True), part(b"b")), test)


def test_http_1_0_keep_alive(cy, run):
    """It is kept open for who asks for it."""

    async def test(connection):
        keep = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        assert await connection.ask(keep) == HEAD_200 + b"content-length: 1\r\nconnection: keep-alive\r\n\r\na"
        assert await connection.ask(b"GET / HTTP/1.0\r\n\r\n") == closing(b"a", b"")
        assert connection.transport.closed

    case(cy, run, sending(start(), part(b"a")), test)


def test_connection_close(cy, run):
    """Client or application may ask for the end of the connection; what was pipelined behind is not served."""

    async def test(connection):
        sent = await connection.ask(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + GET)
        assert sent == closing(b"hello")
        assert connection.transport.eof

    case(cy, run, hello, test)

    async def test_application(connection):
        assert await connection.ask(GET) == closing(b"a", b"")
        assert connection.transport.closed

    case(cy, run, sending(start(headers=[(b"connection", b"close")]), part(b"a")), test_application)


def test_own_date_and_server(cy, run):
    """Those of the application take the place of the server's."""

    async def test(connection):
        connection.server._second = 0
        connection.server.server_header = "me"
        connection.server._tick()
        sent = await connection.ask(GET)
        assert sent == HEAD_200 + b"server: you\r\ncontent-length: 1\r\n\r\na"
        connection.server.application = sending(start(headers=[(b"date", b"now")]), part(b"a"))
        sent = await connection.ask(GET)
        assert sent == HEAD_200 + b"server: me\r\ncontent-length: 1\r\n\r\na"

    case(cy, run, sending(start(headers=[(b"server", b"you")]), part(b"a")), test)


@pytest.mark.parametrize(
    "messages",
    [
        [start(headers=[(b"a", b"b\r\nc: d")]), part(b"x")],
        [start(headers=[(b"a\r\nb", b"c")]), part(b"x")],
        [start(headers=[(b"a", b"b\0")]), part(b"x")],
        [start(99), part(b"x")],
        [start(101), part(b"x")],
        [start("200"), part(b"x")],
        [start(headers=[(b"content-length", b"1")]), part(b"xy")],
        [start(headers=[(b"content-length", b"3")]), part(b"xy")],
        [start(), part("x")],
        [start(), start()],
        [part(b"x")],
        [{"type": "websocket.accept"}],
        [{}],
        [start()],
        [],
    ],
    ids=str,
)
def test_wrong_before_the_response(cy, run, messages, caplog):
    """Nothing of it is written: the client gets a 500 of the server's, and the connection ends."""

    async def test(connection):
        sent = await connection.ask(GET)
        assert sent.startswith(b"HTTP/1.1 500 Internal Server Error\r\n") and sent.count(b"HTTP/1.1") == 1
        assert b"x" not in sent.replace(b"text", b"")
        assert connection.transport.eof
        assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1

    case(cy, run, sending(*messages), test)


@pytest.mark.parametrize(
    "messages",
    [
        [part("x", True)],
        [part(b"xyz", True)],
        [part(b"x", False)],
        [start()],
        [{"type": "http.response.trailers"}],
        [],
    ],
    ids=str,
)
def test_wrong_within_the_response(cy, run, messages, caplog):
    """The connection is cut, so that nobody takes the response for complete."""
    begin = [start(headers=[(b"content-length", b"3")]), part(b"a", True)]

    async def test(connection):
        assert await connection.ask(GET) == HEAD_200 + b"content-length: 3\r\n\r\na"
        assert connection.transport.aborted
        assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1

    case(cy, run, sending(*begin, *messages), test)


def test_nothing_can_be_sent_after_the_response(cy, run):
    """It is an error of the application's, of which the client sees nothing."""
    errors = []

    async def application(scope, receive, send):
        await hello(scope, receive, send)
        for message in (part(b"x"), start()):
            try:
                await send(message)
            except RuntimeError as error:
                errors.append(error)

    async def test(connection):
        assert await connection.ask(GET) == HELLO
        assert len(errors) == 2
        assert await connection.ask(GET) == HELLO

    case(cy, run, application, test)


def test_an_application_that_fails(cy, run, caplog):
    """500, once in the log, and the hook hears of it."""

    async def application(scope, receive, send):
        raise ZeroDivisionError("no")

    async def test(connection):
        assert (await connection.ask(GET)).startswith(b"HTTP/1.1 500 ")
        assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]
        assert connection.server.stats()["failed"] == 1

    case(cy, run, application, test)


def test_pathsend(cy, run, tmp_path):
    """A file is sent in parts, with its length; for HEAD its length alone."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 2000)

    async def test(connection):
        connection.feed(GET)
        while len(connection.transport.sent) < 512_000:
            await asyncio.sleep(0)
        assert (await connection.ask()) == HEAD_200 + b"content-length: 512000\r\n\r\n" + path.read_bytes()
        connection.feed(GET.replace(b"GET", b"HEAD"))
        while not connection.transport.sent:
            await asyncio.sleep(0)
        assert (await connection.ask()) == HEAD_200 + b"content-length: 512000\r\n\r\n"

    case(cy, run, sending(start(), {"type": "http.response.pathsend", "path": str(path)}), test)


@pytest.mark.parametrize("size", [0, 1, 100_000, 262_144, 262_145, 600_000])
@pytest.mark.parametrize("announced", [False, True])
def test_pathsend_of_a_file_that_grows(cy, run, tmp_path, monkeypatch, size, announced):
    """As many bytes are sent as the response has announced, whether the application has measured the file or the
    server."""
    path = tmp_path / "log"
    content = bytes(range(250)) * 2400
    path.write_bytes(content[:size])
    seen = os.fstat

    def grow():
        with path.open("ab") as file:
            file.write(b"more" * 100_000)

    def fstat(fd):
        found = seen(fd)
        grow()
        return found

    headers = [(b"content-length", b"%d" % size)] if announced else []

    async def test(connection):
        if announced:
            grow()
        else:
            monkeypatch.setattr(os, "fstat", fstat)
        wire = HEAD_200 + b"content-length: %d\r\n\r\n%b" % (size, content[:size])
        connection.feed(GET)
        while connection.server.application_instances:
            await asyncio.sleep(0)
        monkeypatch.undo()
        assert await connection.ask() == wire
        assert not connection.transport.closed

    case(cy, run, sending(start(headers=headers), {"type": "http.response.pathsend", "path": str(path)}), test)


@pytest.mark.parametrize("size", [10, 300_000])
def test_pathsend_of_a_file_that_became_too_short(cy, run, tmp_path, size, caplog):
    """An error of the application's: 500 where nothing was written, else the connection is cut."""
    path = tmp_path / "log"
    path.write_bytes(bytes(size))
    headers = [(b"content-length", b"%d" % (size + 1))]

    async def test(connection):
        connection.feed(GET)
        while connection.server.application_instances:
            await asyncio.sleep(0)
        sent = await connection.ask()
        assert sent.startswith(b"HTTP/1.1 500 " if size == 10 else HEAD_200)
        assert connection.transport.aborted or size == 10
        text = f"{str(path)!r} has {size} bytes, {size + 1} were announced"
        assert [str(record.exc_info[1]) for record in caplog.records] == [text]

    case(cy, run, sending(start(headers=headers), {"type": "http.response.pathsend", "path": str(path)}), test)


@pytest.mark.parametrize("status", [204, 304])
def test_pathsend_without_a_body(cy, run, tmp_path, status):
    """A status that has none sends none."""
    path = tmp_path / "file"
    path.write_bytes(bytes(10))

    async def test(connection):
        connection.feed(GET)
        while not connection.transport.sent:
            await asyncio.sleep(0)
        head, _, body = (await connection.ask()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status) and body == b""
        assert (b"content-length: 10" in head) is (status == 304)
        assert not connection.transport.closed

    case(cy, run, sending(start(status), {"type": "http.response.pathsend", "path": str(path)}), test)

"""The protocol of an HTTP connection, on a transport that only keeps what is written to it."""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading

import pytest
from conftest import passes
from http_wire import Connection, Recording, echo, hello, http, response
from test_faults_table import eager_task_factory

from cyasgi.gateways.http_exchange import UNHEARD

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
HELLO = response()


def answer(body, kind=b""):
    return response(body, kind=kind)


def closing(body, kind=b"content-type: text/plain\r\n"):
    """A response after which the connection is closed."""
    return b"HTTP/1.1 200 OK\r\n%scontent-length: %d\r\nconnection: close\r\n\r\n%s" % (kind, len(body), body)


def sending(*messages, received=None):
    """An application that sends these messages, and then notes what it receives."""

    async def application(scope, receive, send):
        for message in messages:
            await send(message)
        while received is not None and {"type": "http.disconnect"} not in received:
            received.append(await receive())

    return application


def start(status=200, headers=(), **more):
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def part(data=b"", more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


def case(cy, run, application, test, **settings):
    """Runs a test with a connection to a server of this application."""

    async def main():
        connection = Connection(cy, application, **settings)
        try:
            await test(connection)
        finally:
            await connection.end()
        assert connection.server.stats()["undelivered"] == 0

    run(main())


# ---- requests ------------------------------------------------------------------------------------------------------


def test_requests_follow_each_other(cy, run):
    """A connection serves one request after the other, and each leaves the table as it ends."""

    async def test(connection):
        for _ in range(3):
            assert await connection.ask(GET) == HELLO
            assert not connection.server.application_instances
        stats = connection.server.stats()
        assert (stats["created"], stats["finished"], stats["requests"]) == (3, 3, 3)
        assert not connection.transport.closed

    case(cy, run, hello, test)


@pytest.mark.parametrize("pieces", ["whole", "bytes"])
def test_pieces(cy, run, pieces):
    """Nothing depends on how the bytes are cut."""
    requests = GET + POST % 5 + b"hello" + CHUNKED + b"5\r\nhello\r\n0\r\nA: b\r\n\r\n" + GET

    async def test(connection):
        cut = [requests] if pieces == "whole" else [bytes([byte]) for byte in requests]
        for piece in cut:
            connection.feed(piece)
            await passes(3)
        await passes(50)
        assert connection.take() == answer(b"") + answer(b"hello") * 2 + answer(b"")

    case(cy, run, echo, test)


def test_scope(cy, run):
    """The scope holds what the specification says, and copies of it are plain dicts."""
    application = Recording()

    async def test(connection):
        connection.server.state = {"a": []}
        connection.protocol._template["state"] = {}
        await connection.ask(b"POST /a%20b%ff?c=%20 HTTP/1.0\r\nHost: x\r\nX-A: b\r\n\r\n")
        (scope,) = application.scopes
        assert scope == {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.0",
            "method": "POST",
            "scheme": "http",
            "path": "/a b\ufffd",
            "raw_path": b"/a%20b%ff",
            "query_string": b"c=%20",
            "root_path": "",
            "headers": [(b"host", b"x"), (b"x-a", b"b")],
            "client": ("127.0.0.1", 1234),
            "server": ("127.0.0.1", 80),
            "state": {"a": []},
            "extensions": {"http.response.trailers": {}, "http.response.pathsend": {}},
        }
        assert scope["state"]["a"] is connection.server.state["a"]
        assert type(scope.copy()) is dict

    case(cy, run, application, test)


def test_root_path(cy, run):
    """The path that the application is mounted at stands before that of the request."""
    application = Recording()

    async def test(connection):
        await connection.ask(GET)
        (scope,) = application.scopes
        assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/api", "/api/", b"/api/")

    case(cy, run, application, test, root_path="/api")


def test_pipelined_requests_are_answered_in_order(cy, run):
    """However long each takes, and without one seeing what another has set in its context."""
    gates = {}

    async def application(scope, receive, send):
        gate = gates[scope["path"]] = asyncio.Event()
        await gate.wait()
        await Recording()(scope, receive, send)

    async def test(connection):
        connection.feed(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(3)))
        for number in range(3):
            await passes(10)
            assert list(gates) == [f"/{one}" for one in range(number + 1)]
            assert connection.take() == b""
            gates[f"/{number}"].set()
            await passes(10)
            assert connection.take() == answer(b"/%d" % number)

    case(cy, run, application, test)


def test_a_flood_of_pipelined_requests_pauses_reading(cy, run):
    """What waits behind the request at work is bounded."""
    gate = asyncio.Event()

    async def application(scope, receive, send):
        await gate.wait()
        await hello(scope, receive, send)

    async def test(connection):
        fed = 0
        while connection.transport.reading:
            connection.feed(GET * 100)
            fed += 100
        assert fed * len(GET) < 65_536 + 100 * len(GET)
        assert len(connection.server.application_instances) <= 1
        gate.set()
        for _ in range(100):
            await passes(fed // 10)
            if connection.transport.reading and not connection.protocol._buffer:
                break
        await passes(20)
        assert connection.take() == HELLO * fed

    case(cy, run, application, test)


def test_a_refused_request_ends_the_connection(cy, run):
    """What follows it is never looked at; the bytes that still come are swallowed, so that the answer arrives."""

    async def test(connection):
        sent = await connection.ask(GET + b"GET / HTTP/1.1\r\n\r\n" + GET)
        assert sent.startswith(HELLO + b"HTTP/1.1 400 Bad Request\r\n")
        assert b"\r\nconnection: close\r\n" in sent and sent.count(b"HTTP/1.1") == 2
        assert connection.transport.eof and not connection.transport.closed
        assert await connection.ask(GET * 1000) == b""
        assert connection.server.stats()["requests"] == 1 == connection.server.stats()["bad_requests"]
        await connection.later(3)
        assert connection.transport.aborted

    case(cy, run, hello, test)


# ---- bodies --------------------------------------------------------------------------------------------------------


def test_a_slow_application_pauses_reading(cy, run):
    """The body waits outside, and comes in as the application takes it."""
    received = []
    taking = asyncio.Semaphore(0)

    async def application(scope, receive, send):
        while True:
            await taking.acquire()
            message = await receive()
            received.append(len(message["body"]))
            if not message["more_body"]:
                break
        await hello(scope, receive, send)

    async def test(connection):
        size = 1_000_000
        await connection.ask(POST % size)
        fed = 0
        while fed < size:
            taken = sum(received)
            while connection.transport.reading and fed < size:
                connection.feed(bytes(min(16_384, size - fed)))
                fed += min(16_384, size - fed)
            assert fed - taken < 300_000
            taking.release()
            await passes(5)
        for _ in range(10):
            taking.release()
        await passes(20)
        assert sum(received) == size
        assert connection.take() == HELLO

    case(cy, run, application, test)


def test_expect_continue(cy, run):
    """The client is told to send its body when the application asks for it."""

    async def test(connection):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        assert await connection.ask(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await connection.ask(b"hello") == answer(b"hello")
        # One that does not wait is not told.
        assert await connection.ask(head + b"hello") == answer(b"hello")

    case(cy, run, echo, test)


def test_expect_continue_of_an_application_that_answers_while_it_reads(cy, run):
    """The client is told before the response begins: it might wait for ever after that."""

    async def application(scope, receive, send):
        await send(start())
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send(part(message["body"], more))

    async def test(connection):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        assert await connection.ask(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await connection.ask(b"hello") == answer(b"hello")
        assert (await connection.ask(GET)).startswith(b"HTTP/1.1 200 OK\r\n")

    case(cy, run, application, test)


def test_expect_continue_of_a_stream_that_reads_nothing(cy, run):
    """Its client is not told to send what nobody asks for."""

    async def application(scope, receive, send):
        await send(start())
        await send(part(b"hello", True))
        await send(part())

    async def test(connection):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        assert (await connection.ask(head)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert connection.transport.eof

    case(cy, run, application, test)


def test_expect_continue_that_nobody_asks_for(cy, run):
    """An application that answers at once wants no body; it may come or not: the connection ends."""

    async def test(connection):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        assert await connection.ask(head) == closing(b"hello")
        assert connection.transport.eof

    case(cy, run, hello, test)


def test_a_body_that_nobody_reads(cy, run):
    """A short one is thrown away for the sake of the connection; for a long one it is closed."""

    async def test(connection):
        assert await connection.ask(POST % 1000, bytes(500)) == HELLO
        assert await connection.ask(bytes(500) + GET) == HELLO
        assert await connection.ask(CHUNKED, b"5\r\nhello\r\n") == HELLO
        assert await connection.ask(b"0\r\n\r\n" + GET) == HELLO
        assert await connection.ask(POST % 1_000_000) == closing(b"hello")
        assert connection.transport.eof

    case(cy, run, hello, test)


def test_an_endless_body_that_nobody_reads(cy, run):
    """In chunks its length is not known: it is read for a while."""

    async def test(connection):
        assert await connection.ask(CHUNKED) == HELLO
        for _ in range(10):
            await connection.ask(b"2000\r\n" + bytes(0x2000) + b"\r\n")
        assert connection.transport.eof

    case(cy, run, hello, test)


@pytest.mark.parametrize("rest", [b"x\r\n", b"65\r\n" + bytes(101)])
def test_a_fault_in_a_body_that_nobody_reads(cy, run, rest):
    """The request was answered: it is not answered again, and the connection ends."""

    async def test(connection):
        assert await connection.ask(CHUNKED) == HELLO
        assert await connection.ask(rest, GET) == b""
        assert connection.transport.eof
        assert connection.server.stats()["bad_requests"] == 1

    case(cy, run, hello, test, max_body_size=100)


@pytest.mark.parametrize("chunked", [True, False])
def test_body_too_long(cy, run, chunked):
    """413, before the application runs where the length is known, and no more of it is passed on."""
    received = []

    async def application(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            received.append(message["body"])
        received.append(message["type"])

    async def test(connection):
        data = CHUNKED + b"5\r\nhello\r\n6\r\nworld!\r\n" if chunked else POST % 11
        sent = await connection.ask(*[bytes([byte]) for byte in data])
        assert sent.startswith(b"HTTP/1.1 413 ") and connection.transport.eof
        assert len(b"".join(one for one in received if isinstance(one, bytes))) <= 10
        assert received[-1:] == (["http.disconnect"] if chunked else [])

    case(cy, run, application, test, max_body_size=10)


def test_bad_chunks_while_the_application_runs(cy, run):
    """Before the response has begun it is answered 400; the application sees the client gone, and may finish."""
    received = []

    async def application(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            received.append(message["body"])
        received.append(message["type"])
        await hello(scope, receive, send)
        received.append("the end")

    async def test(connection):
        assert await connection.ask(CHUNKED + b"5\r\nhello\r\n") == b""
        answer = await connection.ask(b"x\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ") and b"hello" not in answer
        await passes(5)
        assert received == [b"hello", "http.disconnect", "the end"]

    case(cy, run, application, test)


def test_bad_chunks_while_the_response_runs(cy, run):
    """Then the connection is cut: the response must not seem complete."""

    async def application(scope, receive, send):
        await send(start())
        await send(part(b"a", True))
        await receive()
        await receive()

    async def test(connection):
        assert (await connection.ask(CHUNKED)).endswith(b"1\r\na\r\n")
        assert await connection.ask(b"x\r\n") == b""
        assert connection.transport.aborted

    case(cy, run, application, test)


# ---- responses -----------------------------------------------------------------------------------------------------

HEAD_200 = b"HTTP/1.1 200 OK\r\n"
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
        [start(trailers=True), part(b"a"), {"type": "http.response.trailers", "headers": [(b"a", b"b")]}],
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


@pytest.mark.parametrize("name", RESPONSES)
def test_responses(cy, run, name):
    """What an application sends, on the wire; then it is told that there is nothing more."""
    messages, wire = RESPONSES[name]
    received = []

    async def test(connection):
        assert await connection.ask(GET) == wire
        assert [message["type"] for message in received] == ["http.disconnect"]
        # The connection goes on.
        assert await connection.ask(GET) == wire

    case(cy, run, sending(*messages, received=received), test)


@pytest.mark.parametrize("name", [name for name in RESPONSES if "trailers" not in name])
def test_responses_to_head(cy, run, name):
    """The same headers, as far as they can be told, and no body."""
    messages, wire = RESPONSES[name]
    head = wire.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    head = head.replace(b"content-length: 0\r\n", b"").replace(b"transfer-encoding: chunked\r\n", b"")

    async def test(connection):
        sent = await connection.ask(GET.replace(b"GET", b"HEAD"))
        assert sent in (head, wire.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")

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


# ---- flow ----------------------------------------------------------------------------------------------------------


def test_a_slow_client_pauses_the_application(cy, run):
    """`send` waits while the transport takes no more."""
    sent = []

    async def application(scope, receive, send):
        await send(start())
        for number in range(10):
            await send(part(b"x", True))
            sent.append(number)
        await send(part())

    async def test(connection):
        protocol = connection.protocol
        protocol.pause_writing()
        connection.feed(GET)
        await passes(10)
        assert connection.take() == b"" and sent == []
        protocol.resume_writing()
        await passes(20)
        assert len(sent) == 10
        assert connection.take().endswith(b"0\r\n\r\n")

    case(cy, run, application, test)


@pytest.mark.parametrize("size", [4096, 100_000])
def test_an_interpreter_whose_writelines_never_pauses(cy, run, size, monkeypatch):
    """There it is not used, so that a slow client pauses the application."""
    exchange = importlib.import_module(f"{cy.__name__}.gateways.http_exchange")
    monkeypatch.setattr(exchange, "WRITELINES_PAUSES", False)

    async def test(connection):
        connection.transport.writelines = None
        chunk = b"%x\r\n%b\r\n" % (size, bytes(size))
        assert (await connection.ask(GET)).endswith(b"\r\n\r\n" + chunk * 2 + b"0\r\n\r\n")

    case(cy, run, sending(start(), part(bytes(size), True), part(bytes(size), True), part()), test)


def test_the_next_request_waits_for_a_slow_client(cy, run):
    """Who asks and asks, and never reads, is answered once."""

    async def test(connection):
        assert await connection.ask(GET) == HELLO
        connection.protocol.pause_writing()
        assert await connection.ask(GET, GET) == b""
        assert not connection.server.application_instances
        connection.protocol.resume_writing()
        await passes(20)
        assert connection.take() == HELLO * 2

    case(cy, run, hello, test)


def test_a_client_that_goes_away_wakes_who_waits_to_send(cy, run, caplog):
    """It may finish what it has begun; if it does not, `send` raises an OSError, which is no failure of its own."""
    sent = []
    gate = asyncio.Event()

    async def application(scope, receive, send):
        await gate.wait()
        await send(start())
        while True:
            await send(part(b"x", True))
            sent.append(b"x")

    async def test(connection):
        assert await connection.ask(GET) == b""
        connection.protocol.pause_writing()
        gate.set()
        await passes(5)
        assert connection.server.application_instances and not sent
        connection.lose()
        await passes(2 * UNHEARD)
        assert len(sent) == UNHEARD - 1
        assert not connection.server.application_instances
        assert not caplog.records

    case(cy, run, application, test)


@pytest.mark.parametrize("when", ["before", "while it waits", "with a whole body"])
def test_disconnect(cy, run, when):
    """The application is told; a body that is there as a whole comes first."""
    received = []
    gate = asyncio.Event()

    async def application(scope, receive, send):
        if when != "while it waits":
            await gate.wait()
        while received[-1:] != ["http.disconnect"]:
            received.append((await receive())["type"])

    async def test(connection):
        await connection.ask(GET if when == "with a whole body" else POST % 10 + b"hello")
        connection.lose()
        gate.set()
        await passes(20)
        assert received == ["http.request", "http.disconnect"][when == "before" :]

    case(cy, run, application, test)


@pytest.mark.parametrize("end", ["lost", "half-closed"])
def test_disconnect_behind_a_body_in_parts(cy, run, end):
    """Parts that wait behind the first are received as well, and then the disconnect."""
    received = []
    gate = asyncio.Event()

    async def application(scope, receive, send):
        while received[-1:] != ["http.disconnect"]:
            received.append((await receive())["type"])
            await gate.wait()

    async def test(connection):
        await connection.ask(POST % 10 + b"he")
        await connection.ask(b"llo", b"world")
        if end == "lost":
            connection.lose()
        else:
            connection.protocol.eof_received()
        gate.set()
        await passes(20)
        assert received == ["http.request", "http.request", "http.disconnect"]

    case(cy, run, application, test)


def test_what_send_gives_is_as_good_as_a_coroutine(cy, run):
    """Awaited later, in a task, with a timeout, beside others: a message is sent once, and in its turn."""

    async def application(scope, receive, send):
        await asyncio.create_task(send(start()))
        await asyncio.wait_for(send(part(b"a", True)), 10)
        later = send(part(b"b", True))
        await asyncio.gather(later, send(part(b"c", True)))
        assert await asyncio.ensure_future(send(part(b"d", True))) is None
        given = send(part())
        assert asyncio.iscoroutine(given)
        assert await given is None

    async def test(connection):
        sent = await connection.ask(GET)
        assert sent.endswith(b"\r\n\r\n" + b"".join(b"1\r\n%c\r\n" % letter for letter in b"abcd") + b"0\r\n\r\n")

    case(cy, run, application, test)


def test_disconnect_as_often_as_it_is_asked_for(cy, run):
    """Who receives again after the disconnect is told again, whether the response is complete or the client gone."""
    received = []

    async def application(scope, receive, send):
        if scope["path"] == "/":
            await hello(scope, receive, send)
        received.extend([(await receive())["type"] for _ in range(4)])

    async def test(connection):
        assert await connection.ask(GET) == HELLO
        assert received == ["http.disconnect"] * 4
        assert await connection.ask(GET.replace(b"/", b"/gone", 1)) == b""
        connection.lose()
        await passes(20)
        assert received[4:] == ["http.request"] + ["http.disconnect"] * 3
        assert not connection.server.application_instances

    case(cy, run, application, test)


def test_receiving_for_ever(cy, run):
    """An application that never stops to receive, whatever it is told, does not keep the loop to itself."""
    received = []

    async def application(scope, receive, send):
        await hello(scope, receive, send)
        while True:
            received.append((await receive())["type"])

    async def test(connection):
        assert await connection.ask(GET) == HELLO
        await passes(100)
        # From now on it is told once in a while.
        assert received == ["http.disconnect"] * UNHEARD
        assert await connection.ask(GET) == HELLO

    case(cy, run, application, test)


def test_a_body_for_tasks_that_wait_side_by_side(cy, run):
    """Each of them gets a part, in the order in which they asked, and nothing is lost between them."""
    received = []

    async def application(scope, receive, send):
        async def take():
            message = await receive()
            received.append((message["type"], message.get("body")))

        await asyncio.gather(*[take() for _ in range(3)])
        await hello(scope, receive, send)

    async def test(connection):
        assert await connection.ask(POST % 9) == b""
        # All in one pass of the loop.
        assert await connection.ask(b"abc", b"def", b"ghi") == b""
        assert received == [("http.request", b"abc"), ("http.request", b"defghi")]
        connection.lose()
        await passes(5)
        assert received[2:] == [("http.disconnect", None)]

    case(cy, run, application, test)


def test_disconnect_for_each_that_waits(cy, run):
    """Two tasks of one application that wait for a message are both told."""
    received = []

    async def application(scope, receive, send):
        async def listen():
            received.append((await receive())["type"])

        assert (await receive())["type"] == "http.request"
        waiting = [asyncio.create_task(listen()) for _ in range(3)]
        await passes(2)
        await hello(scope, receive, send)
        await asyncio.gather(*waiting)

    async def test(connection):
        assert await connection.ask(GET) == HELLO
        assert received == ["http.disconnect"] * 3
        assert not connection.server.application_instances

    case(cy, run, application, test)


@pytest.mark.parametrize("path", ["/body", "/plain", "/waits"])
def test_eager_task_factory(cy, run, path):
    """An application that makes its first step while its request is still being begun misses nothing."""
    received = []

    async def application(scope, receive, send):
        if path != "/plain":
            received.append(await receive())
        if path == "/waits":
            received.append(await receive())
        await hello(scope, receive, send)
        received.append(await receive())

    async def test(connection):
        asyncio.get_running_loop().set_task_factory(eager_task_factory)
        try:
            if path == "/waits":
                await connection.ask(b"POST /waits HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
                assert await connection.ask(b"cd") == HELLO
            else:
                assert await connection.ask(GET) == HELLO
        finally:
            asyncio.get_running_loop().set_task_factory(None)
        bodies = {"/body": [b""], "/plain": [], "/waits": [b"ab", b"cd"]}[path]
        assert [message["body"] for message in received[:-1]] == bodies
        assert received[-1] == {"type": "http.disconnect"}
        assert not connection.server.application_instances

    case(cy, run, application, test)


def test_heads_that_come_in_part_share_a_bound(cy, run):
    """Many connections with a part of a long head each do not fill the memory; who sends a short one is served."""

    async def test(connection):
        server = connection.server
        part = GET[:-2] + b"X: " + b"x" * 6000
        other = Connection(cy, hello, server=server)
        third = Connection(cy, hello, server=server)
        assert await connection.ask(part) == b""
        assert await other.ask(part[:5000]) == b""
        assert server.partial_heads == len(part) + 5000
        # A short one in two parts is heard, and so is one that was there before.
        assert await third.ask(GET[:10]) == b""
        assert await third.ask(GET[10:]) == HELLO
        assert server.partial_heads == len(part) + 5000
        assert (await other.ask(part[5000:])).startswith(b"HTTP/1.1 503 ")
        assert server.partial_heads == len(part)
        assert await connection.ask(b"\r\n\r\n") == HELLO
        assert server.partial_heads == 0
        # What a connection takes with it is given back.
        assert await connection.ask(part[:5000]) == b""
        connection.lose()
        assert server.partial_heads == 0
        assert (server.refused, server.requests) == (1, 2)
        for one in (other, third):
            one.lose()

    case(cy, run, hello, test, max_partial_heads=12_000)


def test_the_last_part_wakes_one_and_the_end_the_other(cy, run):
    """One task waits for the body, another one for the end: both are told, each of its own."""
    received = []

    async def application(scope, receive, send):
        async def watch():
            received.append((await receive())["type"])

        async def answer_it():
            received.append((await receive())["body"])
            await hello(scope, receive, send)

        await asyncio.gather(answer_it(), watch())

    async def test(connection):
        assert await connection.ask(POST % 2) == b""
        assert await connection.ask(b"ab") == HELLO
        assert received == [b"ab", "http.disconnect"]
        assert not connection.server.application_instances

    case(cy, run, application, test)


def test_the_end_does_not_overtake_a_body_that_is_whole(cy, run):
    """Parts for tasks that wait side by side come before the disconnect, also when all comes in one pass."""
    received = []

    async def application(scope, receive, send):
        async def take():
            message = await receive()
            received.append(message.get("body"))

        await asyncio.gather(*[take() for _ in range(3)])

    async def test(connection):
        assert await connection.ask(POST % 4) == b""
        connection.feed(b"ab", b"cd")
        connection.lose()
        await passes(20)
        assert received == [b"ab", b"cd", None]

    case(cy, run, application, test)


def test_several_that_receive_for_ever(cy, run):
    """However many tasks of an application never stop to receive, the loop goes on, with a bounded amount to do."""
    received = []

    async def application(scope, receive, send):
        async def forever():
            while True:
                received.append(await receive())

        await hello(scope, receive, send)
        await asyncio.gather(*[forever() for _ in range(5)])

    async def test(connection):
        assert await connection.ask(GET) == HELLO
        for _ in range(3):
            assert await connection.ask(GET) == HELLO
        await passes(200)
        assert len(received) == 4 * UNHEARD

    case(cy, run, application, test)


def test_asking_whether_the_client_has_gone(cy, run):
    """Who gives up to receive at once, as Starlette's `is_disconnected` does, is told as often as he asks."""
    received = []

    async def application(scope, receive, send):
        assert (await receive())["type"] == "http.request"
        await gate.wait()
        for _ in range(4):
            asking = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            received.append(asking.done())
            asking.cancel()

    async def test(connection):
        assert await connection.ask(GET) == b""
        connection.lose()
        gate.set()
        await passes(20)
        assert received == [True] * 4

    gate = asyncio.Event()
    case(cy, run, application, test)


def test_sending_from_another_thread(cy, run):
    """A message that is handed to the loop by `run_coroutine_threadsafe` is written in the loop's thread."""
    threads = []

    async def application(scope, receive, send):
        loop = asyncio.get_running_loop()

        def work():
            for message in (start(), part(b"hello")):
                asyncio.run_coroutine_threadsafe(send(message), loop).result(10)

        await loop.run_in_executor(None, work)

    async def test(connection):
        write = connection.transport.write

        def noted(data):
            threads.append(threading.get_ident())
            write(data)

        connection.transport.write = noted
        connection.feed(GET)
        while not threads:
            await asyncio.sleep(0.001)
        assert threads == [threading.get_ident()]
        while connection.server.application_instances:
            await asyncio.sleep(0.001)

    case(cy, run, application, test)


def test_half_closed(cy, run):
    """A client that closes its half gets its answer; the application may notice."""
    received = []

    async def application(scope, receive, send):
        received.append((await receive())["type"])
        received.append((await receive())["type"])
        await hello(scope, receive, send)

    async def test(connection):
        await connection.ask(GET)
        assert connection.protocol.eof_received() is True
        await passes(20)
        assert received == ["http.request", "http.disconnect"]
        assert connection.take() == closing(b"hello")
        assert connection.transport.closed

    case(cy, run, application, test)


def test_half_closed_without_a_whole_request(cy, run):
    """Nothing can come of it: the connection is closed."""

    async def test(connection):
        connection.feed(GET[:-1])
        assert not connection.protocol.eof_received()

    case(cy, run, hello, test)

    async def test_body(connection):
        await connection.ask(POST % 5)
        assert not connection.protocol.eof_received()

    case(cy, run, echo, test_body)


# ---- limits --------------------------------------------------------------------------------------------------------


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
        assert ' "-" 400 ' in second

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

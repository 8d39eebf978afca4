"""Responses that refuse a WebSocket, and what is still to be taken when one ends: a client that takes it slowly has the
time that one of HTTP has, and what is cut does not seem to be complete."""

from __future__ import annotations

import asyncio
import importlib
import io

import pytest

from support.http_connection import Connection
from support.loops import passes
from support.serving import in_time
from support.websockets_raw import close, closed, request
from support.websockets_serving import Client, Recorder, gateway, server_of, serving, sockets

ACCEPT = {"type": "websocket.accept"}


def start(*headers, status=403):
    return {"type": "websocket.http.response.start", "status": status, "headers": headers}


def part(body=b"", more=False):
    return {"type": "websocket.http.response.body", "body": body, "more_body": more}


class Sending:
    """An application that sends these messages; an event among them is waited for, an error raised."""

    def __init__(self, *steps):
        self.steps = steps
        self.sent = 0

    async def __call__(self, scope, receive, send):
        await receive()
        for step in self.steps:
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, Exception):
                raise step
            else:
                await send(step)
                self.sent += 1


def case(cy, run, application, test, **settings):
    """Runs test(connection) with a client that has asked for a WebSocket."""

    async def main():
        server = gateway(cy).WebSocketServer(application)
        connection = Connection(cy, application, server=server, **settings)
        connection.feed(request())
        connection.protocol = connection.transport.protocol
        await passes(20)
        await test(connection)
        await connection.end()

    run(main())


async def takes_slowly(connection, until):
    """Such a client is let go on; when it takes hardly anything it is cut off."""
    transport = connection.transport
    # The first look may come sooner than the others.
    await connection.later(3)
    assert not transport.aborted
    for _ in range(5):
        transport.unwritten -= 100_000
        await connection.later(61)
        assert not transport.aborted
    transport.unwritten -= until
    await connection.later(61)
    assert transport.aborted


@pytest.mark.slow
@pytest.mark.parametrize("until", [0, 100])
def test_a_client_that_takes_the_last_of_a_response_slowly(cy, run, until):
    async def test(connection):
        assert connection.transport.eof and not connection.transport.closed
        connection.transport.unwritten = 10_000_000
        await takes_slowly(connection, until)

    case(cy, run, Sending(start(), part(b"a" * 1000)), test)


@pytest.mark.parametrize("until", [0, 100])
def test_a_client_that_takes_a_streamed_response_slowly(cy, run, until):
    """The application waits meanwhile, however long it takes."""
    application = Sending(start(), part(b"a", True), asyncio.Event(), part(b"b", True), part(b"c"))

    async def test(connection):
        connection.transport.unwritten = 10_000_000
        connection.protocol.pause_writing()
        application.steps[2].set()
        await takes_slowly(connection, until)
        assert application.sent == 2
        assert connection.transport.sent.endswith(b"\r\n\r\na")

    case(cy, run, application, test)


def test_a_client_that_takes_all_of_it(cy, run):
    """Once it has, it is let go after a moment."""

    async def test(connection):
        assert connection.transport.eof
        await connection.later(1.9)
        assert not connection.transport.aborted
        await connection.later(1)
        assert connection.transport.aborted

    case(cy, run, Sending(start(), part(b"a")), test)


@pytest.mark.parametrize("until", [0, 100])
def test_a_client_that_takes_what_is_before_the_close_frame_slowly(cy, run, until):
    """It cannot answer what it has not got."""
    messages = {"type": "websocket.send", "bytes": b"a"}, {"type": "websocket.close"}

    async def test(connection):
        connection.transport.unwritten = 10_000_000
        connection.protocol.pause_writing()
        connection.protocol.resume_writing()
        application.steps[1].set()
        await passes(20)
        assert connection.protocol.websocket.phase == 3
        await takes_slowly(connection, until)

    application = Sending(ACCEPT, asyncio.Event(), *messages)
    case(cy, run, application, test, websocket_ping_interval=None)


def test_writing_paused_by_the_last_bytes(cy, run):
    """Where the transport finds only later that it has too much, one deadline holds all the same."""

    async def test(connection):
        connection.transport.unwritten = 10_000_000
        connection.protocol.pause_writing()
        await takes_slowly(connection, 0)

    case(cy, run, Sending(start(), part(b"a")), test)


class Failure(Exception):
    pass


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"10")]], ids=["without length", "with length"])
@pytest.mark.parametrize("end", ["fails", "returns", "is too slow"])
def test_a_response_that_is_not_finished(cy, run, headers, end, monkeypatch):
    """The connection is cut: its end in order would make a whole response of what there is."""
    module = importlib.import_module(f"{cy.__name__}.gateways.websocket.connection")
    reset = []
    monkeypatch.setattr(module, "reset_on_close", reset.append)
    steps = {"fails": [Failure()], "returns": [], "is too slow": [asyncio.Event()]}[end]

    async def test(connection):
        assert connection.transport.closed == (end != "is too slow")
        await connection.later(11)
        assert connection.transport.aborted and not connection.transport.eof
        assert connection.transport.sent.endswith(b"\r\n\r\na")
        assert len(reset) == (not headers)

    application = Sending(start(*headers), part(b"a", True), *steps)
    unheard = {"application_exception": lambda exception, details: None}
    case(cy, run, application, test, request_timeout=10, **unheard)


def test_a_response_that_does_not_begin(cy, run):
    """It has the time of a request; then the server answers in its stead."""

    async def test(connection):
        await connection.later(11)
        assert not connection.transport.sent
        await connection.later(10)
        assert connection.transport.sent.startswith(b"HTTP/1.1 504 ") and connection.transport.eof

    case(cy, run, Sending(start(), asyncio.Event()), test, request_timeout=20)


def test_a_server_that_stops_lets_a_response_be_finished(cy, run):
    application = Sending(start(), part(b"a", True), asyncio.Event(), part(b"b"))

    async def test(connection):
        connection.protocol.begin_shutdown()
        await passes(20)
        assert not connection.transport.closed and not connection.transport.eof
        application.steps[2].set()
        await passes(20)
        assert connection.transport.sent.endswith(b"\r\n\r\nab") and connection.transport.eof

    case(cy, run, application, test)


# ---- the access log ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "logged"),
    [
        ([ACCEPT, {"type": "websocket.send", "text": "hello"}], "101 7"),
        ([start(status=401), part(b"a", True), part(b"bc")], "401 3"),
        ([{"type": "websocket.close"}], "403 26"),
        (["waits"], "499 0"),
        ([start(), "waits"], "499 0"),
        ([ACCEPT, "waits"], "101 0"),
    ],
)
def test_access_log(cy, run, steps, logged):
    """A line for each WebSocket when it has ended, which nothing in the request can forge."""
    log = io.StringIO()

    async def main():
        gate = asyncio.Event()
        server = server_of(cy, Sending(*(gate if one == "waits" else one for one in steps)), access_log=log)
        async with serving(server) as address:
            client = await Client(address).connect(target=b'/a"b%0a?c')
            [connection] = await sockets(server)
            if steps[-1] == "waits":
                await in_time(lambda: connection.websocket.phase or len(steps) == 1)
                client.abort()
            else:
                client.half_close()
                await client.rest()
            await in_time(lambda: not server.connections)
            await client.close()
            gate.set()

    run(main())
    [line] = log.getvalue().splitlines()
    line, _, took = line.rpartition(" ")
    assert line.endswith(f'] "GET /a%22b%0a?c HTTP/1.1" {logged}') and line.startswith("127.0.0.1:")
    assert float(took) >= 0


# ---- with sockets --------------------------------------------------------------------------------------------------

BODY = b"0123456789" * 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("messages", [(part(BODY),), (part(BODY, True), part(BODY))], ids=["whole", "streamed"])
def test_all_of_a_long_response_arrives(cy, run, messages):
    """Also where the client has not begun to read it when the connection would have been cut."""

    async def main():
        application = Sending(start(), *messages)
        server = server_of(cy, application)
        async with serving(server) as address:
            client = await Client(address).connect()
            [connection] = await sockets(server)
            if len(messages) == 1:
                await in_time(lambda: connection.finished)
                connection.deadline.callback()
            else:
                await in_time(lambda: connection.paused)
                connection._taken = float("-inf")
                connection.stall_deadline.callback()
            data = await client.rest()
            await client.close()
        assert data.startswith(b"HTTP/1.1 403 ")
        assert data.partition(b"\r\n\r\n")[2] == BODY * len(messages)

    run(main())


@pytest.mark.slow
def test_all_of_a_long_message_before_the_close_frame_arrives(cy, run):
    """Also where the server stops."""
    application = Recorder(lambda scope, receive, send: send({"type": "websocket.send", "bytes": BODY}))

    async def main():
        server = server_of(cy, application)
        async with serving(server) as address:
            client = await Client(address).open()
            client.writer.transport.pause_reading()
            [connection] = await sockets(server)
            await in_time(lambda: connection.paused)
            connection.begin_shutdown()
            connection.deadline.callback()
            client.writer.transport.resume_reading()
            assert await client.receive() == (0x82, BODY)
            assert await client.receive() == closed(1012, "service restart")
            client.send(close(1012))
            assert await client.rest() == b""
            await client.close()

    run(main())

"""What deployments ask of every response, or of every client that goes: own headers, early hints, cancelling."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from support.http_protocol_case import GET, HEAD_200, HELLO, case, part, sending, start
from support.loops import passes
from support.websockets_serving import Client, server_of, serving

HINT = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]}
HINTED = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload\r\n\r\n"
ANSWERED = HEAD_200 + b"content-length: 1\r\n\r\na"


@pytest.mark.parametrize(
    ("messages", "sent"),
    [
        ([HINT], HINTED),
        ([HINT, {**HINT, "links": (b"</c>",)}], HINTED + b"HTTP/1.1 103 Early Hints\r\nlink: </c>\r\n\r\n"),
        ([{**HINT, "links": []}], b""),
    ],
)
def test_early_hints(cy, run, messages, sent):
    """They leave at once, as often as they are sent, and the response follows."""
    gate = asyncio.Event()

    async def application(scope, receive, send):
        assert scope["extensions"]["http.response.early_hint"] == {}
        for message in messages:
            await send(message)
        await gate.wait()
        await sending(start(), part(b"a"))(scope, receive, send)

    async def test(connection):
        gate.clear()
        assert await connection.ask(GET) == sent
        gate.set()
        assert await connection.ask() == ANSWERED

    case(cy, run, application, test)


def test_no_early_hints_in_http_1_0(cy, run):
    """A client of HTTP/1.0 does not expect a second answer."""

    async def test(connection):
        sent = await connection.ask(GET.replace(b"1.1", b"1.0"))
        assert sent == HEAD_200 + b"content-length: 1\r\nconnection: close\r\n\r\na"

    case(cy, run, sending(HINT, start(), part(b"a")), test)


def test_an_early_hint_that_is_late(cy, run):
    """Once the response has begun there are none."""
    errors = []

    async def application(scope, receive, send):
        await send(start())
        try:
            await send(HINT)
        except RuntimeError as error:
            errors.append(str(error))
        await send(part(b"a"))

    async def test(connection):
        assert await connection.ask(GET) == ANSWERED
        assert errors == ["a message of type 'http.response.body' was expected, got 'http.response.early_hint'"]

    case(cy, run, application, test)


async def asked(connection, **settings):
    """What is sent for a request, Date included, under these settings."""
    for name, value in settings.items():
        setattr(connection.server, name, value)
    connection.server._second = 0
    connection.server._tick()
    connection.feed(GET)
    await passes(20)
    sent, connection.transport.sent = connection.transport.sent, b""
    return sent.split(b"\r\n")


def test_headers_of_every_response(cy, run):
    """They are on the application's responses and on the server's own; Date and Server can be replaced and left out."""

    async def test(connection):
        lines = await asked(connection, headers=((b"X-A", b"b"), (b"x-c", b"d")))
        assert lines[2:4] == [b"x-a: b", b"x-c: d"] and lines[1].startswith(b"date: ")
        lines = await asked(connection, date_header=False)
        assert lines[:3] == [b"HTTP/1.1 200 OK", b"x-a: b", b"x-c: d"]
        lines = await asked(connection, server_header="usual", headers=((b"Server", b"mine"), (b"Date", b"now")))
        assert lines[:3] == [b"HTTP/1.1 200 OK", b"date: now", b"server: mine"]
        connection.server.headers = ((b"x-a", b"b"),)
        connection.server._second = 0
        connection.server._tick()
        connection.feed(b"nonsense\r\n\r\n")
        assert b"x-a: b" in (await connection.ask()).split(b"\r\n")

    case(cy, run, sending(start(), part(b"a")), test)


def test_an_application_with_headers_of_its_own(cy, run):
    """Its Server takes the place of the usual one, and the further headers stay."""

    async def test(connection):
        lines = await asked(connection, server_header="usual", headers=((b"x-a", b"b"),))
        assert lines[2:4] == [b"x-a: b", b"server: own"]

    case(cy, run, sending(start(headers=[(b"server", b"own")]), part(b"a")), test)


@pytest.mark.parametrize("cancel", [True, False])
@pytest.mark.parametrize("begun", [True, False])
def test_cancelling_when_the_client_has_gone(cy, run, cancel, begun):
    """An application whose client goes is cancelled if that is asked for; else it is told, and may go on."""
    seen = []

    async def application(scope, receive, send):
        if begun:
            await send(start())
            await send(part(b"a", True))
        await receive()
        try:
            await asyncio.Event().wait() if cancel else seen.append((await receive())["type"])
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def test(connection):
        await connection.ask(GET)
        connection.lose()
        await passes(20)
        assert seen == ["cancelled" if cancel else "http.disconnect"]
        stats = connection.server.stats()
        assert (stats["cancelled"], stats["finished"], stats["failed"]) == (int(cancel), int(not cancel), 0)

    case(cy, run, application, test, cancel_on_disconnect=cancel)


def test_no_cancelling_after_the_response(cy, run):
    """An application that has answered may finish what it does."""
    seen = []
    gate = asyncio.Event()

    async def application(scope, receive, send):
        await send(start())
        await send(part(b"Hello"))
        await gate.wait()
        seen.append("done")

    async def test(connection):
        gate.clear()
        assert (await connection.ask(GET)).startswith(HELLO[:15])
        connection.lose()
        await passes(20)
        gate.set()
        await passes(20)
        assert seen == ["done"]

    case(cy, run, application, test, cancel_on_disconnect=True)


@pytest.mark.parametrize("form", ['%r %>s "%{user-agent}i" %{x-a}o', "json"])
def test_the_access_log_s_format(cy, run, form):
    """The format has what each request and its own response had, be it complete or not."""
    lines = []

    class Stream:
        def write(self, text):
            lines.extend(text.splitlines())

    async def test(connection):
        log = importlib.import_module(f"{cy.__name__}.gateways.access_log").make_access_log(Stream(), form)
        connection.server.log = log
        log.tick(0)
        await connection.ask(GET.replace(b"\r\n\r\n", b"\r\nUser-Agent: one\r\n\r\n"))
        await connection.ask(GET)
        connection.server.application = sending(start(headers=[(b"x-a", b"c")]), part(b"a", True), received=[])
        await connection.ask(GET)
        connection.lose()
        log.flush()
        if form == "json":
            assert all(line.startswith('{"time":"1970-01-01T00:00:00Z","client":"127.0.0.1:') for line in lines)
            assert [line.partition('"status":')[2].partition(",")[0] for line in lines] == ["200"] * 3
        else:
            assert lines == [
                'GET / HTTP/1.1 200 "one" b',
                'GET / HTTP/1.1 200 "-" b',
                'GET / HTTP/1.1 200 "-" c',
            ]

    case(cy, run, sending(start(headers=[(b"X-A", b"b")]), part(b"a")), test)


@pytest.mark.parametrize("given", [b"", b"X-Request-ID: one\r\n"])
def test_request_ids(cy, run, given):
    """Scope, response and access log have the id of each request, be it the client's or a new one."""
    ids, lines = [], []

    class Stream:
        def write(self, text):
            lines.extend(text.splitlines())

    async def application(scope, receive, send):
        ids.append(dict(scope["headers"])[b"x-request-id"])
        if len(ids) == 3:
            raise ZeroDivisionError
        await sending(start(), part(b"a"))(scope, receive, send)

    async def test(connection):
        log = importlib.import_module(f"{cy.__name__}.gateways.access_log").make_access_log
        connection.server.log = log(Stream(), "json", connection.server.request_id_header)
        request = GET.replace(b"\r\n\r\n", b"\r\n" + given + b"\r\n")
        for _ in range(2):
            sent = await connection.ask(request)
            assert sent == HEAD_200 + b"x-request-id: %b\r\ncontent-length: 1\r\n\r\na" % ids[-1]
        sent = await connection.ask(request)
        assert b"\r\nx-request-id: %b\r\n" % ids[2] in sent and b" 500 " in sent
        connection.server.log.flush()
        assert [line.partition('"request_id":"')[2] for line in lines] == [one.decode() + '"}' for one in ids]
        assert len(set(ids)) == (1 if given else 3)

    case(cy, run, application, test, request_id_header="X-Request-Id")


def test_an_application_s_own_request_id(cy, run):
    """What the application says of the id stays the only thing that is said."""

    async def test(connection):
        assert await connection.ask(GET) == HEAD_200 + b"x-request-id: own\r\ncontent-length: 1\r\n\r\na"
        sent = await connection.ask(b"nonsense\r\n\r\n")
        assert b" 400 " in sent and b"x-request-id" not in sent

    messages = start(headers=[(b"X-Request-ID", b"own")]), part(b"a")
    case(cy, run, sending(*messages), test, request_id_header="x-request-id")


def test_the_id_of_a_websocket(cy, run):
    """The answer that accepts a WebSocket has its id, and so has the scope."""

    async def main():
        ids = []

        async def application(scope, receive, send):
            ids.extend(value for name, value in scope["headers"] if name == b"x-request-id")
            await receive()
            await send({"type": "websocket.accept"})
            await receive()

        server = server_of(cy, application, base="http", request_id_header="x-request-id")
        async with serving(server) as address:
            for header in ((), ((b"X-Request-ID", b"one"),)):
                async with await Client(address).open(*header) as client:
                    assert b"\r\nx-request-id: %b\r\n" % ids[-1] in client.head
        assert len(ids[0]) == 32 and ids[1:] == [b"one"]

    run(main())


@pytest.mark.parametrize("endless", ["hints", "trailers"])
def test_an_application_that_never_stops(cy, run, endless):
    """Hints and trailers without end leave the loop to others, and end with the connection."""
    ended = []

    async def application(scope, receive, send):
        if endless == "trailers":
            await send(start(trailers=True))
            await send(part(b"a"))
        try:
            while True:
                await send(
                    HINT
                    if endless == "hints"
                    else {"type": "http.response.trailers", "headers": [], "more_trailers": True}
                )
        except OSError as error:
            ended.append(type(error).__name__)
            raise

    async def test(connection):
        # `ask` returns at all, since the loop goes on.
        await connection.ask(GET.replace(b"\r\n\r\n", b"\r\nTE: trailers\r\n\r\n"))
        assert not ended
        connection.transport.closed = True
        await passes(30)
        connection.lose()
        await passes(30)
        assert ended == ["ClientDisconnected"]

    case(cy, run, application, test)


@pytest.mark.parametrize("form", ["json", "%{x-request-id}i"])
@pytest.mark.parametrize("made", ["text", b'"\xff'])
def test_an_application_that_changes_its_headers(cy, run, form, made, caplog):
    """What it makes of them costs a line of the log at most, and forges none; the connection goes on."""
    lines = []

    class Stream:
        def write(self, text):
            lines.extend(text.splitlines())

    async def application(scope, receive, send):
        scope["headers"][:] = [(b"x-request-id", made)]
        await sending(start(), part(b"a"))(scope, receive, send)

    async def test(connection):
        log = importlib.import_module(f"{cy.__name__}.gateways.access_log").make_access_log
        connection.server.log = log(Stream(), form, "x-request-id")
        for _ in range(2):
            assert (await connection.ask(GET)).endswith(b"a")
        connection.server.log.flush()
        if made == "text":
            assert lines == []
            assert [record.getMessage()[:35] for record in caplog.records] == [
                "1 line of the access log was lost: "
            ] * 2
        else:
            assert len(lines) == 2 and all(line.isascii() for line in lines)
            assert caplog.records == []

    case(cy, run, application, test, request_id_header="x-request-id")


def test_a_message_whose_keys_do_anything(cy, run):
    """Keys that change the message while it is read have the status that was there, or an error."""

    class Key(str):
        __slots__ = ()

        def __hash__(self):
            return hash("trailers")

        def __eq__(self, other):
            message.pop("status", None)
            return False

    message = {}

    async def application(scope, receive, send):
        message.update({"type": "http.response.start", "status": 404, Key("x"): None})
        await send(message)
        await send(part(b"a"))

    async def test(connection):
        sent = await connection.ask(GET)
        assert sent.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 500 "))

    case(cy, run, application, test)


def test_a_body_that_is_refused(cy, run):
    """A request that is refused for the length of its body was read: the log names it, and its id is told."""
    lines = []

    class Stream:
        def write(self, text):
            lines.extend(text.splitlines())

    async def test(connection):
        log = importlib.import_module(f"{cy.__name__}.gateways.access_log").make_access_log
        connection.server.log = log(Stream(), "%r %>s %{x-request-id}i", None)
        request = b"POST /p HTTP/1.1\r\nHost: x\r\nX-Request-ID: one\r\nContent-Length: 100\r\n\r\n"
        assert b"\r\nx-request-id: one\r\n" in await connection.ask(request)
        connection.server.log.flush()
        assert lines == ["POST /p HTTP/1.1 413 one"]

    case(cy, run, sending(start(), part()), test, request_id_header="x-request-id", max_body_size=10)

"""The protocol of an HTTP connection, on a transport that only keeps what is written to it: requests."""

from __future__ import annotations

import asyncio

import pytest

from support.http_connection import Recording, echo, hello
from support.http_protocol_case import CHUNKED, GET, HELLO, POST, answer, case
from support.loops import passes


@pytest.mark.slow
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
        connection.protocol.template["state"] = {}
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
            "extensions": {
                "http.response.trailers": {},
                "http.response.pathsend": {},
                "http.response.early_hint": {},
            },
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


@pytest.mark.parametrize(
    ("root_path", "raw"),
    [
        ("/über uns", b"/%C3%BCber%20uns"),
        ("/100%/a?b#c", b"/100%25/a%3Fb%23c"),
        ("/-._~!$&'()*+,;=:@/aZ09", b"/-._~!$&'()*+,;=:@/aZ09"),
    ],
)
def test_root_path_of_any_characters(cy, run, root_path, raw):
    """It is text in `root_path` and `path`; `raw_path` has it as a request would, percent-encoded."""
    application = Recording()

    async def test(connection):
        await connection.ask(b"GET /%C3%BC/ HTTP/1.1\r\nHost: x\r\n\r\n")
        (scope,) = application.scopes
        assert (scope["root_path"], scope["path"]) == (root_path, f"{root_path}/ü/")
        assert scope["raw_path"] == raw + b"/%C3%BC/"

    case(cy, run, application, test, root_path=root_path)


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


@pytest.mark.slow
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
            if connection.transport.reading and not connection.protocol.buffer:
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
        assert not connection.transport.aborted
        await connection.later(3)
        assert connection.transport.aborted

    case(cy, run, hello, test)

"""cyasgi's HTTP as a protocol of uvicorn's."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import logging

import pytest

from support.http_connection import Recording, hello, talk
from support.loops import passes
from support.serving import in_time
from support.uvicorn_serving import under_uvicorn

pytestmark = pytest.mark.slow


GET = b"GET /a%20b?c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def test_serves(cy, run):
    """The scope is as uvicorn's users know it, the headers are uvicorn's, and so are the counters."""

    async def main():
        application = Recording()
        options = {"root_path": "/api", "headers": [("x-own", "y")], "proxy_headers": False}
        async with under_uvicorn(cy, application, **options) as (server, address):
            answer = await talk(address, GET)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert body == b"/api/a b"
            lines = head.split(b"\r\n")
            assert lines[0] == b"HTTP/1.1 200 OK"
            assert b"server: uvicorn" in lines and b"x-own: y" in lines
            assert len([line for line in lines if line.startswith(b"date: ")]) == 1
            await in_time(lambda: not server.server_state.connections and not server.server_state.tasks)
            assert server.server_state.total_requests == 1
            (scope,) = application.scopes
            assert scope["server"] == address and scope["state"] == {}

    run(main())


def test_without_headers_of_its_own(cy, run):
    """Neither Date nor Server, where uvicorn is told so: also in what the server answers itself."""

    async def main():
        options = {"date_header": False, "server_header": False}
        async with under_uvicorn(cy, hello, **options) as (_, address):
            assert await talk(address, GET) == (
                b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
            )
            assert (await talk(address, b"GET / HTTP/1.1\r\n\r\n")).startswith(
                b"HTTP/1.1 400 Bad Request\r\ncontent-type: "
            )

    run(main())


def test_limit_concurrency(cy, run):
    """A request more than that is answered 503."""
    gate = asyncio.Event()

    async def application(scope, receive, send):
        await gate.wait()
        await hello(scope, receive, send)

    async def main():
        async with under_uvicorn(cy, application, limit_concurrency=1) as (server, address):
            first = asyncio.create_task(talk(address, GET))
            await in_time(lambda: server.server_state.tasks)
            assert (await talk(address, GET)).startswith(b"HTTP/1.1 503 ")
            gate.set()
            assert (await first).endswith(b"hello")

    run(main())


def test_graceful_shutdown(cy, run):
    """uvicorn waits for the request at work, whose connection is told to close."""
    gate = asyncio.Event()

    async def application(scope, receive, send):
        await gate.wait()
        await hello(scope, receive, send)

    async def main():
        async with under_uvicorn(cy, application) as (server, address):
            asking = asyncio.create_task(talk(address, GET.replace(b"Connection: close\r\n", b"")))
            await in_time(lambda: server.server_state.tasks)
            server.should_exit = True
            await in_time(lambda: all(connection.last for connection in server.server_state.connections))
            gate.set()
            answer = await asking
            assert answer.endswith(b"hello") and b"\r\nconnection: close\r\n" in answer

    run(main())


def test_failures_and_the_access_log_are_uvicorn_s(cy, run, caplog):
    """They are found where uvicorn's users look for them."""

    async def application(scope, receive, send):
        raise ZeroDivisionError

    async def main():
        caplog.set_level(logging.INFO)
        async with under_uvicorn(cy, application) as (_, address):
            assert (await talk(address, GET)).startswith(b"HTTP/1.1 500 ")
            await passes(10)
        records = {record.name: record.getMessage() for record in caplog.records if record.levelno != logging.DEBUG}
        assert records["uvicorn.access"].endswith('"GET /a%20b?c HTTP/1.1" 500')
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert [record.name for record in errors] == ["uvicorn.error"]

    run(main())


def test_websockets_are_uvicorn_s(cy, run):
    """A request to upgrade is handed to the protocol that uvicorn was told to use."""
    handed = []

    class Handed(asyncio.Protocol):
        def __init__(self, config, server_state, app_state):
            self.data = b""

        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            handed.append(data)
            self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            self.transport.close()

    request = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

    async def main():
        async with under_uvicorn(cy, hello, ws=Handed) as (_, address):
            assert (await talk(address, request + b"frames")).startswith(b"HTTP/1.1 101 ")
        (data,) = handed
        assert (
            data
            == request.replace(b"Host", b"host").replace(b"Connection", b"connection").replace(b"Upgrade:", b"upgrade:")
            + b"frames"
        )

    run(main())


VARIABLE = contextvars.ContextVar("tests.variable", default="untouched")


@pytest.mark.parametrize("reset", [False, True])
def test_reset_contextvars(cy, run, reset):
    """With --reset-contextvars a request begins with an empty context; without, with that of the connection."""

    async def application(scope, receive, send):
        body = f"{VARIABLE.get()} {cy.current_instance().scope['path']}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def main():
        VARIABLE.set("server's")
        async with under_uvicorn(cy, application, reset_contextvars=reset) as (_, address):
            answer = await talk(address, GET)
            assert answer.endswith(b"untouched /a b" if reset else b"server's /a b")

    run(main())


UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade, close\r\nUpgrade: %b\r\n\r\n"


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_an_upgrade_that_nothing_serves(cy, run, caplog, protocol):
    """The request is served as any other; uvicorn's warnings say what is missing."""

    async def main():
        async with under_uvicorn(cy, hello) as (_, address):
            assert (await talk(address, UPGRADE % protocol)).endswith(b"hello")

    run(main())
    first, second = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert first == "Unsupported upgrade request."
    assert second.startswith("No supported WebSocket library detected.")


def test_trace(cy, run, caplog):
    """`--log-level trace` tells of each connection."""
    caplog.set_level(5, "uvicorn.error")

    async def main():
        async with under_uvicorn(cy, hello) as (server, address):
            assert (await talk(address, GET)).endswith(b"hello")
            await in_time(lambda: not server.server_state.connections)

    run(main())
    traced = [record.getMessage() for record in caplog.records if record.levelno == 5]
    assert [line.partition(" - ")[2] for line in traced if "127.0.0.1:" in line] == [
        "HTTP connection made",
        "HTTP connection lost",
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("192.0.2.1", "https")),
        ({"forwarded_allow_ips": "192.0.2.1"}, ("127.0.0.1", "http")),
        ({"forwarded_allow_ips": "127.0.0.1,192.0.2.1"}, ("203.0.113.9", "https")),
        ({"proxy_headers": False}, ("127.0.0.1", "http")),
    ],
)
def test_headers_of_proxies_are_uvicorns(cy, run, options, expected):
    """uvicorn's settings count, and what it finds is read once: cyasgi's have no effect, even if they are set."""
    protocol = importlib.import_module(f"{cy.__name__}.gateways.uvicorn")
    server_class = type("Server", (protocol.Server,), {"proxy_headers": True, "forwarded_allow_ips": "*"})
    own = type("Protocol", (protocol.Protocol,), {"server_class": server_class})
    lines = b"X-Forwarded-For: 203.0.113.9, 192.0.2.1\r\nX-Forwarded-Proto: https\r\n"

    async def main():
        application = Recording()
        async with under_uvicorn(cy, application, http=own, **options) as (_, address):
            await talk(address, GET.replace(b"Connection", lines + b"Connection"))
        (scope,) = application.scopes
        assert (scope["client"][0], scope["scheme"]) == expected

    run(main())

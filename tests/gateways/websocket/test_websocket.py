"""The WebSocket gateway: the scope, messages in both directions, and what is refused."""

from __future__ import annotations

import asyncio
import importlib
import logging
import ssl

import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.serving import in_time
from support.websockets_raw import closed, text
from support.websockets_serving import CONNECT, Client, Recorder, disconnect, echo, server_of, serving, sockets, url

ACCEPT = {"type": "websocket.accept"}


# ---- scope and messages --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["deflate", None])
def test_echo(cy, run, compression):
    """Text and bytes of every size come back, to a real client, compressed or not."""

    async def main():
        server = server_of(cy, echo)
        async with serving(server) as address, connect(url(address), compression=compression) as client:
            for message in ("hello", "", "é😀", b"", b"\0\xff", "x" * 126, bytes(65_536), "y" * 1_048_576):
                await client.send(message)
                assert await client.recv() == message
            await client.send(iter(["in ", "frag", "ments"]))
            assert await client.recv() == "in fragments"
            await (await client.ping())

    run(main())


def test_scope(cy, run):
    """The scope holds what the ASGI specification says."""

    async def main():
        application = Recorder()
        server = server_of(cy, application)
        server.state = {"from": "lifespan"}
        async with (
            serving(server) as address,
            connect(url(address, "/a%20b?c=d"), subprotocols=["one", "two"], additional_headers={"X-A": "b"}),
        ):
            pass
        [scope] = application.scopes
        headers = scope.pop("headers")
        client = scope.pop("client")
        assert (b"x-a", b"b") in headers and client[0] == "127.0.0.1"
        assert scope == {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/a b",
            "raw_path": b"/a%20b",
            "query_string": b"c=d",
            "root_path": "",
            "server": address,
            "subprotocols": ["one", "two"],
            "state": {"from": "lifespan"},
            "extensions": {"websocket.http.response": {}},
        }
        assert application.messages == [CONNECT, disconnect(1000)]

    run(main())


def test_accept_with_subprotocol_and_headers(cy, run):
    async def application(scope, receive, send):
        await receive()
        await send({**ACCEPT, "subprotocol": scope["subprotocols"][1], "headers": [(b"x-a", b"b"), (b"x-a", b"c")]})
        await receive()

    async def main():
        async with serving(server_of(cy, application)) as address:
            client = await connect(url(address), subprotocols=["one", "two"])
            assert client.subprotocol == "two"
            assert client.response.headers.get_all("x-a") == ["b", "c"]
            assert client.response.headers["server"] == "cyasgi" and client.response.headers["date"]
            await client.close()

    run(main())


def test_messages_that_came_with_the_request_or_before_the_answer(cy, run):
    """They wait, and are delivered in their order."""

    async def main():
        release = asyncio.Event()

        async def application(scope, receive, send):
            await release.wait()
            await echo(scope, receive, send)

        server = server_of(cy, application)
        async with serving(server) as address:
            client = await Client(address).connect(rest=text("one") + text("two")[:3])
            client.send(text("two")[3:] + text("three"))
            await client.drained()
            [connection] = await sockets(server)
            await in_time(lambda: connection.websocket.buffered == len(text("one") + text("two") + text("three")))
            release.set()
            await client.reader.readuntil(b"\r\n\r\n")
            assert [await client.receive() for _ in range(3)] == [(0x81, b"one"), (0x81, b"two"), (0x81, b"three")]
            assert await client.finish() == [closed(1000)]

    run(main())


@pytest.mark.slow
def test_much_before_the_answer(cy, run):
    """Of what comes before the WebSocket is accepted some is read, however it comes; the rest waits with the client."""
    message, count = text("x" * 1000), 5000

    async def main():
        release = asyncio.Event()

        async def application(scope, receive, send):
            await release.wait()
            await echo(scope, receive, send)

        server = server_of(cy, application)
        async with serving(server) as address:
            client = await Client(address).connect(rest=message * count)
            [connection] = await sockets(server)
            await in_time(lambda: connection.reading_paused)
            assert connection.websocket.buffered < 1_000_000
            release.set()
            await client.reader.readuntil(b"\r\n\r\n")
            for _ in range(count):
                assert await client.receive() == (0x81, b"x" * 1000)
            await client.finish()

    run(main())


@pytest.mark.slow
def test_tls(cy, run):
    """Over TLS: the scheme is wss, messages large and small come back, and either side may close."""
    http = importlib.import_module(f"{cy.__name__}.gateways.http")

    async def main():
        authority = trustme.CA()
        served, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("127.0.0.1").configure_cert(served)
        authority.configure_trust(trusting)
        schemes = []

        async def application(scope, receive, send):
            schemes.append(scope["scheme"])
            await echo(scope, receive, send)

        server = server_of(cy, application)
        server.binds = [http.Listener(("127.0.0.1", 0), ssl=served)]
        async with serving(server) as address:
            where = url(address).replace("ws:", "wss:")
            async with connect(where, ssl=trusting) as client:
                for message in ("hello", bytes(1_000_000)):
                    await client.send(message)
                    assert await client.recv() == message
            async with connect(where, ssl=trusting) as client:
                await client.send(b"x" * 1_048_577)
                with pytest.raises(ConnectionClosed):
                    await client.recv()
                assert client.close_code == 1009
        assert schemes == ["wss", "wss"]

    run(main())


def test_both_in_one_server(cy, run):
    """HTTPServer serves requests and WebSockets on one listener; each has an instance of its own."""

    async def application(scope, receive, send):
        if scope["type"] == "websocket":
            await echo(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"plain"})
        else:
            raise NotImplementedError(scope["type"])

    async def main():
        server = server_of(cy, application, base="http")
        async with serving(server) as address, connect(url(address)) as first, connect(url(address)) as second:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert (await reader.read()).endswith(b"\r\n\r\nplain")
            writer.close()
            await first.send("1")
            await second.send("2")
            assert (await first.recv(), await second.recv()) == ("1", "2")
            assert len(server.application_instances) == 2
        stats = server.stats()
        assert (stats["requests"], stats["websockets"], stats["created"]) == (1, 2, 3)
        assert (stats["connections_total"], stats["connections"]) == (3, 0)

    run(main())


def test_a_server_of_websockets_alone(cy, run):
    """WebSocketServer answers everything else 426, and closes the connection."""

    async def main():
        application = Recorder()
        server = server_of(cy, application)
        async with serving(server) as address:
            for data in (
                b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
                b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello",
                b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
            ):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(data)
                answer = await reader.read()
                assert answer.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
                assert b"\r\nupgrade: websocket\r\n" in answer and b"\r\nconnection: close\r\n" in answer
                writer.close()
        assert application.scopes == []

    run(main())


def test_bad_handshakes(cy, run):
    """A request that asks for a WebSocket and is none is answered without the application, and closed."""

    async def main():
        application = Recorder()
        async with serving(server_of(cy, application)) as address:
            client = await Client(address).connect((b"sec-websocket-version", b"8"))
            assert (await client.rest()).startswith(b"HTTP/1.1 426 ")
            await client.close()
            client = await Client(address).connect((b"sec-websocket-key", b"x"), rest=text("x") * 1000)
            assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
            await client.close()
        assert application.scopes == []

    run(main())


# ---- refused -------------------------------------------------------------------------------------------------------


def test_close_before_accept(cy, run):
    """It is 403; the application hears of the end."""

    async def then(scope, receive, send):
        await send({"type": "websocket.close", "code": 4000})
        application.messages.append(await receive())
        with pytest.raises(OSError, match="closed"):
            await send(ACCEPT)

    application = Recorder(then, accept=False)

    async def main():
        async with serving(server_of(cy, application)) as address:
            with pytest.raises(InvalidStatus) as raised:
                await connect(url(address))
            assert raised.value.response.status_code == 403
        assert application.messages == [CONNECT, disconnect(1006)]

    run(main())


def test_response_instead_of_accept(cy, run):
    async def application(scope, receive, send):
        await receive()
        assert "websocket.http.response" in scope["extensions"]
        await send(
            {"type": "websocket.http.response.start", "status": 401, "headers": [(b"www-authenticate", b"Basic")]}
        )
        await send({"type": "websocket.http.response.body", "body": b"who ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"are you?"})

    async def main():
        async with serving(server_of(cy, application)) as address:
            with pytest.raises(InvalidStatus) as raised:
                await connect(url(address))
            response = raised.value.response
            assert (response.status_code, bytes(response.body)) == (401, b"who are you?")
            assert response.headers["www-authenticate"] == "Basic"

    run(main())


def test_the_limit(cy, run):
    """At `max_applications` a new WebSocket is refused with 503, or what refuse_request says."""

    async def main():
        server = server_of(cy, echo, 1)
        async with serving(server) as address, connect(url(address)) as client:
            with pytest.raises(InvalidStatus) as raised:
                await connect(url(address))
            assert raised.value.response.status_code == 503
            assert raised.value.response.headers["retry-after"] == "1"
            await client.send("x")
            assert await client.recv() == "x"
        assert server.stats()["refused"] == 1
        server = server_of(cy, echo, 1, refuse_request=lambda self, scope: False)
        async with serving(server) as address, connect(url(address)) as first, connect(url(address)) as second:
            await second.send("x")
            assert await second.recv() == "x"
            with pytest.raises(ConnectionClosed):
                await first.recv()
            assert (first.close_code, first.close_reason) == (1001, "going away")
        assert server.stats()["evicted"] == 1

    run(main())


def test_limits_of_a_managed_server(cy, run):
    """Beyond them a WebSocket is refused with 429; of one that cannot be made the client hears 500."""
    lifecycle = importlib.import_module(f"{cy.__name__}.lifecycle")

    async def main():
        server = server_of(cy, echo)
        cls = type("Server", (lifecycle.ManagedServer, type(server)), {"max_instances_per_key": 1})
        server = cls(echo, binds="127.0.0.1:0")
        async with serving(server) as address, connect(url(address)):
            with pytest.raises(InvalidStatus) as raised:
                await connect(url(address))
            assert raised.value.response.status_code == 429
            assert raised.value.response.headers["retry-after"] == "1"
        assert server.stats()["refused"] == 1

    run(main())


def test_an_instance_that_cannot_be_made(cy, run, caplog):
    def refuse(self, scope_id, scope):
        raise RuntimeError("no")

    async def main():
        server = server_of(cy, echo, get_or_create_application_instance=refuse)
        async with serving(server) as address:
            with pytest.raises(InvalidStatus) as raised:
                await connect(url(address))
            assert raised.value.response.status_code == 500

    with caplog.at_level(logging.ERROR):
        run(main())
    assert [record.message for record in caplog.records] == ["a WebSocket could not be begun"]

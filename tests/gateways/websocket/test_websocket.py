"""The WebSocket gateway: scope and messages, how connections begin and end."""

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
from support.websockets_raw import CLOSE, PING, TEXT, close, closed, frame, text
from support.websockets_serving import Client, Recorder, echo, server_of, serving, sockets

ACCEPT = {"type": "websocket.accept"}


def url(address, path="/"):
    return f"ws://{address[0]}:{address[1]}{path}"


def disconnect(code, reason=""):
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


CONNECT = {"type": "websocket.connect"}


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


# ---- the end of the application ------------------------------------------------------------------------------------


async def fails(scope, receive, send):
    raise RuntimeError("boom")


async def returns(scope, receive, send):
    pass


async def cancelled(scope, receive, send):
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("then", "accept", "status", "code"),
    [
        (fails, True, None, 1011),
        (fails, False, 500, None),
        (returns, True, None, 1000),
        (returns, False, 500, None),
        (cancelled, True, None, 1001),
        (cancelled, False, 503, None),
    ],
)
def test_application_that_ends(cy, run, caplog, then, accept, status, code):
    """An application that ends without closing closes: in order, as failed, or is answered an error."""

    async def main():
        server = server_of(cy, Recorder(then, accept=accept))
        async with serving(server) as address:
            if status is None:
                async with connect(url(address)) as client:
                    with pytest.raises(ConnectionClosed):
                        await client.recv()
                    assert client.close_code == code
            else:
                with pytest.raises(InvalidStatus) as raised:
                    await connect(url(address))
                assert raised.value.response.status_code == status

    with caplog.at_level(logging.ERROR):
        run(main())
    said = [record.message for record in caplog.records]
    if then is fails:
        assert said == ["Exception inside application (WebSocket '/'): boom"]
    elif then is returns and not accept:
        assert said == ["an application returned without having answered a WebSocket: WebSocket '/'"]
    else:
        assert said == []


def test_application_that_ends_with_messages_unread(cy, run, caplog):
    """They are dropped without a word: a client could fill the log with it."""

    async def main():
        release = asyncio.Event()

        async def then(scope, receive, send):
            await release.wait()

        server = server_of(cy, Recorder(then))
        async with serving(server) as address:
            client = await Client(address).open()
            client.send(text("x") * 10 + frame(PING, b"seen"))
            assert await client.receive() == (0x8A, b"seen")
            release.set()
            assert await client.receive() == closed(1000)
            assert await client.finish() == []
        assert server.stats()["undelivered"] == 0

    with caplog.at_level(logging.WARNING):
        run(main())
    assert not caplog.records


# ---- the end of the connection -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "answer", "message"),
    [
        (close(1001, "bye"), [closed(1001, "bye")], disconnect(1001, "bye")),
        (frame(CLOSE), [(0x88, b"")], disconnect(1005)),
        (text("x", mask=b""), [closed(1002)], disconnect(1002, "frame not masked")),
        (frame(TEXT, b"\xff"), [closed(1007)], disconnect(1007, "text is not UTF-8: invalid start byte")),
        (frame(TEXT, length=2_000_000), [closed(1009)], disconnect(1009, "message over 1048576 bytes")),
    ],
)
def test_ended_by_the_client(cy, run, data, answer, message):
    """The application receives what came before, then ``websocket.disconnect``, once; its sends raise OSError."""

    async def then(scope, receive, send):
        for _ in range(2):
            application.messages.append(await receive())
        for kind in ("websocket.send", "websocket.close"):
            with pytest.raises(OSError, match="closed"):
                await send({"type": kind, "text": "late"})
        waiting = asyncio.ensure_future(receive())
        await asyncio.wait([waiting], timeout=0.01)
        assert not waiting.done()
        waiting.cancel()

    application = Recorder(then)

    async def main():
        async with serving(server_of(cy, application)) as address:
            client = await Client(address).open()
            client.send(text("first") + data + text("after"))
            assert await client.frames() == answer
            await client.close()
        assert application.messages == [CONNECT, {"type": "websocket.receive", "text": "first"}, message]

    run(main())


@pytest.mark.parametrize("how", ["abort", "half_close", "half_close within a frame"])
@pytest.mark.parametrize("accept", [True, False])
def test_lost(cy, run, how, accept):
    """A client that goes without a close frame is 1006, before the handshake is over too."""

    async def main():
        application = Recorder(accept=accept)
        server = server_of(cy, application)
        async with serving(server) as address:
            client = await Client(address).connect()
            if accept:
                await client.reader.readuntil(b"\r\n\r\n")
            await in_time(lambda: application.messages)
            if how == "half_close within a frame":
                client.send(text("hello")[:-1])
            if how == "abort":
                client.abort()
            else:
                client.half_close()
                assert await client.rest() == b""
            await in_time(lambda: len(application.messages) == 2 and not server.connections)
            await client.close()
        assert application.messages == [CONNECT, disconnect(1006)]

    run(main())


def test_closed_by_the_application(cy, run):
    """The close frame has its code and reason; the application hears the client's, and no message in between."""

    async def then(scope, receive, send):
        await send({"type": "websocket.close", "code": 3000, "reason": "done"})
        application.messages.append(await receive())

    application = Recorder(then)

    async def main():
        async with serving(server_of(cy, application)) as address:
            client = await Client(address).open()
            assert await client.receive() == closed(3000, "done")
            client.send(text("late") * 100 + frame(PING, b"x") + close(3001, "ok"))
            assert await client.frames() == [(0x8A, b"x")]
            await client.close()
        assert application.messages == [CONNECT, disconnect(3001, "ok")]

    run(main())


def test_an_error_of_send_for_a_client_that_has_gone_is_no_failure(cy, run, caplog):
    async def main():
        lost = asyncio.Event()

        async def then(scope, receive, send):
            while (await receive())["type"] != "websocket.disconnect":
                pass
            lost.set()
            await send({"type": "websocket.send", "text": "x"})

        server = server_of(cy, Recorder(then))
        async with serving(server) as address:
            client = await Client(address).open()
            client.abort()
            await lost.wait()
            await in_time(lambda: not server.application_instances)
            await client.close()

    with caplog.at_level(logging.ERROR):
        run(main())
    assert not caplog.records


def test_stopping(cy, run):
    """WebSockets are closed with 1012, those not accepted refused with 503; applications hear of it and may end."""

    async def main():
        application = Recorder()
        pending = asyncio.Event()

        async def main_application(scope, receive, send):
            if scope["path"] == "/pending":
                await receive()
                pending.set()
                assert await receive() == disconnect(1006)
            else:
                await application(scope, receive, send)

        server = server_of(cy, main_application)
        async with serving(server) as address:
            client = await Client(address).open()
            waiting = await Client(address).connect(target=b"/pending")
            await pending.wait()
            server.stop()
            assert await client.receive() == closed(1012, "service restart")
            assert await client.finish() == []
            assert (await waiting.rest()).startswith(b"HTTP/1.1 503 ")
            await waiting.close()
        assert application.messages == [CONNECT, disconnect(1012, "service restart")]
        assert server.stats()["cancelled"] == 0

    run(main())

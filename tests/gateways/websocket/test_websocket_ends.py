"""How a WebSocket ends: by its application, by its client, by the loss of the connection, or by the server's stop."""

from __future__ import annotations

import asyncio
import logging

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.serving import in_time
from support.websockets_raw import CLOSE, PING, TEXT, close, closed, frame, text
from support.websockets_serving import CONNECT, Client, Recorder, disconnect, server_of, serving, url

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

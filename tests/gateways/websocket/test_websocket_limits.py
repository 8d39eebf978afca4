"""What is bounded in a WebSocket: queues in both directions, and each wait. Deadlines are met by hand where one test
needs several; that the clock meets them too is shown once."""

from __future__ import annotations

import asyncio
import logging

import pytest

from support.serving import in_time
from support.websockets_raw import PING, PONG, binary, close, closed, frame, text
from support.websockets_serving import Client, Recorder, echo, gateway, server_of, serving, sockets

ACCEPT = {"type": "websocket.accept"}
LOST = {"type": "websocket.disconnect", "code": 1006, "reason": ""}


class Gate:
    """An application that accepts and then receives nothing until it is let."""

    def __init__(self):
        self.open = asyncio.Event()
        self.received = []

    async def __call__(self, scope, receive, send):
        await receive()
        await send(ACCEPT)
        await self.open.wait()
        while (message := await receive())["type"] == "websocket.receive":
            self.received.append(message.get("text") or message.get("bytes"))
        self.received.append(message)


# ---- how much waits ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("size", "count"), [(10, 20_000), (1000, 10_000), (100_000, 100)])
def test_slow_application(cy, run, size, count):
    """Messages for an application that does not receive are left with the client; none is lost or out of order, also
    where the server is told to stop when the client has gone."""

    async def main():
        application = Gate()
        server = server_of(cy, application)
        async with serving(server) as address:
            client = await Client(address).open()
            sent = [b"%0*d" % (size, number) for number in range(count)]
            client.send(b"".join(map(binary, sent)) + close())
            [connection] = await sockets(server)
            await in_time(lambda: connection.reading_paused)
            assert len(connection._backlog) < server.max_websocket_queue
            assert connection._backlog_bytes < 65_536 + size
            assert connection.websocket.buffered < 1_000_000
            application.open.set()
            assert await client.frames() == [closed(1000)]
            await client.close()
        end = {"type": "websocket.disconnect", "code": 1000, "reason": ""}
        assert application.received == [*sent, end]

    run(main())


@pytest.mark.slow
def test_slow_application_is_served_no_worse_than_others(cy, run):
    """One whose client is paused takes nothing from another."""

    async def main():
        gate = Gate()

        async def application(scope, receive, send):
            await (gate if scope["path"] == "/gate" else echo)(scope, receive, send)

        server = server_of(cy, application, max_websocket_queue=2)
        async with serving(server) as address:
            slow = await Client(address).open(target=b"/gate")
            slow.send(text("x") * 1000)
            [connection] = await sockets(server)
            await in_time(lambda: connection.reading_paused)
            assert len(connection._backlog) == 1
            quick = await Client(address).open()
            assert await quick.ask(text("y")) == (0x81, b"y")
            await quick.finish()
            slow.abort()
            gate.open.set()
            # Its system may have thrown away what it had not sent, never anything in between.
            await in_time(lambda: gate.received and gate.received[-1] == LOST)
            assert set(gate.received[:-1]) == {"x"}
            await slow.close()

    run(main())


def test_slow_client(cy, run):
    """``send`` waits while the client takes nothing; what waits for it is bounded. It goes on when it reads again."""
    size, count = 100_000, 200

    async def main():
        sent = []

        async def application(scope, receive, send):
            await receive()
            await send(ACCEPT)
            for number in range(count):
                await send({"type": "websocket.send", "bytes": bytes([number]) * size})
                sent.append(number)
            await receive()

        server = server_of(cy, application)
        async with serving(server) as address:
            client = await Client(address).open()
            client.writer.transport.pause_reading()
            [connection] = await sockets(server)
            await in_time(lambda: connection.paused)
            before = len(sent)
            client.send(frame(PING) * 1000 + frame(PING, b"latest"))
            await in_time(lambda: connection.websocket._frames._held == b"latest")
            assert len(sent) == before < count
            assert connection.transport.get_write_buffer_size() <= 65_536 + 2 * size
            client.writer.transport.resume_reading()
            received = []
            while len(received) < count + 1:
                received.append(await client.receive())
            received.remove((0x80 | PONG, b"latest"))
            assert [data[0] for _, data in received] == list(range(count))
            await client.finish()

    run(main())


@pytest.mark.parametrize("end", ["abort", "deadline", "delete"])
def test_a_send_that_waits_ends_with_the_connection(cy, run, end):
    """It raises, or returns, as soon as the client has gone, has taken nothing for too long, or is thrown out."""

    async def main():
        errors = []

        async def then(scope, receive, send):
            try:
                while True:
                    await send({"type": "websocket.send", "bytes": bytes(100_000)})
            except OSError as error:
                errors.append(error)

        server = server_of(cy, Recorder(then))
        async with serving(server) as address:
            client = await Client(address).open()
            client.writer.transport.pause_reading()
            [connection] = await sockets(server)
            await in_time(lambda: connection.paused)
            if end == "abort":
                client.abort()
            elif end == "delete":
                server.delete_application_instance(connection)
            else:
                connection._taken -= 1  # as if the client had taken a byte: it is not given up
                connection.stall_deadline.callback()
                assert not connection.lost
                connection.stall_deadline.callback()
            if end == "delete":
                await in_time(lambda: not server.application_instances)
                # It is given time for what it has not taken yet, and takes nothing.
                connection.deadline.callback()
                assert not connection.lost
                connection.deadline.callback()
            await in_time(lambda: not server.connections and not server.application_instances)
            await client.close()
        assert len(errors) == (end != "delete")

    run(main())


@pytest.mark.parametrize("how", ["reads", "aborts"])
def test_a_sender_that_never_waits(cy, run, how):
    """It lets others have their turn, and hears of it when its client has gone."""

    async def main():
        ended = asyncio.Event()

        async def application(scope, receive, send):
            if scope["path"] != "/flood":
                await echo(scope, receive, send)
            await receive()
            await send(ACCEPT)
            try:
                while True:
                    await send({"type": "websocket.send", "text": "x"})
            except OSError:
                ended.set()

        async with serving(server_of(cy, application)) as address:
            flooded = await Client(address).open(target=b"/flood")
            other = await Client(address).open()
            if how == "aborts":
                flooded.abort()
            else:
                reading = asyncio.create_task(flooded.rest())
            for number in range(10):
                assert await other.ask(text(str(number))) == (0x81, str(number).encode())
            if how == "reads":
                flooded.send(close())
                await reading
            await ended.wait()
            await other.finish()
            await flooded.close()

    run(main())


def test_a_send_of_a_task_that_outlives_its_application(cy, run):
    """It raises what any send after the end raises."""

    async def main():
        errors = []

        async def later(send, release):
            await release.wait()
            try:
                await send({"type": "websocket.send", "text": "x"})
            except OSError as error:
                errors.append(error)

        tasks, release = [], asyncio.Event()

        async def then(scope, receive, send):
            tasks.append(asyncio.create_task(later(send, release)))

        server = server_of(cy, Recorder(then))
        async with serving(server) as address:
            client = await Client(address).open()
            assert await client.finish() == [closed(1000)]
            await in_time(lambda: not server.connections)
            release.set()
            await tasks[0]
        assert len(errors) == 1

    run(main())


# ---- how long things take ------------------------------------------------------------------------------------------


def test_handshake_deadline(cy, run, caplog):
    """An application that neither accepts nor refuses in time: 504; it hears of it, and its accept raises OSError."""

    async def main():
        late = asyncio.Event()
        heard = []

        async def application(scope, receive, send):
            await receive()
            heard.append(await receive())
            with pytest.raises(OSError, match="closed"):
                await send(ACCEPT)
            late.set()

        server = server_of(cy, application)
        async with serving(server) as address:
            client = await Client(address).connect()
            [connection] = await sockets(server)
            connection.deadline.callback()
            assert (await client.rest()).startswith(b"HTTP/1.1 504 ")
            await client.close()
            await late.wait()
        assert heard == [LOST]

    with caplog.at_level(logging.WARNING):
        run(main())
    assert [record.message for record in caplog.records] == ["a WebSocket was not accepted within 10.0 seconds"]


def test_closing_deadline(cy, run):
    """A client that does not answer our close frame is cut off: 1006."""

    async def main():
        application = Recorder()

        async def then(scope, receive, send):
            await send({"type": "websocket.close"})
            application.messages.append(await receive())

        application.then = then
        server = server_of(cy, application)
        async with serving(server) as address:
            client = await Client(address).open()
            assert await client.receive() == closed(1000)
            client.send(text("x") * 10)
            [connection] = await sockets(server)
            connection.deadline.callback()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await client.receive()
            await client.close()
            await in_time(lambda: not server.application_instances)
        assert application.messages[1:] == [LOST]

    run(main())


def test_a_refused_client_that_stays_is_cut_off(cy, run):
    """Once it was told, it is read for a moment, however much it sends, and no longer."""

    async def main():
        server = server_of(cy, echo)
        async with serving(server) as address:
            client = await Client(address).open()
            client.send(text("x", mask=b""))
            assert await client.receive() == closed(1002)
            [connection] = await sockets(server)
            due = connection.deadline.due
            client.send(text("x") * 1000)
            await client.drained()
            assert connection.deadline.due == due
            connection.deadline.callback()
            await in_time(lambda: not server.connections)
            await client.close()

    run(main())


def test_pings(cy, run):
    """A ping goes out at intervals; whatever comes after it shows that the client lives; nothing: 1011, and 1006."""

    async def main():
        application = Recorder()
        server = server_of(cy, application)
        async with serving(server) as address:
            client = await Client(address).open()
            [connection] = await sockets(server)
            for answer in (frame(PONG), text("anything")):
                connection.ping_deadline.callback()
                assert await client.receive() == (0x89, b"")
                client.send(answer)
                await in_time(lambda: connection.heard)
                connection.ping_deadline.callback()
            connection.ping_deadline.callback()
            assert await client.receive() == (0x89, b"")
            connection.reading_paused = True
            connection.ping_deadline.callback()
            connection.reading_paused = False
            connection.ping_deadline.callback()
            assert await client.receive() == (0x89, b"")
            connection.ping_deadline.callback()
            assert await client.frames() == [closed(1011, "keepalive ping timeout")]
            await client.close()
        assert application.messages[1:] == [{"type": "websocket.receive", "text": "anything"}, LOST]

    run(main())


def test_no_pings(cy, run):
    """None switches them off, or lets a client take its time to answer."""

    async def main():
        server = server_of(cy, echo, websocket_ping_interval=None)
        async with serving(server) as address:
            client = await Client(address).open()
            [connection] = await sockets(server)
            assert connection.ping_deadline is None
            await client.finish()
        server = server_of(cy, echo, websocket_ping_timeout=None)
        async with serving(server) as address:
            client = await Client(address).open()
            [connection] = await sockets(server)
            for _ in range(3):
                connection.ping_deadline.callback()
                assert await client.receive() == (0x89, b"")
            await client.finish()

    run(main())


@pytest.mark.slow
def test_the_clock_meets_the_deadlines(cy, run):
    """Handshake, closing handshake and pings, by the clock."""

    async def main():
        async def application(scope, receive, send):
            await receive()
            if scope["path"] == "/late":
                await receive()
            await send(ACCEPT)
            if scope["path"] == "/closes":
                await send({"type": "websocket.close"})
            await receive()

        server = server_of(
            cy,
            application,
            websocket_handshake_timeout=0.01,
            websocket_close_timeout=0.01,
            websocket_ping_interval=0.01,
            websocket_ping_timeout=0.01,
        )
        async with serving(server) as address:
            late = await Client(address).connect(target=b"/late")
            closing, silent = [await Client(address).open(target=target) for target in (b"/closes", b"/")]
            assert (await late.rest()).startswith(b"HTTP/1.1 504 ")
            assert await closing.receive() == closed(1000)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await closing.receive()
            assert (await silent.frames())[-1] == closed(1011, "keepalive ping timeout")
            for client in (late, closing, silent):
                await client.close()

    run(main())


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("max_websocket_message_size", [1, None], [0, -1, 1.5, "1"]),
        ("max_websocket_queue", [1, 1000], [0, None, True]),
        ("websocket_handshake_timeout", [0.1, 60], [0, None, -1, "1", float("inf")]),
        ("websocket_close_timeout", [0.1, 60], [0, None, -1, "1", float("nan")]),
        ("websocket_ping_interval", [0.1, None], [0, -1, "1", float("inf")]),
        ("websocket_ping_timeout", [0.1, None], [0, -1, "1", float("inf")]),
        ("websocket_compression", [True, False], [0, None, "no"]),
    ],
)
def test_settings(cy, name, good, bad):
    """Settings are checked when they are set, on classes and servers; the error names the value."""
    server = server_of(cy, echo)
    for value in good:
        setattr(server, name, value)
        assert getattr(server, name) == value
    for value in bad:
        with pytest.raises((TypeError, ValueError), match=f"{name}={value!r}: accepted is"):
            setattr(server, name, value)
        with pytest.raises((TypeError, ValueError), match="accepted is"):
            type("Server", (gateway(cy).WebSocketServer,), {name: value})


def test_the_message_size_is_the_settings(cy, run):
    async def main():
        server = server_of(cy, echo, max_websocket_message_size=5)
        async with serving(server) as address:
            client = await Client(address).open()
            assert await client.ask(text("12345")) == (0x81, b"12345")
            assert await client.ask(text("123456")) == closed(1009, "message over 5 bytes")
            await client.close()

    run(main())

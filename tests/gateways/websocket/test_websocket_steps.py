"""Applications that a message has woken: each step is one of its task, and others get their turns."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from support.serving import in_time, output, python
from support.websockets_raw import CLOSE, PING, PONG, TEXT, close, closed, frame, text
from support.websockets_serving import Client, echo, server_of, serving

ACCEPT = {"type": "websocket.accept"}


def test_the_step_of_an_application_is_its_task_s(cy, run):
    """Woken by a message, an application runs in its own task and context, and nothing else is at work."""

    async def main():
        mine = contextvars.ContextVar("mine")
        seen = []

        async def application(scope, receive, send):
            task = asyncio.current_task()
            mine.set(scope["client"])
            await receive()
            await send(ACCEPT)
            while (await receive())["type"] == "websocket.receive":
                same = cy.current_instance().scope is scope
                seen.append((asyncio.current_task() is task, mine.get() == scope["client"], same, task.cancelling()))

        async with (
            serving(server_of(cy, application)) as address,
            await Client(address).open() as one,
            await Client(address).open() as other,
        ):
            for _ in range(3):
                for client in (one, other):
                    client.send(text("x") + text("y"))
                await asyncio.sleep(0)
            await in_time(lambda: len(seen) == 12)
            assert await one.finish() == [closed(1000)]
            assert await other.finish() == [closed(1000)]
        assert seen == [(True, True, True, 0)] * 12

    run(main())


def test_what_a_step_may_come_to(cy, run):
    """An application may wait for anything else, time out, close, or return; what comes meanwhile is not lost."""

    async def main():
        gate = asyncio.get_running_loop().create_future()
        log = []

        async def application(scope, receive, send):
            await receive()
            await send(ACCEPT)
            while True:
                message = await receive()
                log.append(message.get("text", message["type"]))
                if log[-1] == "sleep":
                    await asyncio.sleep(0)
                elif log[-1] == "future":
                    await gate
                elif log[-1] == "task":
                    await asyncio.create_task(asyncio.sleep(0))
                elif log[-1] == "timeout":
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.001):
                            await asyncio.sleep(60)
                elif log[-1] == "close":
                    await send({"type": "websocket.close", "code": 3000})
                elif message["type"] == "websocket.disconnect":
                    return

        words = ["sleep", "a", "future", "b", "task", "c", "timeout", "d"]
        async with serving(server_of(cy, application)) as address, await Client(address).open() as client:
            client.send(b"".join(map(text, words)))
            await in_time(lambda: log[-1:] == ["future"])
            gate.set_result(None)
            await in_time(lambda: log == words)
            client.send(text("close"))
            assert await client.receive() == closed(3000)
            client.send(close(3000))
            assert await client.rest() == b""
            await in_time(lambda: log == [*words, "close", "websocket.disconnect"])

    run(main())


def test_pongs_before_answers(cy, run):
    """A ping is answered before a message that came behind it is."""

    async def main():
        async with serving(server_of(cy, echo)) as address, await Client(address).open() as client:
            client.send(frame(PING, b"one") + text("a") + frame(PING, b"two") + text("b"))
            found = [await client.receive() for _ in range(4)]
            pongs = [one for one in found if one[0] == 0x80 | PONG]
            assert pongs == [(0x80 | PONG, b"one"), (0x80 | PONG, b"two")]
            assert [one for one in found if one not in pongs] == [(0x80 | TEXT, b"a"), (0x80 | TEXT, b"b")]
            assert found[0] == pongs[0]
            assert await client.finish() == [closed(1000)]

    run(main())


PIECES = {
    "one": (text("a"), ["a", "sent"], [(0x80 | TEXT, b"a")]),
    "a close behind it": (text("a") + close(1000), ["a", "closed"], [closed(1000)]),
    "a ping behind it": (
        text("a") + frame(PING, b"p"),
        ["a", "sent"],
        [(0x80 | PONG, b"p"), (0x80 | TEXT, b"a")],
    ),
    "a part of a close behind it": (text("a") + close(1000)[:3], ["a", "sent"], [(0x80 | TEXT, b"a")]),
    "nonsense behind it": (text("a") + b"\xff\xff", ["a", "closed"], [closed(1002)]),
    "two, and a close": (text("a") + text("b") + close(3001), ["a", "closed"], [closed(3001)]),
}


@pytest.mark.parametrize("piece", PIECES)
def test_all_of_a_piece_is_read_before_the_application_goes_on(cy, run, piece):
    """What stands behind a message in a piece counts when the application answers the message."""
    data, log, answers = PIECES[piece]

    async def main():
        seen = []

        async def application(scope, receive, send):
            await receive()
            await send(ACCEPT)
            while (message := await receive())["type"] == "websocket.receive":
                seen.append(message["text"])
                try:
                    await send({"type": "websocket.send", "text": message["text"]})
                except OSError:
                    seen.append("closed")
                    return
                seen.append("sent")

        async with serving(server_of(cy, application)) as address, await Client(address).open() as client:
            client.send(data)
            found = [await client.receive() for _ in answers]
            assert found == answers
            await in_time(lambda: seen == log)

    run(main())


def test_application_that_closes_with_more_behind(cy, run):
    """An application that closes after the first of several messages in a piece still receives those that had come."""

    async def main():
        log = []

        async def application(scope, receive, send):
            await receive()
            await send(ACCEPT)
            while True:
                message = await receive()
                log.append(message.get("text", message["type"]))
                if log == ["a"]:
                    await send({"type": "websocket.close", "code": 3000})
                if message["type"] == "websocket.disconnect":
                    return

        async with serving(server_of(cy, application)) as address, await Client(address).open() as client:
            client.send(text("a") + text("b") + text("c"))
            assert await client.receive() == closed(3000)
            client.send(close(3000))
            assert await client.rest() == b""
            await in_time(lambda: log == ["a", "b", "c", "websocket.disconnect"])

    run(main())


@pytest.mark.parametrize("size", [1, 30_000])
def test_many_messages_in_one_piece(cy, run, size):
    """However many come at once, all of them come in order, and the loop turns after so many of them."""

    async def main():
        turns = 0
        seen = []

        def turn():
            nonlocal turns
            turns += 1
            asyncio.get_running_loop().call_soon(turn)

        async def application(scope, receive, send):
            await receive()
            await send(ACCEPT)
            while (message := await receive())["type"] == "websocket.receive":
                seen.append((turns, message["text"]))

        async with serving(server_of(cy, application)) as address, await Client(address).open() as client:
            asyncio.get_running_loop().call_soon(turn)
            client.send(b"".join(text(f"{number} ".ljust(size)) for number in range(300 if size == 1 else 20)))
            count = 300 if size == 1 else 20
            await in_time(lambda: len(seen) == count)
            assert [int(one) for _, one in seen] == list(range(count))
            for at in {turn for turn, _ in seen}:
                together = [one for turn, one in seen if turn == at]
                assert len(together) <= 33
                assert sum(map(len, together[:-1])) <= 65_536 + size
            assert await client.finish() == [closed(1000)]

    run(main())


def test_failure_in_a_step(cy, run, caplog):
    """An application that fails when it was woken is reported, with what it had in hand, and the client told."""

    async def main():
        reported = []

        async def application(scope, receive, send):
            await receive()
            await send(ACCEPT)
            raise ValueError((await receive())["text"])

        async def application_exception(self, exception, details):
            reported.append((str(exception), details.in_flight))

        server = server_of(cy, application, application_exception=application_exception)
        async with serving(server) as address, await Client(address).open() as client:
            client.send(text("x") + text("behind"))
            first, payload = await client.receive()
            assert (first, payload[:2]) == (0x80 | CLOSE, b"\x03\xf3")
            await in_time(lambda: reported)
        assert reported == [("x", ({"type": "websocket.receive", "text": "x"},))]

    run(main())


def test_send_that_is_overridden(cy, run):
    """A server's own `application_send` gets every message."""

    async def main():
        sent = []

        def application_send(self, scope, message):
            sent.append(message["type"])
            return super(type(self), self).application_send(scope, message)

        server = server_of(cy, echo, application_send=application_send)
        async with serving(server) as address, await Client(address).open() as client:
            assert await client.ask(text("x")) == (0x80 | TEXT, b"x")
            assert await client.finish() == [closed(1000)]
        assert sent == ["websocket.accept", "websocket.send"]

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit"])
@pytest.mark.parametrize("backend", ["python", "cython"])
def test_interrupt_in_a_step(pytestconfig, tmp_path, backend, error, loop):
    """What ends the program, raised by an application that a message has woken, ends it, as from any of its steps."""
    if backend == "cython" and pytestconfig.getoption("--no-extension"):
        pytest.skip("there is no compiled twin")
    code = f"""
        import asyncio, socket, threading, time
        import {loop}
        from cyasgi.gateways.websocket import WebSocketServer

        async def application(scope, receive, send):
            await receive()
            await send({{"type": "websocket.accept"}})
            await receive()
            raise {error}

        class Server(WebSocketServer):
            lifespan = "off"

            def application_undelivered(self, messages, details):
                print([message.get("text") for message in messages])

        server = Server(application, 10, binds="127.0.0.1:0")
        [address] = server.bind()

        def client():
            while not server.serving:
                time.sleep(0.01)
            with socket.create_connection(address) as connection:
                connection.sendall(
                    b"GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: upgrade\\r\\nUpgrade: websocket\\r\\n"
                    b"Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n"
                )
                got = b""
                while b"\\r\\n\\r\\n" not in got:
                    got += connection.recv(4096)
                connection.sendall(b"\\x81\\x81\\0\\0\\0\\0a")
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=client, daemon=True)
        thread.start()
        try:
            with asyncio.Runner(loop_factory={loop}.new_event_loop) as runner:
                runner.run(server.arun())
        except ({error}) as raised:
            print(type(raised).__name__)
        thread.join(20)
    """
    assert output(python(code, cwd=tmp_path, backend=backend)) == [error]

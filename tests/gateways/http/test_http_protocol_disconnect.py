"""Clients that go away, or close their half: what an application that receives or sends is told of it, and when."""

from __future__ import annotations

import asyncio

import pytest

from cyasgi.gateways.http.response import DISCONNECTED_LIMIT
from support.http_connection import echo, hello
from support.http_protocol_case import GET, HELLO, POST, case, closing, part, start
from support.loops import passes


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
        await passes(2 * DISCONNECTED_LIMIT)
        assert len(sent) == DISCONNECTED_LIMIT - 1
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
        if end == "half-closed":
            assert received == ["http.request", "http.request"]
            await connection.later(3)
        assert received == ["http.request", "http.request", "http.disconnect"]

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
        assert received == ["http.disconnect"] * DISCONNECTED_LIMIT
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
        assert len(received) == 4 * DISCONNECTED_LIMIT

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


def test_half_closed(cy, run):
    """A client that closes its half gets its answer; the application may notice, when it has sent nothing for long."""
    received = []

    async def application(scope, receive, send):
        received.append((await receive())["type"])
        received.append((await receive())["type"])
        await hello(scope, receive, send)

    async def test(connection):
        await connection.ask(GET)
        assert connection.protocol.eof_received() is True
        await connection.later(1.5)
        assert received == ["http.request"]
        await connection.later(1.5)
        assert received == ["http.request", "http.disconnect"]
        assert connection.take() == closing(b"hello")
        assert connection.transport.closed

    case(cy, run, application, test)


def test_half_closed_while_the_response_goes_on(cy, run):
    """It is not taken for gone while parts are sent, or while it is behind; nor is one whose requests are pipelined."""
    received, more = [], asyncio.Queue()

    async def application(scope, receive, send):
        await receive()
        listening = asyncio.create_task(receive())
        listening.add_done_callback(lambda task: received.append(task.result()["type"]))
        await send(start())
        while (data := await more.get()) is not None:
            await send(part(data, True))
        await send(part())
        await passes(5)
        listening.cancel()

    async def test(connection):
        await connection.ask(GET + GET)
        connection.protocol.eof_received()
        for number in range(4):
            more.put_nowait(b"%d" % number)
            await connection.later(1.5)
        connection.protocol.pause_writing()
        await connection.later(3)
        connection.protocol.resume_writing()
        await connection.later(1.5)
        assert received == []
        more.put_nowait(None)
        await passes(20)
        assert connection.take().endswith(b"1\r\n0\r\n1\r\n1\r\n1\r\n2\r\n1\r\n3\r\n0\r\n\r\n")
        # The second request: nothing comes of it for too long.
        received.clear()
        await connection.later(1.5)
        assert received == []
        await connection.later(1.5)
        assert received == ["http.disconnect"]
        more.put_nowait(None)
        await passes(20)
        assert connection.take().endswith(b"content-length: 0\r\n\r\n")
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

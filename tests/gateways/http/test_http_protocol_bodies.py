"""Bodies of requests: waited for, refused, read by nobody."""

from __future__ import annotations

import asyncio

import pytest

from support.http_connection import echo, hello
from support.http_protocol_case import CHUNKED, GET, HELLO, POST, answer, case, closing, part, start
from support.loops import passes


@pytest.mark.slow
def test_a_slow_application_pauses_reading(cy, run):
    """The body waits outside, and comes in as the application takes it."""
    received = []
    taking = asyncio.Semaphore(0)

    async def application(scope, receive, send):
        while True:
            await taking.acquire()
            message = await receive()
            received.append(len(message["body"]))
            if not message["more_body"]:
                break
        await hello(scope, receive, send)

    async def test(connection):
        size = 1_000_000
        await connection.ask(POST % size)
        fed = 0
        while fed < size:
            taken = sum(received)
            while connection.transport.reading and fed < size:
                connection.feed(bytes(min(16_384, size - fed)))
                fed += min(16_384, size - fed)
            assert fed - taken < 300_000
            taking.release()
            await passes(5)
        for _ in range(10):
            taking.release()
        await passes(20)
        assert sum(received) == size
        assert connection.take() == HELLO

    case(cy, run, application, test)


def test_expect_continue(cy, run):
    """The client is told to send its body when the application asks for it."""

    async def test(connection):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        assert await connection.ask(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await connection.ask(b"hello") == answer(b"hello")
        # One that does not wait is not told.
        assert await connection.ask(head + b"hello") == answer(b"hello")

    case(cy, run, echo, test)


def test_expect_continue_of_an_application_that_answers_while_it_reads(cy, run):
    """The client is told before the response begins: it might wait for ever after that."""

    async def application(scope, receive, send):
        await send(start())
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send(part(message["body"], more))

    async def test(connection):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        assert await connection.ask(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await connection.ask(b"hello") == answer(b"hello")
        assert (await connection.ask(GET)).startswith(b"HTTP/1.1 200 OK\r\n")

    case(cy, run, application, test)


def test_expect_continue_of_a_stream_that_reads_nothing(cy, run):
    """Its client is not told to send what nobody asks for."""

    async def application(scope, receive, send):
        await send(start())
        await send(part(b"hello", True))
        await send(part())

    async def test(connection):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        assert (await connection.ask(head)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert connection.transport.eof

    case(cy, run, application, test)


def test_expect_continue_that_nobody_asks_for(cy, run):
    """An application that answers at once wants no body; it may come or not: the connection ends."""

    async def test(connection):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        assert await connection.ask(head) == closing(b"hello")
        assert connection.transport.eof

    case(cy, run, hello, test)


def test_a_body_that_nobody_reads(cy, run):
    """A short one is thrown away for the sake of the connection; for a long one it is closed."""

    async def test(connection):
        assert await connection.ask(POST % 1000, bytes(500)) == HELLO
        assert await connection.ask(bytes(500) + GET) == HELLO
        assert await connection.ask(CHUNKED, b"5\r\nhello\r\n") == HELLO
        assert await connection.ask(b"0\r\n\r\n" + GET) == HELLO
        assert await connection.ask(POST % 1_000_000) == closing(b"hello")
        assert connection.transport.eof

    case(cy, run, hello, test)


def test_an_endless_body_that_nobody_reads(cy, run):
    """In chunks its length is not known: it is read for a while."""

    async def test(connection):
        assert await connection.ask(CHUNKED) == HELLO
        for _ in range(10):
            await connection.ask(b"2000\r\n" + bytes(0x2000) + b"\r\n")
        assert connection.transport.eof

    case(cy, run, hello, test)


@pytest.mark.parametrize("rest", [b"x\r\n", b"65\r\n" + bytes(101)])
def test_a_fault_in_a_body_that_nobody_reads(cy, run, rest):
    """The request was answered: it is not answered again, and the connection ends."""

    async def test(connection):
        assert await connection.ask(CHUNKED) == HELLO
        assert await connection.ask(rest, GET) == b""
        assert connection.transport.eof
        assert connection.server.stats()["bad_requests"] == 1

    case(cy, run, hello, test, max_body_size=100)


@pytest.mark.parametrize("chunked", [True, False])
def test_body_too_long(cy, run, chunked):
    """413, before the application runs where the length is known, and no more of it is passed on."""
    received = []

    async def application(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            received.append(message["body"])
        received.append(message["type"])

    async def test(connection):
        data = CHUNKED + b"5\r\nhello\r\n6\r\nworld!\r\n" if chunked else POST % 11
        sent = await connection.ask(*[bytes([byte]) for byte in data])
        assert sent.startswith(b"HTTP/1.1 413 ") and connection.transport.eof
        assert len(b"".join(one for one in received if isinstance(one, bytes))) <= 10
        assert received[-1:] == (["http.disconnect"] if chunked else [])

    case(cy, run, application, test, max_body_size=10)


def test_bad_chunks_while_the_application_runs(cy, run):
    """Before the response has begun it is answered 400; the application sees the client gone, and may finish."""
    received = []

    async def application(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            received.append(message["body"])
        received.append(message["type"])
        await hello(scope, receive, send)
        received.append("the end")

    async def test(connection):
        assert await connection.ask(CHUNKED + b"5\r\nhello\r\n") == b""
        answer = await connection.ask(b"x\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ") and b"hello" not in answer
        await passes(5)
        assert received == [b"hello", "http.disconnect", "the end"]

    case(cy, run, application, test)


def test_bad_chunks_while_the_response_runs(cy, run):
    """Then the connection is cut: the response must not seem complete."""

    async def application(scope, receive, send):
        await send(start())
        await send(part(b"a", True))
        await receive()
        await receive()

    async def test(connection):
        assert (await connection.ask(CHUNKED)).endswith(b"1\r\na\r\n")
        assert await connection.ask(b"x\r\n") == b""
        assert connection.transport.aborted

    case(cy, run, application, test)

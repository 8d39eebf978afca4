"""Flow control: clients that read slowly, applications that send from wherever they like, and heads that come in
part."""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys
import threading

import pytest

from support.http_connection import Connection, hello
from support.http_protocol_case import GET, HELLO, case, part, sending, start
from support.loops import eager_task_factory, passes
from support.serving import eventually


@pytest.mark.slow
def test_a_slow_client_pauses_the_application(cy, run):
    """`send` waits while the transport takes no more."""
    sent = []

    async def application(scope, receive, send):
        await send(start())
        for number in range(10):
            await send(part(b"x", True))
            sent.append(number)
        await send(part())

    async def test(connection):
        protocol = connection.protocol
        protocol.pause_writing()
        connection.feed(GET)
        await passes(10)
        assert connection.take() == b"" and sent == []
        protocol.resume_writing()
        await passes(20)
        assert len(sent) == 10
        assert connection.take().endswith(b"0\r\n\r\n")

    case(cy, run, application, test)


@pytest.mark.parametrize("size", [4096, 100_000])
def test_an_interpreter_whose_writelines_never_pauses(cy, run, size, monkeypatch):
    """There it is not used, so that a slow client pauses the application."""
    transports = importlib.import_module(f"{cy.__name__}.gateways.net.transports")
    monkeypatch.setattr(transports, "WRITELINES_PAUSES", False)

    async def test(connection):
        connection.transport.writelines = None
        chunk = b"%x\r\n%b\r\n" % (size, bytes(size))
        assert (await connection.ask(GET)).endswith(b"\r\n\r\n" + chunk * 2 + b"0\r\n\r\n")

    case(cy, run, sending(start(), part(bytes(size), True), part(bytes(size), True), part()), test)


@pytest.mark.skipif(sys.platform == "win32", reason="the loop there registers no descriptors")
def test_a_lost_connection_is_not_registered_again(cy, run, monkeypatch):
    """What is written in parts to a connection that was just aborted leaves nothing in the loop for its descriptor."""
    transports = importlib.import_module(f"{cy.__name__}.gateways.net.transports")
    monkeypatch.setattr(transports, "WRITELINES_PAUSES", True)

    async def main():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with there:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=here)
            descriptor = here.fileno()
            transport.abort()
            transports.write_parts(transport, (b"a", b"b"))
            await eventually(lambda: here.fileno() < 0)
            assert not loop.remove_writer(descriptor)

    run(main())


def test_writing_to_a_connection_that_closes(cy, monkeypatch):
    """There `writelines` is not used, whatever the interpreter."""
    transports = importlib.import_module(f"{cy.__name__}.gateways.net.transports")
    monkeypatch.setattr(transports, "WRITELINES_PAUSES", True)

    class Closing(asyncio.Transport):
        written = b""
        writelines = None

        def is_closing(self):
            return True

        def write(self, data):
            self.written += data

    transport = Closing()
    transports.write_parts(transport, (b"a", b"b"))
    assert transport.written == b"ab"


def test_the_next_request_waits_for_a_slow_client(cy, run):
    """Who asks and asks, and never reads, is answered once."""

    async def test(connection):
        assert await connection.ask(GET) == HELLO
        connection.protocol.pause_writing()
        assert await connection.ask(GET, GET) == b""
        assert not connection.server.application_instances
        connection.protocol.resume_writing()
        await passes(20)
        assert connection.take() == HELLO * 2

    case(cy, run, hello, test)


def test_what_send_gives_is_as_good_as_a_coroutine(cy, run):
    """Awaited later, in a task, with a timeout, beside others: a message is sent once, and in its turn."""

    async def application(scope, receive, send):
        await asyncio.create_task(send(start()))
        await asyncio.wait_for(send(part(b"a", True)), 10)
        later = send(part(b"b", True))
        await asyncio.gather(later, send(part(b"c", True)))
        assert await asyncio.ensure_future(send(part(b"d", True))) is None
        given = send(part())
        assert asyncio.iscoroutine(given)
        assert await given is None

    async def test(connection):
        sent = await connection.ask(GET)
        assert sent.endswith(b"\r\n\r\n" + b"".join(b"1\r\n%c\r\n" % letter for letter in b"abcd") + b"0\r\n\r\n")

    case(cy, run, application, test)


@pytest.mark.parametrize("path", ["/body", "/plain", "/waits"])
def test_eager_task_factory(cy, run, path):
    """An application that makes its first step while its request is still being begun misses nothing."""
    received = []

    async def application(scope, receive, send):
        if path != "/plain":
            received.append(await receive())
        if path == "/waits":
            received.append(await receive())
        await hello(scope, receive, send)
        received.append(await receive())

    async def test(connection):
        asyncio.get_running_loop().set_task_factory(eager_task_factory)
        try:
            if path == "/waits":
                await connection.ask(b"POST /waits HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
                assert await connection.ask(b"cd") == HELLO
            else:
                assert await connection.ask(GET) == HELLO
        finally:
            asyncio.get_running_loop().set_task_factory(None)
        bodies = {"/body": [b""], "/plain": [], "/waits": [b"ab", b"cd"]}[path]
        assert [message["body"] for message in received[:-1]] == bodies
        assert received[-1] == {"type": "http.disconnect"}
        assert not connection.server.application_instances

    case(cy, run, application, test)


def test_heads_that_come_in_part_share_a_bound(cy, run):
    """Many connections with a part of a long head each do not fill the memory; who sends a short one is served."""

    async def test(connection):
        server = connection.server
        part = GET[:-2] + b"X: " + b"x" * 6000
        other = Connection(cy, hello, server=server)
        third = Connection(cy, hello, server=server)
        assert await connection.ask(part) == b""
        assert await other.ask(part[:5000]) == b""
        assert server.partial_heads == len(part) + 5000
        # A short one in two parts is heard, and so is one that was there before.
        assert await third.ask(GET[:10]) == b""
        assert await third.ask(GET[10:]) == HELLO
        assert server.partial_heads == len(part) + 5000
        assert (await other.ask(part[5000:])).startswith(b"HTTP/1.1 503 ")
        assert server.partial_heads == len(part)
        assert await connection.ask(b"\r\n\r\n") == HELLO
        assert server.partial_heads == 0
        # What a connection takes with it is given back.
        assert await connection.ask(part[:5000]) == b""
        connection.lose()
        assert server.partial_heads == 0
        assert (server.refused, server.requests) == (1, 2)
        for one in (other, third):
            one.lose()

    case(cy, run, hello, test, max_partial_heads=12_000)


def test_sending_from_another_thread(cy, run):
    """A message that is handed to the loop by `run_coroutine_threadsafe` is written in the loop's thread."""
    threads = []

    async def application(scope, receive, send):
        loop = asyncio.get_running_loop()

        def work():
            for message in (start(), part(b"hello")):
                asyncio.run_coroutine_threadsafe(send(message), loop).result(10)

        await loop.run_in_executor(None, work)

    async def test(connection):
        write = connection.transport.write

        def noted(data):
            threads.append(threading.get_ident())
            write(data)

        connection.transport.write = noted
        connection.feed(GET)
        while not threads:
            await asyncio.sleep(0.001)
        assert threads == [threading.get_ident()]
        while connection.server.application_instances:
            await asyncio.sleep(0.001)

    case(cy, run, application, test)

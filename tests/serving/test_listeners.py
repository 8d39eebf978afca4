"""A server whose handle() has returned goes on as long as a listener that handle() opened is serving."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

import pytest

from support.loops import passes
from support.serving import for_ever, handling, in_time, quiet, reader


class Echo(asyncio.Protocol, asyncio.DatagramProtocol):
    """Sends back what comes in, over a stream or in a datagram."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)


async def echo(reader, writer):
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def start_server():
    return await asyncio.start_server(echo, "127.0.0.1", 0)


async def create_server():
    return await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)


async def create_server_on_a_socket():
    sock = socket.create_server(("127.0.0.1", 0))
    return await asyncio.get_running_loop().create_server(Echo, sock=sock)


async def create_datagram_endpoint():
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    return transport


STREAMS = [start_server, create_server, create_server_on_a_socket]
OPENERS = [*STREAMS, create_datagram_endpoint]


def address(listener):
    if hasattr(listener, "sockets"):
        return listener.sockets[0].getsockname()
    return listener.get_extra_info("sockname")


async def ask(listener):
    """What a client of the listener gets for an answer."""
    if hasattr(listener, "sockets"):
        stream, writer = await asyncio.open_connection(*address(listener)[:2])
        writer.write(b"hello\n")
        answer = await stream.readline()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return answer
    answers = asyncio.Queue()

    class Client(asyncio.DatagramProtocol):
        def datagram_received(self, data, address):
            answers.put_nowait(data)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Client, remote_addr=address(listener)[:2])
    transport.sendto(b"hello\n")
    answer = await answers.get()
    transport.close()
    return answer


def can_bind(where, kind):
    """Whether an address is free again."""
    with socket.socket(socket.AF_INET, kind) as sock:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(where)
        except OSError:
            return False
        return True


def kind_of(opener):
    return socket.SOCK_DGRAM if opener is create_datagram_endpoint else socket.SOCK_STREAM


@pytest.mark.slow
@pytest.mark.parametrize("opener", OPENERS)
def test_goes_on_until_the_listener_is_closed(cy, run, opener):
    """handle() has opened a listener and returned: the server serves on, and ends when the listener is closed."""

    async def handle(server):
        opened.append(await opener())

    opened = []

    async def main():
        server = handling(cy.StatelessServer, handle)(reader)
        task = asyncio.create_task(server.arun())
        await in_time(lambda: opened)
        assert await ask(opened[0]) == b"hello\n"
        await asyncio.sleep(0.1)
        assert await ask(opened[0]) == b"hello\n"
        assert not task.done()
        kept = server.get_or_create_application_instance("a", {})
        await passes(5)
        assert server.application_instances["a"] is kept
        opened[0].close()
        await asyncio.wait_for(task, 20)
        assert len(server.application_instances) == 0

    run(main())


@pytest.mark.parametrize("opener", OPENERS)
def test_interrupted(cy, run, opener):
    """An arun() that is cancelled while its listener serves closes it."""

    async def handle(server):
        opened.append(await opener())

    opened = []

    async def main():
        task = asyncio.create_task(handling(cy.StatelessServer, handle)(reader).arun())
        await in_time(lambda: opened)
        where = address(opened[0])
        await passes(10)
        task.cancel()
        await asyncio.wait([task], timeout=20)
        assert task.cancelled()
        await in_time(lambda: can_bind(where, kind_of(opener)))

    run(main())


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("end", ["raises", "cancelled"])
def test_listener_of_a_handle_that_fails_is_closed(cy, run, opener, end):
    """A handle() that raises, or is cancelled, after it has opened a listener does not leave that open."""

    async def handle(server):
        listener = await opener()
        where.append(address(listener))
        if end == "raises":
            raise ZeroDivisionError
        await for_ever(server)

    where = []

    async def main():
        task = asyncio.create_task(handling(cy.StatelessServer, handle)(reader).arun())
        await in_time(lambda: where)
        if end == "cancelled":
            task.cancel()
        await asyncio.wait([task], timeout=20)
        if end == "raises":
            with pytest.raises(ZeroDivisionError):
                task.result()
        await in_time(lambda: can_bind(where[0], kind_of(opener)))

    run(main())


@pytest.mark.parametrize("opener", OPENERS)
def test_closed_before_handle_returns(cy, run, opener):
    """A listener that handle() has closed again holds nothing up."""

    async def handle(server):
        listener = await opener()
        listener.close()

    async def main():
        await asyncio.wait_for(handling(cy.StatelessServer, handle)(reader).arun(), 20)

    run(main())


@pytest.mark.parametrize("opener", OPENERS)
def test_listener_of_somebody_else(cy, run, opener):
    """A listener that handle() did not open neither holds the server up nor is it closed."""

    async def handle(server):
        await passes(5)

    async def main():
        before = await opener()
        task = asyncio.create_task(handling(cy.StatelessServer, handle)(reader).arun())
        await passes(2)
        meanwhile = await opener()
        await asyncio.wait_for(task, 20)
        after = await opener()
        await asyncio.sleep(0.02)
        for listener in (before, meanwhile, after):
            assert await ask(listener) == b"hello\n"
            listener.close()
        await passes(5)

    run(main())


def test_client_connections_do_not_count(cy, run):
    """A connection that handle() has made to somewhere is no listener: the server ends with handle()."""

    async def handle(server):
        _, writer = await asyncio.open_connection(*address(listening)[:2])
        writers.append(writer)

    listening = None
    writers = []

    async def main():
        nonlocal listening
        listening = await create_server()
        await asyncio.wait_for(handling(cy.StatelessServer, handle)(reader).arun(), 20)
        writers[0].close()
        await writers[0].wait_closed()
        listening.close()
        await passes(5)

    run(main())


def test_listener_that_was_not_started(cy, run):
    """A listener that is not serving holds nothing up."""

    async def handle(server):
        loop = asyncio.get_running_loop()
        opened.append(await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False))

    opened = []

    async def main():
        await asyncio.wait_for(handling(cy.StatelessServer, handle)(reader).arun(), 20)
        opened[0].close()
        await passes(5)

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("by", ["create_task", "spawn"])
def test_listener_that_a_task_of_handle_opened(cy, run, by):
    """What a task that handle() started has opened counts like what handle() opened itself."""

    async def open_one():
        opened.append(await create_server())
        await asyncio.sleep(0)

    async def handle(server):
        if by == "spawn":
            server.spawn(open_one())
        else:
            kept.append(asyncio.create_task(open_one()))
        await in_time(lambda: opened)

    opened = []
    kept = []

    async def main():
        task = asyncio.create_task(handling(cy.StatelessServer, handle)(reader).arun())
        await in_time(lambda: opened)
        await asyncio.sleep(0.1)
        assert not task.done()
        assert await ask(opened[0]) == b"hello\n"
        opened[0].close()
        await asyncio.wait_for(task, 20)

    run(main())


@pytest.mark.slow
def test_all_of_several_must_be_closed(cy, run):
    """With several listeners the server goes on until the last of them is closed."""

    async def handle(server):
        for opener in (create_server, create_datagram_endpoint, start_server):
            opened.append(await opener())  # noqa: PERF401 - a list that grows is what the test waits for

    opened = []

    async def main():
        task = asyncio.create_task(handling(cy.StatelessServer, handle)(reader).arun())
        await in_time(lambda: len(opened) == 3)
        for listener in opened:
            await asyncio.sleep(0.06)
            assert not task.done()
            listener.close()
        await asyncio.wait_for(task, 20)

    run(main())


@pytest.mark.slow
def test_two_servers_each_with_its_own(cy, run):
    """Of two servers in one loop each goes on for its own listeners alone."""

    def opening(opened):
        async def handle(server):
            opened.append(await create_server())

        return handle

    first, second = [], []

    async def main():
        tasks = [
            asyncio.create_task(handling(cy.StatelessServer, opening(opened))(reader).arun())
            for opened in (first, second)
        ]
        await in_time(lambda: first and second)
        first[0].close()
        await asyncio.wait_for(tasks[0], 20)
        await asyncio.sleep(0.06)
        assert not tasks[1].done()
        assert await ask(second[0]) == b"hello\n"
        second[0].close()
        await asyncio.wait_for(tasks[1], 20)
        # The loop is its own master again.
        after = await create_server()
        await asyncio.sleep(0.06)
        assert await ask(after) == b"hello\n"
        after.close()
        await passes(5)

    run(main())


def test_loop_is_left_as_it_was(cy, run):
    """Once the server has ended, the loop has no more attributes than before."""

    async def handle(server):
        (await create_server()).close()

    async def main():
        loop = asyncio.get_running_loop()
        before = set(getattr(loop, "__dict__", ()))
        await handling(cy.StatelessServer, handle)(reader).arun()
        assert set(getattr(loop, "__dict__", ())) == before

    run(main())


@pytest.mark.slow
def test_handlers_of_connections_feed_the_server(cy, run):
    """The pattern of the documented WebSocket server works: open a listener, return, answer for ever."""

    class Server(quiet(cy.StatelessServer)):
        async def handle(self):
            self.listener = await asyncio.start_server(self.connected, "127.0.0.1", 0)

        async def connected(self, stream, writer):
            name = (await stream.readline()).decode().strip()
            details = await self.get_or_create_application_instance(name, {"writer": writer})
            queue = asyncio.Queue()

            async def send(message):
                writer.write(message)
                await writer.drain()

            call = asyncio.create_task(details["application"](details["scope"], queue.get, send))
            while line := await stream.readline():
                queue.put_nowait(line)
            queue.put_nowait(None)
            await call
            await self.delete_application_instance(name)
            writer.close()

    async def application(scope, receive, send):
        while message := await receive():
            await send(message.upper())

    async def main():
        server = Server(application)
        task = asyncio.create_task(server.arun())
        await in_time(lambda: hasattr(server, "listener"))
        stream, writer = await asyncio.open_connection(*address(server.listener)[:2])
        writer.write(b"me\none\ntwo\n")
        assert await stream.readline() == b"ONE\n"
        assert await stream.readline() == b"TWO\n"
        assert list(server.application_instances) == ["me"]
        writer.close()
        await writer.wait_closed()
        await in_time(lambda: len(server.application_instances) == 0)
        assert not task.done()
        server.listener.close()
        await asyncio.wait_for(task, 20)

    run(main())


def test_reference_ends_with_handle(reference, run):
    """The reference ends when handle() has returned, with the listener open and nobody minding it."""

    async def handle(server):
        opened.append(await create_server())

    opened = []

    async def main():
        await asyncio.wait_for(handling(reference, handle)(reader).arun(), 20)
        assert await ask(opened[0]) == b"hello\n"
        opened[0].close()
        await passes(5)

    run(main())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets")
def test_unix_socket(cy, run, tmp_path):
    """A listener on a Unix socket counts as well."""

    async def handle(server):
        opened.append(await asyncio.start_unix_server(echo, path))

    opened = []
    path = str(tmp_path / "socket")

    async def main():
        task = asyncio.create_task(handling(cy.StatelessServer, handle)(reader).arun())
        await in_time(lambda: opened)
        await asyncio.sleep(0.06)
        assert not task.done()
        stream, writer = await asyncio.open_unix_connection(path)
        writer.write(b"hello\n")
        assert await stream.readline() == b"hello\n"
        writer.close()
        await writer.wait_closed()
        opened[0].close()
        await asyncio.wait_for(task, 20)

    run(main())


@pytest.mark.slow
def test_websockets_library(cy, run):
    """A listener that the websockets library opens in handle() counts: the documented example's does so."""
    server_module = pytest.importorskip("websockets.asyncio.server")
    client_module = pytest.importorskip("websockets.asyncio.client")

    async def answer(connection):
        async for message in connection:
            await connection.send(message)

    async def handle(server):
        opened.append(await server_module.serve(answer, "127.0.0.1", 0))

    opened = []

    async def main():
        task = asyncio.create_task(handling(cy.StatelessServer, handle)(reader).arun())
        await in_time(lambda: opened)
        await asyncio.sleep(0.06)
        assert not task.done()
        host, port = opened[0].sockets[0].getsockname()[:2]
        # A socket of our own, so that no proxy that the environment names comes between.
        sock = socket.create_connection((host, port))
        async with client_module.connect("ws://localhost", sock=sock) as client:
            await client.send("hello")
            assert await client.recv() == "hello"
        opened[0].close()
        await asyncio.wait_for(task, 20)
        await asyncio.wait_for(opened[0].wait_closed(), 20)

    run(main())

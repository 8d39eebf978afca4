"""Hostile clients on real sockets: memory stays bounded, others are served, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
import weakref
import zlib

import pytest

from support.serving import in_time
from support.websocket_violations import LIMIT, VIOLATIONS
from support.websockets_raw import BINARY, CONT, DEFLATE, PING, TEXT, binary, close, closed, frame, request, text
from support.websockets_serving import Client, echo, server_of, serving, sockets

#: What an attack may cost, in bytes, the attacker's own part included: it is in the same process.
ALLOWED = 32 * 2**20


class Attack:
    """Measures the memory that is had at most while its block runs."""

    def __enter__(self):
        gc.collect()
        tracemalloc.start()
        return self

    def __exit__(self, kind, *_):
        self.peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert kind or self.peak < ALLOWED, f"{self.peak / 2**20:.1f} MiB"


class Bystander:
    """A client that talks to the server for as long as an attack goes on."""

    def __init__(self, address):
        self.address = address
        self.answered = 0

    async def __aenter__(self):
        self.client = await Client(self.address).open()
        self.task = asyncio.create_task(self.talk())
        return self

    async def talk(self):
        while True:
            assert await self.client.ask(text(str(self.answered))) == (0x81, str(self.answered).encode())
            self.answered += 1
            await asyncio.sleep(0)

    async def served(self, more=20):
        """Until it was answered so many times more."""
        goal = self.answered + more
        await in_time(lambda: self.answered >= goal or self.task.done())
        assert not self.task.done(), self.task

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.client.close()


async def deaf(scope, receive, send):
    """Accepts, and receives no more, but echoes for others."""
    if scope["path"] == "/deaf":
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.get_running_loop().create_future()
    await echo(scope, receive, send)


@pytest.mark.slow
def test_violations(cy, run):
    """Each is answered with its close frame and the end of the connection; nobody else notices."""

    async def main():
        server = server_of(cy, echo, max_websocket_message_size=LIMIT)
        async with serving(server) as address, Bystander(address) as bystander:
            for name, (data, code) in VIOLATIONS.items():
                client = await Client(address).open()
                client.send(data + text("after"))
                assert await client.frames() == [closed(code)], name
                await client.close()
            await bystander.served()

    run(main())


def bomb(inflated, *, fragments=False):
    """A compressed message of that many zero bytes, a thousandth as long."""
    deflate = zlib.compressobj(9, wbits=-12)
    data = b"".join(deflate.compress(bytes(2**20)) for _ in range(inflated // 2**20))
    data = (data + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    if fragments:
        return frame(BINARY, data[:100], fin=False, rsv=4) + frame(CONT, data[100:])
    return frame(BINARY, data, rsv=4)


@pytest.mark.slow
def test_compression_bombs(cy, run):
    """One that is over the limit is 1009; a thousand below it wait as they came."""
    small = bomb(2**20)
    huge = [bomb(64 * 2**20, fragments=fragments) for fragments in (False, True)]
    assert len(small) < 1200 and len(huge[0]) < 70_000

    async def main():
        server = server_of(cy, deaf, shutdown_timeout=0.1)
        async with serving(server) as address, Bystander(address) as bystander:
            with Attack():
                for fragments in (False, True):
                    client = await Client(address).open(DEFLATE)
                    client.send(huge[fragments])
                    assert await client.frames() == [closed(1009)]
                    await client.close()
                client = await Client(address).open(DEFLATE, target=b"/deaf")
                client.send(small * 1000)
                [connection] = [one for one in await sockets(server, 2) if one.request.target == b"/deaf"]
                await in_time(lambda: connection.reading_paused)
                await bystander.served()
                client.abort()
                await client.close()

    run(main())


@pytest.mark.slow
def test_tiny_fragments(cy, run):
    """A message in a million fragments is given up after some; what still comes is dropped."""

    async def main():
        async with serving(server_of(cy, echo)) as address, Bystander(address) as bystander:
            with Attack():
                client = await Client(address).open()
                client.send(frame(TEXT, b"x", fin=False))
                some = frame(CONT, b"x", fin=False) * 10_000
                for _ in range(100):
                    if client.writer.transport.is_closing():
                        break
                    client.send(some)
                    await client.drained()
                assert await client.receive() == closed(1008, "more than 16384 small fragments")
                await bystander.served()
                await client.close()

    run(main())


@pytest.mark.slow
def test_ping_flood(cy, run):
    """A client that sends pings and never reads costs what one that reads costs."""

    async def main():
        server = server_of(cy, echo)
        async with serving(server) as address, Bystander(address) as bystander:
            with Attack():
                client = await Client(address).open()
                client.writer.transport.pause_reading()
                some = frame(PING, bytes(125)) * 1000
                for _ in range(50):
                    client.send(some)
                    await client.drained()
                    assert sum(one.transport.get_write_buffer_size() for one in server.connections) < 200_000
                await bystander.served()
                client.abort()
                await client.close()

    run(main())


@pytest.mark.slow
def test_clients_that_stop_reading(cy, run):
    """Each holds a message or two, whatever it sends."""
    count, size = 10, 250_000

    async def main():
        server = server_of(cy, echo)
        async with serving(server) as address, Bystander(address) as bystander:
            with Attack():
                clients = []
                for _ in range(count):
                    client = await Client(address).open()
                    client.writer.transport.pause_reading()
                    clients.append(client)
                data = binary(bytes(size))
                # Their systems take a few MB each: then they are stuck.
                tasks = [asyncio.create_task(push(client, data, 40)) for client in clients]
                await in_time(
                    lambda: sum(one.paused for one in server.connections if hasattr(one, "websocket")) == count
                )
                await bystander.served()
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                for client in clients:
                    client.abort()
                    await client.close()

    run(main())


async def push(client, data, count):
    for _ in range(count):
        client.send(data)
        await client.drained()


@pytest.mark.slow
def test_frames_that_never_end(cy, run):
    """Large frames begun and not finished cost what was sent of them."""

    async def main():
        server = server_of(cy, echo)
        async with serving(server) as address, Bystander(address) as bystander:
            with Attack():
                clients = [await Client(address).open() for _ in range(50)]
                for client in clients:
                    client.send(frame(BINARY, bytes(100_000), length=1_048_576))
                await in_time(
                    lambda: (
                        sum(one.websocket.buffered > 100_000 for one in server.connections if hasattr(one, "websocket"))
                        == 50
                    )
                )
                await bystander.served()
                for client in clients:
                    client.abort()
                    await client.close()

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_left_behind(cy, run, seed):
    """Connections that end anywhere in their lives leave no instance, task, deadline or object."""
    chance = random.Random(seed)
    whole = request(DEFLATE) + text("hello") + bomb(2**20) + frame(TEXT, b"x", fin=False) + frame(PING) + close()
    applied = []

    async def application(scope, receive, send):
        applied.append(scope["path"])
        if len(applied) % 3 == 0:
            await receive()
            raise RuntimeError("boom")
        if len(applied) % 3 == 1:
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close"})
            return
        await echo(scope, receive, send)

    async def main():
        server = server_of(cy, application, application_exception=lambda self, exception, details: None)
        async with serving(server) as address:
            before = asyncio.all_tasks()
            protocols = weakref.WeakSet()
            for _ in range(100):
                _, writer = await asyncio.open_connection(*address)
                writer.write(whole[: chance.randrange(len(whole) + 1)])
                how = chance.choice(("abort", "close", "half", "wait"))
                if how == "wait":
                    await asyncio.sleep(0)
                    protocols.update(one for one in server.connections if hasattr(one, "websocket"))
                if how == "half":
                    writer.write_eof()
                    await asyncio.sleep(0)
                (writer.transport.abort if how == "abort" else writer.close)()
            await in_time(lambda: not server.connections and not server.application_instances)
            assert server.deadlines._live == 0
            await in_time(lambda: asyncio.all_tasks() == before)
            gc.collect()
            assert not list(protocols)
        assert applied

    run(main())


def test_no_cycle_keeps_a_connection(cy, run):
    """An ended connection is freed by reference counts alone."""

    async def main():
        server = server_of(cy, echo)
        async with serving(server) as address:
            gc.collect()
            gc.disable()
            try:
                client = await Client(address).open()
                assert await client.ask(text("x")) == (0x81, b"x")
                [connection] = await sockets(server)
                gone = weakref.ref(connection)
                del connection
                await client.finish()
                await in_time(lambda: gone() is None)
            finally:
                gc.enable()

    run(main())


def test_header_injection(cy, run):
    """A header of the application that would inject lines raises, and nothing of it is written."""

    async def application(scope, receive, send):
        await receive()
        for headers in ([(b"x", b"a\r\nset-cookie: b")], [(b"x\r\ny", b"")], [(b"x", b"\0")]):
            with pytest.raises(ValueError):
                await send({"type": "websocket.accept", "headers": headers})
        await echo_accepted(scope, receive, send)

    async def echo_accepted(scope, receive, send):
        await send({"type": "websocket.accept"})
        await receive()

    async def main():
        async with serving(server_of(cy, application)) as address:
            client = await Client(address).open()
            assert b"set-cookie" not in client.head
            await client.finish()

    run(main())


def test_the_example_of_the_rfc(cy, run):
    """A masked Hello, byte for byte (RFC 6455 section 5.7)."""

    async def main():
        async with serving(server_of(cy, echo)) as address:
            client = await Client(address).open()
            assert await client.ask(bytes.fromhex("818537fa213d7f9f4d5158")) == (0x81, b"Hello")
            await client.finish()

    run(main())

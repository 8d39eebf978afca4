"""Hostile clients on real sockets: memory stays bounded, others are served, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc

import pytest

from cyasgi.gateways.net.descriptors import open_descriptors as descriptors
from support.effort import EFFORT
from support.serving import in_time
from support.streams import Client, echo, server_of, serving

pytestmark = pytest.mark.slow

#: What an attack may cost, in bytes, the attacker's own part included: it is in the same process.
ALLOWED = 32 * 2**20


async def deaf(scope, receive, send):
    """Receives no more after its first message, but echoes for others."""
    while (message := await receive())["type"] != "stream.disconnect":
        if message.get("data") == b"deaf":
            await asyncio.get_running_loop().create_future()
        if "data" in message:
            await send({"type": "stream.send", "data": message["data"]})


async def flood(address, data, count, first=b""):
    """So many clients, each of which sends this again and again, and reads nothing, until it is cut off or 0.3 s."""

    async def one():
        async with Client(address) as client:
            client.writer.transport.set_write_buffer_limits(65_536)
            client.send(first)
            try:
                async with asyncio.timeout(0.3):
                    while True:
                        client.send(data)
                        await client.writer.drain()
            except (TimeoutError, OSError):
                client.abort()

    await asyncio.gather(*(one() for _ in range(count)))


@pytest.mark.few_combinations
@pytest.mark.parametrize(
    ("framing", "first", "data"),
    [
        ("lines", b"", b"x" * 65_536),
        ("lines", b"", b"\n" * 65_536),
        ("lines", b"deaf\n", b"y\n" * 32_768),
        ("lines", b"deaf\n", b"z" * 60_000 + b"\n"),
        ("length:4", b"", b"\0\0\xff\xff" + b"x" * 30_000),
        ("length:1", b"\4deaf", b"\0" * 65_536),
        ("netstring", b"4:deaf,", b"0:," * 20_000),
        ("cobs", b"", b"\0" * 65_536),
        ("cobs", b"", b"\1\1\0" * 20_000),
        ("resp", b"", b"*1\r\n$0\r\n\r\n" * 5_000),
        ("resp", b"", b"*60000\r\n" + b"$0\r\n\r\n" * 4_000),
        ("raw", b"deaf", b"x" * 65_536),
    ],
)
def test_floods(cy, run, framing, first, data):
    """Endless messages, empty ones, and those that nobody takes: little is held, and a bystander is answered."""

    async def main():
        async def application(scope, receive, send):
            await (echo if framing == "resp" else deaf)(scope, receive, send)

        server = server_of(cy, application, framing=framing, max_waiting_bytes=4_000_000)
        async with serving(server) as address:
            gc.collect()
            tracemalloc.start()
            try:
                await flood(address, data, 20, first)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak < ALLOWED, f"{peak / 2**20:.1f} MiB"
            # Whatever they have left waits for nobody else.
            make = server.make_framing(1000)
            async with Client(address) as client:
                if framing != "resp":
                    wire = make.encode(b"hello")
                    client.send(wire)
                    assert await client.exactly(len(wire)) == wire
            for scope_id in list(server.application_instances):
                server.delete_application_instance(scope_id)

    run(main())


def test_many_connections(cy, run):
    """Beyond `max_connections` they are closed at once; those that are there are served."""

    async def main():
        server = server_of(cy, echo, max_connections=50)
        async with serving(server) as address, Client(address) as client:
            for _ in range(5):
                others = await asyncio.gather(*(Client(address).__aenter__() for _ in range(100)))
                assert await client.ask(b"a\n") == b"a\n"
                await in_time(lambda: server.connections_total % 100 == 1 and len(server.connections) <= 51)
                for other in others:
                    other.abort()
            await in_time(lambda: len(server.connections) == 1)
            assert server.stats()["refused"] >= 200

    run(main())


def test_anything_at_any_time(cy, run, caplog):
    """Connections that are opened, broken off anywhere and closed leave nothing: no instance, task or descriptor."""
    chance = random.Random(EFFORT or 1)

    async def application(scope, receive, send):
        how = chance.randrange(6)
        if how == 0:
            return
        while (message := await receive())["type"] != "stream.disconnect":
            if how == 1 and "data" in message:
                return
            if how == 2:
                await send({"type": "stream.close"})
            if how == 3 and chance.random() < 0.1:
                await asyncio.sleep(0.001)
            if "data" in message:
                await send({"type": "stream.send", "data": message["data"] * 50})
        if message["writable"]:
            await send({"type": "stream.send", "data": b"bye"})

    async def one(address):
        async with Client(address) as client:
            for _ in range(chance.randrange(5)):
                client.send(chance.choice([b"a", b"a\n", b"x" * 3000 + b"\n", b"a\n" * 500, b"y" * 5000]))
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
            match chance.randrange(4):
                case 0:
                    client.abort()
                case 1:
                    client.half_close()
                    await client.rest()
                case 2:
                    client.half_close()
                    client.abort()

    async def main():
        server = server_of(cy, application, max_message_size=4000)
        async with serving(server) as address:
            before = descriptors()
            for _ in range(10 * max(1, EFFORT or 1)):
                await asyncio.gather(*(one(address) for _ in range(40)))
            await in_time(lambda: not server.connections)
            await in_time(lambda: not server.application_instances)
            assert server.waiting_bytes == 0
            await in_time(lambda: descriptors() <= before)
            stats = server.stats()
            assert stats["failed"] == 0 or stats["created"] > stats["failed"]
            assert not server._cyasgi.closing

    run(main())
    assert "Traceback" not in caplog.text

"""How a connection of a stream is closed: slow, sending or departed clients, with TLS and without."""

from __future__ import annotations

import asyncio
import importlib
import sys

import pytest

from support.certificates import write_certificates
from support.serving import in_time
from support.streams import LONG, Client, contexts_of, server_of, serving

unix = pytest.mark.skipif(sys.platform == "win32", reason="asyncio has no Unix sockets on Windows")
pytestmark = pytest.mark.slow


@pytest.fixture
def looks(cy, monkeypatch):
    """Short times between two looks at a connection; counts those at what a client has taken, and at whether it is
    there."""
    module = importlib.import_module(f"{cy.__name__}.gateways.stream.connection")
    counts = {"send_progress": 0, "has_gone": 0}

    def counted(name):
        look = getattr(module, name)

        def counting(transport):
            counts[name] += 1
            return look(transport)

        monkeypatch.setattr(module, name, counting)

    for name in counts:
        counted(name)
    monkeypatch.setattr(module, "LINGER", 0.05)
    monkeypatch.setattr(module, "CHECK", 0.05)
    return counts


class Listener:
    """An application that goes on after its client has closed its half, until that has gone altogether."""

    def __init__(self):
        self.ends = []

    async def __call__(self, scope, receive, send):
        while not self.ends or self.ends[-1]:
            message = await receive()
            if message["type"] == "stream.disconnect":
                self.ends.append(message["writable"])
            elif message["type"] == "push":
                await send({"type": "stream.send", "data": message["text"]})


def test_half_closed_and_there(cy, run, quiet, looks):
    """A client that sends no more is looked after, and left alone as long as it is there."""

    async def main():
        listener = Listener()
        server = server_of(cy, listener)
        async with serving(server) as address, Client(address) as client:
            client.half_close()
            await in_time(lambda: listener.ends == [True] and looks["has_gone"] >= 2)
            assert server.send_to(next(iter(server.application_instances)), {"type": "push", "text": b"hello"})
            assert await client.line() == b"hello\n"
            client.abort()
            await in_time(lambda: not server.connections)

    run(main())


@pytest.mark.parametrize("binds", ["127.0.0.1:0", pytest.param("unix", marks=unix)])
def test_half_closed_and_gone(cy, run, quiet, looks, tmp_path, binds):
    """The application is told, although nothing is written that would show it."""

    async def main():
        listener = Listener()
        server = server_of(cy, listener, binds=f"unix:{tmp_path / 'socket'}" if binds == "unix" else binds)
        async with serving(server) as address:
            async with Client(address) as client:
                client.half_close()
                await in_time(lambda: listener.ends == [True])
                if binds != "unix":
                    client.abort()
            await in_time(lambda: listener.ends == [True, False] and not server.connections)

    run(main())


def test_closed_while_much_is_to_be_taken(cy, run, quiet, looks):
    """A client that was slow before has the time for the rest that `write_timeout` allows."""
    size = 16_777_216

    async def main():
        async def application(scope, receive, send):
            await receive()
            # More than the system takes: it waits for the client, and is not waited for.
            sending = asyncio.ensure_future(send({"type": "stream.send", "data": bytes(size)}))
            await asyncio.wait([sending], timeout=0.01)
            assert not sending.done()
            sending.cancel()
            before.append(looks["send_progress"])

        before = []
        server = server_of(cy, application, framing="raw", write_timeout=LONG, min_rate=10**9)
        async with serving(server) as address, Client(address) as client:
            # What the systems take is less than what `min_rate` demands.
            await in_time(lambda: before and looks["send_progress"] > before[0])
            assert server.connections
            assert len(await client.rest()) == size

    run(main())


@pytest.mark.parametrize("end", ["returned", "malformed", "paused"])
def test_tls_with_a_client_that_sends_on(cy, run, quiet, looks, tmp_path, end):
    """It gets all that was sent, although asyncio drops what it has not taken when more comes after the goodbye."""
    write_certificates(tmp_path)
    contexts = contexts_of(tmp_path)
    size = 4_194_304

    async def main():
        async def application(scope, receive, send):
            while (message := await receive())["type"] != "stream.receive" or message["data"] != b"first":
                pass
            if end == "malformed":
                while (await receive())["type"] != "stream.disconnect":
                    pass
            elif end == "paused":
                await in_time(lambda: any(one.reading_paused for one in server.connections))
            await send({"type": "stream.send", "data": bytes(size)})

        server = server_of(cy, application, ssl=contexts[0], max_message_size=65_536)
        async with serving(server) as address, Client(address, contexts[1]) as client:
            client.send(b"first\n")
            if end == "malformed":
                client.send(b"x" * 100_000)
            else:
                client.send(b"more\n" * 30_000)
            first = await client.exactly(1)
            for _ in range(20):
                client.send(b"x" * 1000)
                await asyncio.sleep(0)
            assert first + await client.rest() == bytes(size) + b"\n"

    run(main())


def test_a_successor_is_not_deleted(cy, run):
    """An instance that is deleted while its client is away, and takes its time, is not waited for any longer."""

    async def main():
        cleaned = asyncio.Event()
        began = []

        async def application(scope, receive, send):
            began.append(scope)
            try:
                while (message := await receive()).get("data") != b"quit":
                    if message["type"] == "stream.receive":
                        await send({"type": "stream.send", "data": message["data"]})
            except asyncio.CancelledError:
                if len(began) == 1:
                    await cleaned.wait()
                raise

        server = server_of(
            cy, application, scope_id=lambda self, connection, first_message: first_message, reconnect_timeout=0.5
        )
        async with serving(server) as address:
            async with Client(address) as client:
                assert await client.ask(b"token\n") == b"token\n"
            await in_time(lambda: server.away)
            server.delete_application_instance(b"token")
            async with Client(address) as client:
                client.send(b"token\n")
                await in_time(lambda: server.streams == 2)
                await in_time(lambda: not server.away)
                # It begins when the one before it has ended.
                assert len(began) == 1
                cleaned.set()
                assert await client.line() == b"token\n"
                client.send(b"quit\n")
                assert await client.rest() == b""

    run(main())


@pytest.mark.parametrize("size", [50_000, 300_000])
def test_bytes_that_were_taken_do_not_wait(cy, run, quiet, size):
    """While an application is busy with the last message, nothing waits."""

    async def main():
        go = asyncio.Event()
        taken = []

        async def application(scope, receive, send):
            while len(taken) < size // 100:
                message = await receive()
                if message["type"] == "stream.receive":
                    taken.append(message["data"])
            await go.wait()

        server = server_of(cy, application)
        async with serving(server) as address, Client(address) as client:
            client.send((b"x" * 99 + b"\n") * (size // 100))
            await in_time(lambda: len(taken) == size // 100)
            assert server.stats()["waiting_bytes"] == 0
            go.set()
            await client.rest()

    run(main())

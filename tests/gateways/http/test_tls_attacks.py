"""TLS under attack: handshakes that never end, garbage, clients that stop or leave. Others are served, nothing is left.

As in the tests of slow clients, limits of time are set short, and the attacker goes on until it is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from support.certificates import write_certificates
from support.http_corpus_heads import get
from support.http_raw_client import (
    LONG,
    SHORT,
    RawClient,
    Recorder,
    Served,
    Streaming,
    beside,
    server_of,
    serving_http,
    trickle,
)
from support.serving import environment, in_time

pytestmark = pytest.mark.few_combinations

#: The clients of a test, to be closed whatever becomes of it.
CLIENTS = []
#: The beginning of a hello that would be very long.
LONG_HELLO = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + bytes(16_000)
#: What asyncio and uvloop say of each write that comes behind an end of which they have not told.
THEIRS = ("socket.send() raised exception.", "SSL connection is closed")
LONG_TLS = {**LONG, "tls_handshake_timeout": 60.0}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc, and what Linux tells of a connection")


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    """The server's context, one that trusts it, and the files of the server's."""
    path = tmp_path_factory.mktemp("certificates")
    write_certificates(path)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(path / "cert.pem", path / "key.pem")
    return served, ssl.create_default_context(cafile=path / "ca.pem"), (path / "cert.pem", path / "key.pem")


@pytest.fixture
def quick(cy, monkeypatch):
    """The gateway looks at its deadlines more often, and lets nobody linger for long."""
    gateways = f"{cy.__name__}.gateways"
    monkeypatch.setattr(importlib.import_module(f"{gateways}.net.deadlines"), "RESOLUTION", 0.02)
    monkeypatch.setattr(importlib.import_module(f"{gateways}.http.connection"), "LINGER", SHORT)
    monkeypatch.setattr(importlib.import_module(f"{gateways}.net.tls"), "SLOW", SHORT)


@pytest.fixture(autouse=True)
def none_left():
    """Whatever a test makes of it, its clients are closed in the end."""
    yield
    while CLIENTS:
        CLIENTS.pop().close()


@pytest.fixture(autouse=True)
def no_noise(caplog):
    """A line at most is logged of ours, whatever happens."""
    caplog.set_level(logging.INFO)
    yield
    lines = [one.getMessage() for one in caplog.get_records("call") if one.levelno > logging.INFO]
    assert len([line for line in lines if line not in THEIRS]) <= 1, lines


class TLSClient(RawClient):
    """A raw client with TLS over it, so that either may be left out at any moment."""

    def __init__(self, address, trusting):
        super().__init__(address)
        CLIENTS.append(self)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = trusting.wrap_bio(self.incoming, self.outgoing, server_hostname=address[0])

    def hello(self):
        """The client's first message."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()

    async def connect(self):
        await super().connect()
        await self.step(self.tls.do_handshake)
        return self

    async def step(self, function):
        while True:
            try:
                result = function()
            except ssl.SSLWantReadError:
                await self.flush()
                data = await asyncio.get_running_loop().sock_recv(self.socket, 65_536)
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
            else:
                await self.flush()
                return result

    async def flush(self):
        return await super().send(self.outgoing.read())

    async def send(self, data):
        self.tls.write(data)
        return await self.flush()

    async def read_some(self):
        if self.ended:
            return False
        try:
            data = await self.step(lambda: self.tls.read(65_536))
        except ssl.SSLZeroReturnError:
            data = b""
        except (ssl.SSLError, OSError):
            self.ended = "reset"
            return False
        if not data:
            self.ended = "eof"
        self.data += data
        return bool(data)

    async def notify(self):
        """Tells the server that nothing more comes (close_notify), and leaves the connection open."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self.flush()


class ServedTLS(Served):
    """A well-behaved client with TLS, which connects anew for each request."""

    def __init__(self, address, trusting):
        super().__init__(address)
        self.trusting = trusting

    async def ask(self):
        client = TLSClient(self.address, self.trusting)
        try:
            await client.connect()
            answer = await client.get(self.path)
        finally:
            client.close()
        assert answer is not None and answer.status == 200
        self.count += 1


def attack(cy, run, contexts, test, application=None, **settings):
    """Runs test(server, address) with a server with TLS and a well-behaved client beside; nothing is left of it."""
    served, trusting, _ = contexts

    async def main():
        server = server_of(cy, beside(application or Recorder()), **{**LONG_TLS, **settings})
        [listener] = server.binds
        server.binds = [type(listener)(listener.address, ssl=served)]
        before = sockets()
        async with serving_http(server) as (address,), ServedTLS(address, trusting):
            await test(server, address)
        await in_time(lambda: sockets() <= before)

    run(main())


def sockets():
    """Sockets that this process has."""
    count = 0
    if sys.platform == "linux":
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


def hello_of(trusting):
    """The first message of a client."""
    client = TLSClient(("127.0.0.1", 0), trusting)
    client.close()
    return client.hello()


async def flood(address, count, data):
    """So many connections that have sent these bytes."""
    clients = [RawClient(address) for _ in range(count)]
    CLIENTS.extend(clients)
    for client in clients:
        await client.connect()
        if data:
            await client.send(data)
    return clients


# ---- handshakes that never end -------------------------------------------------------------------------------------


def beginnings(trusting):
    """What a client may have sent when it stops."""
    hello = hello_of(trusting)
    return {
        "nothing": b"",
        "a byte": hello[:1],
        "half a hello": hello[:-1],
        "a hello": hello,
        "a long hello": LONG_HELLO,
    }


@pytest.mark.slow
@pytest.mark.parametrize("what", ["nothing", "a byte", "half a hello", "a hello", "a long hello"])
def test_half_open_handshakes(cy, run, contexts, what):
    """However many there are, others are served, and a server that stops leaves none of them."""
    at_once = importlib.import_module(f"{cy.__name__}.gateways.net.tls").AT_ONCE

    async def main():
        server = server_of(cy, beside(Recorder()), **LONG_TLS)
        [listener] = server.binds
        server.binds = [type(listener)(listener.address, ssl=contexts[0])]
        before = asyncio.all_tasks(), sockets()
        [address] = server.bind()
        running = asyncio.create_task(server.arun())
        await in_time(lambda: server.serving)
        clients = await flood(address, 1000, beginnings(contexts[1])[what])
        client = await TLSClient(address, contexts[1]).connect()
        assert (await client.get(b"/other")).status == 200
        client.close()
        assert len(asyncio.all_tasks()) < at_once + 20
        server.stop()
        await running
        for client in clients:
            await client.end()
            client.close()
        assert asyncio.all_tasks() == before[0]
        await in_time(lambda: sockets() <= before[1])
        assert not server.connections and server.deadlines._live == 0

    run(main())


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the standard library cannot tell a process's peak of memory there")
def test_memory_of_half_open_handshakes(cy, run, contexts):
    """Thousands of them, of every kind, cost a server less than 32 MB."""
    loop = "uvloop" if "uvloop" in run.loop_factory.__module__ else "asyncio"
    files = [str(name) for name in contexts[2]]
    command = [sys.executable, str(Path(__file__).parents[2] / "support" / "http_attacked_server.py"), loop, *files]
    environ = environment(CYASGI_BACKEND=cy.backend)

    async def peak(address):
        client = await TLSClient(address, contexts[1]).connect()
        answer = await client.get(b"/memory")
        client.close()
        return int(answer.body)

    async def main():
        victim = await asyncio.to_thread(
            subprocess.Popen, command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            address = "127.0.0.1", int(await asyncio.to_thread(victim.stdout.readline))
            for _ in range(20):
                before = await peak(address)
            for data in beginnings(contexts[1]).values():
                clients = await flood(address, 2000, data)
                assert await peak(address) - before < 32 * 1024 * 1024
                for client in clients:
                    client.close()
        finally:
            victim.terminate()
            _, complaints = await asyncio.to_thread(victim.communicate)
        assert complaints.count(b"\n") <= 1, complaints

    run(main())


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("limit", ["first_byte_timeout", "tls_handshake_timeout"])
def test_deadlines_of_a_handshake(cy, run, contexts, limit):
    """A connection whose first byte, or whose handshake, does not come in time is closed."""

    async def test(server, address):
        hello = hello_of(contexts[1])
        clients = await flood(address, 20, b"" if limit == "first_byte_timeout" else hello)
        for client in clients:
            await client.end()
            client.close()

    attack(cy, run, contexts, test, **{limit: SHORT})


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_handshake_byte_by_byte(cy, run, contexts):
    """No byte puts the end of its time off."""

    async def test(server, address):
        client = await RawClient(address).connect()
        assert await trickle(client, LONG_HELLO) < len(LONG_HELLO)
        client.close()

    attack(cy, run, contexts, test, tls_handshake_timeout=SHORT)


@pytest.mark.slow
def test_an_honest_handshake_byte_by_byte(cy, run, contexts):
    """One that comes in time succeeds however it is cut."""

    async def test(server, address):
        client = TLSClient(address, contexts[1])
        await RawClient.connect(client)
        for byte in client.hello():
            await RawClient.send(client, bytes([byte]))
            await asyncio.sleep(0)
        await client.step(client.tls.do_handshake)
        assert (await client.get()).status == 200
        client.close()

    attack(cy, run, contexts, test)


@pytest.mark.slow
def test_more_than_are_let_in(cy, run, contexts):
    """Beyond `max_connections` of which no byte has come, the oldest are closed."""

    async def test(server, address):
        clients = await flood(address, 200, b"")
        for client in clients[:50]:
            await client.end()
        assert server.refused >= 50
        for client in clients:
            client.close()

    attack(cy, run, contexts, test, max_connections=100)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_handshakes_that_give_way(cy, run, contexts):
    """Who is slow is given up for the sake of others, and not without need."""
    at_once = importlib.import_module(f"{cy.__name__}.gateways.net.tls").AT_ONCE

    async def test(server, address):
        client = TLSClient(address, contexts[1])
        await RawClient.connect(client)
        await RawClient.send(client, client.hello())
        for _ in range(3):
            count = server.connections_total
            await in_time(lambda count=count: server.connections_total > count + 20)
        await client.step(client.tls.do_handshake)
        assert (await client.get()).status == 200
        hello = hello_of(contexts[1])
        clients = await flood(address, 3 * at_once, hello)
        count = server.connections_total
        await in_time(lambda: server.connections_total > count + 20)
        for one in (client, *clients):
            one.close()

    attack(cy, run, contexts, test)


# ---- what is no handshake ------------------------------------------------------------------------------------------

GARBAGE = [
    pytest.param(get(), id="a request without TLS"),
    pytest.param(b"\x00" * 100, id="zeros"),
    pytest.param(b"\xff" * 100_000, id="much"),
    pytest.param(b"\x16\x03\x01\xff\xff" + b"a" * 70_000, id="a record that is too long"),
    pytest.param(b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", id="a hello without end"),
    pytest.param(b"\x15\x03\x01\x00\x02\x02\x28", id="an alert"),
    pytest.param(b"\x80\x2e\x01\x00\x02" + b"a" * 43, id="a hello of SSL 2"),
]


@pytest.mark.parametrize("data", GARBAGE)
@pytest.mark.parametrize("way", ["stays", "closes", "resets", "closes its half"])
def test_garbage(cy, run, contexts, data, way):
    """It ends the connection, and nobody else's."""

    async def test(server, address):
        for _ in range(5):
            client = await RawClient(address).connect()
            await client.send(data)
            if way == "closes its half":
                with contextlib.suppress(OSError):
                    client.half_close()
            elif way == "resets":
                client.abort()
            if way in ("stays", "closes its half") and data[1:5] != b"\x03\x01\x00\x04":
                await client.end()
            client.close()

    attack(cy, run, contexts, test)


# ---- after the handshake -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("way", ["stays", "notifies", "closes its half", "closes", "resets"])
@pytest.mark.parametrize("size", [1000, 3_000_000, 100_000_000])
def test_clients_that_stop_reading(cy, run, contexts, way, size):
    """Whether it still says that it goes, or just goes: what it does not take is given up, with its application."""
    application = Streaming(size=min(size, 65_536), times=max(size // 65_536, 1))
    whole = len(application.chunk) * application.times

    async def test(server, address):
        clients = [await TLSClient(address, contexts[1]).connect() for _ in range(5)]
        for client in clients:
            await client.send(get(b"Connection: close") if size == 3_000_000 else get())
        await in_time(lambda: application.running or application.sent >= whole * 5)
        for client in clients:
            if way == "notifies":
                await client.notify()
            elif way == "closes its half":
                client.half_close()
            elif way == "closes":
                client.close()
            elif way == "resets":
                client.abort()
        await in_time(lambda: not application.running and len(server.connections) <= 1)
        for client in clients:
            client.close()

    attack(cy, run, contexts, test, application, write_timeout=SHORT, keep_alive_timeout=SHORT)


@pytest.mark.slow
@LINUX
def test_a_client_that_takes_the_last_response_slowly(cy, run, contexts):
    """It has the time for it while it takes something, and no longer."""

    async def once(client, connection):
        """Looks as the clock would; gives whether the client is let go on."""
        connection.deadline.callback()
        await asyncio.sleep(0)
        return connection in connection.server.connections and not lost(connection)

    def lost(connection):
        # Its transport is closing anyhow; one that was aborted has no more to do than to say so.
        return connection.deadline._wheel is None

    async def test(server, address):
        for ending in ("takes", "stops"):
            client = await TLSClient(address, contexts[1]).connect()
            await client.send(get(b"Connection: close", start=b"GET /big HTTP/1.1"))
            await in_time(lambda: [one for one in server.connections if one.lingering and one.parser.path == b"/big"])
            [connection] = [one for one in server.connections if one.parser.path == b"/big"]
            assert await once(client, connection)
            received = 0
            while received < 5_000_000:
                received += len(await client.step(lambda client=client: client.tls.read(1_000_000)))
            assert await once(client, connection)
            if ending == "stops":
                connection.deadline.callback()
                await in_time(lambda connection=connection: connection not in server.connections)
            else:
                while data := await client.step(lambda client=client: client.tls.read(1_000_000)):
                    received += len(data)
                assert received > 10_000_000
            client.close()

    async def big(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(10_000_000)})

    attack(cy, run, contexts, test, big)

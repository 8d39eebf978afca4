"""Memory under attack: whatever is poured into a server, it grows by less than 32 MB, and others are served.

The server runs in a process of its own, and tells the most memory that it ever had; all attacks of one combination
hit the same process, one after another, so that none may leave anything behind either.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from support.http_corpus_heads import CHUNKED, get, post
from support.http_raw_client import RawClient, raw_client
from support.loops import PATIENCE
from support.serving import environment

if sys.platform == "win32":
    pytest.skip("the standard library cannot tell a process's peak of memory there", allow_module_level=True)

pytestmark = pytest.mark.few_combinations

#: Bytes that a server may grow by, under all attacks together.
MOST = 32 * 1024 * 1024


class Victim:
    """The server in its process."""

    def __init__(self, loop, backend):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parents[2] / "support" / "http_attacked_server.py"), loop],
            env=environment(CYASGI_BACKEND=backend),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            self.address = "127.0.0.1", int(self.process.stdout.readline())
            asyncio.run(self.warm_up())
        except BaseException:
            self.process.kill()
            self.process.communicate()
            raise

    async def warm_up(self):
        client = await RawClient(self.address).connect()
        for _ in range(200):
            await client.get(b"/memory")
            assert (await client.ask(post(b"Content-Length: 5", body=b"hello"))).status == 200
        client.close()
        self.base = int((await self.ask()).body)

    async def ask(self):
        """A well-behaved client's request, on a connection of its own."""
        client = await RawClient(self.address).connect()
        try:
            answer = await client.get(b"/memory", b"Connection: close")
            assert answer.status == 200
            return answer
        finally:
            client.close()

    def end(self):
        self.process.terminate()
        try:
            _, complaints = self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
        assert self.process.returncode in (0, -15), complaints
        assert b"Traceback" not in complaints, complaints.decode()


@pytest.fixture(scope="module")
def victims():
    """Gives the victim of a combination, started when it is first asked for."""
    started = {}

    def victim(cy, run):
        loop = "asyncio" if run.loop_factory is asyncio.new_event_loop else "uvloop"
        if (loop, cy.backend) not in started:
            started[loop, cy.backend] = Victim(loop, cy.backend)
        return started[loop, cy.backend]

    yield victim
    for one in started.values():
        one.end()


async def pour(victim, client, first, data, limit):
    """Sends `first`, and then the data again and again, until the server ends the connection, or takes no more while
    it serves others, or so many bytes were sent; gives their number."""
    sent = 0

    async def send():
        nonlocal sent
        if await client.send(first):
            while sent < limit and await client.send(data):
                sent += len(data)

    sending = asyncio.create_task(send())
    unchanged = 0
    before = -1
    while not sending.done() and unchanged < 20:
        await victim.ask()
        unchanged = unchanged + 1 if sent == before else 0
        before = sent
        await asyncio.sleep(0.001)
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending
    return sent


def request(path, *lines):
    return get(*lines, start=b"POST " + path + b" HTTP/1.1")


MEGABYTE = 1_048_576
CHUNK = b"10000\r\n" + b"a" * 65_536 + b"\r\n"
EXTENDED = b"1;" + b"a" * 200 + b"\r\nx\r\n"
LENGTH = b"Content-Length: 9999999999"

#: What one client sends first, what it sends then without end, how many megabytes at most, and whether the server is to
#: stop reading rather than to refuse it or to take it.
POURED = [
    pytest.param(b"GET /", b"a" * 65_536, 4, False, id="a request line that never ends"),
    pytest.param(b"", b"A" * 65_536, 4, False, id="a method that never ends"),
    pytest.param(b"", b"\r\n" * 32_768, 4, False, id="empty lines"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", b"a" * 65_536, 4, False, id="a header that never ends"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-A: b\r\n" * 8192, 4, False, id="headers without end"),
    pytest.param(request(b"/read", CHUNKED), b"0" * 65_536, 4, False, id="a chunk size that never ends"),
    pytest.param(request(b"/read", CHUNKED) + b"1;", b"a" * 65_536, 4, False, id="an extension that never ends"),
    pytest.param(
        request(b"/read", CHUNKED), (b"1;" + b"a" * 200 + b"\r\nx\r\n") * 400, 4, False, id="extensions without end"
    ),
    pytest.param(request(b"/read", CHUNKED) + b"0\r\n", b"X-A: b\r\n" * 8192, 4, False, id="trailers without end"),
    pytest.param(request(b"/read", CHUNKED) + b"0\r\nX-A: ", b"a" * 65_536, 4, False, id="a trailer that never ends"),
    pytest.param(request(b"/wait", CHUNKED), b"1\r\na\r\n" * 8192, 16, True, id="small chunks that nobody reads"),
    pytest.param(request(b"/wait", CHUNKED), CHUNK, 16, True, id="chunks that nobody reads"),
    pytest.param(
        request(b"/wait", b"Content-Length: 9999999999"), b"a" * 65_536, 16, True, id="a body that nobody reads"
    ),
    pytest.param(
        request(b"/", b"Content-Length: 9999999999"), b"a" * 65_536, 64, False, id="a body that was answered before"
    ),
    pytest.param(request(b"/read", CHUNKED), CHUNK, 64, False, id="a body that is read"),
    pytest.param(request(b"/read", CHUNKED), b"1\r\na\r\n" * 8192, 8, False, id="small chunks that are read"),
    pytest.param(get(start=b"GET /wait HTTP/1.1"), get() * 2000, 16, True, id="requests behind one that waits"),
    pytest.param(get(start=b"GET /big HTTP/1.1"), get() * 2000, 16, True, id="requests behind an answer without end"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "data", "megabytes", "held"), POURED)
def test_poured(cy, run, victims, first, data, megabytes, held):
    """One client sends without end, and reads nothing: it is cut off, or no longer listened to."""
    victim = victims(cy, run)

    async def main():
        async with raw_client(victim.address) as client:
            sent = await pour(victim, client, first, data, megabytes * MEGABYTE)
            grown = int((await victim.ask()).body) - victim.base
        # The system's buffers hold some megabytes of what the server does not read.
        assert sent < megabytes * MEGABYTE or not held
        assert grown < MOST

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("path", [b"/", b"/missing"])
def test_pipelined_and_unread(cy, run, victims, path):
    """200,000 pipelined requests of a client that never reads an answer."""
    victim = victims(cy, run)

    async def main():
        data = get(start=b"GET " + path + b" HTTP/1.1") * 1000
        async with raw_client(victim.address) as client:
            sent = await pour(victim, client, b"", data, 200 * len(data))
            grown = int((await victim.ask()).body) - victim.base
        assert sent < 200 * len(data)
        assert grown < MOST

    run(main())


#: What each of many clients sends, and how many there are.
CROWDS = [
    pytest.param(b"", 2000, id="silent"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: b", 2000, id="with half a head"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"b" * 60_000, 150, id="with half a head of 60 KB"),
    pytest.param(request(b"/wait", b"Content-Length: 100000") + b"a" * 50_000, 150, id="with a body that nobody reads"),
    pytest.param(request(b"/read", b"Content-Length: 100000") + b"a", 1000, id="with half a body"),
    pytest.param(get(start=b"GET /wait HTTP/1.1"), 1000, id="waiting"),
    pytest.param(get(start=b"GET /big HTTP/1.1"), 100, id="that do not read"),
    pytest.param(b"nonsense\r\n\r\n", 1000, id="refused and not going"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("data", "count"), CROWDS)
def test_crowds(cy, run, victims, data, count):
    """Many clients at once that begin something and do not go on."""
    victim = victims(cy, run)

    async def main():
        clients = []
        for number in range(count):
            client = await RawClient(victim.address).connect()
            clients.append(client)
            await client.send(data)
            if number % 100 == 0:
                await victim.ask()
        for _ in range(50):
            answer = await victim.ask()
        for client in clients:
            client.abort()
        assert int(answer.body) - victim.base < MOST
        await victim.ask()

    run(main())

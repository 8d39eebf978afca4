"""The time for which a handler blocks the loop, or the process is stopped, counts against no client of any gateway.

Each test has one deadline of SHORT seconds, and a loop that stands still for BLOCK seconds, much longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
import time

import pytest

from support.certificates import write_certificates
from support.http_raw_client import LONG, SHORT, raw_client, server_of, serving_http
from support.loops import passes
from support.udp import Command
from support.websockets_raw import frame, request

pytestmark = pytest.mark.slow

BLOCK = 1.2
#: After the block, within every deadline.
SOON = 0.05

#: What is called at the end of the block, for the next one alone.
MEANWHILE = []

GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"
LATE = {**LONG, "tls_handshake_timeout": 60.0, "websocket_handshake_timeout": 60.0, "write_timeout": 60.0}


def stand_still():
    time.sleep(BLOCK)
    while MEANWHILE:
        MEANWHILE.pop()()


async def application(scope, receive, send):
    """Blocks the loop (/block), takes its time (/slow), reads the body first (/read); or accepts a WebSocket."""
    path = scope["path"]
    if scope["type"] == "websocket":
        await receive()
        if path == "/slow":
            await asyncio.sleep(SOON)
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
        return
    if path == "/block":
        stand_still()
    elif path == "/slow":
        await asyncio.sleep(SHORT / 2)
    elif path == "/read":
        while (await receive()).get("more_body"):
            pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


@contextlib.asynccontextmanager
async def served(cy, tls=None, **short):
    """A server whose deadlines are long but for these, with a client that may block it."""
    server = server_of(cy, application, **{**LATE, **short})
    if tls is not None:
        [listener] = server.binds
        plain = type(listener)(("127.0.0.1", 0))
        server.binds = [type(listener)(listener.address, ssl=tls), plain]
    async with serving_http(server) as addresses, raw_client(addresses[-1]) as blocking:
        # The clock of deadlines is running, and its last tick is before the block.
        assert (await blocking.get(b"/")).status == 200

        async def block():
            assert (await blocking.get(b"/block")).status == 200

        yield addresses[0], block
        assert server.timeouts == 0


def case(run, test):
    run(test())


def test_keep_alive(cy, run):
    """The connection that has waited for its response, and one that was idle, are kept for as long as announced."""

    async def test():
        async with (
            served(cy, keep_alive_timeout=3 * SHORT) as (address, block),
            raw_client(address) as idle,
            raw_client(address) as own,
        ):
            assert (await idle.get(b"/")).status == 200
            assert (await own.get(b"/block")).status == 200
            await asyncio.sleep(SOON)
            assert (await own.get(b"/")).status == 200
            assert (await idle.get(b"/")).status == 200
            await block()
            assert (await idle.get(b"/")).status == 200

    case(run, test)


@pytest.mark.parametrize("half", [b"GET / HTTP/1.1\r\n", b""], ids=["in two segments", "first byte"])
def test_a_head(cy, run, half):
    """The rest of a head is waited for, and so is the first byte of a client that connected before the block."""

    async def test():
        async with (
            served(cy, header_timeout=SHORT, first_byte_timeout=SHORT) as (address, block),
            raw_client(address) as client,
        ):
            if half:
                await client.send(half)
            await block()
            await asyncio.sleep(SOON)
            assert (await client.ask((GET % b"/")[len(half) :])).status == 200

    case(run, test)


def test_a_head_that_came_in_the_block(cy, run):
    """What was sent while the loop stood still is read before anybody is judged."""

    async def test():
        async with served(cy, header_timeout=SHORT) as (address, block), raw_client(address) as client:
            await client.send(b"GET / HTTP/1.1\r\n")
            await passes(5)
            MEANWHILE.append(lambda: client.socket.send(b"Host: x\r\n\r\n"))
            await block()
            assert (await client.answer()).status == 200

    case(run, test)


def test_a_body(cy, run):
    """The rest of a body is waited for."""

    async def test():
        async with served(cy, body_timeout=SHORT) as (address, block), raw_client(address) as client:
            await client.send(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
            await passes(5)
            await block()
            await asyncio.sleep(SOON)
            assert (await client.ask(b"67890")).status == 200

    case(run, test)


def test_an_innocent_request(cy, run):
    """A request that needs little of its time gets its answer, whoever blocks the loop meanwhile."""

    async def test():
        async with served(cy, request_timeout=2 * SHORT) as (address, block), raw_client(address) as client:
            await client.send(GET % b"/slow")
            await passes(5)
            await block()
            assert (await client.answer()).status == 200

    case(run, test)


@pytest.mark.parametrize("kept", [False, True])
def test_a_websocket_handshake(cy, run, kept):
    """The application that was about to accept may still do so, on a kept connection too."""

    async def test():
        async with (
            served(cy, websocket_handshake_timeout=3 * SHORT) as (address, block),
            raw_client(address) as client,
        ):
            if kept:
                MEANWHILE.append(lambda: client.socket.send(request(target=b"/slow")))
                assert (await client.get(b"/block")).status == 200
            else:
                await client.send(request(target=b"/slow"))
                await passes(5)
                await block()
            while b"\r\n\r\n" not in client.data:
                assert await client.read_some()
            assert client.data.startswith(b"HTTP/1.1 101 ")
            client.data = b""

    case(run, test)


def test_a_websocket_ping(cy, run):
    """The answer to a ping that came before the block, or in it, is not too late."""

    async def test():
        short = {"websocket_ping_interval": SHORT, "websocket_ping_timeout": SHORT}
        async with served(cy, **short) as (address, block), raw_client(address) as client:
            await client.send(request())
            while not client.data.endswith(b"\x89\x00"):
                assert await client.read_some()
            client.data = b""
            await block()
            await asyncio.sleep(SOON)
            await client.send(frame(10) + frame(1, b"x"))
            while not client.data.endswith(b"\x81\x01x"):
                assert await client.read_some()
            client.data = b""

    case(run, test)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    path = tmp_path_factory.mktemp("certificates")
    write_certificates(path)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(path / "cert.pem", path / "key.pem")
    return served, ssl.create_default_context(cafile=path / "ca.pem")


@pytest.mark.parametrize("when", ["connected meanwhile", "in the handshake"])
def test_tls(cy, run, contexts, when):
    """A client that connected while the loop stood still, or was in its handshake then, is served."""

    async def test():
        short = {"first_byte_timeout": 2 * SHORT, "tls_handshake_timeout": 2 * SHORT}
        async with served(cy, contexts[0], **short) as (address, block), raw_client(address) as client:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = contexts[1].wrap_bio(incoming, outgoing, server_hostname=address[0])
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            if when == "in the handshake":
                await client.send(outgoing.read())
                assert await client.read_some()
            await block()
            await asyncio.sleep(SOON)
            await client.send(outgoing.read())
            answered = b""
            while not answered:
                if client.data:
                    incoming.write(client.data)
                    client.data = b""
                try:
                    tls.do_handshake()
                    if not outgoing.pending:
                        tls.write(GET % b"/")
                    answered = tls.read()
                except ssl.SSLWantReadError:
                    if outgoing.pending:
                        await client.send(outgoing.read())
                    assert client.data or await client.read_some()
            assert answered.startswith(b"HTTP/1.1 200 ")

    case(run, test)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no such signal there")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_stopped_process(cy, tmp_path, loop):
    """A process that stood still goes on with the clients that it had."""
    arguments = "serve", "--http", "127.0.0.1:0", "--loop", loop, "--keep-alive-timeout", "0.3", "cyasgi.examples:hello"

    async def main(address, process):
        async with raw_client(address) as client:
            assert (await client.get(b"/")).status == 200
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(BLOCK)
            process.send_signal(signal.SIGCONT)
            await asyncio.sleep(SOON)
            assert (await client.get(b"/")).status == 200

    with Command(*arguments, cwd=tmp_path, backend=cy.backend) as command:
        match = command.until(r"listening on http://(.+?):(\d+)$")
        asyncio.run(main((match[1], int(match[2])), command.process))
        assert command.stop(signal.SIGTERM) == 0

"""Streams over TLS, Unix sockets and inherited ones, and behind a proxy."""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys

import pytest

from support.certificates import write_certificates
from support.serving import in_time
from support.streams import Client, Recorder, contexts_of, echo, gateway, server_of, serving

unix = pytest.mark.skipif(sys.platform == "win32", reason="asyncio has no Unix sockets on Windows")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    directory = tmp_path_factory.mktemp("certificates")
    write_certificates(directory)
    return directory


@pytest.fixture
def contexts(certificates):
    """For the server, and for a client."""
    return contexts_of(certificates)


def test_tls(cy, run, quiet, contexts):
    """Messages both ways, the extension in the scope, and a last message when the server stops."""

    async def main():
        async def last(receive, send):
            await send({"type": "stream.send", "data": b"goodbye"})

        recorder = Recorder(last)
        server = server_of(cy, recorder, ssl=contexts[0])
        async with serving(server) as address, Client(address, contexts[1]) as client:
            client.send(b"a\n" * 1000)
            await in_time(lambda: len(recorder.data) == 1000)
            assert recorder.scopes[0]["extensions"]["tls"]["tls_version"] == 0x0304
            server.stop()
            assert await client.rest() == b"goodbye\n"

    run(main())


def test_a_client_that_ends_tls(cy, run, quiet, contexts):
    """With TLS there are no halves: what is sent after the client's end goes nowhere, as the application is told."""

    async def main():
        recorder = Recorder()
        async with serving(server_of(cy, recorder, ssl=contexts[0])) as address:
            async with Client(address, contexts[1]) as client:
                client.send(b"a\n")
                await in_time(lambda: recorder.data)
            await in_time(lambda: recorder.end)
            assert (recorder.end["reason"], recorder.end["writable"]) == ("eof", False)

    run(main())


def test_much_over_tls(cy, run, quiet, contexts):
    async def main():
        async with serving(server_of(cy, echo, ssl=contexts[0])) as address, Client(address, contexts[1]) as client:
            client.send(b"0123456789abcde\n" * 10_000)
            assert await client.exactly(160_000) == b"0123456789abcde\n" * 10_000

    run(main())


@pytest.mark.slow
def test_no_handshake(cy, run, quiet, contexts):
    """A client that does not speak TLS is closed."""

    async def main():
        server = server_of(cy, echo, ssl=contexts[0], first_byte_timeout=0.2)
        async with serving(server) as address, Client(address) as silent, Client(address) as plain:
            plain.send(b"hello\n")
            await plain.rest()
            assert await silent.rest() == b""

    run(main())


@pytest.mark.slow
def test_a_refused_client_that_does_not_end_tls(cy, run, contexts, monkeypatch):
    """It may leave the end of TLS unanswered, and send on: it is closed all the same."""
    monkeypatch.setattr(importlib.import_module(f"{cy.__name__}.gateways.stream.connection"), "LINGER", 0.1)

    async def main():
        def connect(address):
            client = socket.create_connection(address)
            client = contexts[1].wrap_socket(client, server_hostname="127.0.0.1")
            client.sendall(b"hello\n")
            return client

        server = server_of(cy, echo, ssl=contexts[0], scope_id=lambda self, connection, first_message: None)
        async with serving(server) as address:
            client = await asyncio.to_thread(connect, address)
            await in_time(lambda: server.refused == 1)
            await in_time(lambda: not server.connections)
            client.close()

    run(main())


@unix
def test_unix_sockets(cy, run, quiet, tmp_path):
    async def main():
        recorder = Recorder()
        path = str(tmp_path / "s")
        async with serving(server_of(cy, recorder, binds=f"unix:{path}")) as address:
            assert address == (path, None)
            async with Client(address) as client:
                client.send(b"a\n")
                await in_time(lambda: recorder.data)
                assert (recorder.scopes[0]["server"], recorder.scopes[0]["client"]) == ((path, None), None)

    run(main())


@unix
def test_a_socket_of_somebody_else(cy, run, quiet):
    """It goes on listening after the server's end."""

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as sock:
            for _ in range(2):
                async with serving(server_of(cy, echo, binds=sock)) as address, Client(address) as client:
                    assert await client.ask(b"a\n") == b"a\n"
            assert sock.fileno() >= 0

    run(main())


@unix
@pytest.mark.parametrize("tls", [False, True])
def test_behind_a_proxy(cy, run, quiet, contexts, tls):
    """Addresses are those of the PROXY header, which comes before TLS."""

    async def main():
        recorder = Recorder()
        listener = gateway(cy).Listener("127.0.0.1:0", contexts[0] if tls else None, proxy_protocol=True)
        async with serving(server_of(cy, recorder, binds=listener)) as address:
            _, writer = await asyncio.open_connection(*address)
            writer.write(b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n")
            if tls:
                await writer.start_tls(contexts[1], server_hostname="127.0.0.1")
            writer.write(b"a\n")
            await in_time(lambda: recorder.data)
            scope, connect = recorder.scopes[0], recorder.messages[0]
            assert scope["client"] == connect["client"] == ("192.0.2.1", 56324)
            assert scope["server"] == connect["server"] == ("198.51.100.2", 443)
            writer.close()
            await writer.wait_closed()

    run(main())


@unix
def test_no_header_of_a_proxy(cy, run):
    async def main():
        server = server_of(cy, echo, proxy_protocol=True)
        async with serving(server) as address, Client(address) as client:
            client.send(b"hello there, this is no header\n")
            assert await client.rest() == b""
            assert server.stats()["proxy_refused"] == 1

    run(main())


@unix
def test_handing_over(cy, run, quiet):
    """A server that has handed over its sockets accepts no more, and serves whom it has until it is stopped."""

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as sock:
            server = server_of(cy, echo, binds=sock)
            async with serving(server) as address, Client(address) as one:
                assert await one.ask(b"a\n") == b"a\n"
                await server.hand_over()
                async with Client(address) as two:
                    two.send(b"b\n")
                    assert await one.ask(b"c\n") == b"c\n"
                    other = server_of(cy, echo, binds=sock)
                    async with serving(other):
                        assert await two.line() == b"b\n"
                        assert (server.streams, other.streams) == (1, 1)

    run(main())

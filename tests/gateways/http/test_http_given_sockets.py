"""Sockets that somebody else has bound: the server works with duplicates, and leaves the originals as they are."""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys

import pytest

from support.http_raw_client import gateway, raw_client
from support.real_clients import serving

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="descriptors of Windows are no sockets")


async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": repr(scope["server"]).encode()})


@pytest.mark.slow
@pytest.mark.parametrize("how", ["socket", "listener", "descriptor", "listening"])
def test_tcp(cy, run, how):
    """A socket, a `Listener` of one, or its descriptor; whether or not it listens already."""

    async def main():
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            if how == "listening":
                sock.listen()
            binds = {"listener": gateway(cy).Listener(sock), "descriptor": f"fd://{sock.fileno()}"}.get(how, sock)
            async with serving(cy, application, binds=binds) as server:
                assert server.addresses == [sock.getsockname()]
                async with raw_client(sock.getsockname()) as client:
                    answer = await client.ask(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                    assert answer.body == repr(sock.getsockname()).encode()
            # It still listens, for whoever comes next.
            with socket.create_connection(sock.getsockname()):
                pass

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("abstract", [False, True])
def test_unix(cy, run, tmp_path, abstract):
    """Its path, or its abstract name, is the address, and stays when the server has ended."""
    if abstract and sys.platform != "linux":
        pytest.skip("only Linux has abstract names")
    name = f"\0{tmp_path}" if abstract else str(tmp_path / "socket")

    async def main():
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(name)
            async with serving(cy, application, binds=[sock]) as server:
                assert server.addresses == [(name, None)]
                client = socket.socket(socket.AF_UNIX)
                # uvloop knows no abstract names.
                client.connect(name)
                client.setblocking(False)
                reader, writer = await asyncio.open_unix_connection(sock=client)
                writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                assert (await reader.read()).startswith(b"HTTP/1.1 200")
                writer.close()
                await writer.wait_closed()
            assert abstract or (tmp_path / "socket").exists()

    run(main())


def test_what_is_no_listener(cy):
    """Each is refused with the reason, when the server binds."""
    module = gateway(cy)

    def error(binds):
        with pytest.raises(module.ListenError) as caught:
            module.HTTPServer(application, binds=binds).bind()
        return caught.value.args[-1].partition(": ")[2]

    one, other = socket.socketpair()
    with one, other:
        assert error(one) == "it is not bound to an address"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert error(sock) == "it is not a TCP or Unix socket"
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as sock:
        assert error(f"fd://{sock.fileno()}") == "it is a connection"
    assert error(sock) == "Bad file descriptor"
    with pytest.raises(ValueError, match="'fd://x' is not a descriptor: accepted is fd://NUMBER, as in fd://3"):
        module.HTTPServer(application, binds="fd://x")
    assert importlib.import_module(f"{cy.__name__}.gateways.net.sockets").Listener("fd://3").is_handed_in

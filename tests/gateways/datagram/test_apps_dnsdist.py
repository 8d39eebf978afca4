"""A real proxy for datagrams: dnsdist, which puts a header of the PROXY protocol at the head of each."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from support.loops import PATIENCE
from support.reverse_proxies import dnsdist
from support.udp import V4, server_of, serving_datagrams

#: Other addresses of this machine than the one that the proxy connects from.
CLIENTS = ("127.0.0.2", "127.0.0.3")
QUERY = b"\x01\0\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01"


@pytest.mark.slow
@pytest.mark.few_combinations
@pytest.mark.usefixtures("quiet")
@pytest.mark.skipif(sys.platform != "linux", reason="only there every address of 127.0.0.0/8 is the machine's")
def test_dnsdist(cy, run, tmp_path):
    """Each client has an instance of its own, and its answers come back to it."""
    scopes = []

    async def application(scope, receive, send):
        scopes.append(scope)
        while True:
            data = (await receive())["data"]
            # The question comes back as an answer without records.
            await send({"type": "datagram.send", "data": data[:2] + bytes([data[2] | 0x80]) + data[3:]})

    async def ask(front, client, number):
        loop = asyncio.get_running_loop()
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind((client, 0))
            sock.setblocking(False)
            sock.connect(front)
            sock.send(number.to_bytes(2, "big") + QUERY)
            async with asyncio.timeout(PATIENCE / 2):
                answer = await loop.sock_recv(sock, 512)
            assert answer[:2] == number.to_bytes(2, "big") and answer[2] & 0x80
            return sock.getsockname()

    async def main():
        server = server_of(cy, application, binds=V4, proxy_protocol=True)
        async with serving_datagrams(server) as (address,), dnsdist(tmp_path, address) as front:
            asked = [await ask(front, client, number) for number, client in enumerate(CLIENTS * 3)]
        # dnsdist itself looks whether somebody is there.
        assert [scope["client"] for scope in scopes if scope["client"][0] in CLIENTS] == asked
        assert server.stats()["dropped_proxy"] == 0

    run(main())

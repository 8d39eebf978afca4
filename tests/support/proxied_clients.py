"""Clients of a proxy at several addresses of this machine, each of which would like to be somebody else."""

from __future__ import annotations

import asyncio
import contextlib

import httpx

from support.loops import PATIENCE
from support.real_clients import NO_TLS

#: Other addresses of this machine than the one that proxies connect from.
CLIENTS = ("127.0.0.2", "127.0.0.3")
#: What a client would like to be.
FORGED = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9", "X-Forwarded-Host": "evil.example"}


@contextlib.asynccontextmanager
async def connected(address, client, scheme="http", verify=NO_TLS):
    """An httpx client at one of this machine's addresses, which keeps its connection."""
    transport = httpx.AsyncHTTPTransport(local_address=client, verify=verify, limits=httpx.Limits(max_connections=1))
    base = f"{scheme}://{address[0]}:{address[1]}"
    async with httpx.AsyncClient(transport=transport, base_url=base, timeout=PATIENCE / 2) as one:
        yield one


async def ask_all(address, count=3, **options):
    """What each client is answered to so many requests on one connection, forged headers included."""
    answers = []
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(address, one, **options)) for one in CLIENTS]
        for _ in range(count):
            for client in clients:
                answer = await client.get("/", headers=FORGED)
                answers.append(answer.text)
    return answers


async def talk_by_websocket(address, client, scheme="ws", **options):
    """The first message of the server, and one that it has sent back."""
    from websockets.asyncio.client import connect

    url = f"{scheme}://{address[0]}:{address[1]}/"
    options = {"proxy": None, "local_addr": (client, 0), "additional_headers": FORGED, **options}
    async with asyncio.timeout(PATIENCE / 2), connect(url, **options) as websocket:
        first = await websocket.recv()
        await websocket.send("hello")
        assert await websocket.recv() == "hello"
        return first

"""Tasks that wait in `receive` when their request or WebSocket ends are told so, and none is left waiting."""

from __future__ import annotations

import asyncio

import pytest
from websockets.asyncio.client import connect

from support.http_connection import http, serving, talk
from support.loops import passes
from support.serving import in_time
from support.websockets_serving import server_of, serving as serving_websockets

CHILDREN = 10
GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def watching(children, received, *, late):
    """Starts tasks that receive until they are told of the end; `late`: some of them only after that."""

    async def watch(receive, wait):
        await wait
        while True:
            message = await receive()
            if message["type"].endswith(".disconnect"):
                received.append(message)
                return

    def start(receive):
        gate = asyncio.get_running_loop().create_future()
        if not late:
            gate.set_result(None)
        children.extend(asyncio.create_task(watch(receive, asyncio.shield(gate))) for _ in range(CHILDREN))
        return gate

    return start


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_http(cy, run, late, fails):
    """Each is given `http.disconnect`, those that ask after the end as well, as often as they ask."""
    children, received, gates, kept = [], [], [], []
    start = watching(children, received, late=late)

    async def application(scope, receive, send):
        assert (await receive())["type"] == "http.request"
        gates.append(start(receive))
        kept.append(receive)
        await passes(2)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})
        if fails:
            raise ZeroDivisionError

    async def main():
        server = type("Server", (http(cy).HTTPServer,), {"lifespan": "off"})(application, binds="127.0.0.1:0")
        async with serving(server) as (address,):
            assert (await talk(address, GET)).endswith(b"hello")
            await in_time(lambda: not server.application_instances)
            if late:
                gates[0].set_result(None)
            await in_time(lambda: all(child.done() for child in children))
            assert received == [{"type": "http.disconnect"}] * CHILDREN
            assert [await kept[0]() for _ in range(3)] == [{"type": "http.disconnect"}] * 3

    run(main())


@pytest.mark.parametrize("late", [False, True])
def test_websocket(cy, run, late):
    """Each is given `websocket.disconnect` with the code that the connection was closed with."""
    children, received, gates = [], [], []
    start = watching(children, received, late=late)

    async def application(scope, receive, send):
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        gates.append(start(receive))
        await passes(2)
        await send({"type": "websocket.close", "code": 3001})

    async def main():
        server = server_of(cy, application)
        async with serving_websockets(server) as (host, port):
            async with connect(f"ws://{host}:{port}/", proxy=None) as client:
                await client.wait_closed()
                assert client.close_code == 3001
            await in_time(lambda: not server.application_instances)
            if late:
                gates[0].set_result(None)
            await in_time(lambda: all(child.done() for child in children))
            assert {message["type"] for message in received} == {"websocket.disconnect"}
            assert len(received) == CHILDREN

    run(main())

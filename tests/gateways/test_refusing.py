"""What clients of each gateway are told under the eviction policy "refuse" when there is no room for them."""

from __future__ import annotations

import asyncio

from support import websockets_serving
from support.real_clients import client as http_client, serving as serving_http
from support.serving import in_time
from support.udp import clients, server_of as udp_server_of, serving_datagrams
from support.websockets_raw import text


def test_requests(cy, run, quiet):
    """503 and Retry-After, also where `refuse_request` would have another request evicted."""

    async def main():
        async def application(scope, receive, send):
            await release.wait()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})

        release = asyncio.Event()
        settings = {"lifespan": "off", "eviction_policy": "refuse", "refuse_request": lambda self, scope: False}
        async with (
            serving_http(cy, application, max_applications=1, **settings) as server,
            http_client(server) as one,
            http_client(server) as two,
        ):
            first = asyncio.create_task(one.get("/"))
            await in_time(lambda: server.application_instances)
            answer = await two.get("/")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            release.set()
            assert (await first).status_code == 200
            assert server.stats()["refused"] == 1

    run(main())


def test_websockets(cy, run, quiet):
    async def main():
        settings = {"eviction_policy": "refuse", "refuse_request": lambda self, scope: False}
        server = websockets_serving.server_of(cy, websockets_serving.echo, 1, **settings)
        async with (
            websockets_serving.serving(server) as address,
            await websockets_serving.Client(address).open() as first,
        ):
            async with await websockets_serving.Client(address).connect() as second:
                assert (await second.rest()).startswith(b"HTTP/1.1 503 ")
            assert await first.ask(text("still here")) == (0x81, b"still here")
            assert server.stats()["refused"] == 1

    run(main())


def test_datagrams(cy, run, caplog):
    """Those of a new client are dropped, counted and logged."""

    async def main():
        async def application(scope, receive, send):
            while True:
                await send({"type": "datagram.send", "data": (await receive())["data"]})

        server = udp_server_of(cy, application, 1, eviction_policy="refuse")
        async with serving_datagrams(server) as [address]:
            with clients(address, address) as [one, two]:
                one.send(b"a")
                assert await one.receive() == b"a"
                two.send(b"b")
                await in_time(lambda: server.stats()["dropped_table_full"] == 1)
                one.send(b"c")
                assert await one.receive() == b"c"
                assert server.stats()["evicted"] == 0

    run(main())
    assert "1 of new clients beyond max_applications" in caplog.text

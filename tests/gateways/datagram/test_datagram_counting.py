"""What a datagram server counts for whoever watches the process."""

from __future__ import annotations

import pytest

from cyasgi._common.cells import DATAGRAMS_RECEIVED, DATAGRAMS_SENT, Page
from support.serving import eventually
from support.udp import clients, gateway, serving_datagrams


async def twice(scope, receive, send):
    """Sends each datagram back two times."""
    while True:
        data = (await receive())["data"]
        for _ in range(2):
            await send({"type": "datagram.send", "data": data})


def counted(page):
    return page.cells[DATAGRAMS_RECEIVED], page.cells[DATAGRAMS_SENT]


@pytest.mark.parametrize("batched", [True, False])
def test_datagrams(cy, run, batched):
    """In batches and one by one, over two runs; what is too long is received, too."""

    async def main():
        page = Page()
        # An override is asked for each datagram.
        more = {} if batched else {"scope_id": lambda self, data, client: client}
        cls = type("Server", (gateway(cy).DatagramServer,), {"max_datagram_size": 4, **more})
        server = cls(twice, 10, binds=[("127.0.0.1", 0)])
        server.cells = page.cells
        for runs in (1, 2):
            async with serving_datagrams(server) as [address]:
                with clients(address, address) as each:
                    for client in each:
                        client.send(b"a", b"b", b"too long")
                        assert sorted(await client.receive(4)) == [b"a", b"a", b"b", b"b"]
                await eventually(lambda: counted(page) >= (6 * runs, 8 * runs))  # noqa: B023
            assert counted(page) == (6 * runs, 8 * runs)

    run(main())


def test_counted_with_each_batch(cy, run):
    """Without anybody asking for statistics."""

    async def main():
        page = Page()
        server = gateway(cy).DatagramServer(twice, 10, binds=[("127.0.0.1", 0)])
        server.cells = page.cells
        async with serving_datagrams(server) as [address]:
            with clients(address) as [client]:
                client.send(b"a")
                assert await client.receive(2) == [b"a", b"a"]
                await eventually(lambda: counted(page) == (1, 2))

    run(main())

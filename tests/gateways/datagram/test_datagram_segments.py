"""Many datagrams for one client, which the system may split from one: all arrive, in order, as they were sent."""

from __future__ import annotations

import random
import socket
import sys

import pytest

from support.udp import V4, V6, clients, server_of, serving_datagrams

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system splits datagrams on Linux only")

#: Linux: no checksums, with which the system refuses to split.
SO_NO_CHECK = 11

SIZES = {
    "of one size": [100] * 64,
    "more than a batch": [100] * 200,
    "the last one shorter": [100] * 5 + [7],
    "shorter ones in between": [100, 100, 7, 100, 100, 7, 7, 100],
    "growing": [*range(1, 60)],
    "shrinking": [*range(60, 0, -1)],
    "empty ones": [100, 100, 0, 0, 100, 100],
    "too long for every path": [1232, 1232, 1233, 1233, 9000, 9000, 1232],
    "more than one datagram holds": [1232] * 64,
}


def payloads(sizes):
    """Datagrams of these sizes, each of which can be told from the others."""
    return [(b"%03d" % number * size)[:size] for number, size in enumerate(sizes)]


def answering(sizes):
    """An application that answers each datagram with datagrams of these sizes."""

    async def application(scope, receive, send):
        while True:
            await receive()
            for data in payloads(sizes):
                await send({"type": "datagram.send", "data": data})

    return application


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("bind", [V4, V6])
def test_many_for_one_client(cy, run, bind, sizes):
    """Whatever their sizes."""

    async def main():
        async with serving_datagrams(server_of(cy, answering(SIZES[sizes]), binds=bind)) as (address,):
            with clients(address, address) as two:
                for client in two:
                    client.send(b"go")
                for client in two:
                    assert await client.receive(len(SIZES[sizes])) == payloads(SIZES[sizes])

    run(main())


def test_from_the_address_that_was_asked(cy, run):
    """Also where each datagram says where it leaves from, and clients have asked several addresses."""

    async def main():
        async with serving_datagrams(server_of(cy, answering([50] * 20), binds=("0.0.0.0", 0))) as ((_, port),):
            with clients(("127.0.0.1", port), ("127.0.0.2", port)) as two:
                # They are connected: what comes from elsewhere would not arrive.
                for client in two:
                    client.send(b"go")
                for client in two:
                    assert await client.receive(20) == payloads([50] * 20)

    run(main())


def test_where_the_system_refuses(cy, run):
    """Then they leave one by one, now and later."""

    async def main():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
            sock.bind(V4)
            async with serving_datagrams(server_of(cy, answering([100] * 70), binds=sock)) as (address,):
                with clients(address) as (client,):
                    for _ in range(2):
                        client.send(b"go")
                        assert await client.receive(70) == payloads([100] * 70)

    run(main())


def test_any_sizes(cy, run):
    """Sizes at random, for several clients at a time."""

    async def main():
        chance = random.Random(77)
        for _ in range(10):
            sizes = [chance.choice((1, 1, 40, 40, 40, 1200, 1232, 1300)) for _ in range(chance.randrange(2, 120))]
            async with serving_datagrams(server_of(cy, answering(sizes))) as (address,):
                with clients(address, address, address) as three:
                    for client in three:
                        client.send(b"go")
                    for client in three:
                        assert await client.receive(len(sizes)) == payloads(sizes)

    run(main())

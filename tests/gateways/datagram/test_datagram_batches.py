"""Sockets that are read and written many datagrams at a time: order, bounds, ends in between."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import sys
import threading

import pytest

from support.loops import passes
from support.serving import eventually, reader
from support.udp import V4, V6, Client, batches, clients, echo, server_of, serving_datagrams, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sockets are read in batches on Linux only")


@pytest.mark.parametrize("bind", [V4, V6])
def test_more_than_one_batch_keeps_the_order(cy, run, bind):
    """Hundreds of datagrams that wait in the socket come to each client's instance in order, and so do answers."""

    async def main():
        received = {}

        async def application(scope, receive, send):
            while True:
                data = (await receive())["data"]
                received.setdefault(scope["client"], []).append(data)
                await send({"type": "datagram.send", "data": data})

        async with serving_datagrams(server_of(cy, application, binds=bind)) as (address,):
            with clients(address, address, address) as three:
                wanted = [b"%d" % number for number in range(70)]
                for data in wanted:
                    for client in three:
                        client.send(data)
                for client in three:
                    assert await client.receive(70) == wanted
                    assert received[client.address] == wanted

    run(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.10.99", "127.100.109.199", "127.200.255.254"])
def test_addresses_of_clients_are_written_as_usual(cy, run, host):
    """Numbers of one, two and three digits, in scopes and messages alike; no two scopes share what they hold."""

    async def main():
        seen = []

        async def application(scope, receive, send):
            seen.append((scope, (await receive())["client"]))
            await send({"type": "datagram.send", "data": b"x"})

        async with serving_datagrams(server_of(cy, application)) as (address,):
            for _ in range(2):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.bind((host, 0))
                    sock.setblocking(False)
                    sock.sendto(b"x", address)
                    assert await asyncio.get_running_loop().sock_recv(sock, 10) == b"x"
                    scope, client = seen[-1]
                    assert scope["client"] == client == sock.getsockname()
                    assert list(scope) == ["type", "asgi", "server", "client"]
                    assert scope["server"] == address
        assert seen[0][0]["asgi"] is not seen[1][0]["asgi"]

    run(main())


def test_a_flood_leaves_the_loop_to_others(cy, run):
    """Each time that the socket is readable at most a batch is read, however much there is."""

    async def main():
        counts = []
        server = server_of(cy, reader)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                client.send(*(b"x" for _ in range(200)))
                while not counts or counts[-1] < 200:
                    counts.append(server.stats()["datagrams_received"])
                    await asyncio.sleep(0)
        steps = [after - before for before, after in itertools.pairwise(counts)]
        assert max(steps) <= batches(cy).BATCH
        assert sum(step > 0 for step in steps) >= 200 // batches(cy).BATCH

    run(main())


def test_a_flood_leaves_timers_their_turns(cy, run):
    """Timers run on while the socket is never empty, each after a bounded number of batches."""

    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        server = server_of(cy, reader)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):

                def fire():
                    seen.append(server.endpoints[0].received)
                    if len(seen) < 10:
                        loop.call_later(0, fire)

                client.send(*(b"x" for _ in range(100)))
                fire()
                while len(seen) < 10:
                    # As many as a batch takes, so that there is always more.
                    client.send(*(b"x" for _ in range(batches(cy).BATCH)))
                    await asyncio.sleep(0)
        steps = [after - before for before, after in itertools.pairwise(seen)]
        assert max(steps) <= 3 * batches(cy).BATCH

    run(main())


def test_many_sockets(cy, run):
    """Those of one server read into the same buffers, in turn; none gets what was another's."""

    async def main():
        sizes = {}

        async def application(scope, receive, send):
            sizes.setdefault(scope["server"], []).append(len((await receive())["data"]))
            await send({"type": "datagram.send", "data": b"%d" % scope["server"][1]})
            await reader(scope, receive, send)

        server = server_of(cy, application, binds=[("127.0.0.1", 0), ("::1", 0)] * 20)
        async with serving_datagrams(server) as addresses:
            with clients(*addresses) as some:
                for number, client in enumerate(some):
                    client.send(bytes(number), bytes(60_000))
                for client, (_, port) in zip(some, addresses, strict=True):
                    assert await client.receive() == b"%d" % port
        assert [sizes[address] for address in addresses] == [[number] for number in range(40)]

    run(main())


def test_several_sockets_have_their_turns(cy, run):
    """A flood at one socket keeps no other one waiting: both have been read after a pass or two."""

    async def main():
        server = server_of(cy, reader, binds=[("127.0.0.1", 0), ("127.0.0.1", 0)])
        async with serving_datagrams(server) as addresses:
            with clients(*addresses) as (first, second):
                first.send(*(b"x" for _ in range(250)))
                second.send(b"y")
                await eventually(lambda: server.endpoints[1].received == 1)
                assert server.endpoints[0].received <= 4 * batches(cy).BATCH

    run(main())


def test_empty_datagrams_keep_their_place(cy, run):
    """An empty datagram is one like others, coming and going, and overtakes none."""

    async def main():
        async def application(scope, receive, send):
            while True:
                data = (await receive())["data"]
                for one in (data, b"", b"2", b""):
                    await send({"type": "datagram.send", "data": one})

        async with serving_datagrams(server_of(cy, application)) as (address,):
            with clients(address) as (client,):
                client.send(b"", b"1")
                assert await client.receive(8) == [b"", b"", b"2", b"", b"1", b"", b"2", b""]

    run(main())


def test_what_is_sent_outside_of_a_batch(cy, run):
    """Whoever sends in a pass of its own, any number of datagrams, needs no datagram from outside for them to leave."""

    async def main():
        sends = []

        async def application(scope, receive, send):
            sends.append(send)
            await reader(scope, receive, send)

        server = server_of(cy, application)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                client.send(b"x")
                await eventually(lambda: sends)
                await sends[0]({"type": "datagram.send", "data": b"alone"})
                assert await client.receive() == b"alone"
                wanted = [b"%d" % number for number in range(100)]
                for data in wanted:
                    await sends[0]({"type": "datagram.send", "data": data})
                assert await client.receive(100) == wanted
        assert server.stats()["datagrams_sent"] == 101

    run(main())


def test_sizes_up_to_the_limit_within_a_batch(cy, run):
    """Longer ones among others are dropped, whole, and those beside them are not; a limit that is raised by one of them
    lets none through that was cut off."""

    async def main():
        received = []

        async def application(scope, receive, send):
            while True:
                received.append((await receive())["data"])

        server = server_of(cy, application, max_datagram_size=100)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                sizes = [0, 100, 101, 65_507, 99, 5000, 100]
                client.send(*(bytes(size) for size in sizes))
                await eventually(lambda: server.stats()["datagrams_received"] == len(sizes))
                await passes(3)
                assert [len(data) for data in received] == [0, 100, 99, 100]
                assert server.stats()["dropped_oversized"] == 3
                server.max_datagram_size = 65_535
                client.send(bytes(65_507))
                await eventually(lambda: len(received) == 5)
                assert len(received[4]) == 65_507

    run(main())


def test_a_limit_that_is_raised_within_a_batch(cy, run):
    """A datagram that was read under the old limit, and cut off, is never passed on."""

    async def main():
        sizes = []

        def scope_id(self, data, client):
            sizes.append(len(data))
            self.max_datagram_size = 1000
            return client

        server = server_of(cy, reader, scope_id=scope_id, max_datagram_size=10)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                client.send(b"x", bytes(500))
                await eventually(lambda: server.stats()["datagrams_received"] == 2)
                assert sizes in ([1], [1, 500])
                assert len(sizes) + server.stats()["dropped_oversized"] == 2

    run(main())


def test_many_clients_are_told_apart(cy, run):
    """More clients than any cache of addresses holds: each has its own instance, and the answers are its own."""

    async def main():
        server = server_of(cy, echo, max_applications=None)
        async with serving_datagrams(server) as (address,):
            loop = asyncio.get_running_loop()
            with contextlib.ExitStack() as stack:
                some = []
                for number in range(300):
                    client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    client.setblocking(False)
                    client.bind((f"127.0.{number % 250}.{number // 250 + 1}", 0))
                    some.append(client)
                for turn in (b"first", b"second"):
                    for number, client in enumerate(some):
                        client.sendto(b"%d %s" % (number, turn), address)
                        if number % 50 == 49:
                            await passes(5)
                    for number, client in enumerate(some):
                        answer = await asyncio.wait_for(loop.sock_recv(client, 100), 10)
                        assert answer == b"%d %s" % (number, turn)
                names = [client.getsockname() for client in some]
            assert sorted(server.application_instances) == sorted(names)

    run(main())


def test_closed_by_one_of_a_batch(cy, run):
    """A server that an override closes, while a batch is handed over, hands over no more of it."""

    async def main():
        seen = []

        def scope_id(self, data, client):
            seen.append(data)
            if data == b"close":
                self.close()
            return client

        server = server_of(cy, reader, scope_id=scope_id)
        running = await start(server)
        with clients(*server.addresses) as (client,):
            client.send(b"1", b"close", b"2", b"3")
            await eventually(lambda: b"close" in seen)
            await passes(3)
        running.cancel()
        await asyncio.wait([running])
        assert seen == [b"1", b"close"]
        assert server.addresses == [] and server.endpoints == []

    run(main())


def test_stopped_by_one_of_a_batch(cy, run):
    """An application that stops the server in the middle of a batch: the rest of it, which had arrived, is answered."""

    async def main():
        server = None

        async def application(scope, receive, send):
            while True:
                data = (await receive())["data"]
                if data == b"stop":
                    server.stop()
                await send({"type": "datagram.send", "data": data})

        server = server_of(cy, application)
        running = await start(server)
        with clients(*server.addresses * 2) as (first, second):
            assert await first.ask(b"x") == b"x"
            first.send(b"1", b"stop", b"2")
            second.send(b"3", b"4")
            await running
            assert await first.receive(3) == [b"1", b"stop", b"2"]
            assert await second.receive(2) == [b"3", b"4"]
        assert server.stats()["undelivered"] == 0

    run(main())


def test_an_override_that_interrupts(cy, run):
    """KeyboardInterrupt comes out of the loop, and not before the rest of the batch was handed over."""

    async def main():
        seen = []

        def scope_id(self, data, client):
            seen.append(data)
            if data == b"interrupt":
                raise KeyboardInterrupt
            return client

        server = server_of(cy, reader, scope_id=scope_id)
        async with serving_datagrams(server) as (address,):
            transport = server.endpoints[0].transport
            with clients(address) as (client,):
                client.send(b"1", b"interrupt", b"2")
                with pytest.raises(KeyboardInterrupt):
                    # Not by the loop, which would end.
                    transport.read()
        assert seen == [b"1", b"interrupt", b"2"]

    run(main())


def test_a_loop_that_is_closed(cy, run):
    """A server whose loop was closed while it served can be closed afterwards, and run again."""
    server = server_of(cy, echo)
    loop = run.loop_factory()

    async def begin():
        server.bind()
        running = asyncio.ensure_future(server.handle())
        await eventually(lambda: server.endpoints and server.endpoints[0].open)
        with clients(*server.addresses) as (client,):
            client.send(b"x")
            await passes(2)
        return running

    running = loop.run_until_complete(begin())
    running._log_destroy_pending = False
    for instance in list(server.application_instances.values()):
        instance["future"]._log_destroy_pending = False
    loop.close()
    server.close()
    assert server.addresses == [] and server.endpoints == []
    del running

    async def main():
        again = server_of(cy, echo)
        async with serving_datagrams(again) as (address,):
            with clients(address) as (client,):
                assert await client.ask(b"x") == b"x"

    run(main())


@pytest.mark.parametrize("bind", [("127.0.0.1", 0), ("::1", 0), ("0.0.0.0", 0)])
def test_by_a_transport_of_the_loop(cy, run, monkeypatch, bind):
    """Where sockets are not read in batches, as on macOS and Windows, the loop's transports serve."""
    monkeypatch.setattr(batches(cy), "IN_BATCHES", False)

    async def main():
        server = server_of(cy, echo, binds=bind)
        running = await start(server)
        assert not isinstance(server.endpoints[0].transport, batches(cy).BatchTransport)
        host, port = server.addresses[0]
        with clients(("127.0.0.1" if host == "0.0.0.0" else host, port)) as (client,):
            for data in (b"1", b"", bytes(60_000)):
                assert await client.ask(data) == data
            client.send(b"last")
            server.stop()
            await running
            assert await client.receive() == b"last"
        assert server.stats()["datagrams_sent"] == 4

    run(main())


def test_many_senders_in_threads(cy, run):
    """Datagrams that come in from other threads while the loop is at work are all counted and answered."""

    async def main():
        server = server_of(cy, echo)
        async with serving_datagrams(server) as (address,):
            some = [Client(address) for _ in range(4)]

            def send(client):
                for number in range(50):
                    client.socket.send(b"%d" % number)

            threads = [threading.Thread(target=send, args=(client,)) for client in some]
            for thread in threads:
                thread.start()
            for client in some:
                assert await client.receive(50) == [b"%d" % number for number in range(50)]
                client.close()
            for thread in threads:
                thread.join()

    run(main())

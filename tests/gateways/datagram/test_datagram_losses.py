"""Datagrams that go nowhere, from our own sockets, over a limit, refused by the system: counted, and logged."""

from __future__ import annotations

import asyncio
import importlib
import socket

import pytest

from support.loops import passes
from support.managed_servers import lifecycle
from support.serving import in_time
from support.udp import clients, gateway, serving_datagrams, start

MODULE = "cyasgi.gateways.datagram"


def server_of(cy, application, max_applications=1000, binds=("127.0.0.1", 0), **overrides):
    base = gateway(cy).DatagramServer
    return type("Server", (base,), overrides)(application, max_applications, binds=binds)


def example(cy, name):
    return getattr(importlib.import_module(f"{cy.__name__}.examples"), name)


def losses(caplog):
    return [record.getMessage() for record in caplog.records if record.name == MODULE and record.levelname == "WARNING"]


def forge(server, source, *data):
    """Has the server receive datagrams that seem to come from this address, at its first socket."""
    endpoint = server.endpoints[0]
    for one in data:
        endpoint.datagram_received(one, source)


OWN = "datagrams were lost: 1 with the address of one of our own sockets as the sender's"


# ---- our own sockets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("by_id", [False, True])
def test_its_own_address(cy, run, caplog, host, by_id):
    """A datagram with the server's own address as the sender's is dropped: the echo does not talk to itself."""

    async def main():
        overrides = {"scope_id": lambda self, data, client: "all"} if by_id else {}
        server = server_of(cy, example(cy, "echo"), binds=(host, 0), **overrides)
        async with serving_datagrams(server) as (address,):
            # Really sent: the socket sends to itself.
            server.endpoints[0].sock.sendto(b"round and round", address)
            await in_time(lambda: server.stats()["dropped_own"] == 1)
            with clients(address) as (client,):
                assert await client.ask(b"x") == b"x"
            stats = server.stats()
            assert (stats["datagrams_received"], stats["datagrams_sent"], stats["dropped_own"]) == (2, 1, 1)
            assert len(server.application_instances) == 1
        # Its address is nobody's now.
        assert address[1] not in importlib.import_module(f"{cy.__name__}.gateways.net.own_addresses").OWN_PORTS

    run(main())
    assert losses(caplog) == [OWN]


def test_another_server_of_this_process(cy, run):
    """Two servers do not send each other's datagrams to and fro for ever."""

    async def main():
        first, second = (server_of(cy, example(cy, "echo")) for _ in range(2))
        async with serving_datagrams(first) as (_,), serving_datagrams(second) as (address,):
            forge(first, address, b"to and fro")
            second.endpoints[0].sock.sendto(b"to and fro", first.addresses[0])
            await in_time(lambda: first.stats()["dropped_own"] == 2)
            assert (first.stats()["datagrams_sent"], second.stats()["datagrams_received"]) == (0, 0)

    run(main())


def test_every_interface(cy, run, caplog):
    """Bound to every interface it knows each of the machine's addresses as its own, and the others not."""

    async def main():
        server = server_of(cy, example(cy, "echo"), binds=("0.0.0.0", 0))
        async with serving_datagrams(server) as ((_, port),):
            forge(server, ("127.0.0.1", port), b"x")
            forge(server, ("127.0.0.2", port), b"x")
            assert server.stats()["dropped_own"] == 2
            assert not server.application_instances
            # Another machine may well use the same port as we do.
            forge(server, ("192.0.2.7", port), b"x")
            assert server.stats()["dropped_own"] == 2
            assert list(server.application_instances) == [("192.0.2.7", port)]
            server.delete_application_instance(("192.0.2.7", port))

    run(main())


def test_the_same_port_elsewhere(cy, run):
    """Bound to one address, it takes what comes from the same port of another address of this machine."""

    async def main():
        server = server_of(cy, example(cy, "echo"))
        async with serving_datagrams(server) as ((host, port),):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.setblocking(False)
                other.bind(("127.0.0.2", port))
                other.sendto(b"x", (host, port))
                loop = asyncio.get_running_loop()
                assert await asyncio.wait_for(loop.sock_recv(other, 10), 5) == b"x"
            assert server.stats()["dropped_own"] == 0

    run(main())


# ---- one line a second ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_the_system_refuses(cy, run, caplog):
    """Sends that the system refuses are counted, and told at once, and then a second later all together."""

    async def main():
        async def application(scope, receive, send):
            while True:
                count = int((await receive())["data"])
                for _ in range(count):
                    # There is no port 0; and below, nobody may send to everybody without leave.
                    await send({"type": "datagram.send", "data": b"x", "client": ("127.0.0.1", 0)})
                await send({"type": "datagram.send", "data": b"x", "client": ("255.255.255.255", 9)})
                await send({"type": "datagram.send", "data": b"done"})

        server = server_of(cy, application)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                assert await client.ask(b"0") == b"done"
                assert losses(caplog) == [
                    "datagrams were lost: 1 failed at the socket (the last one: [Errno 13] Permission denied)"
                ]
                assert await client.ask(b"500") == b"done"
                assert server.stats()["socket_errors"] == 502
                assert len(losses(caplog)) == 1
                await in_time(lambda: len(losses(caplog)) == 2)

    run(main())
    assert losses(caplog)[1:] == [
        "datagrams were lost: 501 failed at the socket (the last one: [Errno 13] Permission denied)"
    ]


@pytest.mark.slow
def test_what_comes_over_a_limit(cy, run, caplog):
    """Too long, to a full queue, after the stop: two lines, and all of them are in their numbers."""

    async def main():
        async def deaf(scope, receive, send):
            await asyncio.get_running_loop().create_future()

        server = server_of(cy, deaf, max_queue_size=2, max_datagram_size=10, shutdown_timeout=0.1)
        running = await start(server)
        with clients(*server.addresses) as (client,):
            client.send(b"x" * 11, b"x" * 11, b"1", b"2", b"3", b"4", b"5")
            await in_time(lambda: server.stats()["datagrams_received"] == 7)
            server.stop()
            await in_time(lambda: server.endpoints[0].stopping)
            client.send(b"late")
            await in_time(lambda: server.stats()["dropped_stopping"] == 1)
            await running

    run(main())
    first, second = losses(caplog)
    assert first == "datagrams were lost: 1 longer than max_datagram_size"
    assert second == "datagrams were lost: 3 found a full queue, 1 longer than max_datagram_size, 1 after the stop"


def test_what_a_client_may_not(cy, run, caplog):
    """What a limit of ManagedServer drops is told too."""

    async def main():
        bases = lifecycle(cy).ManagedServer, gateway(cy).DatagramServer
        server = type("Server", bases, {"max_messages_per_second": 0.001})(
            example(cy, "discard"), binds=("127.0.0.1", 0)
        )
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                client.send(b"1", b"2", b"3")
                await in_time(lambda: server.stats()["dropped_limited"] == 2)

    run(main())
    assert losses(caplog) == [
        "datagrams were lost: 1 beyond a client's limit",
        "datagrams were lost: 1 beyond a client's limit",
    ]


def test_what_scope_id_drops_is_no_loss(cy, run, caplog):
    """An override that gives None means it: counted, and no line."""

    async def main():
        server = server_of(cy, example(cy, "echo"), scope_id=lambda self, data, client: None)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                client.send(b"1")
                await in_time(lambda: server.stats()["dropped_refused"] == 1)

    run(main())
    assert losses(caplog) == []


def test_sending_while_the_socket_closes(cy, run, caplog):
    """What is sent between the closing of the socket and its end is counted as lost, and not as sent."""

    async def main():
        sends = []

        async def application(scope, receive, send):
            sends.append(send)
            await receive()
            await receive()

        server = server_of(cy, application)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                client.send(b"")
                await in_time(lambda: sends)
                endpoint = server.endpoints[0]
                endpoint.close()
                await sends[0]({"type": "datagram.send", "data": b"x"})
                await passes(2)
                assert (server.stats()["datagrams_sent"], server.stats()["socket_errors"]) == (0, 1)

    run(main())
    assert losses(caplog) == ["datagrams were lost: 1 failed at the socket (the last one: the socket is closed)"]

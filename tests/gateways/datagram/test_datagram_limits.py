"""The datagram gateway: limits, errors, waiting senders, lifetime."""

from __future__ import annotations

import asyncio
import errno
import gc
import weakref

import pytest

from support.loops import passes
from support.serving import deaf, in_time
from support.udp import Numbering, clients, echo, gateway, server_of, serving_datagrams, start

# ---- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_full_queue_drops_the_newest(cy, run):
    """At most max_queue_size datagrams wait for an instance; the newest beyond are dropped, and counted."""

    async def main():
        opened = asyncio.Event()

        async def slow(scope, receive, send):
            await opened.wait()
            await echo(scope, receive, send)

        server = server_of(cy, slow, max_queue_size=3)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                client.send(*(b"%d" % number for number in range(5)))
                await in_time(lambda: server.stats()["datagrams_received"] == 5)
                assert server.stats()["dropped_queue_full"] == 2
                opened.set()
                assert await client.receive(3) == [b"0", b"1", b"2"]
                assert await client.ask(b"5") == b"5"
        assert server.stats()["dropped_queue_full"] == 2

    run(main())


def test_queues_are_bounded_by_default(cy):
    """A class default bounds the queue of each instance."""
    assert gateway(cy).DatagramServer.max_queue_size == 1024


def test_oversized_datagrams_are_dropped(cy, run):
    """Datagrams longer than max_datagram_size are dropped and counted; the limit may be changed at any time."""

    async def main():
        server = server_of(cy, echo, max_datagram_size=4)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                client.send(b"12345", b"1234")
                assert await client.receive() == b"1234"
                server.max_datagram_size = 5
                assert await client.ask(b"12345") == b"12345"
                client.send(b"123456")
                assert await client.ask(b"") == b""
        assert server.stats()["dropped_oversized"] == 2

    run(main())


@pytest.mark.parametrize("value", [None, "1", 1.0, True, 0, -1, 65_536])
def test_max_datagram_size_is_checked(cy, value):
    """max_datagram_size is an int from 1 to 65,535, on servers and in the bodies of subclasses."""
    base = gateway(cy).DatagramServer
    server = base(echo)
    error = ValueError if type(value) is int else TypeError
    with pytest.raises(error, match="from 1 to 65535") as caught:
        server.max_datagram_size = value
    assert repr(value) in str(caught.value)
    assert server.max_datagram_size == 65_535
    with pytest.raises(error, match="from 1 to 65535"):
        type("Server", (base,), {"max_datagram_size": value})


def test_the_limit_of_instances(cy, run):
    """A new client beyond max_applications makes room for itself by the table's rule: an idle instance goes."""

    async def main():
        server = server_of(cy, Numbering(), max_applications=2)
        async with serving_datagrams(server) as (address,):
            with clients(address, address, address) as (first, second, third):
                assert [await first.ask(b""), await second.ask(b"")] == [b"0.1", b"1.1"]
                assert await first.ask(b"") == b"0.2"
                assert await third.ask(b"") == b"2.1"
                assert list(server.application_instances) == [first.address, third.address]
                assert await second.ask(b"") == b"3.1"
        assert (server.stats()["evicted"], server.stats()["undelivered"]) == (2, 0)

    run(main())


@pytest.mark.slow
def test_a_flood_of_clients(cy, run):
    """A thousand ids that come once each leave the server at work, and its table no larger than its limit."""

    async def main():
        numbers = iter(range(10_000))
        server = server_of(
            cy, echo, max_applications=40, scope_id=lambda self, data, client: next(numbers) if data else client
        )
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                for _ in range(50):
                    client.send(*(b"x" for _ in range(20)))
                    await client.receive(20)
                assert len(server.application_instances) == 40
                assert await client.ask(b"") == b""
        assert server.stats()["created"] == 1001

    run(main())


# ---- what goes wrong -----------------------------------------------------------------------------------------------


def test_a_failing_application_harms_nobody_else(cy, run, caplog):
    """An application that raises is reported; other clients are served, and its own begins anew."""
    failed = []

    async def failing(scope, receive, send):
        while True:
            data = (await receive())["data"]
            if data == b"fail":
                raise RuntimeError("on purpose")
            await send({"type": "datagram.send", "data": data})

    async def main():
        async with serving_datagrams(server_of(cy, failing)) as (address,):
            with clients(address, address) as (first, second):
                failed.append(first.address)
                assert await second.ask(b"1") == b"1"
                first.send(b"fail")
                assert await second.ask(b"2") == b"2"
                assert await first.ask(b"3") == b"3"

    run(main())
    (client,) = failed
    assert [record.getMessage() for record in caplog.records] == [
        f"Exception inside application (scope_id {client!r}, type 'datagram'): on purpose"
    ]


def test_errors_of_the_socket_are_counted(cy, run):
    """What the socket reports, sending or receiving, is counted and ends nothing."""

    async def main():
        async def application(scope, receive, send):
            while True:
                data = (await receive())["data"]
                if data == b"astray":
                    # Nobody can be sent anything at port 0, nor everybody without leave.
                    await send({"type": "datagram.send", "data": b"x", "client": ("127.0.0.1", 0)})
                    await send({"type": "datagram.send", "data": b"", "client": ("127.0.0.1", 0)})
                    await send({"type": "datagram.send", "data": b"x", "client": ("255.255.255.255", 9)})
                await send({"type": "datagram.send", "data": data})

        server = server_of(cy, application)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                assert await client.ask(b"astray") == b"astray"
                assert server.stats()["socket_errors"] == 3
                server.endpoints[0].error_received(ConnectionRefusedError(errno.ECONNREFUSED, "port unreachable"))
                assert server.stats()["socket_errors"] == 4
                assert await client.ask(b"x") == b"x"

    run(main())


def test_a_client_that_has_gone(cy, run):
    """Answers to a port that nobody has any more disturb nobody."""

    async def main():
        server = server_of(cy, echo)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (gone,):
                gone.send(b"1", b"2", b"3")
            with clients(address) as (client,):
                for data in (b"1", b"2", b"3"):
                    assert await client.ask(data) == data
        assert server.stats()["datagrams_received"] == 6

    run(main())


def test_an_application_that_cannot_be_called(cy, run, caplog):
    """With an application that is none, each datagram is dropped and counted; put right, the server serves."""

    async def main():
        server = server_of(cy, None)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                client.send(b"1", b"2")
                await in_time(lambda: server.stats()["dropped_refused"] == 2)
                server.application = echo
                assert await client.ask(b"3") == b"3"

    run(main())
    assert len(caplog.records) == 1


# ---- sending waits -------------------------------------------------------------------------------------------------


def test_send_waits_while_the_transport_takes_no_more(cy, run):
    """While writing is paused an application waits in send, and goes on when it is resumed; one cancelled meanwhile
    takes nobody else with it."""

    async def main():
        server = server_of(cy, echo)
        async with serving_datagrams(server) as (address,):
            with clients(address, address, address) as (first, second, third):
                for client in (first, second, third):
                    await client.ask(b"")
                (endpoint,) = server.endpoints
                endpoint.pause_writing()
                for client in (first, second, third):
                    client.send(b"x")
                await in_time(lambda: server.stats()["datagrams_received"] == 6)
                await passes(5)
                assert server.stats()["datagrams_sent"] == 3
                await server.delete_application_instance(second.address)
                endpoint.resume_writing()
                assert await first.receive() == b"x"
                assert await third.receive() == b"x"
                assert await second.ask(b"y") == b"y"
        assert server.stats()["datagrams_sent"] == 6

    run(main())


def test_whoever_was_resumed_looks_again(cy, run):
    """Of those who waited, the next goes on only if the transport still takes more after the one before."""

    async def main():
        server = server_of(cy, echo)
        async with serving_datagrams(server) as (address,):
            with clients(address, address) as both:
                for client in both:
                    await client.ask(b"")
                (endpoint,) = server.endpoints
                endpoint.pause_writing()
                for client in both:
                    client.send(b"x")
                await in_time(lambda: len(endpoint.waiters) == 2)
                real, sent = endpoint.transport, []

                class Full:
                    """A transport that is full after each datagram."""

                    def __getattr__(self, name):
                        return getattr(real, name)

                    def sendto(self, data, to):
                        sent.append(to)
                        endpoint.pause_writing()

                endpoint.transport = Full()
                for count in (1, 2):
                    endpoint.resume_writing()
                    await passes(5)
                    assert len(sent) == count
                endpoint.transport = real
                endpoint.resume_writing()
                assert set(sent) == {client.address for client in both}

    run(main())


def test_a_lost_socket_ends_the_server(cy, run):
    """A socket that is lost ends the server with an error, for a supervisor to see; senders that waited are let go."""

    async def main():
        server = server_of(cy, echo)
        running = await start(server)
        with clients(*server.addresses) as (client,):
            (endpoint,) = server.endpoints
            endpoint.pause_writing()
            client.send(b"x")
            await in_time(lambda: endpoint.waiters)
            endpoint.transport.abort()
            with pytest.raises(ConnectionError, match=r"the socket on udp 127.0.0.1:\d+ was closed"):
                await running
        assert server.addresses == []
        assert not server.application_instances

    run(main())


# ---- lifetime ------------------------------------------------------------------------------------------------------


def test_nothing_is_left(cy, run):
    """A server that has ended is freed at once, by reference counts alone."""

    async def main():
        server = server_of(cy, echo)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                await client.ask(b"x")
        await passes(3)
        return weakref.ref(server)

    gc.collect()
    gc.disable()
    try:
        reference = run(main())
        assert reference() is None
    finally:
        gc.enable()


def test_deaf_applications_keep_their_bound(cy, run):
    """An application that never receives costs no more than its queue, however much it is sent."""

    async def main():
        server = server_of(cy, deaf, max_queue_size=2, shutdown_timeout=0, application_undelivered=lambda *_: None)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                for _ in range(10):
                    client.send(*(b"x" for _ in range(10)))
                    await passes(20)
                await in_time(lambda: server.stats()["datagrams_received"] == 100)
                assert server.stats()["dropped_queue_full"] == 98
        assert server.stats()["undelivered"] == 2

    run(main())

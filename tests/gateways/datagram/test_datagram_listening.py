"""The datagram gateway: binding, running, stopping."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest

from support.loops import passes
from support.serving import in_time, reader
from support.udp import batches, clients, gateway, serving_datagrams, start

V4, V6 = ("127.0.0.1", 0), ("::1", 0)


async def echo(scope, receive, send):
    """Sends back what it receives."""
    while True:
        await send({"type": "datagram.send", "data": (await receive())["data"]})


def server_of(cy, application, binds=V4, **overrides):
    return type("Server", (gateway(cy).DatagramServer,), overrides)(application, binds=binds)


# ---- binding -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bind_tells_the_addresses(cy):
    """bind() opens the sockets once and tells their addresses; close() closes them."""
    server = server_of(cy, echo, binds=["127.0.0.1:0", V6])
    addresses = server.bind()
    assert [host for host, _ in addresses] == ["127.0.0.1", "::1"]
    assert all(port for _, port in addresses)
    assert server.bind() == server.addresses == addresses
    server.close()
    assert server.addresses == []


def test_bind_to_every_interface(cy, run):
    """An empty host stands for every interface, IPv4 and IPv6; a client of either is answered."""

    async def main():
        async with serving_datagrams(server_of(cy, echo, binds=":0")) as addresses:
            assert {host for host, _ in addresses} == {"0.0.0.0", "::"}
            for host, port in addresses:
                with clients(("::1" if ":" in host else "127.0.0.1", port)) as (client,):
                    assert await client.ask(b"x") == b"x"

    run(main())


def test_bind_to_a_name(cy, run):
    """A name stands for every address that it has."""

    async def main():
        async with serving_datagrams(server_of(cy, echo, binds="localhost:0")) as addresses:
            assert {host for host, _ in addresses} <= {"127.0.0.1", "::1"}
            with clients(addresses[0]) as (client,):
                assert await client.ask(b"x") == b"x"

    run(main())


def test_the_default_address(cy):
    """Where no address is given it is that of the class."""
    assert gateway(cy).DatagramServer(echo).binds == [("127.0.0.1", 9999)]


@pytest.mark.parametrize(
    ("binds", "error", "says"),
    [
        ([], ValueError, "at least one address"),
        (9999, TypeError, "got 9999"),
        (b"127.0.0.1:9999", TypeError, "got b'127.0.0.1:9999'"),
        ({"127.0.0.1": 9999}, TypeError, "got {'127.0.0.1': 9999}"),
        ("9999", ValueError, "'9999' is not an address"),
        (["127.0.0.1:9999", "::1:9999"], ValueError, "'::1:9999' is not an address"),
        ([("127.0.0.1", "9999")], TypeError, "got .'127.0.0.1', '9999'."),
        (("127.0.0.1", 65_536), ValueError, "a port from 0 to 65535"),
        ([None], TypeError, "got None"),
    ],
)
def test_binds_are_checked(cy, binds, error, says):
    """Addresses to bind are checked when the server is made."""
    with pytest.raises(error, match=says):
        gateway(cy).DatagramServer(echo, binds=binds)


def test_max_applications_is_checked(cy):
    """The limit of instances is checked as on any server."""
    with pytest.raises(ValueError, match="max_applications=0"):
        gateway(cy).DatagramServer(echo, 0)


def test_a_port_that_is_taken(cy, run):
    """A port that is taken is a ListenError, an OSError, that names the address; nothing stays open."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(V4)
        port = taken.getsockname()[1]
        server = server_of(cy, echo, binds=[V4, ("127.0.0.1", port)])
        with pytest.raises(gateway(cy).ListenError) as caught:
            server.bind()
        assert caught.value.errno == errno.EADDRINUSE
        assert str(caught.value).endswith(f"cannot listen on udp 127.0.0.1:{port}: {os.strerror(errno.EADDRINUSE)}")
        assert server.addresses == []

        async def main():
            with pytest.raises(OSError, match="cannot listen on udp"):
                await server.arun()

        run(main())
    run(ended_in_order(server))


async def ended_in_order(server):
    """The server can be run, now that nothing hinders it."""
    async with serving_datagrams(server) as addresses:
        with clients(addresses[-1]) as (client,):
            assert await client.ask(b"x") == b"x"


def test_a_port_that_is_not_permitted(cy, monkeypatch):
    """A port that the system keeps for itself is a ListenError that says so."""

    class Socket(socket.socket):
        def bind(self, address):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket, "socket", Socket)
    with pytest.raises(gateway(cy).ListenError, match=r"cannot listen on udp 127\.0\.0\.1:53: Permission denied"):
        server_of(cy, echo, binds="127.0.0.1:53").bind()


@pytest.mark.parametrize("bind", ["192.0.2.1:9999", "[2001:db8::1]:9999", "no-such-host.invalid:9999", f"{'a' * 64}:9"])
def test_addresses_that_are_not_here(cy, bind):
    """An address of another machine, an unknown name and an impossible one are ListenErrors that name it."""
    with pytest.raises(gateway(cy).ListenError) as caught:
        server_of(cy, echo, binds=bind).bind()
    assert f"cannot listen on udp {bind}: " in str(caught.value)


# ---- stopping ------------------------------------------------------------------------------------------------------


def test_stopping_loses_nothing_that_was_queued(cy, run):
    """Told to stop, the server lets every application finish its queue and sends the answers; what comes meanwhile is
    dropped and counted."""

    async def main():
        going_on = asyncio.Event()

        async def slow(scope, receive, send):
            while True:
                message = await receive()
                await going_on.wait()
                await passes(1)
                await send({"type": "datagram.send", "data": message["data"]})

        server = server_of(cy, slow)
        running = await start(server)
        with clients(*server.addresses * 2) as both:
            for client in both:
                client.send(*(b"%d" % number for number in range(50)))
            await in_time(lambda: server.stats()["datagrams_received"] == 100)
            server.stop()
            await in_time(lambda: server.endpoints[0].stopping)
            both[0].send(b"too late")
            await in_time(lambda: server.stats()["dropped_stopping"] == 1)
            assert server.stats()["datagrams_sent"] == 0
            going_on.set()
            for client in both:
                assert await client.receive(50) == [b"%d" % number for number in range(50)]
            await running
        assert (server.stats()["undelivered"], server.stats()["datagrams_received"]) == (0, 101)

    run(main())


def test_stopping_takes_in_what_had_arrived(cy, run):
    """What had reached the socket when the server was told to stop is answered, though no loop had read it yet."""

    async def main():
        server = server_of(cy, echo)
        running = await start(server)
        with clients(*server.addresses) as (client,):
            client.send(*(b"%d" % number for number in range(100)))
            server.stop()
            await running
            assert await client.receive(100) == [b"%d" % number for number in range(100)]
        assert server.stats()["datagrams_sent"] == 100
        assert server.stats()["undelivered"] == 0

    run(main())


def test_datagrams_that_arrive_before_the_loop_runs(cy, run):
    """From bind() on the socket takes datagrams; they are answered when the server runs."""

    async def main():
        server = server_of(cy, echo)
        (address,) = server.bind()
        with clients(address) as (client,):
            client.send(b"early")
            async with serving_datagrams(server):
                assert await client.receive() == b"early"

    run(main())


@pytest.mark.slow
def test_stopping_is_bounded(cy, run):
    """An application that never finishes holds the end up for shutdown_timeout; what it leaves is told."""

    async def main():
        told = []

        async def stuck(scope, receive, send):
            await asyncio.get_running_loop().create_future()

        server = server_of(cy, stuck, shutdown_timeout=0.05)
        server.application_undelivered = lambda messages, details: told.extend(messages)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                client.send(b"1", b"2")
                await in_time(lambda: server.stats()["datagrams_received"] == 2)
        assert [message["data"] for message in told] == [b"1", b"2"]

    run(main())


@pytest.mark.slow
def test_instances_that_take_too_long_at_the_end(cy, run, caplog):
    """What waits for them is lost, and told of."""

    async def main():
        never = asyncio.get_running_loop().create_future()

        class Server(gateway(cy).DatagramServer):
            shutdown_timeout = 0.05

            async def get_or_create_application_instance(self, scope_id, scope):
                await never

        server = Server(echo, binds="127.0.0.1:0")
        server.bind()
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                client.send(b"1", b"2")
                await in_time(lambda: len(server._traffic.creations) == 2)
        assert server.stats()["dropped_refused"] == 2

    run(main())
    [text] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert text.startswith("a datagram of 1 bytes from ") and " was dropped: CancelledError(" in text


@pytest.mark.slow
def test_answers_that_the_system_does_not_take_at_the_end(cy, caplog, monkeypatch):
    """Their time is bounded too where the loop's transport sends, and a warning tells of them."""
    monkeypatch.setattr(batches(cy), "IN_BATCHES", False)

    async def main():
        server = server_of(cy, echo, shutdown_timeout=0.05)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                await client.ask(b"")
                # As if the system had taken none of them, of which only asyncio's transports give a view.
                server.endpoints[0].transport._buffer.append((b"x", address))

    asyncio.run(main())
    texts = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert texts == ["1 socket was closed with datagrams that the system had not taken yet"]


@pytest.mark.slow
def test_a_sender_that_waits_at_the_end(cy, run):
    """An application that waits in send, since the transport takes no more, does not keep the server from ending."""

    async def main():
        server = server_of(cy, echo, shutdown_timeout=0.05)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                await client.ask(b"")
                server.endpoints[0].pause_writing()
                client.send(b"x")
                await in_time(lambda: server.endpoints[0].waiters)
        assert server.stats()["datagrams_sent"] == 1

    run(main())


def test_sending_after_the_end(cy, run):
    """A task that outlives the server and still sends hears no error; the datagram is counted as one."""

    async def main():
        sends = []

        async def application(scope, receive, send):
            sends.append(send)
            await reader(scope, receive, send)

        server = server_of(cy, application)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                client.send(b"")
                await in_time(lambda: sends)
        await sends[0]({"type": "datagram.send", "data": b"x"})
        await sends[0]({"type": "datagram.send", "data": b""})
        assert (server.stats()["datagrams_sent"], server.stats()["socket_errors"]) == (0, 2)

    run(main())


def test_cancelled_and_run_again(cy, run):
    """arun() may be cancelled: the sockets are closed. The server runs again, and its counters go on."""

    async def main():
        server = server_of(cy, echo)
        for count in (1, 2, 3):
            running = await start(server)
            with clients(*server.addresses) as (client,):
                assert await client.ask(b"x") == b"x"
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled()
            assert server.addresses == []
            assert server.stats()["datagrams_sent"] == count

    run(main())


def test_a_server_runs_once_at_a_time(cy, run):
    """A second run at the same time is refused, and harms neither the first one nor its sockets."""

    async def main():
        server = server_of(cy, echo)
        async with serving_datagrams(server) as (address,):
            with pytest.raises(RuntimeError, match="running already"):
                await server.arun()
            with clients(address) as (client,):
                assert await client.ask(b"x") == b"x"

    run(main())


def test_an_own_handle(cy, run):
    """A subclass may do more in handle(), and start tasks of its own beside the sockets."""

    async def main():
        done = []

        async def beside():
            done.append(True)

        async def handle(self):
            self.spawn(beside())
            await gateway(cy).DatagramServer.handle(self)

        async with serving_datagrams(server_of(cy, echo, handle=handle)) as (address,):
            with clients(address) as (client,):
                assert await client.ask(b"x") == b"x"
        assert done == [True]

    run(main())


def test_cancelled_while_it_opens(cy, run):
    """A run that is cancelled before its sockets serve leaves none open."""

    async def main():
        for count in range(6):
            server = server_of(cy, echo, binds=[V4, V6])
            server.bind()
            running = asyncio.create_task(server.arun())
            await passes(count)
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled()
            # Cancelled before its first step, arun() could do nothing about it.
            server.close()
            assert server.addresses == server.endpoints == []

    run(main())


def test_applications_that_open_sockets(cy, run):
    """What an application opens is its own: the server neither keeps it nor waits for it to be closed."""

    async def main():
        opened = []

        async def application(scope, receive, send):
            loop = asyncio.get_running_loop()
            while True:
                message = await receive()
                transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=V4)
                opened.append(transport)
                await send({"type": "datagram.send", "data": message["data"]})

        async with serving_datagrams(server_of(cy, application)) as (address,):
            with clients(address) as (client,):
                await client.ask(b"x")
        (transport,) = opened
        assert not transport.is_closing()
        transport.close()
        await passes(3)

    run(main())

"""What the system does not take, refuses, reports or drops, with sockets that are read and written in batches."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import sys

import pytest

from support.loops import passes
from support.serving import eventually, reader
from support.udp import V4, V6, clients, echo, gateway, server_of, serving_datagrams, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sockets are read in batches on Linux only")


class Paired(socket.socket):
    """One end of a pair that keeps datagrams apart, ignores addresses, and is full at some time; it passes for UDP."""

    def getsockname(self):
        return "127.0.0.1", 9


def paired(cy, application, **overrides):
    """A server with such a socket, and the other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock = Paired(socket.AF_INET, socket.SOCK_DGRAM, 0, fileno=ours.detach())
    for one in (sock, theirs):
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server = server_of(cy, application, _open_sockets=lambda self, bind: [sock], **overrides)
    return server, theirs


def taken(theirs):
    """What has reached the other end by now."""
    found = []
    with contextlib.suppress(BlockingIOError):
        # An empty one is the end.
        while data := theirs.recv(65_536):
            found.append(data)
    return found


async def make_instance(cy, server, address=("127.0.0.1", 1)):
    """The `send` of an instance that seems to have been asked from this address."""
    sends = []

    async def application(scope, receive, send):
        sends.append(send)
        await reader(scope, receive, send)

    server.application = application
    endpoint = server.endpoints[0]
    endpoint.datagram_received(b"", address)
    await eventually(lambda: sends)
    return sends[0]


def test_senders_wait_while_the_system_takes_no_more(cy, run):
    """What the system does not take waits, then senders wait; all goes on, in order, when it takes more again."""

    async def main():
        server, theirs = paired(cy, reader)
        running = await start(server)
        with theirs:
            send = await make_instance(cy, server)
            sent = []

            async def sending():
                for number in range(300):
                    await send({"type": "datagram.send", "data": b"%03d" % number + bytes(1000)})
                    sent.append(number)

            task = asyncio.create_task(sending())
            await eventually(lambda: server.endpoints[0].waiters)
            assert 0 < len(sent) < 150
            assert server.endpoints[0].transport.get_write_buffer_size() > 0
            found = []
            while len(found) < 300:
                found += taken(theirs)
                await asyncio.sleep(0)
            await task
            assert [int(data[:3]) for data in found] == list(range(300))
            assert server.stats()["datagrams_sent"] == 300
            assert server.stats()["socket_errors"] == 0
            assert not server.endpoints[0].paused
            server.stop()
            await running

    run(main())


def test_what_waits_at_the_end_is_sent(cy, run):
    """A server that stops first has the system take what was sent."""

    async def main():
        server, theirs = paired(cy, reader)
        running = await start(server)
        with theirs:
            send = await make_instance(cy, server)
            for number in range(30):
                await send({"type": "datagram.send", "data": b"%02d" % number + bytes(500)})
            await passes(3)
            assert server.endpoints[0].transport.get_write_buffer_size() > 0
            server.stop()
            found = []
            while not running.done():
                found += taken(theirs)
                await asyncio.sleep(0)
            found += taken(theirs)
            assert [int(data[:2]) for data in found] == list(range(30))

    run(main())


@pytest.mark.slow
def test_what_the_system_does_not_take_at_the_end(cy, run, caplog):
    """The time for that is bounded, and a warning tells of what is left."""

    async def main():
        server, theirs = paired(cy, reader, shutdown_timeout=0.05)
        running = await start(server)
        with theirs:
            send = await make_instance(cy, server)
            for _ in range(30):
                await send({"type": "datagram.send", "data": bytes(500)})
            await passes(3)
            server.stop()
            await running

    run(main())
    texts = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert texts == ["1 socket was closed with datagrams that the system had not taken yet"]


def test_one_that_is_refused_among_others(cy, run):
    """A datagram that the system refuses is counted, and those around it leave."""

    async def main():
        async def application(scope, receive, send):
            await receive()
            for number in range(5):
                await send({"type": "datagram.send", "data": b"%d" % number})
                # Nobody may send to everybody without leave.
                await send({"type": "datagram.send", "data": b"x", "client": ("255.255.255.255", 9)})

        server = server_of(cy, application)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                client.send(b"")
                assert await client.receive(5) == [b"0", b"1", b"2", b"3", b"4"]
                await eventually(lambda: server.stats()["socket_errors"] == 5)
                assert server.stats()["datagrams_sent"] == 10

    run(main())


def test_errors_that_answers_have_caused(cy, run):
    """A socket that is told of unreachable ports (ICMP), as one that is connected is, goes on reading and sending."""

    async def main():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as given:
            given.bind(("127.0.0.1", 0))
            with clients(given.getsockname()) as (gone,):
                given.connect(gone.address)
                gone.send(b"1", b"2", b"3")
            server = gateway(cy).DatagramServer(echo, binds=given)
            async with serving_datagrams(server) as (address,):
                await eventually(lambda: server.stats()["datagrams_received"] == 3)
                # The error that one answer brings is reported by whichever call of the system is next.
                await eventually(lambda: server.stats()["socket_errors"] >= 1)
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
                    again.bind(gone.address)
                    again.connect(address)
                    again.setblocking(False)
                    loop = asyncio.get_running_loop()
                    for data in (b"4", b"5"):
                        again.send(data)
                        assert await asyncio.wait_for(loop.sock_recv(again, 10), 10) == data
                assert server.stats()["socket_errors"] <= 2

    run(main())


@pytest.mark.parametrize("bind", [V4, V6])
def test_a_queue_of_errors_that_nobody_reads(cy, run, bind):
    """A socket that was handed in with IP_RECVERR on does not keep the loop awake when errors come in."""

    async def main():
        level, option = (socket.IPPROTO_IP, 11) if bind == V4 else (socket.IPPROTO_IPV6, 25)
        with socket.socket(socket.AF_INET if bind == V4 else socket.AF_INET6, socket.SOCK_DGRAM) as given:
            given.bind(bind)
            given.setsockopt(level, option, 1)
            server = gateway(cy).DatagramServer(echo, binds=given)
            async with serving_datagrams(server) as (address,):
                with clients(address) as (gone,):
                    gone.send(b"1")
                with clients(address) as (client,):
                    assert await client.ask(b"2") == b"2"
                with selectors.DefaultSelector() as selector:
                    selector.register(given, selectors.EVENT_READ)
                    assert selector.select(0) == []

    run(main())


def test_a_sender_without_an_address(cy, run):
    """There is nobody to answer: counted as refused."""

    async def main():
        server, theirs = paired(cy, reader)
        running = await start(server)
        with theirs:
            theirs.send(b"x")
            await eventually(lambda: server.stats()["dropped_refused"] == 1)
            assert server.stats()["datagrams_received"] == 1
            server.stop()
            await running

    run(main())


def test_what_the_system_drops_is_counted(cy, run, caplog):
    """While the loop stands still the receive buffer fills up, and the system drops the rest: `stats()` tells."""

    async def main():
        server = server_of(cy, reader, receive_buffer=4096)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                before = server.stats()
                client.send(*(bytes(100) for _ in range(500)))
                # Told at once, before anything was read.
                dropped = server.stats()["dropped_by_system"]
                assert before["dropped_by_system"] == 0 < dropped < 500
                await eventually(lambda: server.stats()["datagrams_received"] == 500 - dropped)
                client.send(b"x")
                await eventually(lambda: server.stats()["datagrams_received"] == 501 - dropped)
        assert server.stats()["dropped_by_system"] == dropped
        return dropped

    dropped = run(main())
    texts = [record.getMessage() for record in caplog.records if "dropped by the system" in record.getMessage()]
    assert len(texts) == 1
    assert f"{dropped:,} dropped by the system" in texts[0]

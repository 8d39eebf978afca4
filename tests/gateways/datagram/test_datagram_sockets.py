"""The sockets of a datagram server: handed in or opened, their options, multicast, and the address that answers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys

import pytest

from support.loops import passes
from support.serving import eventually, reader
from support.udp import V4, V6, batches, clients, echo, gateway, server_of, serving_datagrams, start

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells which address was asked, and drops of sockets")
GROUP = "239.255.77.1"


def udp(family=socket.AF_INET, bind=None):
    """A UDP socket, not connected, for use in the loop."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    if bind is not None:
        sock.bind(bind)
    return sock


async def received(sock):
    """The next datagram that reaches it, and where from."""
    found = []

    def came():
        with contextlib.suppress(BlockingIOError):
            found.append(sock.recvfrom(70_000))
        return found

    # In uvloop, loops have no sock_recvfrom().
    await eventually(came)
    return found[0][0], found[0][1][:2]


# ---- which address answers -----------------------------------------------------------------------------------------


@linux
def test_the_address_that_was_asked_answers(cy, run):
    """On a socket bound to every interface too, also if one client asks several; `server` is the address asked."""

    async def main():
        asked, scopes = [], []

        async def application(scope, receive, send):
            scopes.append(scope["server"])
            while True:
                message = await receive()
                asked.append(message["server"])
                await send({"type": "datagram.send", "data": message["data"]})

        server = server_of(cy, application, binds=("0.0.0.0", 0))
        async with serving_datagrams(server) as ((_, port),):
            with udp(bind=V4) as client:
                wanted = [(f"127.0.0.{number}", port) for number in (1, 2, 3, 2, 1)]
                for address in wanted:
                    client.sendto(b"x", address)
                found = [(await received(client))[1] for _ in wanted]
                assert sorted(found) == sorted(asked) == sorted(wanted)
                assert scopes == wanted[:3]
                name = client.getsockname()
                assert set(server.application_instances) == {(name, address) for address in wanted}

    run(main())


@linux
def test_the_address_that_was_asked_answers_in_ipv6(cy, run):
    """The same in IPv6."""

    async def main():
        async with serving_datagrams(server_of(cy, echo, binds=("::", 0))) as ((_, port),):
            with udp(socket.AF_INET6) as client:
                for _ in range(2):
                    client.sendto(b"x", ("::1", port))
                    assert await received(client) == (b"x", ("::1", port))

    run(main())


@linux
def test_a_message_names_the_address_to_send_from(cy, run):
    """Any address of this machine; one of another machine is an error of the application's."""

    async def main():
        failed = []

        async def application(scope, receive, send):
            port = scope["server"][1]
            await receive()
            for host in ("127.0.0.7", "127.0.0.8"):
                await send({"type": "datagram.send", "data": b"x", "server": (host, port)})
            for host, number in (("192.0.2.1", port), ("127.0.0.1", port ^ 1), ("::1", port)):
                with pytest.raises(ValueError, match="this server has no socket on") as caught:
                    await send({"type": "datagram.send", "data": b"x", "server": (host, number)})
                failed.append(caught.value)
            # Nothing can come from a group.
            await send({"type": "datagram.send", "data": b"end", "server": (GROUP, port)})

        server = server_of(cy, application, binds=("0.0.0.0", 0))
        async with serving_datagrams(server) as ((_, port),):
            with udp(bind=V4) as client:
                client.sendto(b"x", ("127.0.0.2", port))
                assert await received(client) == (b"x", ("127.0.0.7", port))
                assert await received(client) == (b"x", ("127.0.0.8", port))
                assert await received(client) == (b"end", ("127.0.0.1", port))
                assert len(failed) == 3

    run(main())


@linux
def test_more_addresses_asked_than_are_remembered(cy, run):
    """What is known of the addresses that were asked is bounded, and forgotten; answers stay right."""

    async def main():
        server = server_of(cy, echo, binds=("0.0.0.0", 0), max_applications=None)
        async with serving_datagrams(server) as ((_, port),):
            with udp(bind=V4) as client:
                for number in range(1200):
                    address = f"127.1.{number // 250}.{number % 250 + 1}", port
                    client.sendto(b"x", address)
                    assert await received(client) == (b"x", address)

    run(main())


def test_where_the_system_does_not_tell(cy, run, monkeypatch):
    """Elsewhere than on Linux `server` is as the socket is bound, and the client's address is the id."""
    monkeypatch.setattr(batches(cy), "IN_BATCHES", False)

    async def main():
        servers = []

        async def application(scope, receive, send):
            servers.extend((scope["server"], (await receive())["server"]))
            await send({"type": "datagram.send", "data": b"x"})
            await reader(scope, receive, send)

        server = server_of(cy, application, binds=("0.0.0.0", 0))
        async with serving_datagrams(server) as ((_, port),):
            with clients(("127.0.0.1", port)) as (client,):
                assert await client.ask(b"x") == b"x"
                assert servers == [("0.0.0.0", port)] * 2
                assert list(server.application_instances) == [client.address]

    run(main())


# ---- handed in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bind", [V4, V6])
@pytest.mark.parametrize("by_number", [False, True])
def test_a_socket_that_is_handed_in(cy, run, bind, by_number):
    """It serves, any number of times, and stays open and its owner's."""

    async def main():
        with udp(socket.AF_INET6 if ":" in bind[0] else socket.AF_INET, bind) as given:
            address = given.getsockname()[:2]
            server = server_of(cy, echo, binds=f"fd://{given.fileno()}" if by_number else given)
            for turn in (b"1", b"2"):
                async with serving_datagrams(server) as addresses:
                    assert addresses == [address]
                    with clients(address) as (client,):
                        assert await client.ask(turn) == turn
            with clients(address) as (client,):
                client.send(b"kept")
                assert (await received(given))[0] == b"kept"

    run(main())


def test_sockets_and_addresses_together(cy, run):
    """`binds` may name both."""

    async def main():
        with udp(bind=V4) as given:
            async with serving_datagrams(server_of(cy, echo, binds=[given, V4])) as addresses:
                assert addresses[0] == given.getsockname()
                with clients(*addresses) as both:
                    assert [await client.ask(b"x") for client in both] == [b"x", b"x"]

    run(main())


def refusals():
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    tcp.bind(V4)
    closed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    closed.close()
    pipe = os.pipe()
    yield tcp, "it is not a UDP socket"
    yield f"fd://{tcp.fileno()}", "it is not a UDP socket"
    yield socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "it is not bound to an address"
    yield socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0], "it is not a UDP socket"
    yield closed, os.strerror(errno.EBADF)
    yield "fd://999999", f"cannot listen on fd://999999: {os.strerror(errno.EBADF)}"
    yield f"fd://{pipe[0]}", os.strerror(errno.ENOTSOCK)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.skipif(os.name != "posix", reason="descriptors are POSIX's")
def test_what_is_handed_in_is_checked(cy):
    """What is no UDP socket, or not bound, is a ListenError that says so; no descriptor stays open."""
    for given, says in refusals():
        server = server_of(cy, echo, binds=given)
        with pytest.raises(gateway(cy).ListenError, match="cannot listen on ") as caught:
            server.bind()
        assert str(caught.value).endswith(says)
        assert server.addresses == []
        if sys.platform == "linux":
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(gateway(cy).ListenError):
                server.bind()
            assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("text", ["fd://", "fd://x", "fd://-1", "fd://1.0", "fd://٣", "fd://1234567890"])
def test_descriptors_are_checked(cy, text):
    """A descriptor is a number."""
    with pytest.raises(ValueError, match="is not a"):
        gateway(cy).DatagramServer(echo, binds=text)


# ---- options -------------------------------------------------------------------------------------------------------


def bound(server):
    """The sockets of the server, bound."""
    server.bind()
    return server._sockets


def test_the_receive_buffer(cy, caplog):
    """The system is asked for it; a warning tells how much it gave if that is less."""
    server = server_of(cy, echo, receive_buffer=50_000)
    (sock,) = bound(server)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 50_000
    server.close()
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    server.receive_buffer = 2**30 - 1
    (sock,) = bound(server)
    given = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // (2 if sys.platform == "linux" else 1)
    server.close()
    if given < server.receive_buffer:
        (text,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert text.startswith("receive_buffer of 1073741823 bytes: the system gave udp 127.0.0.1:")
        assert f" only {given}" in text


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="there is no SO_REUSEPORT")
def test_several_servers_share_a_port(cy, run):
    """With `reuse_port` they may, and each client's datagrams come to one of them; without it they may not."""

    async def main():
        one = server_of(cy, echo, reuse_port=True)
        async with serving_datagrams(one) as (address,):
            with pytest.raises(gateway(cy).ListenError):
                server_of(cy, echo, binds=address).bind()
            other = server_of(cy, echo, binds=address, reuse_port=True)
            async with serving_datagrams(other), asyncio.timeout(10):
                with clients(*[address] * 40) as some:
                    for turn in (b"1", b"2"):
                        assert [await client.ask(turn) for client in some] == [turn] * 40
                counts = [len(server.application_instances) for server in (one, other)]
                assert sum(counts) == 40
                assert all(counts), "all of 40 clients came to one of two sockets"

    run(main())


def test_broadcasts(cy, run):
    """They are refused by the system unless `allow_broadcast` is set."""

    async def main():
        async def application(scope, receive, send):
            while True:
                port = int((await receive())["data"])
                await send({"type": "datagram.send", "data": b"to all", "client": ("127.255.255.255", port)})

        for allowed in (False, True):
            server = server_of(cy, application, binds=("0.0.0.0", 0), allow_broadcast=allowed)
            async with serving_datagrams(server) as ((_, port),):
                with udp(bind=("0.0.0.0", 0)) as listener, clients(("127.0.0.1", port)) as (client,):
                    client.send(b"%d" % listener.getsockname()[1])
                    if allowed:
                        assert (await received(listener))[0] == b"to all"
                    else:
                        await eventually(lambda now=server: now.stats()["socket_errors"] == 1)

    run(main())


@linux
@pytest.mark.parametrize("bind", ["0.0.0.0", GROUP])
def test_multicast(cy, run, bind):
    """Datagrams to a group come in, named as the address asked, and answers leave from the interface's own address; a
    server may send to groups, too."""

    async def main():
        servers = []

        async def application(scope, receive, send):
            servers.append(scope["server"])
            while True:
                data = (await receive())["data"]
                await send({"type": "datagram.send", "data": data})
                await send({"type": "datagram.send", "data": b"to all", "client": (GROUP, other.getsockname()[1])})

        options = {"multicast_groups": [GROUP, "ff02::77", GROUP], "multicast_interface": "lo"}
        server = server_of(cy, application, binds=[(bind, 0), ("::", 0)], **options)
        async with serving_datagrams(server) as ((_, port), _):
            with udp(bind=V4) as client, udp(bind=("0.0.0.0", 0)) as other:
                loopback = socket.inet_aton("127.0.0.1")
                client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
                other.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + loopback)
                client.sendto(b"x", (GROUP, port))
                data, address = await received(client)
                assert data == b"x"
                if bind == "0.0.0.0":
                    assert address == ("127.0.0.1", port)
                assert servers == [(GROUP, port)]
                assert (await received(other))[0] == b"to all"

    run(main())


@linux
def test_a_group_of_ipv6_is_joined(cy):
    """On the interface that is named, while the socket is open."""

    def joined():
        with open("/proc/net/igmp6") as table:
            return [line.split()[1] for line in table if line.split()[2] == f"ff02{77:028x}"]

    server = server_of(cy, echo, binds=("::", 0), multicast_groups=("ff02::4d",), multicast_interface="lo")
    server.bind()
    assert joined() == ["lo"]
    server.close()
    assert joined() == []


@linux
def test_multicast_in_ipv6(cy, run):
    """Datagrams to a group come in there too, and answers leave from the address that the system picks."""

    async def main():
        servers = []

        async def application(scope, receive, send):
            servers.append(scope["server"])
            await echo(scope, receive, send)

        lo = socket.if_nametoindex("lo")
        options = {"multicast_groups": ("ff02::77",), "multicast_interface": "lo"}
        async with serving_datagrams(server_of(cy, application, binds=("::", 0), **options)) as ((_, port),):
            with udp(socket.AF_INET6, V6) as client:
                client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, lo)
                try:
                    client.sendto(b"x", ("ff02::77", port, 0, lo))
                except OSError as error:
                    if error.errno == errno.ENETUNREACH:
                        pytest.skip("this machine has no route for groups on its loopback interface")
                    raise
                assert await received(client) == (b"x", ("::1", port))
                assert servers == [("ff02::77", port)]

    run(main())


@linux
def test_groups_that_others_have_joined(cy, run):
    """A socket bound to every interface gets what is sent to its own groups, and nothing of those of others."""

    async def main():
        options = {"multicast_groups": (GROUP,), "multicast_interface": "lo"}
        server = server_of(cy, reader, binds=("0.0.0.0", 0), **options)
        async with serving_datagrams(server) as ((_, port),):
            with udp(bind=V4) as client, udp(bind=("0.0.0.0", 0)) as other:
                loopback = socket.inet_aton("127.0.0.1")
                client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
                another = "239.255.77.2"
                other.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(another) + loopback)
                client.sendto(b"x", (another, port))
                client.sendto(b"x", (GROUP, port))
                await eventually(lambda: server.stats()["datagrams_received"] == 1)
                await passes(5)
                assert server.stats()["datagrams_received"] == 1

    run(main())


@linux
def test_a_socket_that_has_joined_already(cy, run):
    """A socket that was handed in keeps its groups, and may be used again."""

    async def main():
        with udp(bind=("0.0.0.0", 0)) as given:
            options = {"multicast_groups": (GROUP,), "multicast_interface": "lo"}
            server = server_of(cy, echo, binds=given, **options)
            for _ in range(2):
                running = await start(server)
                server.stop()
                await running

    run(main())


@pytest.mark.parametrize(
    ("options", "binds", "says"),
    [
        ({"multicast_groups": (GROUP,)}, V4, f"no socket can receive from the multicast group {GROUP}: it takes one"),
        ({"multicast_groups": ("ff02::77",)}, ("0.0.0.0", 0), "from the multicast group ff02::77: it takes one"),
        ({"multicast_interface": "nowhere0"}, V4, "there is no network interface 'nowhere0'"),
    ],
)
def test_multicast_that_cannot_be(cy, options, binds, says):
    """A group that no socket receives from, or an interface that is not there, is a ListenError."""
    server = server_of(cy, echo, binds=binds, **options)
    with pytest.raises(gateway(cy).ListenError, match=says):
        server.bind()
    assert server.addresses == []


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("receive_buffer", 0, ValueError),
        ("receive_buffer", 2**30, ValueError),
        ("receive_buffer", 1.5, TypeError),
        ("reuse_port", 1, TypeError),
        ("allow_broadcast", "yes", TypeError),
        ("multicast_groups", GROUP, TypeError),
        ("multicast_groups", None, TypeError),
        ("multicast_groups", (b"x",), TypeError),
        ("multicast_groups", ("192.0.2.1",), ValueError),
        ("multicast_groups", ("ff02::77%lo",), ValueError),
        ("multicast_groups", ["x"], ValueError),
        ("multicast_interface", "", ValueError),
        ("multicast_interface", "e th", ValueError),
        ("multicast_interface", 1, TypeError),
    ],
)
def test_options_are_checked(cy, name, value, error):
    """An attribute refuses what it does not accept, with the value and what it accepts."""
    server = gateway(cy).DatagramServer(echo)
    with pytest.raises(error, match=f"^{name}=") as caught:
        setattr(server, name, value)
    assert f"{value!r}: accepted is " in str(caught.value)
    with pytest.raises(error, match=f"^{name}="):
        type("Server", (gateway(cy).DatagramServer,), {name: value})

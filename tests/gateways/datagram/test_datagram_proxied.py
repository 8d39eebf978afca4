"""Datagrams by a proxy, with a header of the PROXY protocol: whose they are, where answers go, and what is dropped."""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket

import pytest

from support.loops import passes
from support.managed_servers import lifecycle
from support.serving import in_time
from support.udp import V4, V6, Numbering, clients, gateway, server_of, serving_datagrams

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
ONE, TWO, SIX = ("192.0.2.1", 1000), ("192.0.2.2", 2000), ("2001:db8::1", 3000)
ASKED = ("198.51.100.2", 53)
LOCAL = SIGNATURE + b"\x20\0\0\0"


def head(client, more=b"", kind=2):
    """The header for a datagram of this client."""
    family = socket.AF_INET6 if ":" in client[0] else socket.AF_INET
    asked = ("2001:db8::2", 53) if family == socket.AF_INET6 else ASKED
    addresses = b"".join(socket.inet_pton(family, host) for host in (client[0], asked[0]))
    addresses += client[1].to_bytes(2, "big") + asked[1].to_bytes(2, "big") + more
    protocol = (0x20 if family == socket.AF_INET6 else 0x10) | kind
    return SIGNATURE + bytes([0x21, protocol]) + len(addresses).to_bytes(2, "big") + addresses


async def echo(scope, receive, send):
    while True:
        message = await receive()
        await send({"type": "datagram.send", "data": message["data"]})


async def answer_by_name(scope, receive, send):
    """Names in each answer whom it is for."""
    while True:
        message = await receive()
        await send({**message, "type": "datagram.send"})


def make(cy, application, **settings):
    return server_of(cy, application, **{"binds": V4, "proxy_protocol": True, **settings})


@pytest.mark.parametrize("bind", [V4, V6])
def test_clients_behind_a_proxy(cy, run, bind):
    """Each has an instance of its own, even if all come from one socket of the proxy; answers have no header."""

    async def main():
        application = Numbering()
        async with serving_datagrams(make(cy, application, binds=bind)) as (address,):
            with clients(address) as (proxy,):
                for client in (ONE, TWO, SIX, ONE):
                    assert await proxy.ask(head(client) + b"x")
                assert await proxy.ask(head(ONE, b"\x04\0\x01x") + b"")
        assert [scope["client"] for scope in application.scopes] == [ONE, TWO, SIX]
        assert {scope["server"] for scope in application.scopes} == {address}
        return application

    run(main())


def test_messages(cy, run):
    """They have the client of the header, the server's own address, and what stands behind the header."""
    received = []

    async def application(scope, receive, send):
        while True:
            received.append(await receive())
            await send({"type": "datagram.send", "data": received[-1]["data"]})

    async def main():
        async with serving_datagrams(make(cy, application)) as (address,):
            with clients(address) as (proxy,):
                for data in (b"hello", b"", b"PROXY", LOCAL):
                    assert await proxy.ask(head(ONE) + data) == data
                for own in (LOCAL, SIGNATURE + b"\x21\0\0\0", SIGNATURE + b"\x21\x32\0\xd8" + bytes(216)):
                    assert await proxy.ask(own + b"me") == b"me"
            expected = [(data, ONE) for data in (b"hello", b"", b"PROXY", LOCAL)]
            expected += [(b"me", proxy.address)] * 3
            assert [(message["data"], message["client"]) for message in received] == expected
            assert {message["server"] for message in received} == {address}

    run(main())


@pytest.mark.parametrize("application", [echo, answer_by_name])
def test_answers_follow_the_client(cy, run, application):
    """They go to the socket of the proxy that the client's last datagram came from."""

    async def main():
        async with serving_datagrams(make(cy, application)) as (address,):
            with clients(address, address) as (first, second):
                assert await first.ask(head(ONE) + b"1") == b"1"
                assert await first.ask(head(TWO) + b"2") == b"2"
                assert await second.ask(head(ONE) + b"3") == b"3"
                assert await first.ask(head(TWO) + b"4") == b"4"
                assert await second.ask(head(ONE) + b"5") == b"5"

    run(main())


def test_answers_follow_an_instance_that_is_made_later(cy, run):
    """Also where instances are made by a coroutine."""

    async def main():
        base = gateway(cy).DatagramServer

        class Server(base):
            async def get_or_create_application_instance(self, scope_id, scope):
                await asyncio.sleep(0)
                return base.get_or_create_application_instance(self, scope_id, scope)

        server = Server(echo, binds=V4)
        server.proxy_protocol = True
        async with serving_datagrams(server) as (address,):
            with clients(address, address) as (first, second):
                assert await first.ask(head(ONE) + b"1") == b"1"
                assert await second.ask(head(ONE) + b"2") == b"2"

    run(main())


def test_one_instance_for_all(cy, run):
    """An application that serves many clients names them, and can reach those who have sent something, nobody else."""
    errors = []

    async def application(scope, receive, send):
        while True:
            message = await receive()
            for client in (ONE, TWO, SIX):
                try:
                    await send({"type": "datagram.send", "data": message["data"], "client": client})
                except ValueError as error:
                    errors.append(str(error))

    async def main():
        base = gateway(cy).DatagramServer
        server = type("Server", (base,), {"scope_id": lambda self, data, client: "all"})(application, binds=V4)
        server.proxy_protocol = True
        async with serving_datagrams(server) as (address,):
            with clients(address, address) as (first, second):
                assert await first.ask(head(ONE) + b"1") == b"1"
                second.send(head(TWO) + b"2")
                assert await second.receive() == b"2"
                assert await first.receive() == b"2"
        assert len(server.application_instances) == 0

    run(main())
    assert [error.split(" is ")[0] for error in errors] == [repr(TWO), repr(SIX), repr(SIX)]


def test_routes_are_bounded(cy, run, monkeypatch):
    """The clients that have been silent longest are forgotten; their instances still know where to send."""
    proxied = importlib.import_module(f"{cy.__name__}.gateways.datagram.proxied")
    monkeypatch.setattr(proxied, "MAX_ROUTES", 2)

    async def main():
        server = make(cy, echo)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (proxy,):
                for client in (ONE, TWO, ONE, SIX):
                    assert await proxy.ask(head(client) + b"x") == b"x"
                assert list(server.endpoints[0].routes) == [ONE, SIX]
                assert await proxy.ask(head(TWO) + b"y") == b"y"

    run(main())


BAD = [b"", b"hello", b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n", SIGNATURE, head(ONE)[:-1], head(ONE, kind=3)]


def test_dropped(cy, run, caplog):
    """What has no header is dropped, counted and logged; what comes next is served."""

    async def main():
        server = make(cy, echo)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (proxy,):
                proxy.send(*BAD)
                assert await proxy.ask(head(ONE) + b"x") == b"x"
        stats = server.stats()
        assert (stats["dropped_proxy"], stats["dropped_refused"], stats["created"]) == (len(BAD), 0, 1)
        assert stats["datagrams_received"] == len(BAD) + 1

    run(main())
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert lines and all("without a PROXY header of a trusted proxy" in line for line in lines)


@pytest.mark.parametrize(("trusted", "served"), [("127.0.0.0/8", True), ("192.0.2.0/24", False), ("*", True)])
def test_who_is_believed(cy, run, trusted, served):
    async def main():
        server = make(cy, echo, forwarded_allow_ips=trusted)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (proxy,):
                proxy.send(head(ONE) + b"x")
                if served:
                    assert await proxy.receive() == b"x"
                else:
                    await in_time(lambda: server.stats()["dropped_proxy"] == 1)
        assert server.stats()["created"] == served

    run(main())


def test_without_the_protocol_a_header_is_data(cy, run):
    async def main():
        async with serving_datagrams(make(cy, echo, proxy_protocol=False)) as (address,):
            with clients(address) as (client,):
                assert await client.ask(head(ONE) + b"x") == head(ONE) + b"x"

    run(main())


@pytest.mark.parametrize("more", [b"", b"\x04\x04\x00" + bytes(1024)])
def test_the_size_is_that_of_the_payload(cy, run, more):
    async def main():
        server = make(cy, echo, max_datagram_size=100)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (proxy,):
                proxy.send(head(ONE, more) + bytes(101))
                assert await proxy.ask(head(ONE, more) + bytes(100)) == bytes(100)
                server.max_datagram_size = 5
                proxy.send(head(ONE, more) + bytes(6), bytes(9000))
                assert await proxy.ask(head(ONE, more) + b"short") == b"short"
        assert server.stats()["dropped_oversized"] == 3

    run(main())


@pytest.mark.slow
def test_the_largest_datagram(cy, run):
    async def main():
        async with serving_datagrams(make(cy, echo)) as (address,):
            with clients(address) as (proxy,):
                data = bytes(65_507 - len(head(ONE)))
                assert await proxy.ask(head(ONE) + data) == data

    run(main())


@pytest.mark.slow
def test_limits_are_those_of_the_clients(cy, run):
    """Each client behind the proxy has its own."""

    async def main():
        base = type("Server", (lifecycle(cy).ManagedServer, gateway(cy).DatagramServer), {})
        server = base(echo, binds=V4)
        server.proxy_protocol = True
        server.max_messages_per_second, server.message_burst = 0.001, 1
        async with serving_datagrams(server) as (address,):
            with clients(address) as (proxy,):
                assert await proxy.ask(head(ONE) + b"1") == b"1"
                proxy.send(head(ONE) + b"2")
                assert await proxy.ask(head(TWO) + b"3") == b"3"
                await passes(5)
        assert server.stats()["dropped_limited"] == 1

    run(main())


@pytest.mark.slow
def test_several_listeners(cy, run):
    """A client's instance belongs to the address that the proxy has sent to, and answers leave from there."""

    async def main():
        application = Numbering()
        async with serving_datagrams(make(cy, application, binds=[V4, V4])) as (one, two):
            with clients(one, two) as (first, second):
                assert await first.ask(head(ONE) + b"x")
                assert await second.ask(head(ONE) + b"x")
        assert [scope["server"] for scope in application.scopes] == [one, two]

    run(main())

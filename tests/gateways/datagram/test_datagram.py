"""The datagram gateway: scopes, messages, ids, limits, errors."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import socket

import pytest

from support.loops import passes
from support.udp import BAD_MESSAGES, V4, V6, Numbering, clients, echo, gateway, server_of, serving_datagrams


async def answer_each(scope, receive, send):
    """Answers whoever sent the datagram, from the address that it was sent to."""
    while True:
        message = await receive()
        await send({**message, "type": "datagram.send"})


# ---- scopes and messages -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("bind", [V4, V6])
def test_echo(cy, run, bind):
    """Datagrams of any length up to the largest, the empty one included, come back over IPv4 and IPv6."""

    async def main():
        server = server_of(cy, echo, binds=bind)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                for data in (b"hello", b"", b"\0\r\n\xff", bytes(1500), bytes(65_507)):
                    assert await client.ask(data) == data
        stats = server.stats()
        assert (stats["datagrams_received"], stats["datagrams_sent"]) == (5, 5)

    run(main())


@pytest.mark.parametrize("bind", [V4, V6])
def test_scope_and_messages(cy, run, bind):
    """Scope and messages hold what the description of them says, and nothing else."""

    async def main():
        application = Numbering()
        async with serving_datagrams(server_of(cy, application, binds=bind)) as (address,):
            with clients(address) as (client,):
                await client.ask(b"x")
                await client.ask(b"")
        assert application.scopes == [
            {
                "type": "datagram",
                "asgi": {"version": "3.0", "spec_version": "1.0"},
                "server": address,
                "client": client.address,
            }
        ]
        assert application.messages == [
            {"type": "datagram.receive", "data": data, "client": client.address, "server": address}
            for data in (b"x", b"")
        ]

    run(main())


def test_one_instance_for_each_client(cy, run):
    """Each client address has an instance of its own, for as long as that runs."""

    async def main():
        server = server_of(cy, Numbering())
        async with serving_datagrams(server) as (address,):
            with clients(address, address) as (first, second):
                assert await first.ask(b"") == b"0.1"
                assert await second.ask(b"") == b"1.1"
                assert await first.ask(b"") == b"0.2"
                assert await second.ask(b"") == b"1.2"
                assert list(server.application_instances) == [first.address, second.address]
        assert (server.stats()["created"], server.stats()["reused"]) == (2, 2)

    run(main())


def test_an_application_that_returns_begins_anew(cy, run):
    """An application may return; the client's next datagram begins a new instance with a scope of its own."""
    scopes = []

    async def once(scope, receive, send):
        scopes.append(scope)
        await send({"type": "datagram.send", "data": (await receive())["data"]})

    async def main():
        async with serving_datagrams(server_of(cy, once)) as (address,):
            with clients(address) as (client,):
                for _ in range(3):
                    await client.ask(b"x")
        assert scopes[0] == scopes[1] == scopes[2]
        assert len({id(scope) for scope in scopes}) == 3

    run(main())


def test_what_an_application_writes_into_its_scope_sends_nothing_astray(cy, run):
    """Answers go to the client, from the socket it asked, whatever the application does to its scope."""

    async def meddling(scope, receive, send):
        scope["client"], scope["server"] = ("192.0.2.1", 1), ("192.0.2.2", 2)
        scope.clear()
        await echo(scope, receive, send)

    async def main():
        async with serving_datagrams(server_of(cy, meddling)) as (address,):
            with clients(address) as (client,):
                assert await client.ask(b"x") == b"x"

    run(main())


def test_scopes_can_be_copied(cy, run):
    """A scope is a dict; its copies, deep copies and pickles are plain ones."""
    application = Numbering()

    async def main():
        async with serving_datagrams(server_of(cy, application)) as (address,):
            with clients(address) as (client,):
                await client.ask(b"")

    run(main())
    (scope,) = application.scopes
    for other in (scope.copy(), copy.copy(scope), copy.deepcopy(scope), pickle.loads(pickle.dumps(scope))):
        assert type(other) is dict
        assert other == scope


def test_send_to_whom_and_from_where(cy, run):
    """A message may name another client, and the server's address that it is to come from."""

    async def main():
        received = []

        async def application(scope, receive, send):
            received.append(await receive())
            await send({"type": "datagram.send", "data": b"1", "client": list(second.address), "server": other})
            await send({"type": "datagram.send", "data": b"2", "client": second.address})
            await send({"type": "datagram.send", "data": b"3", "server": scope["server"]})

        async with serving_datagrams(server_of(cy, application, binds=[V4, V4])) as (address, other):
            with clients(address, other) as (first, second):
                assert await first.ask(b"") == b"3"
                # Connected to the other address: the datagram that came from the first is none of its.
                assert await second.receive() == b"1"
        assert [message["data"] for message in received] == [b""]

    run(main())


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"client": ("::1", 9)}, "'::1' is not a numeric IPv4 address"),
        ({"client": ("localhost", 9)}, "'localhost' is not a numeric IPv4 address"),
        ({"server": ("127.0.0.1", 9)}, "no socket on 127.0.0.1:9"),
    ],
)
def test_send_to_nobody(cy, run, message, says):
    """A client that cannot be sent to, or an address that is not the server's, is an error of the application."""

    async def main():
        async def application(scope, receive, send):
            await receive()
            with pytest.raises(ValueError, match=says):
                await send({"type": "datagram.send", "data": b"x", **message})
            await send({"type": "datagram.send", "data": b"refused"})

        async with serving_datagrams(server_of(cy, application)) as (address,):
            with clients(address) as (client,):
                assert await client.ask(b"") == b"refused"

    run(main())


@pytest.mark.parametrize(("message", "error", "says"), BAD_MESSAGES)
def test_bad_messages(cy, run, message, error, says):
    """A wrong message raises in the application what is wrong about it; nothing is sent."""

    async def main():
        async def application(scope, receive, send):
            await receive()
            with pytest.raises(error, match=says):
                await send(message)
            await send({"type": "datagram.send", "data": b"refused"})

        server = server_of(cy, application)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                assert await client.ask(b"") == b"refused"
        assert server.stats()["datagrams_sent"] == 1

    run(main())


# ---- ids -----------------------------------------------------------------------------------------------------------


def test_own_scope_id(cy, run):
    """An overridden scope_id decides alone which instance receives a datagram; messages name their client."""

    def scope_id(self, data, client):
        return data[:1]

    async def main():
        server = server_of(cy, answer_each, scope_id=scope_id)
        async with serving_datagrams(server) as (address,):
            with clients(address, address) as (first, second):
                for data in (b"a1", b"b1", b"a2"):
                    assert await first.ask(data) == data
                    assert await second.ask(data) == data
                assert list(server.application_instances) == [b"b", b"a"]
        assert server.stats()["created"] == 2

    run(main())


def test_scope_id_of_an_instance_attribute(cy, run):
    """scope_id may also be set on the server, as any method."""

    async def main():
        server = server_of(cy, answer_each)
        server.scope_id = lambda data, client: "all"
        async with serving_datagrams(server) as (address,):
            with clients(address, address) as (first, second):
                assert [await first.ask(b"1"), await second.ask(b"2")] == [b"1", b"2"]
                assert list(server.application_instances) == ["all"]

    run(main())


def test_scope_id_refuses(cy, run, caplog):
    """None drops a datagram; so does a scope_id that raises or cannot be hashed: counted, told once, no more."""

    def scope_id(self, data, client):
        return 1 / 0 if data == b"raise" else {b"none": None, b"list": []}.get(data, client)

    async def main():
        server = server_of(cy, echo, scope_id=scope_id)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                client.send(b"none", b"raise", b"list", b"raise")
                assert await client.ask(b"ok") == b"ok"
        stats = server.stats()
        assert (stats["dropped_refused"], stats["datagrams_received"], stats["created"]) == (4, 5, 1)

    with caplog.at_level(logging.ERROR, "cyasgi"):
        run(main())
    (record,) = caplog.records
    assert "ZeroDivisionError" in record.getMessage()
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.parametrize("bind", [V4, V6])
def test_one_client_at_two_addresses(cy, run, bind):
    """A client of two addresses of one server has an instance at each, and is answered by the one it asked."""

    async def main():
        server = server_of(cy, Numbering(), binds=[bind, bind])
        async with serving_datagrams(server) as (first, second):
            loop = asyncio.get_running_loop()
            with socket.socket(socket.AF_INET6 if ":" in bind[0] else socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                client.bind(bind)
                answers = []
                for address in (first, second, first):
                    client.connect(address)
                    client.send(b"")
                    answers.append(await asyncio.wait_for(loop.sock_recv(client, 100), 10))
                assert answers == [b"0.1", b"1.1", b"0.2"]
                address = client.getsockname()[:2]
            assert list(server.application_instances) == [(address, second), (address, first)]

    run(main())


def test_one_instance_across_families(cy, run):
    """An own scope_id may span listeners: a session that moves from IPv4 to IPv6 is answered where it is."""

    async def main():
        server = server_of(cy, answer_each, binds=[V4, V6], scope_id=lambda self, data, client: data[:7])
        async with serving_datagrams(server) as addresses:
            with clients(*addresses) as (four, six):
                assert await four.ask(b"session1") == b"session1"
                assert await six.ask(b"session2") == b"session2"
                assert await four.ask(b"session3") == b"session3"
        assert server.stats()["created"] == 1

    run(main())


def test_answer_across_families_needs_the_server(cy, run):
    """An answer that names a client of the other family, but no address of the server, is an error that says so."""

    async def main():
        errors = []

        async def application(scope, receive, send):
            await receive()
            try:
                await send({"type": "datagram.send", "data": b"", "client": ("::1", 9)})
            except ValueError as error:
                errors.append(str(error))
            await send({"type": "datagram.send", "data": b"done"})

        async with serving_datagrams(server_of(cy, application, binds=[V4, V6])) as (four, _):
            with clients(four) as (client,):
                await client.ask(b"")
        assert errors == ["'::1' is not a numeric IPv4 address"]

    run(main())


@pytest.mark.parametrize("kind", ["def", "async def", "async def that waits"])
def test_overridden_creation(cy, run, kind):
    """get_or_create may be overridden as on any server, plain or async; scopes it is shown are never used again."""

    async def main():
        shown = []
        base = gateway(cy).DatagramServer

        class Plain(base):
            def get_or_create_application_instance(self, scope_id, scope):
                shown.append(scope)
                return super().get_or_create_application_instance(scope_id, {**scope, "extra": len(shown)})

        class Async(base):
            async def get_or_create_application_instance(self, scope_id, scope):
                shown.append(scope)
                if kind.endswith("waits"):
                    await passes(2)
                return await super().get_or_create_application_instance(scope_id, scope)

        application = Numbering()
        server = (Plain if kind == "def" else Async)(application, binds=V4)
        async with serving_datagrams(server) as (address,):
            with clients(address, address) as (first, second):
                assert [await first.ask(b""), await second.ask(b""), await first.ask(b"")] == [b"0.1", b"1.1", b"0.2"]
                client = first.address
                first.send(*(b"%d" % number for number in range(20)))
                await first.receive(20)
        assert [scope["client"] for scope in shown[:3]] == [client, second.address, client]
        assert len({id(scope) for scope in shown}) == 23
        assert [message["data"] for message in application.messages[3:]] == [b"%d" % number for number in range(20)]

    run(main())

"""A LoadBalancer as the application of a real server: instances that end, are evicted, or are left over at the end."""

from __future__ import annotations

import asyncio

import pytest

from support.balancing import balancer_of, tallies
from support.loops import passes
from support.recording_server import recording, served
from support.serving import eventually, in_time
from support.udp import clients, gateway, serving_datagrams


def naming(name):
    """An application that sends what it receives, with its name."""

    async def application(scope, receive, send):
        while True:
            await send((name, await receive()))

    return application


async def failing(scope, receive, send):
    """Fails at once."""
    raise ZeroDivisionError


async def failing_later(scope, receive, send):
    """Reads a message, then fails."""
    await receive()
    raise ZeroDivisionError


@pytest.mark.slow
def test_instances_are_spread(cy, run):
    """Each instance is run by one application from its beginning to its end; all its messages go there."""

    async def main():
        balancer = balancer_of(cy, {"a": naming("a"), "b": naming("b")})
        server = recording(cy.StatelessServer)(balancer)
        async with served(server):
            for message in (1, 2):
                for scope_id in range(4):
                    instance = server.get_or_create_application_instance(scope_id, {"type": "custom"})
                    instance.put_nowait((scope_id, message))
            await eventually(lambda: len(server.sent) == 8)
            assert sorted(server.sent) == [
                (name, (scope_id, message))
                for name, scope_ids in (("a", (0, 2)), ("b", (1, 3)))
                for scope_id in scope_ids
                for message in (1, 2)
            ]
            assert tallies(balancer) == {"a": (2, 0, 0, 0), "b": (2, 0, 0, 0)}
        # Ended with the server, having answered.
        assert tallies(balancer) == {"a": (0, 2, 0, 0), "b": (0, 2, 0, 0)}

    run(main())


def test_evicted_and_deleted(cy, run):
    """Instances that the server ends count for nothing, and none is counted as running afterwards."""

    async def main():
        async def reading(scope, receive, send):
            while True:
                await receive()

        balancer = balancer_of(cy, [reading, reading], "least-running")
        server = recording(cy.StatelessServer)(balancer, 10)
        async with served(server):
            for scope_id in range(50):
                server.get_or_create_application_instance(scope_id, {"type": "custom"}).put_nowait(scope_id)
                await passes(2)
            for scope_id in range(45, 50):
                assert await server.delete_application_instance(scope_id)
            await eventually(
                lambda: (
                    tallies(balancer) == {"0": (3, 0, 0, 22), "1": (2, 0, 0, 23)}
                    or tallies(balancer) == {"0": (2, 0, 0, 23), "1": (3, 0, 0, 22)}
                )
            )
        assert [counts[:3] for counts in tallies(balancer).values()] == [(0, 0, 0)] * 2
        assert server.stats()["evicted"] == 40 and server.failures == []

    run(main())


def test_failures_reach_the_server_once(cy, run):
    """A run that was repeated with success is no failure of the instance; the last one is."""

    async def main():
        balancer = balancer_of(cy, [failing, naming("b")], failure_threshold=1, failure_window=1)
        server = recording(cy.StatelessServer)(balancer)
        async with served(server):
            server.get_or_create_application_instance(1, {"type": "custom"}).put_nowait("hello")
            await in_time(lambda: server.sent == [("b", "hello")])
            assert server.failures == []
            assert balancer.stats()["retried"] == 1
            server.application = balancer = balancer_of(cy, [failing_later], failure_threshold=1, failure_window=1)
            server.get_or_create_application_instance(2, {"type": "custom"}).put_nowait("hello")
            await in_time(lambda: len(server.failures) == 1)
            server.get_or_create_application_instance(3, {"type": "custom"})
            await in_time(lambda: len(server.failures) == 2)
            assert balancer.stats()["refused"] == 1
        assert [type(error).__name__ for error in server.failures] == ["ZeroDivisionError", "NoApplicationAvailable"]

    run(main())


def test_datagrams(cy, run):
    """Over UDP: a client stays with its application; one that fails is taken over with the datagram it failed on."""

    async def main():
        ill = set()

        def numbering(name):
            async def application(scope, receive, send):
                while True:
                    message = await receive()
                    if name in ill:
                        raise ZeroDivisionError
                    await send({"type": "datagram.send", "data": name.encode() + message["data"]})

            return application

        balancer = balancer_of(cy, {"a": numbering("a"), "b": numbering("b")})
        server = gateway(cy).DatagramServer(balancer, binds=("127.0.0.1", 0))
        async with serving_datagrams(server) as (address,):
            with clients(*[address] * 3) as (first, second, third):
                assert [await client.ask(b"1") for client in (first, second, first)] == [b"a1", b"b1", b"a1"]
                ill.add("a")
                # A new client, whom the ill one would have: the datagram is read again by the other.
                assert await third.ask(b"2") == b"b2"
                assert balancer.stats()["retried"] == 1
                # An old client of the ill one: it has been answered, so its instance ends; it may ask anew.
                first.send(b"3")
                await in_time(lambda: tallies(balancer)["a"] == (0, 0, 2, 0))
                assert await first.ask(b"4") == b"b4"
        assert [counts[0] for counts in tallies(balancer).values()] == [0, 0]

    run(main())


def test_the_documented_example(cy, run):
    """What the documentation sketches as a server of its own: applications in turn, awaited by the caller."""

    async def main():
        def app(number):
            async def app(scope, receive, send):
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"Response from App %d" % number})

            return app

        server = cy.StatelessServer(balancer_of(cy, [app(1), app(2)]))
        bodies = []

        async def send(message):
            bodies.append(message.get("body"))

        for number in range(4):
            scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
            instance = await server.get_or_create_application_instance(number, scope)
            await instance["application"](scope, asyncio.Queue().get, send)
        assert bodies[1::2] == [b"Response from App 1", b"Response from App 2"] * 2

    run(main())

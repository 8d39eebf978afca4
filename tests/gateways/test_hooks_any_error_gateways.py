"""Hooks and overrides of gateways, of a lifespan and of a balancer may raise whatever there is: it is logged, and
they go on."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from support import websockets_raw, websockets_serving
from support.any_error import fail as fail, logged
from support.balancing import answering, ask, tallies
from support.http_connection import hello
from support.loops import passes
from support.serving import in_time
from support.udp import clients, gateway, serving_datagrams


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_datagrams(cy, run, caplog, fail, kind):
    """A datagram for which an override fails is dropped, counted and told; the socket goes on."""

    def scope_id(self, data, client):
        return fail() if data == b"raise" else client

    async def creation(self, scope_id, scope):
        await passes(1)
        if not failed:
            failed.append(True)
            fail()
        return super(type(self), self).get_or_create_application_instance(scope_id, scope)

    async def echo(scope, receive, send):
        while True:
            message = await receive()
            await send({"type": "datagram.send", "data": message["data"]})

    async def main():
        overrides = {"scope_id": scope_id} if kind == "def" else {"get_or_create_application_instance": creation}
        server = type("Server", (gateway(cy).DatagramServer,), overrides)(echo, binds=("127.0.0.1", 0))
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                client.send(b"raise")
                await in_time(lambda: server.stats()["dropped_refused"] == 1)
                assert await client.ask(b"ok") == b"ok"
        assert server.stats()["datagrams_received"] == 2

    failed = []
    run(main())
    assert logged(caplog, fail) == 1


@pytest.mark.parametrize("kind", ["request", "WebSocket"])
def test_requests(cy, run, caplog, fail, kind):
    """A request, or a WebSocket, for which an override fails is answered 500; the next one is served."""

    async def application(scope, receive, send):
        if kind == "request":
            await hello(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.close"})

    async def main():
        server = websockets_serving.server_of(cy, application, base="http", get_or_create_application_instance=creation)
        ask = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" if kind == "request" else websockets_raw.request(target=b"%s")
        async with websockets_serving.serving(server) as address:
            statuses = []
            for target in (b"/fail", b"/"):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(ask % target)
                statuses.append((await reader.readuntil(b"\r\n")).split()[1])
                writer.close()
                await writer.wait_closed()
            assert statuses == [b"500", b"200" if kind == "request" else b"403"]

    def creation(self, scope_id, scope):
        if scope["path"] == "/fail":
            fail()
        return super(type(self), self).get_or_create_application_instance(scope_id, scope)

    run(main())
    assert logged(caplog, fail) == 1
    assert f"a {kind} could not be begun" in caplog.text


def test_access_log(cy, caplog, fail):
    """A stream that fails costs the lines that it was given, and nothing else."""

    class Stream:
        def write(self, text):
            fail()

    async def main():
        log = importlib.import_module(f"{cy.__name__}.gateways.access_log").AccessLog(Stream())
        for second in range(2):
            log.tick(second)
            log.add("client", "GET", b"/", "1.1", 200, 5, 0.1)
        log.flush()

    asyncio.run(main())
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "1 line of the access log was lost"
    ] * 2


@pytest.mark.slow
def test_deadlines(cy, run, caplog, fail):
    """What is to be done at a deadline fails: the others are met."""

    async def main():
        module = importlib.import_module(f"{cy.__name__}.gateways.net.deadlines")
        deadlines = module.Deadlines()
        met = []
        for callback in (fail, lambda: met.append(True)):
            deadlines.at(0.0, callback)
        await in_time(lambda: met)
        deadlines.close()

    run(main())
    assert logged(caplog, fail) == 1


def test_balancer(caplog, fail):
    """on_state_change() that raises: the run goes on as it would, and is accounted for."""
    from cyasgi.balancing import LoadBalancer

    class Balancer(LoadBalancer):
        def on_state_change(self, name, old, new):
            fail()

    async def main():
        balancer = Balancer([answering("a", 500)], failure_threshold=1, failure_window=1)
        assert (await ask(balancer)).status == (500, b"a")
        assert tallies(balancer) == {"0": (0, 0, 1, 0)}

    asyncio.run(main())
    assert logged(caplog, fail) == 1


@pytest.mark.parametrize("balanced", [False, True], ids=["alone", "balanced"])
def test_lifespan(cy, run, caplog, fail, balanced):
    """An application whose lifespan fails while it is served says so in the log, and when it is shut down."""

    async def application(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await passes(1)
        fail()

    async def main():
        served = application
        if balanced:
            served = importlib.import_module(f"{cy.__name__}.balancing").LoadBalancer([application])
        lifespans = importlib.import_module(f"{cy.__name__}.gateways.lifespan")
        lifespan = lifespans.Lifespan(served, "on")
        await lifespan.startup()
        await in_time(lambda: "lifespan failed" in caplog.text)
        with pytest.raises(lifespans.LifespanError):
            await lifespan.shutdown(5)

    run(main())
    assert logged(caplog, fail) >= 1

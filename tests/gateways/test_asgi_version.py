"""An application is told the version of ASGI that it is called by: ``scope["asgi"]["version"]``."""

from __future__ import annotations

import asyncio
import importlib
import json

import pytest

from support.http_connection import talk
from support.real_clients import serving
from support.udp import clients, gateway as datagrams, serving_datagrams
from support.uvicorn_serving import under_uvicorn
from support.websockets_serving import Client

GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Told:
    """The versions that scopes have had when the application saw them, by their types, and what it does with each."""

    def __init__(self):
        self.versions = {}

    def note(self, scope):
        self.versions.setdefault(scope["type"], []).append((scope["asgi"]["version"], scope["asgi"]["spec_version"]))

    async def serve(self, scope, receive, send):
        match scope["type"]:
            case "lifespan":
                for what in ("startup", "shutdown"):
                    await receive()
                    await send({"type": f"lifespan.{what}.complete"})
            case "websocket":
                await receive()
                await send({"type": "websocket.accept"})
                await send({"type": "websocket.close"})
            case "datagram":
                await send({"type": "datagram.send", "data": (await receive())["data"]})
            case "http":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": json.dumps(scope["asgi"]).encode()})


def as_function(told):
    def application(scope):
        told.note(scope)
        return lambda receive, send: told.serve(scope, receive, send)

    return application


def as_class(told):
    class Application:
        def __init__(self, scope):
            told.note(scope)
            self.scope = scope

        async def __call__(self, receive, send):
            await told.serve(self.scope, receive, send)

    return Application


def as_class_of_anything(told):
    """Only a call can tell what it takes."""
    application = as_class(told)

    class PassesOn:
        def __call__(self, *arguments):
            return application(*arguments)

    return PassesOn()


def with_something_optional(told):
    """It takes the scope alone as well as three."""

    def application(scope, one=None, another=None):
        told.note(scope)
        return lambda receive, send: told.serve(scope, receive, send)

    return application


TWICE = [as_function, as_class, as_class_of_anything, with_something_optional]


def asgi_3(told):
    async def application(scope, receive, send):
        told.note(scope)
        await told.serve(scope, receive, send)

    return application


def of_anything(told):
    application = asgi_3(told)

    class PassesOn:
        def __call__(self, *arguments):
            return application(*arguments)

    return PassesOn()


def with_options(told):
    """It can be called with the scope alone, and gives a coroutine then too."""
    application = asgi_3(told)

    def passes_on(scope, one=None, another=None):
        return application(scope, one, another)

    return passes_on


ONCE = [asgi_3, of_anything, with_options]

EVERY = [(make, "2.0") for make in TWICE] + [(make, "3.0") for make in ONCE]


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("make", "version"), EVERY, ids=lambda one: getattr(one, "__name__", None))
def test_http(cy, run, make, version, balanced):
    """Each request, each WebSocket and the lifespan, also behind a balancer; the other versions are their own."""

    async def main():
        told = Told()
        application = make(told)
        if balanced:
            balancing = importlib.import_module(f"{cy.__name__}.balancing")
            application = balancing.LoadBalancer([application])
        async with serving(cy, application, lifespan="on") as server:
            [address] = server.addresses
            for _ in range(2):
                answer = await talk(address, GET)
                assert answer.endswith(json.dumps({"version": version, "spec_version": "2.3"}).encode())
                client = await Client(address).open()
                client.writer.close()
        assert told.versions == {
            "lifespan": [(version, "2.0")],
            "http": [(version, "2.3")] * 2,
            "websocket": [(version, "2.4")] * 2,
        }

    run(main())


@pytest.mark.parametrize(("make", "version"), EVERY, ids=lambda one: getattr(one, "__name__", None))
def test_datagrams(cy, run, make, version):
    async def main():
        told = Told()
        server = datagrams(cy).DatagramServer(make(told), binds="127.0.0.1:0")
        async with serving_datagrams(server) as [address]:
            with clients(address, address) as both:
                for client in both:
                    assert await client.ask(b"x") == b"x"
        assert told.versions == {"datagram": [(version, "1.0")] * 2}

    run(main())


def test_applications_of_both_kinds(cy, run):
    """Behind one balancer each is told its own, and the one that is asked second not that of the first."""

    async def main():
        two, three = Told(), Told()

        def fails(scope):
            two.note(scope)

            async def instance(receive, send):
                raise ValueError("not today")

            return instance

        balancing = importlib.import_module(f"{cy.__name__}.balancing")
        async with serving(cy, balancing.LoadBalancer([fails, asgi_3(three)]), lifespan="off") as server:
            assert (await talk(server.addresses[0], GET)).endswith(b'{"version": "3.0", "spec_version": "2.3"}')
        assert two.versions == {"http": [("2.0", "2.3")]}

    run(main())


def test_an_application_that_is_replaced(cy, run):
    """The version is the new one's from its first request on."""

    async def main():
        async with serving(cy, asgi_3(Told()), lifespan="off") as server:
            for make, version in [*EVERY, *reversed(EVERY)]:
                server.application = make(told := Told())
                await talk(server.addresses[0], GET)
                assert told.versions == {"http": [(version, "2.3")]}

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize(("interface", "make"), [("asgi2", as_class), ("asgi3", asgi_3), ("auto", as_class)])
def test_under_uvicorn(cy, run, interface, make):
    """The protocol for uvicorn says what uvicorn says."""

    async def main():
        told = Told()
        async with under_uvicorn(cy, make(told), interface=interface) as (server, address):
            await talk(address, GET)
            version = server.config.asgi_version
        assert told.versions == {"http": [(version, "2.3")]}
        assert version == ("3.0" if make is asgi_3 else "2.0")

    run(main())


@pytest.mark.parametrize("make", [*TWICE, asgi_3])
def test_scopes_of_others(impl, run, make):
    """What the user of the class has given as a scope is passed on as it is, as the reference does."""

    async def main():
        told = Told()
        asgi = {"version": "3.0", "spec_version": "9.9"}
        ended = asyncio.Event()

        class Server(impl.StatelessServer):
            async def application_send(self, scope, message):
                ended.set()

        server = Server(make(told))
        server.get_or_create_application_instance("a", {"type": "http", "asgi": asgi})
        await ended.wait()
        assert told.versions == {"http": [("3.0", "9.9")]}
        server.delete_application_instance("a")

    run(main())

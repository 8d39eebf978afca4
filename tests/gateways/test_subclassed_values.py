"""Values of subclasses of str, bytes, int and dict are taken wherever those are: frameworks hand them over unawares."""

from __future__ import annotations

import asyncio
import enum
import http
import importlib

import pytest
from django.utils.safestring import SafeString
from markupsafe import Markup
from websockets.asyncio.client import connect

from support.http_connection import http as http_of, serving, talk
from support.udp import clients, gateway, serving_datagrams
from support.websockets_serving import server_of as websockets_of, serving as serving_websockets


class Colour(enum.StrEnum):
    RED = "red"


class Loud(str):
    """Whose text is another one when it is asked for."""

    __slots__ = ()

    def __str__(self):
        return "not what it holds"

    def encode(self, *arguments):
        raise AssertionError("a subclass's method was called")


class Data(bytes):
    pass


class Message(dict):
    pass


class Number(enum.IntEnum):
    ONE = 1


TEXTS = (SafeString("<b>safe</b>"), Markup("<i>marked</i>"), Colour.RED, Loud("quiet"))


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: type(text).__name__)
@pytest.mark.parametrize("compressed", [True, False])
def test_websocket_text(cy, run, text, compressed):
    """It goes out as the text that it is."""

    async def application(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await send(Message(type="websocket.send", text=text))
        await send({"type": "websocket.send", "bytes": Data(b"data")})
        await send({"type": "websocket.close", "code": 1000, "reason": text})

    async def main():
        compression = "deflate" if compressed else None
        async with (
            serving_websockets(websockets_of(cy, application)) as (host, port),
            connect(f"ws://{host}:{port}/", compression=compression, proxy=None) as client,
        ):
            assert await client.recv() == str.__str__(text)
            assert await client.recv() == b"data"
            await client.wait_closed()
            assert (client.close_code, client.close_reason) == (1000, str.__str__(text))

    run(main())


def test_http_response(cy, run):
    """Status, headers and body."""

    async def application(scope, receive, send):
        start = {"status": http.HTTPStatus.CREATED, "headers": [(Data(b"x-own"), Data(b"1"))]}
        await send(Message(type="http.response.start", **start))
        await send(Message(type="http.response.body", body=Data(b"body")))

    async def main():
        server = type("Server", (http_of(cy).HTTPServer,), {"lifespan": "off"})(application, binds="127.0.0.1:0")
        async with serving(server) as (address,):
            answer = await talk(address, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 201 Created\r\n")
        assert b"\r\nx-own: 1\r\n" in answer and answer.endswith(b"\r\n\r\nbody")

    run(main())


def test_datagrams(cy, run):
    async def application(scope, receive, send):
        while True:
            await receive()
            await send(Message(type="datagram.send", data=Data(b"data")))

    async def main():
        server = gateway(cy).DatagramServer(application, binds="127.0.0.1:0")
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                assert await client.ask(b"x") == b"data"

    run(main())


def test_scope_ids(cy, run):
    """A scope_id that equals another one finds its instance, and names its task."""

    async def application(scope, receive, send):
        await receive()

    async def main():
        server = cy.StatelessServer(application)
        instance = server.get_or_create_application_instance(SafeString("a"), {})
        assert server.get_or_create_application_instance("a", {}) is instance
        assert instance.future.get_name() == "a"
        server.delete_application_instance("a")
        await asyncio.sleep(0)

    run(main())


@pytest.mark.parametrize(
    ("key", "same"),
    [(SafeString("a"), "a"), (Loud("a"), "a"), (Data(b"a"), b"a"), (Number.ONE, 1), ((Colour.RED, 2), ("red", 2))],
    ids=range(5),
)
def test_keys_of_a_balancer(cy, key, same):
    """They choose the application that the plain value chooses, in every process."""
    strategy = importlib.import_module(f"{cy.__name__}.balancing.strategy")
    assert strategy.encode_key(key) == strategy.encode_key(same)


def test_messages_that_a_balancer_replays(cy, run):
    """A request whose first application fails is retried, whatever class of dict its messages are."""
    balancing = importlib.import_module(f"{cy.__name__}.balancing")
    sent = []

    async def fails(scope, receive, send):
        await receive()
        raise RuntimeError("no luck")

    async def works(scope, receive, send):
        message = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": message["body"]})

    async def receive():
        return Message(type="http.request", body=b"asked", more_body=False)

    async def send(message):
        sent.append(message)

    async def main():
        balancer = balancing.LoadBalancer({"first": fails, "second": works})
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        await balancer(scope, receive, send)
        assert sent[-1] == {"type": "http.response.body", "body": b"asked"}

    run(main())

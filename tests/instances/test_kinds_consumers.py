"""Consumers of Channels, given to a server directly: their signature is that of their constructor, and they serve."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.generic.websocket import JsonWebsocketConsumer
from django.conf import settings
from django.utils.functional import empty

from support.instances import SCOPE, make, sending
from support.serving import eventually, in_time

#: The `send` that an application is given does not say that it is asynchronous, the reference's neither.
not_marked = pytest.mark.filterwarnings("ignore:async_to_sync was passed a non-async-marked callable")


@pytest.fixture
def django() -> Iterator[None]:
    """Settings of its own, which Channels reads: no channel layer."""
    before = settings._wrapped
    settings._wrapped = empty
    settings.configure(CHANNEL_LAYERS={})
    yield
    settings._wrapped = before


class Echo(AsyncConsumer):
    async def test_message(self, message: Any) -> None:
        await self.send({"type": "test.echo", "text": message["text"]})


class SyncEcho(SyncConsumer):
    def test_message(self, message: Any) -> None:
        self.send({"type": "test.echo", "text": message["text"]})


class EchoWith(AsyncConsumer):
    """One whose constructor has parameters of its own, which as_asgi() gives."""

    def __init__(self, *, prefix: str) -> None:
        self.prefix = prefix

    async def test_message(self, message: Any) -> None:
        await self.send({"type": "test.echo", "text": self.prefix + message["text"]})


@not_marked
@pytest.mark.parametrize(
    ("application", "answer"),
    [(Echo.as_asgi(), "hello"), (SyncEcho.as_asgi(), "hello"), (EchoWith.as_asgi(prefix="say "), "say hello")],
    ids=["async", "sync", "with parameters"],
)
def test_consumers_as_asgi(impl, run, django, application, answer):
    """A consumer of Channels serves, given to a server directly: its application has the signature of its class."""

    async def main():
        server = sending(impl.StatelessServer, application)
        make(server).put_nowait({"type": "test.message", "text": "hello"})
        await in_time(lambda: server.sent == [{"type": "test.echo", "text": answer}])
        assert not server.application_instances["id"]["future"].done()

    run(main())


@not_marked
def test_a_consumer_of_websockets_as_asgi(impl, run, django):
    """So does one that is made to be served by a WebSocket server."""

    class Answering(JsonWebsocketConsumer):
        def receive_json(self, content, **kwargs):
            self.send_json({"got": content})

    async def main():
        server = sending(impl.StatelessServer, Answering.as_asgi())
        queue = make(server, scope={"type": "websocket"})
        queue.put_nowait({"type": "websocket.connect"})
        queue.put_nowait({"type": "websocket.receive", "text": "[1]"})
        await in_time(lambda: len(server.sent) == 2)
        assert server.sent[0]["type"] == "websocket.accept"
        assert server.sent[1] == {"type": "websocket.send", "text": '{"got": [1]}'}

    run(main())


def test_the_consumers_application_called_by_its_caller(cy, run, django):
    """`instance["application"]` of such an application is one that can be called."""

    async def main():
        sent = []
        messages = [{"type": "test.message", "text": "hello"}]

        async def receive():
            return messages.pop() if messages else await asyncio.get_running_loop().create_future()

        async def send(message):
            sent.append(message["text"])

        instance = await make(sending(cy.StatelessServer, Echo.as_asgi()))
        task = asyncio.create_task(instance["application"](SCOPE, receive, send))
        await eventually(lambda: sent == ["hello"])
        task.cancel()
        await asyncio.wait({task})

    run(main())

"""Channel layers of any kind that fail: they are tried again, or end the server."""

from __future__ import annotations

import asyncio
import functools
import importlib
import itertools
import json
import logging
import pickle
import zlib

import msgpack
import pytest
from channels.exceptions import ChannelFull
from channels.layers import InMemoryChannelLayer
from channels_redis.serializers import registry

from cyasgi.sources.backoff import Backoff
from support.channel_layers import Recorder, records, send_numbers, sources, working
from support.serving import eventually, in_time


@pytest.fixture
def simple(cy, monkeypatch):
    """The module that reads such layers, which tries again almost at once."""
    module = importlib.import_module(f"{sources(cy).__name__}.simple")
    monkeypatch.setattr(module, "Backoff", functools.partial(module.Backoff, 0.001))
    return module


class FailingLayer(InMemoryChannelLayer):
    """Fails so many times, then works."""

    def __init__(self, failures):
        super().__init__(capacity=1000)
        self.failures = failures

    async def receive(self, channel):
        if self.failures:
            self.failures -= 1
            raise ConnectionError("gone")
        return await super().receive(channel)


@pytest.mark.slow
def test_layer_that_fails(cy, run, caplog):
    """It is tried again and again."""

    async def main():
        layer, app = FailingLayer(2), Recorder()
        async with working(cy, app, ["a"], layer) as worker:
            await send_numbers(layer, "a", [1])
            await in_time(lambda: app.done)
            assert worker.server.stats()["reconnects"] == 2

    with caplog.at_level(logging.WARNING, "cyasgi"):
        run(main())
    assert sum("the channel layer failed: ConnectionError('gone')" in one.getMessage() for one in caplog.records) == 2


def test_layer_that_must_not_fail(cy, run):
    """Without `reconnect` its error ends the server."""

    async def main():
        server = sources(cy).ChannelLayerServer(Recorder(), ["a"], FailingLayer(1))
        server.reconnect = False
        with pytest.raises(sources(cy).LayerError, match="gone"):
            await server.arun()

    run(main())


class Forgetful(InMemoryChannelLayer):
    """Takes nothing back."""

    closed = False

    async def send(self, channel, message):
        if self.closed:
            raise ChannelFull(channel)
        await super().send(channel, message)


@pytest.mark.parametrize("full", [False, True])
def test_stop_gives_back_what_was_received(cy, run, caplog, full):
    """A message that was received for an application that cannot be started goes back; if it cannot, that is told."""

    async def main():
        layer = Forgetful(capacity=1000)

        async def application(scope, receive, send):
            raise OSError("no database")

        async with working(cy, application, ["a"], layer) as worker:
            await send_numbers(layer, "a", [1])
            await eventually(lambda: worker.server.stats()["waiting"] == 1)
            layer.closed = full
            await worker.stop()
        assert worker.server.stats()["put_back"] == (not full)
        assert worker.server.stats()["waiting"] == 0
        if not full:
            assert (await layer.receive("a"))["number"] == 1

    with caplog.at_level(logging.ERROR, "cyasgi"):
        run(main())
    assert len(records(caplog, "1 messages are lost: the layer does not take them back")) == full


class Decoding(InMemoryChannelLayer):
    """Decodes messages in `receive()`, as layers do that have them as bytes."""

    async def receive(self, channel):
        return json.loads((await super().receive(channel))["text"])


async def send_texts(layer, *texts):
    for text in texts:
        await layer.send("a", {"type": "text", "text": text})


#: Those that raise JSONDecodeError, which is a ValueError, TypeError and UnicodeDecodeError.
UNREADABLE = ("{", 1, b"\xff\n")


def test_messages_that_the_layer_cannot_read(cy, run, simple, caplog):
    """Each is told of in one line; those behind it are processed."""

    async def main():
        layer, app = Decoding(capacity=1000), Recorder()
        for number in range(3):
            await send_texts(layer, *UNREADABLE, json.dumps({"type": "work", "number": number}))
        async with working(cy, app, ["a"], layer) as worker:
            await in_time(lambda: app.of("a") == [0, 1, 2])
            assert worker.server.stats()["refused"] == 9
            assert worker.server.stats()["reconnects"] == 0

    with caplog.at_level(logging.ERROR, "cyasgi"):
        run(main())
    assert len(records(caplog, "a message on channel 'a' was refused: it cannot be read: ")) == 9
    assert len(caplog.records) == 9
    assert not any("\n" in record.getMessage() for record in caplog.records)


ENCRYPTED = registry.get_serializer("msgpack", symmetric_encryption_keys=["secret"])
#: How a message is decoded, what it is, and what that raises: none of it, in any number, means that the layer fails, or
#: is used wrongly.
UNDECODABLE = [
    (ENCRYPTED.deserialize, b"of another key", "InvalidToken"),
    (json.loads, b"[" * 100_000, "RecursionError"),
    (json.loads, b"{", "JSONDecodeError"),
    (json.loads, b'"\xff"', "UnicodeDecodeError"),
    (msgpack.unpackb, b"\xc1", "FormatError"),
    (msgpack.unpackb, b"\x91" * 2000, "StackError"),
    (msgpack.unpackb, b"\x01\x01", "ExtraData"),
    (pickle.loads, b"cnothing", "UnpicklingError"),
    (zlib.decompress, b"plain", "error"),
]


@pytest.mark.parametrize(("decode", "content", "name"), UNDECODABLE, ids=[name for *_, name in UNDECODABLE])
def test_messages_that_a_library_cannot_decode(cy, run, simple, caplog, decode, content, name):
    """They are refused, however many come at once, even if the server is to end when the layer fails."""

    class Layer(InMemoryChannelLayer):
        async def receive(self, channel):
            message = await super().receive(channel)
            return message if "number" in message else decode(message["text"])

    async def main():
        layer, app = Layer(capacity=1000), Recorder()
        await send_texts(layer, *[content] * 6)
        await send_numbers(layer, "a", [1])
        async with working(cy, app, ["a"], layer, reconnect=False) as worker:
            await in_time(lambda: app.done or worker.task.done())
            assert worker.server.stats()["refused"] == 6
            assert worker.server.stats()["reconnects"] == 0
        assert app.of("a") == [1]

    with caplog.at_level(logging.WARNING, "cyasgi"):
        run(main())
    assert len(records(caplog, f"was refused: it cannot be read: {name}")) == len(caplog.records) == 6
    assert not caplog.records[0].getMessage().endswith((":", " "))


def test_layer_that_does_not_get_past_a_message(cy, run, simple, monkeypatch):
    """It is asked again and again, at growing intervals."""
    delays = []

    class Noted(Backoff):
        def failed(self):
            delays.append(super().failed())
            return delays[-1]

    monkeypatch.setattr(simple, "Backoff", functools.partial(Noted, 0.001))

    class Stuck(InMemoryChannelLayer):
        async def receive(self, channel):
            return json.loads("{")

    async def main():
        async with working(cy, Recorder(), ["a"], Stuck()):
            await in_time(lambda: len(delays) >= 7)

    run(main())
    assert all(delay >= 0.0005 * 2**number for number, delay in enumerate(delays))


def test_unreadable_messages_that_come_one_by_one(cy, run, simple, monkeypatch):
    """However many these are: a layer that waits for each of them is not used wrongly."""
    monkeypatch.setattr(simple, "clock", itertools.count().__next__)

    async def main():
        layer, app = Decoding(capacity=1000), Recorder()
        await send_texts(layer, *UNREADABLE * 4, json.dumps({"type": "work", "number": 1}))
        async with working(cy, app, ["a"], layer):
            await in_time(lambda: app.done)

    run(main())


def test_layer_that_is_used_wrongly(cy, run, simple):
    """An error that comes again and again, and at once, ends the server, whatever `reconnect` says."""

    class Picky(InMemoryChannelLayer):
        async def receive(self, channel):
            raise TypeError("not this name")

    async def main():
        server = sources(cy).ChannelLayerServer(Recorder(), ["a"], Picky())
        with pytest.raises(TypeError, match="not this name"):
            async with asyncio.timeout(10):
                await server.arun()

    run(main())

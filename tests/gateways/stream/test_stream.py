"""The usual course of streams: connections, messages both ways, and their end in order."""

from __future__ import annotations

import asyncio
import logging

import pytest

from support.serving import in_time
from support.streams import Client, Recorder, echo, server_of, serving


def test_lines(cy, run, quiet):
    """Each line is a message, whatever it ends with, and however it comes."""

    async def main():
        server = server_of(cy, echo)
        async with serving(server) as address, Client(address) as client:
            assert await client.ask(b"one\n") == b"one\n"
            assert await client.ask(b"two\r\n") == b"two\n"
            client.send(b"th")
            assert await client.ask(b"ree\n\nfour\n") == b"three\n"
            assert await client.line() == b"\n"
            assert await client.line() == b"four\n"
            client.send(b"line\n" * 10_000)
            assert await client.exactly(50_000) == b"line\n" * 10_000
            stats = server.stats()
        assert stats["streams"] == stats["connections"] == 1
        assert stats["messages_received"] == stats["messages_sent"] == 10_005

    run(main())


def test_scope(cy, run):
    async def main():
        recorder = Recorder()
        server = server_of(cy, recorder, framing="length:2")
        server.state = {"given": 1}
        async with serving(server) as address, Client(address) as client:
            client.send(b"\0\5hello\0\0")
            await in_time(lambda: len(recorder.messages) == 3)
            here = client.writer.get_extra_info("sockname")
            [scope] = recorder.scopes
            assert scope == {
                "type": "stream",
                "asgi": {"version": "3.0", "spec_version": "1.0"},
                "server": address,
                "client": here,
                "framing": "length:2",
                "extensions": {},
                "state": {"given": 1},
            }
            assert scope["state"] is not server.state
            assert recorder.messages == [
                {"type": "stream.connect", "client": here, "server": address},
                {"type": "stream.receive", "data": b"hello"},
                {"type": "stream.receive", "data": b""},
            ]

    run(main())


def test_half_close(cy, run, quiet):
    """A client that closes its half gets the answers to all that it has sent, and what the application adds."""

    async def main():
        async def application(scope, receive, send):
            seen = []
            while (message := await receive())["type"] != "stream.disconnect":
                seen.append(message.get("data"))
            assert message == {
                "type": "stream.disconnect",
                "reason": "eof",
                "detail": "",
                "writable": True,
                "rest": b"rest",
            }
            for number in range(3):
                await asyncio.sleep(0.001)
                await send({"type": "stream.send", "data": b"%d of %d" % (number, len(seen))})

        async with serving(server_of(cy, application)) as address, Client(address) as client:
            client.send(b"a\nb\nrest")
            client.half_close()
            assert await client.rest() == b"0 of 3\n1 of 3\n2 of 3\n"

    run(main())


def test_who_listens_after_half_close(cy, run, quiet):
    """An application may go on sending after the end of its client's half; it learns once more when that is lost."""

    async def main():
        recorder = Recorder()

        async def application(scope, receive, send):
            while True:
                message = await receive()
                recorder.messages.append(message)
                if message["type"] == "push":
                    await send({"type": "stream.send", "data": b"pushed"})
                elif message["type"] == "stream.disconnect" and not message["writable"]:
                    return

        server = server_of(cy, application)
        async with serving(server) as address:
            async with Client(address) as client:
                client.half_close()
                await in_time(lambda: recorder.end is not None)
                [scope_id] = server.application_instances
                assert server.send_to(scope_id, {"type": "push"})
                assert await client.line() == b"pushed\n"
                client.abort()
                while server.application_instances:
                    server.send_to(scope_id, {"type": "push"})
                    await asyncio.sleep(0.001)
            ends = [one for one in recorder.messages if one["type"] == "stream.disconnect"]
            assert [one["writable"] for one in ends] == [True, False]

    run(main())


def test_application_closes(cy, run, quiet):
    """What was sent before reaches the client, though it still sends; what is sent after it raises an OSError."""

    async def main():
        failures = []

        async def application(scope, receive, send):
            await send({"type": "stream.send", "data": b"x" * 60_000})
            await send({"type": "stream.close"})
            try:
                await send({"type": "stream.send", "data": b"late"})
            except OSError as error:
                failures.append(error)
            while (message := await receive())["type"] != "stream.disconnect":
                pass
            failures.append(message["reason"])
            raise failures[0]

        async with serving(server_of(cy, application)) as address, Client(address) as client:
            client.send(b"more\n" * 1000)
            assert await client.rest() == b"x" * 60_000 + b"\n"
            await in_time(lambda: len(failures) == 2)
            assert str(failures[0]) == "the connection is closed"
            assert failures[1] == "closed"

    run(main())


@pytest.mark.parametrize("how", ["returns", "fails", "is cancelled"])
def test_application_ends(cy, run, caplog, how):
    """The connection is closed in order with its application, after all that was sent."""

    async def main():
        async def application(scope, receive, send):
            await receive()
            await send({"type": "stream.send", "data": b"answer"})
            if how == "fails":
                raise ValueError("on purpose")
            if how == "is cancelled":
                await asyncio.get_running_loop().create_future()

        server = server_of(cy, application)
        async with serving(server) as address, Client(address) as client:
            assert await client.line() == b"answer\n"
            if how == "is cancelled":
                [scope_id] = server.application_instances
                await server.delete_application_instance(scope_id)
            assert await client.rest() == b""
            await in_time(lambda: not server.application_instances)

    run(main())
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR].__len__() == (
        how == "fails"
    )


def test_client_goes(cy, run, quiet):
    """What had come is received before the end of a connection that is lost; what is sent then is no error."""

    async def main():
        recorder = Recorder()

        async def application(scope, receive, send):
            await receive()
            await ready.wait()
            while (message := await receive())["type"] != "stream.disconnect":
                recorder.messages.append(message)
            recorder.messages.append(message)
            await send({"type": "stream.send", "data": b"into the void"})

        ready = asyncio.Event()
        server = server_of(cy, application)
        async with serving(server) as address:
            async with Client(address) as client:
                client.send(b"a\nb\n")
                await in_time(lambda: server.waiting_bytes)
                client.abort()
            await in_time(lambda: not server.connections)
            ready.set()
            await in_time(lambda: not server.application_instances)
            assert recorder.data == [b"a", b"b"]
            assert recorder.end["reason"] in ("lost", "eof")
            assert recorder.end["writable"] is False

    run(main())


def test_several_receivers(cy, run, quiet):
    """Tasks of an application that wait side by side each get a message."""

    async def main():
        got = []

        async def application(scope, receive, send):
            await receive()
            got.extend(await asyncio.gather(receive(), receive(), receive()))

        async with serving(server_of(cy, application)) as address, Client(address) as client:
            client.send(b"a\nb\nc\n")
            assert await client.rest() == b""
            assert sorted(one["data"] for one in got) == [b"a", b"b", b"c"]

    run(main())


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("x", "a message must be a dict, got 'x'"),
        ({"type": "http.response.start"}, "unknown type of message"),
        ({"type": "stream.send"}, "must have 'data'"),
        ({"type": "stream.send", "data": "text"}, "must be bytes, got str"),
        ({"type": "stream.send", "data": b"two\nlines"}, "must be one line"),
    ],
)
def test_malformed_messages(cy, run, message, error):
    """They raise in `send`, and nothing of them is written; the connection goes on."""

    async def main():
        async def application(scope, receive, send):
            await receive()
            try:
                await send(message)
            except (TypeError, ValueError) as raised:
                await send({"type": "stream.send", "data": str(raised).encode()})

        async with serving(server_of(cy, application)) as address, Client(address) as client:
            assert error.encode() in await client.line()
            assert await client.rest() == b""

    run(main())


def test_an_override_of_send(cy, run):
    """Messages pass through `application_send` where it is overridden."""

    async def main():
        async def application_send(self, scope, message):
            message["data"] = message["data"].upper()
            await super(type(self), self).application_send(scope, message)

        async with (
            serving(server_of(cy, echo, application_send=application_send)) as address,
            Client(address) as client,
        ):
            assert await client.ask(b"a\n") == b"A\n"

    run(main())


def test_a_framing_of_ones_own(cy, run, caplog):
    """It may make objects of messages; one that fails ends its connection, and is logged."""

    async def main():
        base = __import__(f"{cy.__name__}.wire.stream", fromlist=["x"]).Framing

        class Numbers(base):
            def next_message(self):
                return int(self.take(1)) if self.buffered else None

            def encode(self, data):
                return b"%d" % data

        async def application(scope, receive, send):
            assert scope["framing"] == "Numbers"
            while (message := await receive())["type"] != "stream.disconnect":
                if "data" in message:
                    await send({"type": "stream.send", "data": message["data"] + 1})
            assert (message["reason"], message["detail"]) == ("malformed", "the framing failed")

        async with serving(server_of(cy, application, framing=Numbers)) as address, Client(address) as client:
            client.send(b"123x4")
            assert await client.rest() == b"234"

    run(main())
    assert "the framing 'Numbers' has failed: ValueError" in caplog.text


@pytest.mark.parametrize(
    ("framing", "error"),
    [
        ("nowhere:Thing", "it cannot be imported: No module named 'nowhere'"),
        ("json:dumps", "it makes '1', which is no"),
        ("json:__name__", "it is 'json', and no class"),
        ("cyasgi:StatelessServer", "it makes"),
        (lambda size: 1 / 0, "it raised ZeroDivisionError"),
    ],
)
def test_what_is_no_framing(cy, run, framing, error):
    async def main():
        server = server_of(cy, echo)
        server.framing = framing
        with pytest.raises(ValueError, match="framing=") as raised:
            await server.arun()
        assert error in str(raised.value)

    run(main())


@pytest.mark.parametrize("framing", ["", "line", "length:9", None, 3, b"lines"])
def test_what_a_framing_may_be(cy, framing):
    server = server_of(cy, echo)
    with pytest.raises((TypeError, ValueError), match=r"framing=.*accepted is a name among lines"):
        server.framing = framing

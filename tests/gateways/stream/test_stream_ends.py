"""How streams end with their server: a last message for everybody, within bounds, and nothing lost without a word."""

from __future__ import annotations

import asyncio
import time

import pytest

from support.serving import in_time, stop
from support.streams import Client, Recorder, echo, server_of, serving


def test_a_last_message(cy, run, quiet):
    """Applications are told of the stop, and what they send then reaches their clients."""

    async def main():
        async def farewell(receive, send):
            await asyncio.sleep(0.01)
            await send({"type": "stream.send", "data": b"goodbye"})

        recorder = Recorder(farewell)
        server = server_of(cy, recorder)
        async with serving(server) as address:
            clients = [await Client(address).__aenter__() for _ in range(20)]
            clients[0].send(b"before\n")
            await in_time(lambda: len(recorder.messages) == 21)
            server.stop()
            assert [await client.rest() for client in clients] == [b"goodbye\n"] * 20
            for client in clients:
                await client.close()
        assert recorder.end == {
            "type": "stream.disconnect", "reason": "stopping", "detail": "the server stops", "writable": True,
        }  # fmt: skip
        assert recorder.data == [b"before"]

    run(main())


@pytest.mark.parametrize("application", ["echo", "one that goes on receiving"])
def test_a_stop_waits_for_nobody_who_has_nothing_to_say(cy, run, quiet, application):
    async def main():
        async def goes_on(scope, receive, send):
            while True:
                await receive()

        server = server_of(cy, echo if application == "echo" else goes_on)
        async with serving(server) as address, Client(address) as client:
            client.send(b"a\n")
            await in_time(lambda: server.traffic.received)
            began = time.monotonic()
            server.stop()
            await client.rest()
            await in_time(lambda: not server.connections)
            assert time.monotonic() - began < 5

    run(main())


def test_what_was_received_is_dealt_with_before_the_stop(cy, run, quiet):
    """Messages that have come are answered, those that wait behind them too."""

    async def main():
        async def application(scope, receive, send):
            while (message := await receive())["type"] != "stream.disconnect":
                if "data" in message:
                    await ready.wait()
                    await send({"type": "stream.send", "data": message["data"]})

        ready = asyncio.Event()
        server = server_of(cy, application)
        async with serving(server) as address, Client(address) as client:
            client.send(b"x\n" * 1000)
            await in_time(lambda: server.waiting_bytes)
            server.stop()
            await in_time(lambda: server.stopping)
            ready.set()
            assert await client.rest() == b"x\n" * 1000

    run(main())


def test_who_listens_only(cy, run, quiet):
    """An application that goes on sending after the end of its client's half is told of the stop as well."""

    async def main():
        async def application(scope, receive, send):
            while (message := await receive()).get("reason") != "stopping":
                ends.append(message.get("reason"))
            assert message["writable"]
            await send({"type": "stream.send", "data": b"goodbye"})

        ends = []
        server = server_of(cy, application)
        async with serving(server) as address, Client(address) as client:
            client.half_close()
            await in_time(lambda: "eof" in ends)
            server.stop()
            assert await client.rest() == b"goodbye\n"

    run(main())


@pytest.mark.slow
def test_who_does_not_end_in_time(cy, run, caplog):
    """They are cut off after `shutdown_timeout`, with a word."""

    async def main():
        async def application(scope, receive, send):
            await receive()
            await asyncio.get_running_loop().create_future()

        server = server_of(cy, application, shutdown_timeout=0.2)
        async with serving(server) as address, Client(address) as client:
            await in_time(lambda: server.application_instances)
            server.stop()
            await client.rest()

    run(main())
    assert "1 connection was cut with work in hand when the server stopped" in caplog.text


def test_a_second_stop_ends_at_once(cy, run):
    async def main():
        async def application(scope, receive, send):
            await receive()
            await asyncio.get_running_loop().create_future()

        server = server_of(cy, application)
        async with serving(server) as address, Client(address) as client:
            await in_time(lambda: server.application_instances)
            stop(server)
            stop(server)
            assert await client.rest() == b""

    run(main())


def test_what_is_left_is_reported(cy, run):
    """Messages that a failed or cancelled application has not received go to the hook."""

    async def main():
        left = []

        def undelivered(self, messages, details):
            left.extend(one.get("data", one["type"]) for one in messages)

        async def application(scope, receive, send):
            await receive()
            await receive()
            await asyncio.get_running_loop().create_future()

        server = server_of(cy, application, application_undelivered=undelivered)
        async with serving(server) as address, Client(address) as client:
            client.send(b"a\nb\nc\nd")
            await in_time(lambda: server.waiting_bytes)
            [scope_id] = server.application_instances
            assert server.send_to(scope_id, {"type": "push"})
            await server.delete_application_instance(scope_id)
            await in_time(lambda: len(left) == 3)
            assert sorted(left, key=str) == [b"b", b"c", "push"]
            assert await client.rest() == b""

    run(main())


def test_very_much_is_left(cy, run):
    """The hook is told of all of it: beyond 256 messages by the bytes of the others, as they came."""

    async def main():
        left = []

        def undelivered(self, messages, details):
            left.extend(messages)

        async def application(scope, receive, send):
            await receive()
            await asyncio.get_running_loop().create_future()

        server = server_of(cy, application, application_undelivered=undelivered)
        async with serving(server) as address, Client(address) as client:
            lines = [b"%d" % number for number in range(1000)]
            wire = b"\r\n".join(lines) + b"\r\nrest"
            client.send(wire)
            await in_time(lambda: server.waiting_bytes == len(wire))
            await server.delete_application_instance(*server.application_instances)
            await in_time(lambda: left)
            assert [one["data"] for one in left[:256]] == lines[:256]
            assert left[256:] == [{"type": "stream.unread", "data": b"\r\n".join(lines[256:]) + b"\r\nrest"}]

    run(main())


def test_what_is_left_by_an_application_whose_client_has_gone(cy, run):
    """It was not its choice to receive no more."""

    async def main():
        left = []

        def undelivered(self, messages, details):
            left.extend(one["data"] for one in messages)

        async def application(scope, receive, send):
            while (await receive()).get("data") != b"0":
                pass
            [connection] = server.connections
            connection.transport.abort()
            while True:
                await send({"type": "stream.send", "data": b"x"})

        server = server_of(cy, application, application_undelivered=undelivered)
        async with serving(server) as address, Client(address) as client:
            client.send(b"0\n1\n2\n")
            await in_time(lambda: left)
            assert left == [b"1", b"2"]

    run(main())


def test_a_restart(cy, run, quiet):
    """The server can be run again, on the same address."""

    async def main():
        server = server_of(cy, echo)
        for _ in range(2):
            async with serving(server) as address, Client(address) as client:
                assert await client.ask(b"a\n") == b"a\n"

    run(main())


def test_lifespan(cy, run, quiet):
    """The application is started before anybody can connect, and stopped after all."""

    async def main():
        order = []

        async def application(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                scope["state"]["key"] = "value"
                order.append("started")
                await send({"type": "lifespan.startup.complete"})
                await receive()
                order.append("stopped")
                await send({"type": "lifespan.shutdown.complete"})
                return
            order.append(scope["state"])
            await echo(scope, receive, send)
            order.append("ended")

        server = server_of(cy, application, lifespan="on")
        async with serving(server) as address, Client(address) as client:
            assert await client.ask(b"a\n") == b"a\n"
        assert order == ["started", {"key": "value"}, "ended", "stopped"]

    run(main())

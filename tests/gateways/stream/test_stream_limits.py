"""What a stream may take: time, sizes, connections and instances; and what becomes of what is beyond."""

from __future__ import annotations

import asyncio
import importlib
import time

import pytest

from support.serving import in_time
from support.streams import LONG, SHORT, Client, Recorder, echo, server_of, serving

LATE = {"first_byte_timeout": LONG, "silence_timeout": LONG, "message_timeout": LONG, "write_timeout": LONG}


async def told(receive, send):
    await send({"type": "stream.send", "data": b"told"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("deadline", "sent", "detail"),
    [
        ("first_byte_timeout", b"", "a byte did not come in time"),
        ("silence_timeout", b"a\n", "a message did not come in time"),
        ("message_timeout", b"a\nb", "the rest of a message did not come in time"),
    ],
)
def test_deadlines(cy, run, deadline, sent, detail):
    """A client that is too slow is told why by the application, which has the time for a last message, and cut off."""

    async def main():
        recorder = Recorder(told)
        server = server_of(cy, recorder, **{**LATE, deadline: SHORT})
        async with serving(server) as address, Client(address) as client:
            client.send(sent)
            assert await client.rest() == b"told\n"
            assert (recorder.end["reason"], recorder.end["detail"]) == ("timeout", detail)
            assert recorder.end["writable"] is True
            assert recorder.end.get("rest", b"") == sent[2:]
            assert server.stats()["timeouts"] == 1

    run(main())


@pytest.mark.slow
def test_bytes_now_and_then_move_no_deadline(cy, run):
    """A message must be whole in time, however busily its client sends."""

    async def main():
        server = server_of(cy, echo, **{**LATE, "message_timeout": SHORT})
        async with serving(server) as address, Client(address) as client, asyncio.TaskGroup() as group:
            drip = group.create_task(dripping(client))
            assert await client.rest() == b""
            drip.cancel()

    async def dripping(client):
        while True:
            client.send(b"x")
            await asyncio.sleep(0.02)

    run(main())


@pytest.mark.slow
def test_each_message_has_its_own_time(cy, run):
    """Where a message comes with a part of the next one, that has all the time that a message may take."""

    async def main():
        limits = {**LATE, "message_timeout": 1.0}
        async with serving(server_of(cy, echo, **limits)) as address, Client(address) as client:
            client.send(b"co")
            for _ in range(10):
                await asyncio.sleep(0.2)
                assert await client.ask(b"de\nco") == b"code\n"

    run(main())


@pytest.mark.slow
def test_the_last_message_may_wait_for_those_before_it(cy, run, monkeypatch):
    """The time for it begins when the application is told; whoever is told and stays is cut off."""
    monkeypatch.setattr(importlib.import_module(f"{cy.__name__}.gateways.stream.connection"), "FAREWELL", 0.1)

    async def main():
        ready = asyncio.Event()

        async def stays(receive, send):
            await send({"type": "stream.send", "data": b"%d and told" % len(recorder.data)})
            await ready.wait()

        async def application(scope, receive, send):
            await begin.wait()
            await recorder(scope, receive, send)

        begin, recorder = asyncio.Event(), Recorder(stays)
        server = server_of(cy, application, silence_timeout=SHORT)
        async with serving(server) as address, Client(address) as client:
            client.send(b"one\ntwo\n")
            await in_time(lambda: server.timeouts)
            ended = server.deadlines.now
            await in_time(lambda: server.deadlines.now > ended + 1.0)
            begin.set()
            assert await client.rest() == b"2 and told\n"
            await in_time(lambda: not server.connections)
            ready.set()

    run(main())


@pytest.mark.slow
def test_a_busy_client_is_not_cut_off(cy, run):
    """Deadlines hold for each message and each silence, not for the connection."""

    async def main():
        limits = {**LATE, "first_byte_timeout": SHORT, "silence_timeout": 1.0, "message_timeout": SHORT}
        async with serving(server_of(cy, echo, **limits)) as address, Client(address) as client:
            for _ in range(30):
                assert await client.ask(b"x\n") == b"x\n"
                await asyncio.sleep(0.05)

    run(main())


@pytest.mark.slow
def test_a_slow_application_is_no_fault_of_the_client(cy, run):
    """While the application does not take what has come, no deadline of the client's goes on."""

    async def main():
        async def application(scope, receive, send):
            await receive()
            await asyncio.sleep(4 * SHORT)
            await echo(scope, receive, send)

        limits = {**LATE, "message_timeout": SHORT, "silence_timeout": 2 * SHORT}
        async with serving(server_of(cy, application, **limits)) as address, Client(address) as client:
            client.send(b"0123456789abcde\n" * 10_000)
            assert len(await client.exactly(160_000)) == 160_000

    run(main())


@pytest.mark.slow
def test_time_that_the_loop_has_lost(cy, run, quiet):
    """While a handler blocks the loop no deadline of any client goes on."""

    async def main():
        async def application(scope, receive, send):
            while (message := await receive())["type"] != "stream.disconnect":
                if message.get("data") == b"block":
                    time.sleep(2.0)  # noqa: ASYNC251
                if "data" in message:
                    await send({"type": "stream.send", "data": message["data"]})

        server = server_of(cy, application, **{**LATE, "message_timeout": 1.0, "silence_timeout": 1.0})
        async with serving(server) as address, Client(address) as one, Client(address) as two:
            two.send(b"pa")
            await in_time(lambda: server.waiting_bytes)
            assert await one.ask(b"block\n") == b"block\n"
            assert await two.ask(b"rt\n") == b"part\n"
            assert server.stats()["timeouts"] == 0

    run(main())


@pytest.mark.slow
def test_a_client_that_takes_nothing(cy, run):
    """One that does not read is cut off after `write_timeout`, and its application learns of it."""

    async def main():
        errors = []

        async def application(scope, receive, send):
            try:
                while True:
                    await send({"type": "stream.send", "data": b"x" * 60_000})
            except OSError as error:
                errors.append(error)
                raise

        server = server_of(cy, application, **{**LATE, "write_timeout": SHORT})
        async with serving(server) as address, Client(address) as client:
            client.writer.transport.pause_reading()
            await in_time(lambda: errors)
            await in_time(lambda: not server.application_instances)
            stats = server.stats()
            assert stats["timeouts"] == 1
            assert stats["failed"] == 1

    run(main())


def test_long_messages(cy, run):
    """A message that is too long ends the connection; those before it count, and the application may say so."""

    async def main():
        recorder = Recorder(told)
        server = server_of(cy, recorder, max_message_size=10)
        async with serving(server) as address, Client(address) as client:
            client.send(b"0123456789\r\nshort\n0123456789a\nafter\n")
            assert await client.rest() == b"told\n"
            assert recorder.data == [b"0123456789", b"short"]
            assert recorder.end["reason"] == "malformed"
            assert recorder.end["detail"] == "a line is longer than 10 bytes"
            assert server.stats()["bad_messages"] == 1

    run(main())


def test_an_endless_line(cy, run):
    """It is refused when it is too long, though no end of it comes."""

    async def main():
        server = server_of(cy, echo, max_message_size=1000)
        async with serving(server) as address, Client(address) as client:
            client.send(b"x" * 2_000_000)
            assert await client.rest() == b""
            assert server.stats()["bad_messages"] == 1

    run(main())


def test_an_incomplete_message_behind_many(cy, run):
    """Once the application has received all whole ones, the rest of it is read, however long it is already."""

    async def main():
        async def application(scope, receive, send):
            await ready.wait()
            await echo(scope, receive, send)

        ready = asyncio.Event()
        server = server_of(cy, application)
        async with serving(server) as address, Client(address) as client:
            client.send(b"y\n" * 20_000 + b"x" * 30_000)
            await in_time(lambda: any(connection.reading_paused for connection in server.connections))
            ready.set()
            assert await client.exactly(40_000) == b"y\n" * 20_000
            assert await client.ask(b"x\n") == b"x" * 30_001 + b"\n"

    run(main())


def test_a_whole_message_counts_while_it_waits(cy, run):
    async def main():
        async def application(scope, receive, send):
            await ready.wait()
            await echo(scope, receive, send)

        ready = asyncio.Event()
        server = server_of(cy, application)
        async with serving(server) as address, Client(address) as client:
            client.send(b"x" * 50_000 + b"\n")
            await in_time(lambda: server.waiting_bytes == 50_001)
            client.send(b"y" * 30_000 + b"\n")
            await in_time(lambda: server.waiting_bytes == 80_002)
            assert [connection.reading_paused for connection in server.connections] == [True]
            ready.set()
            assert await client.exactly(80_002) == b"x" * 50_000 + b"\n" + b"y" * 30_000 + b"\n"
            await in_time(lambda: server.waiting_bytes == 0)

    run(main())


def test_too_many_bytes_wait(cy, run):
    """Connections with a part of a message are closed when too much waits on all together; small parts may wait."""

    async def main():
        recorder = Recorder()
        server = server_of(cy, recorder, max_waiting_bytes=20_000, max_message_size=20_000)
        async with (
            serving(server) as address,
            Client(address) as one,
            Client(address) as two,
            Client(address) as small,
        ):
            small.send(b"x" * 1000)
            one.send(b"x" * 15_000)
            await in_time(lambda: server.waiting_bytes == 16_000)
            two.send(b"x" * 15_000)
            assert await two.rest() == b""
            small.send(b"y" * 1000 + b"\n")
            one.send(b"y" * 1000 + b"\n")
            await in_time(lambda: len(recorder.data) == 2)
            assert recorder.end["reason"] == "overloaded"
            assert len(recorder.end["rest"]) <= 20_000
            assert server.stats()["overloaded"] == 1
            await in_time(lambda: server.waiting_bytes == 0)

    run(main())


def test_whole_messages_wait_unread(cy, run):
    """An application that does not receive pauses reading; nothing that waits is lost, and none is closed for it."""

    async def main():
        ready = asyncio.Event()

        async def application(scope, receive, send):
            await ready.wait()
            await echo(scope, receive, send)

        server = server_of(cy, application, max_waiting_bytes=100_000)
        async with serving(server) as address, Client(address) as one, Client(address) as two:
            for client in (one, two):
                client.send(b"0123456789abcde\n" * 30_000)
            await in_time(lambda: sum(connection.reading_paused for connection in server.connections) == 2)
            # What was read in one go more.
            assert server.waiting_bytes < 1_000_000
            ready.set()
            for client in (one, two):
                assert len(await client.exactly(480_000)) == 480_000

    run(main())


def test_connections(cy, run, quiet):
    """Further connections are closed, and counted."""

    async def main():
        server = server_of(cy, echo, max_connections=2)
        async with serving(server) as address, Client(address) as one, Client(address) as two:
            assert await one.ask(b"a\n") == await two.ask(b"a\n") == b"a\n"
            async with Client(address) as third:
                assert await third.rest() == b""
            assert await one.ask(b"b\n") == b"b\n"
            assert server.stats()["refused"] == 1

    run(main())


def test_instances(cy, run, quiet):
    """At `max_applications` a newcomer is turned away, and nobody else; there is room again when one ends."""

    async def main():
        server = server_of(cy, echo, max_applications=2)
        async with serving(server) as address, Client(address) as one:
            async with Client(address) as two:
                assert await one.ask(b"a\n") == await two.ask(b"a\n") == b"a\n"
                async with Client(address) as third:
                    assert await third.rest() == b""
                assert await two.ask(b"b\n") == b"b\n"
            await in_time(lambda: len(server.application_instances) == 1)
            async with Client(address) as fourth:
                assert await fourth.ask(b"c\n") == b"c\n"
            stats = server.stats()
            assert (stats["refused"], stats["evicted"]) == (1, 0)

    run(main())


def test_eviction(cy, run, quiet):
    """Under another policy the instance that has been idle longest makes room, and its connection is closed."""

    async def main():
        server = server_of(cy, echo, max_applications=1, eviction_policy="lru")
        async with serving(server) as address, Client(address) as one:
            assert await one.ask(b"a\n") == b"a\n"
            async with Client(address) as two:
                assert await two.ask(b"b\n") == b"b\n"
                assert await one.rest() == b""
            assert server.stats()["evicted"] == 1

    run(main())


def test_clients(cy, run, quiet):
    """`ManagedServer` in front limits the connections of each client."""

    async def main():
        managed = __import__(f"{cy.__name__}.lifecycle", fromlist=["x"]).ManagedServer
        server = server_of(cy, echo, bases=(managed,), max_instances_per_key=1)
        async with serving(server) as address, Client(address) as one:
            assert await one.ask(b"a\n") == b"a\n"
            async with Client(address) as two:
                assert await two.rest() == b""
            assert await one.ask(b"b\n") == b"b\n"
            assert server.stats()["limited_instances"] == 1

    run(main())


def test_many_messages_leave_the_loop_to_others(cy, run, quiet):
    """A client that has sent very many messages at once, to an application that never waits, holds up nobody."""

    async def main():
        turns = []

        async def application(scope, receive, send):
            while (await receive())["type"] != "stream.disconnect":
                turns.append(count)

        count = 0
        async with serving(server_of(cy, application)) as address, Client(address) as client:
            client.send(b"x\n" * 20_000)
            while len(turns) < 20_000:
                count += 1
                await asyncio.sleep(0)
            assert max(turns.count(one) for one in set(turns)) <= 200

    run(main())


def test_an_application_that_never_stops_receiving(cy, run, caplog):
    """One that does not care that its client has gone is cancelled."""

    caplog.set_level("DEBUG", "cyasgi.gateways.stream")

    async def main():
        async def application(scope, receive, send):
            while True:
                await receive()

        server = server_of(cy, application)
        async with serving(server) as address:
            async with Client(address) as client:
                client.send(b"x\n")
                client.abort()
            await in_time(lambda: server.stats()["cancelled"] == 1)
            assert not server.application_instances

    run(main())
    assert "goes on receiving although its client has gone" in caplog.text

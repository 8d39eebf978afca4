"""The same with RabbitMQ, as a process of the test's own: what is asked of it, and what it makes of that."""

from __future__ import annotations

import asyncio
import struct

import pytest

from support.queues import Seen
from support.rabbitmq import (
    PARTITIONS,
    aiormq as aiormq,
    client,
    dead_letter,
    name as name,
    publish,
    running,
    server_of,
)
from support.serving import in_time

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.few_combinations(1)]


def test_in_order_and_acknowledged(cy, run, broker, aiormq, name):
    async def main():
        seen = Seen()
        async with running(server_of(cy, broker, name, seen)) as server, client(aiormq, broker) as channel:
            for number in range(400):
                await publish(channel, name, b"%d" % number, scope_id=f"scope-{number % 20}")
            await in_time(lambda: len(seen.messages) == 400)
            for scope in range(20):
                assert seen.by_scope[f"scope-{scope}"] == [b"%d" % number for number in range(scope, 400, 20)]
            assert not any(message["redelivered"] for message in seen.messages)
            await in_time(lambda: server.stats()["acknowledged"] == 400)
        second = Seen()
        async with running(server_of(cy, broker, name, second)):
            await asyncio.sleep(0.3)
        assert second.messages == []

    run(main())


def test_what_comes_along(cy, run, broker, aiormq, name):
    async def main():
        from datetime import UTC, datetime

        seen = Seen()
        async with running(server_of(cy, broker, name, seen)), client(aiormq, broker) as channel:
            await publish(
                channel,
                name,
                b"x",
                scope_id="é",
                headers={"text": "t", "number": 7, "list": [1, "a"], "table": {"b": True}},
                message_id="m",
                correlation_id="c",
                reply_to="r",
                content_type="text/plain",
                priority=5,
                expiration="60000",
                timestamp=datetime.fromtimestamp(1_000_000_000, UTC),
            )
            await in_time(lambda: seen.messages)
        (message,) = seen.messages
        assert (
            message.items()
            >= {
                "headers": {"text": "t", "number": 7, "list": [1, "a"], "table": {"b": True}},
                "message_id": "m",
                "correlation_id": "c",
                "reply_to": "r",
                "content_type": "text/plain",
                "priority": 5,
                "ttl": 60.0,
                "timestamp": 1e9,
            }.items()
        )
        assert list(seen.by_scope) == ["é"]

    run(main())


def test_published_by_the_application(cy, run, broker, aiormq, name):
    """All properties arrive as they were sent."""

    async def main():
        seen, properties = (
            [],
            {
                "headers": {"a": [1, 2.5, "x", b"bytes", None, {"b": False}]},
                "priority": 3,
                "ttl": 60.0,
                "timestamp": 1e9,
                "message_id": "m",
                "correlation_id": "c",
                "reply_to": "r",
                "content_type": "text/plain",
            },
        )

        async def application(scope, receive, send):
            message = await receive()
            seen.append((scope["scope_id"], message))
            if message["body"] == b"first":
                await send({"type": "queue.publish", "body": b"second", "scope_id": "b", **properties})

        async with running(server_of(cy, broker, name, application)), client(aiormq, broker) as channel:
            await publish(channel, name, b"first")
            await in_time(lambda: len(seen) == 2)
        scope_id, message = seen[1]
        assert (scope_id, message["body"]) == ("b", b"second")
        assert message.items() >= properties.items()

    run(main())


def test_poison(cy, run, broker, aiormq, name):
    async def main():
        seen = Seen()
        async with running(server_of(cy, broker, name, seen, max_deliveries=3)), client(aiormq, broker) as channel:
            await publish(channel, name, b"fail at this", b"after", correlation_id="c")
            await in_time(lambda: b"after" in seen.bodies)
            assert [message["deliveries"] for message in seen.messages] == [1, 2, 3, 1]
            dead = await dead_letter(channel, name)
            assert dead.body == b"fail at this"
            headers = dead.header.properties.headers
            assert (headers["x-failure"], headers["x-scope-id"]) == ("ValueError: fail at this", "a")
            assert (headers["x-deliveries"], headers["x-queue"]) == (3, name)

    run(main())


async def publish_raw(channel, name, key, header):
    """A message with a routing key and properties in bytes."""
    from aiormq.abc import ChannelFrame

    arguments = b"\0\0" + bytes([len(name)]) + name.encode() + bytes([len(key)]) + key + b"\0"
    payloads = [(1, b"\0\x3c\0\x28" + arguments), (2, struct.pack(">HHQ", 60, 0, 1) + header), (3, b"x")]
    frames = [struct.pack(">BHI", kind, channel.number, len(one)) + one + b"\xce" for kind, one in payloads]
    await channel.write_queue.put(ChannelFrame(payload=b"".join(frames), should_close=False))


def nested(depth):
    """Properties with a header in which so many others are nested."""
    content = b""
    for _ in range(depth):
        content = b"\1aF" + struct.pack(">I", len(content)) + content
    return struct.pack(">HI", 1 << 13, len(content)) + content


def headers_of(content):
    """Properties with these headers, in bytes."""
    return struct.pack(">HI", 1 << 13, len(content)) + content


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        (headers_of(b"\1ad" + struct.pack(">d", 1e300)), 1e300),
        (headers_of(b"\1ad" + struct.pack(">d", 0.1)), 0.1),
        (headers_of(b"\1aD" + struct.pack(">Bi", 2, -150)), None),
        (nested(150), None),
        (
            headers_of(b"".join(b"\2a%dS" % number + struct.pack(">I", 21_830) + b"x" * 21_830 for number in range(6))),
            None,
        ),
    ],
    ids=["large", "exact", "negative", "nested", "many"],
)
def test_dead_letters_of_any_headers(cy, run, broker, aiormq, name, header, shown):
    """Whatever others have published can be put aside, and ends no session."""

    async def main():
        seen = []

        async def application(scope, receive, send):
            message = await receive()
            seen.append(message)
            await send({"type": "queue.reject", "reason": "not this one"})

        async with running(server_of(cy, broker, name, application)) as server, client(aiormq, broker) as channel:
            await publish_raw(channel, name, b"a", header)
            await in_time(lambda: server.stats()["buried"])
            dead = await dead_letter(channel, name)
            headers = dead.header.properties.headers
            assert (headers["x-failure"], dead.body) == ("not this one", b"x")
            if shown is not None:
                assert headers["a"] == seen[0]["headers"]["a"] == shown
            assert ("x-dropped" in headers) == (b"a5S" in header)
            assert server.stats()["partitions_lost"] == 0

    run(main())


@pytest.mark.parametrize(
    ("key", "header"),
    [
        (b"a", struct.pack(">HQ", 1 << 6, 2**62)),
        (b"a", struct.pack(">HB", 1 << 15, 2) + b"\xff\xff"),
        (b"a", nested(3000)),
        (b"\xff\xfe", struct.pack(">H", 0)),
        (b"ok", struct.pack(">H", 0)),
    ],
    ids=["timestamp", "text", "nesting", "routing key", "nothing wrong"],
)
def test_what_the_library_cannot_read(cy, run, broker, aiormq, name, key, header):
    """A publisher ends no worker with it, and what comes behind it is worked on."""

    async def main():
        seen = Seen()
        async with running(server_of(cy, broker, name, seen)) as server:
            async with client(aiormq, broker) as channel:
                await publish_raw(channel, name, key, header)
                await asyncio.sleep(0.1)
            async with client(aiormq, broker) as channel:
                await publish(channel, name, b"after", scope_id="a")
                for _ in range(1000):
                    if b"after" in seen.bodies and (b"x" in seen.bodies or server.stats()["buried"]):
                        break
                    await asyncio.sleep(0.01)
                assert seen.by_scope["a"] == [b"after"]
                # Once, and never again.
                assert server.stats()["partitions_lost"] == (0 if key == b"ok" else PARTITIONS)
                if key == b"a":
                    dead = await dead_letter(channel, name)
                    assert "its properties cannot be read" in dead.header.properties.headers["x-failure"]
                else:
                    assert seen.by_scope["??" if key == b"\xff\xfe" else "ok"] == [b"x"]

    run(main())


def test_expired_messages_are_dead_letters(cy, run, broker, aiormq, name):
    async def main():
        seen = Seen()
        async with running(server_of(cy, broker, name, seen, prefetch=1)), client(aiormq, broker) as channel:
            await publish(channel, name, b"hold")
            await in_time(lambda: seen.messages)
            await publish(channel, name, b"in time or never", expiration="1")
            dead = await dead_letter(channel, name)
            assert dead.body == b"in time or never"
            seen.release.set()

    run(main())


def test_answers(cy, run, broker, aiormq, name):
    async def main():
        seen, answers = Seen(), []

        async def answered(message):
            answers.append((message.body, message.header.properties.correlation_id))

        async with running(server_of(cy, broker, name, seen)) as server, client(aiormq, broker) as channel:
            declared = await channel.queue_declare(exclusive=True)
            await channel.basic_consume(declared.queue, answered, no_ack=True)
            await publish(channel, name, b"answer", reply_to="nobody", correlation_id="1")
            await publish(channel, name, b"answer", reply_to=declared.queue, correlation_id="2")
            await in_time(lambda: answers)
            assert answers == [(b"answer to answer", "2")]
            assert server.stats()["unclaimed_replies"] == 1

    run(main())


def test_a_queue_that_is_not_there(cy, run, broker, aiormq, name):
    """Whoever publishes to it learns of it, and what others publish meanwhile arrives."""

    async def main():
        errors, seen = [], []

        async def application(scope, receive, send):
            while True:
                message = await receive()
                seen.append(message["body"])
                if message["body"] == b"one":
                    own = send({"type": "queue.publish", "body": b"two"})
                    other = send({"type": "queue.publish", "body": b"two", "queue": "none"})
                    errors.extend(await asyncio.gather(own, other, return_exceptions=True))

        async with running(server_of(cy, broker, name, application)), client(aiormq, broker) as channel:
            for _ in range(2):
                await publish(channel, name, b"one")
            await in_time(lambda: seen.count(b"two") == 2)
            assert [type(error) for error in errors[::2]] == [type(None)] * 2
            assert all("no exchange 'none'" in str(error) for error in errors[1::2])

    run(main())


def test_a_failure_that_cannot_be_encoded(cy, run, broker, aiormq, name):
    """Nor can one whose words are too many: what is kept with the dead letter is bounded."""

    async def main():
        class Awkward(Exception):
            def __str__(self):
                return "\ud800" + "x" * 5000

        async def application(scope, receive, send):
            await receive()
            raise Awkward

        async with (
            running(server_of(cy, broker, name, application, max_deliveries=1)),
            client(aiormq, broker) as channel,
        ):
            await publish(channel, name, b"one")
            dead = await dead_letter(channel, name)
            failure = dead.header.properties.headers["x-failure"]
            assert "\\ud800xxx" in failure
            assert len(failure) == 1000

    run(main())


def test_rejected_and_requeued(cy, run, broker, aiormq, name):
    async def main():
        seen = Seen()
        async with running(server_of(cy, broker, name, seen)), client(aiormq, broker) as channel:
            await publish(channel, name, b"requeue", b"reject")
            dead = await dead_letter(channel, name)
            assert dead.header.properties.headers["x-failure"] == "not this one"
            await in_time(lambda: seen.bodies.count(b"requeue") == 2)
            again = [message for message in seen.messages if message["body"] == b"requeue"][1]
            assert (again["deliveries"], again["redelivered"]) == (2, True)

    run(main())


def test_what_comes_back_is_in_its_place(cy, run, broker, aiormq, name):
    """A message that is given back comes before those that wait in the broker, and not after all of them.

    So does what RabbitMQ was about to deliver when a worker gave up a partition: it comes back by the same way.
    """

    async def main():
        bodies = []

        async def application(scope, receive, send):
            while True:
                message = await receive()
                bodies.append(message["body"])
                if message["body"] == b"0" and not message["redelivered"]:
                    await send({"type": "queue.reject", "requeue": True})

        async with client(aiormq, broker) as channel:
            async with running(server_of(cy, broker, name, application)):
                pass
            await publish(channel, name, *(b"%d" % number for number in range(10)))
            async with running(server_of(cy, broker, name, application, prefetch=2)):
                await in_time(lambda: len(bodies) == 11)
        assert bodies.index(b"0", 1) <= 2
        del bodies[bodies.index(b"0", 1)]
        assert bodies == [b"%d" % number for number in range(10)]

    run(main())


def test_manual_acknowledgement(cy, run, broker, aiormq, name):
    """What was acknowledged in between is gone, and the rest goes to the next worker, in order and marked."""

    async def main():
        seen, release = [], asyncio.Event()

        async def application(scope, receive, send):
            while True:
                message = await receive()
                seen.append((message["body"], message["redelivered"]))
                if message["body"] == b"two" or release.is_set():
                    await send({"type": "queue.acknowledge", "delivery_id": message["delivery_id"]})

        attributes = {"acknowledgement": "manual", "shutdown_timeout": 0.1}
        first = server_of(cy, broker, name, application, **attributes)
        async with running(first), client(aiormq, broker) as channel:
            await publish(channel, name, b"one", b"two", b"three")
            await in_time(lambda: len(seen) == 3 and first.stats()["acknowledged"] == 1)
        release.set()
        async with running(server_of(cy, broker, name, application, **attributes)) as server:
            await in_time(lambda: server.stats()["acknowledged"] == 2)
        assert seen[3:] == [(b"one", True), (b"three", True)]

    run(main())


def test_workers_share_and_partitions_move(cy, run, broker, aiormq, name):
    async def main():
        first, second = Seen(), Seen()
        async with running(server_of(cy, broker, name, first)) as one, client(aiormq, broker) as channel:
            for number in range(40):
                await publish(channel, name, b"hold", b"after", scope_id=f"scope-{number}")
            await in_time(lambda: len(first.messages) == 40)
            async with running(server_of(cy, broker, name, second)) as other:
                await in_time(lambda: any(holding.letting_go for holding in one.holdings.values()))
                first.release.set()
                await in_time(lambda: (len(one.holdings), len(other.holdings)) == (2, 2))
                await in_time(lambda: len(first.messages) + len(second.messages) == 80)
                for number in range(40):
                    scope_id = f"scope-{number}"
                    assert first.by_scope[scope_id] + second.by_scope[scope_id] == [b"hold", b"after"]
                assert set(one.holdings).isdisjoint(other.holdings)
                one.stop()
                await in_time(lambda: len(other.holdings) == 4)

    run(main())

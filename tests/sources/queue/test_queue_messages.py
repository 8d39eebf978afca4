"""Messages of a queue: in order for each scope, acknowledged when they are done, tried again, and dead-lettered."""

from __future__ import annotations

import asyncio
import collections
import re
import sys

import pytest

from support.loops import passes
from support.queues import NAME, Seen, consuming, engine_for, queues, quiet_failures
from support.serving import eventually, in_time


def published(engine, *bodies, scope_id="a", **properties):
    return asyncio.gather(*[engine.publish(NAME, scope_id, body, **properties) for body in bodies])


def test_in_order_within_each_scope(cy, run):
    async def main():
        seen, engine = Seen(), engine_for(cy)
        for number in range(300):
            await engine.publish(NAME, f"scope-{number % 7}", b"%d" % number)
        async with consuming(cy, engine, seen) as server:
            await engine.join()
            stats = server.stats()
        for scope in range(7):
            assert seen.by_scope[f"scope-{scope}"] == [b"%d" % number for number in range(scope, 300, 7)]
        assert (stats["received"], stats["acknowledged"], stats["live"]) == (300, 300, 7)
        assert seen.scopes[0]["type"] == "queue"
        assert seen.scopes[0]["queue"] == NAME

    run(main())


def test_what_comes_along(cy, run):
    async def main():
        seen, engine = Seen(), engine_for(cy)
        properties = {
            "headers": {"a": [1]},
            "correlation_id": "c",
            "priority": 9,
            "ttl": 60,
            "content_type": "text/plain",
        }
        async with consuming(cy, engine, seen):
            await engine.publish(NAME, "a", b"x", message_id="m", timestamp=1e9, reply_to="r", **properties)
            await engine.join()
        (message,) = seen.messages
        assert message.items() >= {**properties, "message_id": "m", "timestamp": 1e9, "reply_to": "r"}.items()
        assert (message["redelivered"], message["deliveries"]) == (False, 1)

    run(main())


def test_an_application_that_returns_after_each(cy, run):
    async def main():
        seen, engine = Seen(), engine_for(cy)
        await published(engine, *[b"return %d" % number for number in range(20)])
        async with consuming(cy, engine, seen) as server:
            await engine.join()
            assert seen.bodies == [b"return %d" % number for number in range(20)]
            assert server.stats()["retried"] == 0
            assert len(seen.scopes) == 20

    run(main())


def test_not_acknowledged_before_it_is_done(cy, run):
    """Nor is the next one begun."""

    async def main():
        seen, engine = Seen(), engine_for(cy)
        async with consuming(cy, engine, seen) as server:
            await published(engine, b"hold", b"after")
            await eventually(lambda: seen.messages)
            await passes(10)
            assert (seen.bodies, server.stats()["acknowledged"]) == ([b"hold"], 0)
            seen.release.set()
            await engine.join()
            assert seen.bodies == [b"hold", b"after"]

    run(main())


def test_a_failure_is_tried_again_in_its_place(cy, run):
    async def main():
        engine, seen = engine_for(cy), []

        async def application(scope, receive, send):
            while True:
                message = await receive()
                seen.append((message["body"], message["deliveries"], message["redelivered"]))
                if message["body"] == b"two" and message["deliveries"] < 3:
                    raise ValueError("not yet")

        async with consuming(cy, engine, application, quiet_failures(cy)) as server:
            await published(engine, b"one", b"two", b"three")
            await engine.join()
            assert server.stats()["retried"] == 2
        assert seen == [
            (b"one", 1, False),
            (b"two", 1, False),
            (b"two", 2, True),
            (b"two", 3, True),
            (b"three", 1, False),
        ]
        assert engine.dead_letters(NAME) == []

    run(main())


def test_poison(cy, run, caplog):
    """It goes to the dead letters with what it said and why, and its scope goes on."""

    async def main():
        seen, engine = Seen(), engine_for(cy)
        async with consuming(cy, engine, seen, quiet_failures(cy), max_deliveries=3) as server:
            await published(engine, b"fail at this", b"after", headers={"own": 1}, correlation_id="c", ttl=60)
            await engine.join()
            assert seen.bodies == [b"fail at this"] * 3 + [b"after"]
            assert server.stats()["buried"] == 1
        (letter,) = engine.dead_letters(NAME)
        assert letter.body == b"fail at this"
        assert letter.headers == {
            "own": 1,
            "x-failure": "ValueError: fail at this",
            "x-queue": NAME,
            "x-scope-id": "a",
            "x-deliveries": 3,
        }
        assert (letter.correlation_id, letter.ttl) == ("c", None)

    run(main())
    assert any("goes to the dead letters after 3 deliveries: ValueError" in message for message in caplog.messages)


def test_a_broken_application(cy, run):
    """One that ends before it receives anything is tried with pauses, and then the message is not."""

    async def main():
        engine = engine_for(cy)
        begun = []

        async def application(scope, receive, send):
            begun.append(scope)
            raise RuntimeError("no database")

        async with consuming(cy, engine, application, quiet_failures(cy), max_deliveries=2):
            await published(engine, b"one")
            await engine.join()
        assert len(begun) == 2
        (letter,) = engine.dead_letters(NAME)
        assert letter.headers["x-failure"] == "the application ended before it received a message"

    run(main())


def test_acknowledged_by_the_application(cy, run):
    """What it does afterwards, it does for itself."""

    async def main():
        seen, engine = Seen(), engine_for(cy)
        async with consuming(cy, engine, seen, quiet_failures(cy)) as server:
            await published(engine, b"acknowledge", b"after")
            await engine.join()
            await eventually(lambda: len(seen.bodies) == 2)
            assert seen.bodies == [b"acknowledge", b"after"]
            assert server.stats()["retried"] == 0

    run(main())


def test_rejected(cy, run):
    async def main():
        seen, engine = Seen(), engine_for(cy)
        async with consuming(cy, engine, seen):
            await published(engine, b"reject", b"after")
            await engine.join()
        assert seen.bodies == [b"reject", b"after"]
        (letter,) = engine.dead_letters(NAME)
        assert (letter.body, letter.headers["x-failure"]) == (b"reject", "not this one")

    run(main())


def test_requeued(cy, run):
    async def main():
        seen, engine = Seen(), engine_for(cy)
        async with consuming(cy, engine, seen) as server:
            await published(engine, b"requeue")
            await engine.join()
            assert server.stats()["given_back"] == 1
        assert [message["deliveries"] for message in seen.messages] == [1, 2]

    run(main())


def test_answers(cy, run):
    async def main():
        seen, engine = Seen(), engine_for(cy)
        engine.replies["me"] = collections.deque()
        async with consuming(cy, engine, seen) as server:
            await published(engine, b"answer", reply_to="me", correlation_id="c")
            await published(engine, b"answer", reply_to="somebody who has gone")
            await engine.join()
            (letter,) = engine.replies["me"]
            assert (letter.body, letter.correlation_id) == (b"answer to answer", "c")
            assert (server.stats()["replied"], server.stats()["unclaimed_replies"]) == (1, 1)

    run(main())


def test_answers_to_a_configured_queue(cy, run):
    async def main():
        seen, engine = Seen(), engine_for(cy)
        engine.declare("answers", 1)
        async with consuming(cy, engine, seen, reply_exchange="answers"):
            await published(engine, b"answer", correlation_id="c")
            await eventually(lambda: engine.queues["answers"].partitions[0].waiting)
            (stored,) = engine.queues["answers"].partitions[0].waiting
            assert (stored.scope_id, stored.letter.correlation_id) == ("a", "c")

    run(main())


def test_published_by_the_application(cy, run):
    async def main():
        seen, engine = Seen(), engine_for(cy)
        async with consuming(cy, engine, seen) as server:
            await published(engine, b"publish")
            await engine.join()
            assert dict(seen.by_scope) == {"a": [b"publish"], "other": [b"published"]}
            assert seen.messages[1]["priority"] == 3
            assert server.stats()["published"] == 1

    run(main())


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"type": "queue.reply", "body": b""}, "needs a message with 'reply_to', or the server a reply_exchange"),
        ({"type": "queue.acknowledge", "delivery_id": 10**9}, "the message 1000000000 is not in hand"),
        ({"type": "queue.publish", "body": b"", "queue": "none"}, "there is no queue 'none'"),
        ({"type": "queue.unknown"}, "unknown type of message 'queue.unknown'"),
    ],
)
def test_what_is_refused(cy, run, message, said):
    """The application learns of it, and may go on."""

    async def main():
        engine, errors = engine_for(cy), []

        async def application(scope, receive, send):
            await receive()
            try:
                await send(message)
            except Exception as error:
                errors.append(str(error))

        async with consuming(cy, engine, application):
            await published(engine, b"one")
            await engine.join()
        assert said in errors[0]

    run(main())


def test_settled_once(cy, run):
    async def main():
        engine, errors = engine_for(cy), []

        async def application(scope, receive, send):
            await receive()
            await send({"type": "queue.acknowledge"})
            for again in ({"type": "queue.acknowledge"}, {"type": "queue.reject"}):
                with pytest.raises(ValueError, match="was acknowledged or rejected already"):
                    await send(again)
                errors.append(again)

        async with consuming(cy, engine, application):
            await published(engine, b"one")
            await eventually(lambda: len(errors) == 2)

    run(main())


def test_too_big(cy, run):
    async def main():
        seen, engine = Seen(), engine_for(cy)
        async with consuming(cy, engine, seen, max_message_size=10):
            await published(engine, b"x" * 11, b"after")
            await engine.join()
        assert seen.bodies == [b"after"]
        (letter,) = engine.dead_letters(NAME)
        assert letter.headers["x-failure"] == "the body has 11 bytes: accepted are 10"

    run(main())


def test_expired(cy, run):
    async def main():
        seen, engine = Seen(), engine_for(cy)
        await published(engine, b"old", ttl=0)
        async with consuming(cy, engine, seen):
            await engine.join()
        assert seen.bodies == []
        assert [letter.body for letter in engine.dead_letters(NAME)] == [b"old"]

    run(main())


def test_a_slow_scope_holds_up_no_other(cy, run):
    async def main():
        seen, engine = Seen(), engine_for(cy)
        async with consuming(cy, engine, seen):
            await published(engine, b"hold", b"after")
            for number in range(50):
                await engine.publish(NAME, f"scope-{number}", b"x")
            await eventually(lambda: len(seen.messages) == 51)
            assert seen.by_scope["a"] == [b"hold"]
            seen.release.set()
            await engine.join()

    run(main())


def test_prefetch_bounds_what_is_in_memory(cy, run):
    async def main():
        seen, engine = Seen(), engine_for(cy)
        async with consuming(cy, engine, seen, prefetch=5) as server:
            await published(engine, b"hold", *[b"x"] * 50)
            await eventually(lambda: seen.messages)
            await passes(20)
            assert server.stats()["received"] == 5
            seen.release.set()
            await engine.join()

    run(main())


@pytest.mark.parametrize("base", ["plain", "managed"])
def test_at_the_limit_of_instances(cy, run, base):
    """Idle ones make room; and if none is idle, further scopes wait."""

    async def main():
        seen, engine = Seen(), engine_for(cy)
        server_class = quiet_failures(cy)
        if base == "managed":
            from cyasgi.lifecycle import ManagedServer

            server_class = type("Managed", (ManagedServer, server_class), {})
        async with consuming(cy, engine, seen, server_class) as server:
            server.max_applications = 3
            for number in range(60):
                await engine.publish(NAME, f"scope-{number % 20}", b"%d" % number)
            await engine.join()
            assert len(server.application_instances) <= 3
            assert server.stats()["interrupted"] == server.stats()["retried"] == 0
        for scope in range(20):
            assert seen.by_scope[f"scope-{scope}"] == [b"%d" % number for number in range(scope, 60, 20)]

    run(main())


def test_what_an_application_sets_in_its_context_stays_there(cy, run):
    async def main():
        from contextvars import ContextVar

        name, seen, engine = ContextVar("name", default=None), [], engine_for(cy)

        async def application(scope, receive, send):
            seen.append(name.get())
            await receive()
            name.set(scope["scope_id"])

        async with consuming(cy, engine, application):
            await published(engine, b"one", b"two", b"three")
            await engine.join()
        assert seen == [None, None, None]

    run(main())


def test_the_state_of_the_lifespan(cy, run):
    async def main():
        seen, engine = Seen(), engine_for(cy)
        async with consuming(cy, engine, seen) as server:
            server.state = {"pool": 1}
            await published(engine, b"one")
            await engine.join()
        assert seen.scopes[0]["state"] == {"pool": 1}
        assert seen.scopes[0]["state"] is not server.state

    run(main())


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        ({"engine": "redis://x"}, ValueError, "engine='redis://x': accepted are memory: and a URL"),
        ({"engine": 7}, TypeError, "engine=7: accepted is a URL, or an engine"),
        ({"engine": "memory:", "partitions": 0}, ValueError, "partitions=0: accepted is an int from 1 to 1024"),
        ({"engine": "memory:", "name": ""}, ValueError, "name must have 1 to 255 bytes"),
        ({"engine": "memory:", "name": b"x"}, TypeError, "name must be a str"),
        ({"engine": "amqp://"}, ValueError, "accepted is a URL as in amqp://user:password@"),
        ({"engine": "amqp://u:secret@h:99999/"}, ValueError, "amqp://h/: Port out of range"),
        ({"engine": "amqp://u:secret@h/?heartbeat=0"}, ValueError, "heartbeat from 1 to 600"),
    ],
)
def test_bad_arguments(cy, arguments, kind, said):
    with pytest.raises(kind, match=re.escape(said)) as raised:
        queues(cy).QueueServer(Seen, **arguments)
    assert "secret" not in str(raised.value)


def test_another_number_of_partitions(cy, run):
    async def main():
        engine = engine_for(cy)
        server = queues(cy).QueueServer(Seen(), engine=engine, name=NAME, partitions=3)
        with pytest.raises(queues(cy).EngineError, match="has 8 partitions: accepted are as many, got 3"):
            await server.arun()

    run(main())


def test_the_engine_is_bounded(cy, run):
    async def main():
        engine = engine_for(cy, most=2)
        await published(engine, b"one", b"two")
        with pytest.raises(queues(cy).EngineError, match="full: it has 2 messages"):
            await engine.publish(NAME, "a", b"three")
        with pytest.raises(queues(cy).EngineError, match="no queue 'none'"):
            await engine.publish("none", "a", b"three")

    run(main())


def test_everything_in_time(cy, run):
    """Many scopes, of which some fail at first: everything is done once, or until it succeeds."""

    async def main():
        engine, seen = engine_for(cy), collections.defaultdict(list)

        async def application(scope, receive, send):
            while True:
                message = await receive()
                number = int(message["body"])
                if number % 13 == 0 and message["deliveries"] < 3:
                    raise ValueError("again")
                await passes(number % 3)
                seen[scope["scope_id"]].append(number)
                if number % 5 == 0:
                    return

        async with consuming(cy, engine, application, quiet_failures(cy)):
            for number in range(1000):
                await engine.publish(NAME, str(number % 90), b"%d" % number)
            await in_time(lambda: sum(map(len, seen.values())) == 1000)
            await engine.join()
        for scope in range(90):
            assert seen[str(scope)] == list(range(scope, 1000, 90))

    run(main())


def test_without_the_library(cy, run, monkeypatch):
    """Whoever names a broker is told what to install; nobody else needs it."""
    monkeypatch.setitem(sys.modules, "aiormq", None)

    async def main():
        server = queues(cy).QueueServer(Seen(), engine="amqp://127.0.0.1:1/")
        with pytest.raises(queues(cy).EngineError, match=re.escape("needs aiormq: pip install 'cyasgi[amqp]'")):
            await server.arun()

    run(main())

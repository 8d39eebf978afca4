"""Manual acknowledgement: many messages in hand, settled in any order, and what becomes of them when it all ends."""

from __future__ import annotations

import asyncio

import pytest

from support.loops import passes
from support.queues import NAME, consuming, engine_for, quiet_failures
from support.serving import eventually, in_time


class Keeping:
    """An application that keeps what it receives, and ends as a message says; the test settles what it has."""

    def __init__(self):
        self.messages = []
        #: By which each message was received.
        self.sends = []
        #: Bodies with which it raises, or returns.
        self.failing, self.returning = set(), set()

    @property
    def bodies(self):
        return [message["body"] for message in self.messages]

    async def __call__(self, scope, receive, send):
        assert scope["acknowledgement"] == "manual"
        while True:
            message = await receive()
            self.messages.append(message)
            self.sends.append(send)
            if message["body"] in self.failing:
                raise ValueError(message["body"].decode())
            if message["body"] in self.returning:
                return

    async def settle(self, *numbers, kind="acknowledge", **values):
        for number in numbers:
            await self.sends[number](
                {"type": f"queue.{kind}", "delivery_id": self.messages[number]["delivery_id"], **values}
            )


async def publish(engine, *bodies, scope_id="a"):
    for body in bodies:
        await engine.publish(NAME, scope_id, body)


def waiting(engine):
    """What the broker has that nobody has, in order."""
    return [stored.letter.body for partition in engine.queues[NAME].partitions for stored in partition.waiting]


def manual(cy, engine, application, base=None, **attributes):
    attributes = {"acknowledgement": "manual", **attributes}
    return consuming(cy, engine, application, base or quiet_failures(cy), **attributes)


def test_in_any_order(cy, run):
    async def main():
        engine, kept = engine_for(cy), Keeping()
        async with manual(cy, engine, kept) as server:
            await publish(engine, b"one", b"two", b"three")
            await eventually(lambda: len(kept.messages) == 3)
            await passes(10)
            assert (kept.bodies, server.stats()["acknowledged"]) == ([b"one", b"two", b"three"], 0)
            await kept.settle(1, 2)
            assert server.stats()["acknowledged"] == 2
            # Without a number, the one that was received last of those that are left.
            await kept.sends[-1]({"type": "queue.acknowledge"})
            await engine.join()
            with pytest.raises(ValueError, match="no message in hand that could be acknowledged"):
                await kept.sends[-1]({"type": "queue.acknowledge"})
            with pytest.raises(ValueError, match=r"the message \d+ is not in hand"):
                await kept.settle(1)

    run(main())


def test_settled_before_it_comes_back(cy, run):
    """As without manual acknowledgement: by default, it is the message that was received last."""

    async def main():
        engine, seen = engine_for(cy), []

        async def application(scope, receive, send):
            while True:
                message = await receive()
                seen.append(message["body"])
                await send({"type": "queue.acknowledge"})
                with pytest.raises(ValueError, match="acknowledged or rejected already"):
                    await send({"type": "queue.reject"})

        async with manual(cy, engine, application) as server:
            await publish(engine, *[b"%d" % number for number in range(50)])
            await engine.join()
            assert seen == [b"%d" % number for number in range(50)]
            assert server.stats()["retried"] == 0

    run(main())


def test_bounded_by_prefetch(cy, run):
    async def main():
        engine, kept = engine_for(cy), Keeping()
        async with manual(cy, engine, kept, prefetch=5):
            await publish(engine, *[b"%d" % number for number in range(8)])
            await eventually(lambda: len(kept.messages) == 5)
            await passes(20)
            assert len(kept.messages) == 5
            await kept.settle(2)
            await eventually(lambda: len(kept.messages) == 6)
            await kept.settle(0, 1, 3, 4, 5)
            await eventually(lambda: len(kept.messages) == 8)
            await kept.settle(6, 7)
            await engine.join()
        assert kept.bodies == [b"%d" % number for number in range(8)]

    run(main())


def test_rejected(cy, run):
    """One goes to the dead letters, another one back to the queue, while a third is still in hand."""

    async def main():
        engine, kept = engine_for(cy), Keeping()
        async with manual(cy, engine, kept) as server:
            await publish(engine, b"one", b"two", b"three")
            await eventually(lambda: len(kept.messages) == 3)
            await kept.settle(0, kind="reject", reason="not this one")
            await kept.settle(1, kind="reject", requeue=True)
            await eventually(lambda: len(kept.messages) == 4)
            assert (kept.bodies[3], kept.messages[3]["deliveries"]) == (b"two", 2)
            await kept.settle(2, 3)
            await engine.join()
            (letter,) = engine.dead_letters(NAME)
            assert (letter.body, letter.headers["x-failure"]) == (b"one", "not this one")
            assert (server.stats()["buried"], server.stats()["given_back"], server.stats()["acknowledged"]) == (1, 1, 3)

    run(main())


def test_what_was_not_acknowledged_goes_back(cy, run):
    """In order, and marked; what was acknowledged does not."""

    async def main():
        engine, kept = engine_for(cy), Keeping()
        async with manual(cy, engine, kept) as server:
            await publish(engine, b"one", b"two", b"three", b"four")
            await eventually(lambda: len(kept.messages) == 4)
            await kept.settle(1)
            server.delete_application_instance("a")
            await publish(engine, b"five")
            await in_time(lambda: len(kept.messages) == 8)
            assert kept.bodies[4:] == [b"one", b"three", b"four", b"five"]
            assert [message["redelivered"] for message in kept.messages[4:]] == [True, True, True, False]
            await kept.settle(4, 5, 6, 7)
            await engine.join()
            assert server.stats()["retried"] == server.stats()["buried"] == 0

    run(main())


def test_the_one_that_fails_is_found(cy, run):
    """Those that were in hand with it are innocent: they are given one at a time, and done."""

    async def main():
        engine, kept = engine_for(cy), Keeping()
        kept.failing = {b"bad"}
        async with manual(cy, engine, kept, max_deliveries=3) as server:
            await publish(engine, b"one", b"two", b"bad", b"three")
            await in_time(lambda: len(kept.messages) == 4)
            # All but the last one were in hand together; now each comes when the one before it is settled.
            assert kept.bodies == [b"one", b"two", b"bad", b"one"]
            await passes(10)
            assert len(kept.messages) == 4
            await kept.settle(3)
            await eventually(lambda: len(kept.messages) == 5)
            assert kept.bodies[4] == b"two"
            await kept.settle(4)
            await in_time(lambda: kept.bodies[-1] == b"three")
            assert kept.bodies[5:] == [b"bad"] * 3 + [b"three"]
            await kept.settle(-1)
            await engine.join()
            (letter,) = engine.dead_letters(NAME)
            assert (letter.body, letter.headers["x-failure"]) == (b"bad", "ValueError: bad")
            assert server.stats()["buried"] == 1

    run(main())


def test_returned_without_acknowledging(cy, run):
    """That is a failure, too: or the same messages would come again and again, for ever."""

    async def main():
        engine, kept = engine_for(cy), Keeping()
        kept.returning = {b"one"}
        async with manual(cy, engine, kept, max_deliveries=3):
            await publish(engine, b"one")
            await engine.join()
        assert kept.bodies == [b"one"] * 3
        (letter,) = engine.dead_letters(NAME)
        assert letter.headers["x-failure"] == "the application returned without acknowledging it"

    run(main())


def test_failed_while_it_waits(cy, run):
    """An application whose own task has failed is interrupted in receive(): nobody has a message then but it."""

    async def main():
        engine, begun, tasks = engine_for(cy), [], []

        async def application(scope, receive, send):
            async with asyncio.TaskGroup() as group:
                while True:
                    message = await receive()
                    begun.append(message["body"])
                    tasks.append(group.create_task(work(message, send)))

        async def work(message, send):
            await passes(3)
            if message["body"] == b"bad":
                raise ValueError("on purpose")
            await send({"type": "queue.acknowledge", "delivery_id": message["delivery_id"]})

        async with manual(cy, engine, application, max_deliveries=2):
            await publish(engine, b"one", b"bad", b"two")
            await engine.join()
        (letter,) = engine.dead_letters(NAME)
        assert letter.body == b"bad"
        assert letter.headers["x-failure"].startswith("ExceptionGroup: ")
        assert begun[:2] == [b"one", b"bad"]

    run(main())


def test_in_hand_while_a_partition_moves(cy, run):
    """It is given back when all of it is acknowledged."""

    async def main():
        engine, kept, other_kept = engine_for(cy), Keeping(), Keeping()
        async with manual(cy, engine, kept) as one:
            for number in range(40):
                await publish(engine, b"x", scope_id=f"scope-{number}")
            await eventually(lambda: len(kept.messages) == 40)
            async with manual(cy, engine, other_kept) as other:
                await in_time(lambda: any(holding.letting_go for holding in one.holdings.values()))
                await passes(20)
                assert len(one.holdings) == 8
                await kept.settle(*range(40))
                await in_time(lambda: (len(one.holdings), len(other.holdings)) == (4, 4))
                await engine.join()
        assert other_kept.messages == []

    run(main())


def test_stopped(cy, run):
    """What is in hand may be acknowledged; nothing new begins."""

    async def main():
        engine, kept = engine_for(cy), Keeping()
        async with manual(cy, engine, kept) as server:
            await publish(engine, b"one", b"two")
            await eventually(lambda: len(kept.messages) == 2)
            server.stop()
            await passes(20)
            await publish(engine, b"three")
            await kept.settle(0, 1)
        assert kept.bodies == [b"one", b"two"]
        assert waiting(engine) == [b"three"]
        assert server.application is kept

    run(main())


def test_stopped_and_cut(cy, run):
    """What is not acknowledged in time goes back, in order."""

    async def main():
        engine, kept = engine_for(cy), Keeping()
        async with manual(cy, engine, kept, shutdown_timeout=0.01):
            await publish(engine, b"one", b"two", b"three")
            await eventually(lambda: len(kept.messages) == 3)
            await kept.settle(1)
        assert waiting(engine) == [b"one", b"three"]

    run(main())


def test_a_session_that_is_lost(cy, run):
    """All that is in hand is delivered again, marked, and what is acknowledged too late is said to be."""

    async def main():
        engine, kept = engine_for(cy), Keeping()
        async with manual(cy, engine, kept) as server:
            await publish(engine, b"one", b"two")
            await eventually(lambda: len(kept.messages) == 2)
            (session,) = engine.queues[NAME].sessions
            session.cut("on purpose")
            await in_time(lambda: len(kept.messages) == 4)
            assert [(message["body"], message["redelivered"]) for message in kept.messages[2:]] == [
                (b"one", True),
                (b"two", True),
            ]
            assert server.stats()["taken_away"] == 2
            with pytest.raises(ValueError, match="is not in hand"):
                await kept.settle(0)
            await kept.settle(2, 3)
            await engine.join()

    run(main())


def test_a_deleted_one_that_takes_its_time(cy, run):
    """The next instance gets nothing before it has let go of what it has."""

    async def main():
        engine, seen, release = engine_for(cy), [], asyncio.Event()

        async def application(scope, receive, send):
            try:
                while True:
                    message = await receive()
                    seen.append((message["body"], message["redelivered"]))
                    if message["redelivered"] or message["body"] == b"three":
                        await send({"type": "queue.acknowledge"})
            except asyncio.CancelledError:
                await release.wait()
                raise

        async with manual(cy, engine, application) as server:
            await publish(engine, b"one", b"two")
            await eventually(lambda: len(seen) == 2)
            server.delete_application_instance("a")
            server.get_or_create_application_instance("a", {"type": "queue", "scope_id": "a"})
            await publish(engine, b"three")
            await passes(10)
            assert len(seen) == 2
            release.set()
            await in_time(lambda: len(seen) == 5)
            assert seen[2:] == [(b"one", True), (b"two", True), (b"three", False)]

    run(main())


def test_an_application_as_in_asgi_2(cy, run):
    async def main():
        engine, scopes = engine_for(cy), []

        class Application:
            def __init__(self, scope):
                scopes.append(scope)

            async def __call__(self, receive, send):
                await receive()
                await send({"type": "queue.acknowledge"})

        async with manual(cy, engine, Application):
            await publish(engine, b"one", b"two")
            await engine.join()
        assert [scope["asgi"]["version"] for scope in scopes] == ["2.0", "2.0"]

    run(main())

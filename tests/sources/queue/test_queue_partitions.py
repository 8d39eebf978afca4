"""Partitions: each is held by one worker, all hold their fair share, and what a worker loses another one gets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib

import pytest

from support.loops import passes
from support.queues import NAME, PARTITIONS, Seen, consuming, engine_for, queues
from support.serving import eventually, for_ever, in_time


def shares(*servers):
    """How many partitions each holds; none is held twice."""
    held = [set(server.holdings) for server in servers]
    assert sum(map(len, held)) == len(set().union(*held))
    return sorted(map(len, held))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "share"), [(1, [8]), (2, [4, 4]), (3, [2, 3, 3]), (5, [1, 1, 2, 2, 2]), (9, [0] + [1] * 8)]
)
def test_fair_shares(cy, run, workers, share):
    """Whoever comes gets its share within a few looks, and whoever goes leaves it to the others."""

    async def main():
        engine = engine_for(cy)
        async with contextlib.AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(consuming(cy, engine, Seen())) for _ in range(workers)]
            await in_time(lambda: shares(*servers) == share)
            await asyncio.sleep(0.05)
            assert shares(*servers) == share
            if workers > 1:
                servers[0].stop()
                await in_time(lambda: sum(shares(*servers[1:])) == PARTITIONS)

    run(main())


def test_hooks(cy, run):
    async def main():
        told = []

        class Server(queues(cy).QueueServer):
            def assigned(self, partition):
                told.append(("assigned", partition))

            def revoked(self, partition, lost):
                told.append(("revoked", partition, lost))
                raise ValueError("this is logged")

        async with consuming(cy, engine_for(cy), Seen(), Server):
            assert sorted(told) == [("assigned", number) for number in range(PARTITIONS)]
        assert sorted(told[PARTITIONS:]) == [("revoked", number, False) for number in range(PARTITIONS)]

    run(main())


def test_a_partition_moves_when_what_is_in_hand_is_done(cy, run):
    """Nothing of it begins elsewhere before, and what waits goes along, in order."""

    async def main():
        engine, first, second = engine_for(cy), Seen(), Seen()
        async with consuming(cy, engine, first) as one:
            for number in range(40):
                await engine.publish(NAME, f"scope-{number}", b"hold")
                await engine.publish(NAME, f"scope-{number}", b"after")
            await eventually(lambda: len(first.messages) == 40)
            async with consuming(cy, engine, second) as other:
                await in_time(lambda: any(holding.letting_go for holding in one.holdings.values()))
                await passes(20)
                assert second.messages == []
                first.release.set()
                await engine.join()
                await in_time(lambda: shares(one, other) == [4, 4])
                assert second.messages
                moved = set(second.by_scope)
                for number in range(40):
                    scope_id = f"scope-{number}"
                    assert first.by_scope[scope_id] + second.by_scope[scope_id] == [b"hold", b"after"]
                # The instances have gone with their partitions.
                assert set(other.application_instances) == moved
                assert set(one.application_instances).isdisjoint(moved)

    run(main())


def test_a_session_that_is_lost(cy, run, caplog):
    """Applications are cut off, and what they had in hand is delivered again, marked, to whoever holds it then."""

    async def main():
        engine, seen, cut = engine_for(cy), Seen(), []

        async def application(scope, receive, send):
            try:
                await seen(scope, receive, send)
            except asyncio.CancelledError:
                cut.append(scope["scope_id"])
                raise

        async with consuming(cy, engine, application) as server:
            for scope_id in ("a", "b"):
                for body in (b"hold", b"after"):
                    await engine.publish(NAME, scope_id, body)
            await eventually(lambda: len(seen.messages) == 2)
            (session,) = engine.queues[NAME].sessions
            session.cut("on purpose")
            await eventually(lambda: len(cut) == 2)
            seen.release.set()
            await in_time(lambda: server.stats()["partitions"] == PARTITIONS and server.stats()["partitions_lost"])
            await engine.join()
            assert sorted(cut) == ["a", "b"]
            again = [message for message in seen.messages if message["redelivered"]]
            assert {message["body"] for message in again} >= {b"hold"}
            for scope_id in ("a", "b"):
                assert list(dict.fromkeys(seen.by_scope[scope_id])) == [b"hold", b"after"]

    run(main())
    assert any("the broker is gone: on purpose" in message for message in caplog.messages)
    assert any("messages in hand, which are delivered again" in message for message in caplog.messages)


@pytest.mark.parametrize("what", ["session", "own", "other"])
def test_lost_while_one_is_given_back(cy, run, what):
    """What is in hand of the one that is given back holds up nothing of that."""

    async def main():
        engine, seen, cut = engine_for(cy), Seen(), []

        async def application(scope, receive, send):
            try:
                await seen(scope, receive, send)
            except asyncio.CancelledError:
                cut.append(scope["scope_id"])
                raise

        shape = importlib.import_module(f"{queues(cy).__name__}.engine").QueueShape(NAME, PARTITIONS, 100)
        async with consuming(cy, engine, application, shutdown_timeout=8) as server:
            scope_ids = {f"scope-{number}" for number in range(40)}
            for scope_id in scope_ids:
                await engine.publish(NAME, scope_id, b"hold")
            await eventually(lambda: len(seen.messages) == 40)
            # Another worker, which gets its share.
            other = await engine.connect(shape)
            await in_time(lambda: any(holding.letting_go for holding in server.holdings.values()))
            await passes(20)
            lost = next(holding for holding in server.holdings.values() if holding.letting_go == (what == "own"))
            if what == "session":
                lost.hold.session.cut("on purpose")
            else:
                lost.hold.take_away("on purpose")
                scope_ids = {scope_id for scope_id, lane in lost.lanes.items() if lane.current}
            await in_time(lambda: set(cut) == scope_ids)
            seen.release.set()
            await other.close()
            await engine.join()
            # Nothing is left half given back.
            for number in range(40):
                await engine.publish(NAME, f"scope-{number}", b"after")
            await engine.join()
            assert {bodies[-1] for bodies in seen.by_scope.values()} == {b"after"}
            assert len(seen.by_scope) == 40

    run(main())


def test_a_claim_that_fails_after_messages_have_come(cy, run, monkeypatch):
    """They are forgotten: whoever holds the partition next has them again."""
    module = queues(cy)
    memory = importlib.import_module(f"{module.__name__}.memory")
    monkeypatch.setattr(importlib.import_module(f"{cy.__name__}.serving.retrying").random, "uniform", lambda *_: 0.0)
    original, failed = memory.MemorySession.claim, []

    async def claim(session, partition, sink):
        if failed:
            return await original(session, partition, sink)
        failed.append(partition)
        sink(memory.Arrival(1, "elsewhere by now", memory.Letter(b"x"), 1))
        raise module.EngineError("on purpose")

    monkeypatch.setattr(memory.MemorySession, "claim", claim)

    async def main():
        seen = Seen()
        async with consuming(cy, engine_for(cy), seen) as server:
            assert server.stats()["received"] == 1
            # Nothing is left that would look for its turn again and again.
            assert not server._dispatcher._lanes
        assert seen.messages == []

    run(main())


def test_partitions_that_are_lost_together_end_together(cy, run):
    """Applications that take their time to end hold up no other partition."""

    async def main():
        engine, seen, cut, release = engine_for(cy), Seen(), [], asyncio.Event()

        async def application(scope, receive, send):
            try:
                await seen(scope, receive, send)
            except asyncio.CancelledError:
                cut.append(scope["scope_id"])
                await release.wait()
                raise

        async with consuming(cy, engine, application) as server:
            for number in range(20):
                await engine.publish(NAME, f"scope-{number}", b"hold")
            await eventually(lambda: len(seen.messages) == 20)
            (session,) = engine.queues[NAME].sessions
            session.cut("on purpose")
            await eventually(lambda: len(cut) == 20)
            seen.release.set()
            release.set()
            await engine.join()
            assert server.stats()["partitions_lost"] == PARTITIONS

    run(main())


def test_nothing_begins_while_it_is_unsure(cy, run, monkeypatch):
    """After a freeze, messages wait until the broker has said that the partition is still this worker's."""

    async def main():
        memory = importlib.import_module(f"{cy.__name__}.sources.queue.memory")
        sure = [False]
        monkeypatch.setattr(memory.MemoryHold, "sure", property(lambda _: sure[0]))
        engine, seen = engine_for(cy), Seen()
        async with consuming(cy, engine, seen):
            await engine.publish(NAME, "a", b"one")
            await asyncio.sleep(0.1)
            assert seen.messages == []
            sure[0] = True
            await engine.join()
            assert seen.bodies == [b"one"]

    run(main())


def test_a_stop_gives_back_what_was_not_begun(cy, run):
    async def main():
        engine, first, second = engine_for(cy), Seen(), Seen()
        async with consuming(cy, engine, first) as server:
            for body in (b"hold", b"one", b"two"):
                await engine.publish(NAME, "a", body)
            await eventually(lambda: first.messages)
            server.stop()
            await passes(10)
            first.release.set()
        assert first.bodies == [b"hold"]
        assert server.stats()["acknowledged"] == 1
        async with consuming(cy, engine, second):
            await engine.join()
        assert second.bodies == [b"one", b"two"]
        assert second.messages[0]["deliveries"] == 2

    run(main())


def test_a_stop_that_cuts_gives_back_what_is_in_hand(cy, run):
    async def main():
        engine, first, second = engine_for(cy), Seen(), Seen()
        async with consuming(cy, engine, first, shutdown_timeout=0.01):
            await engine.publish(NAME, "a", b"hold")
            await engine.publish(NAME, "a", b"one")
            await eventually(lambda: first.messages)
        second.release.set()
        async with consuming(cy, engine, second):
            await engine.join()
        assert second.bodies == [b"hold", b"one"]
        assert second.messages[0]["redelivered"]

    run(main())


def test_arun_twice(cy, run):
    async def main():
        async with consuming(cy, engine_for(cy), Seen()) as server:
            with pytest.raises(RuntimeError, match="running already"):
                await server.arun()

    run(main())


def test_again_after_a_run(cy, run):
    async def main():
        engine, seen = engine_for(cy), Seen()
        server = queues(cy).QueueServer(seen, engine=engine, name=NAME, partitions=PARTITIONS)
        for body in (b"one", b"two"):
            running = asyncio.create_task(server.arun())
            await server.wait_started()
            await engine.publish(NAME, "a", body)
            await engine.join()
            server.stop()
            await running
            assert server.holdings == {}
        assert seen.bodies == [b"one", b"two"]

    run(main())


@pytest.mark.parametrize("acknowledgement", ["automatic", "manual"])
def test_again_after_its_loop_was_closed(cy, run, acknowledgement):
    """What was in hand, or waited, when the loop was closed under the server is delivered in the next run."""
    engine, seen = engine_for(cy), []

    async def application(scope, receive, send):
        while True:
            message = await receive()
            seen.append((message["body"], message["redelivered"]))
            if len(seen) == 1:
                await asyncio.get_running_loop().create_future()
            await send({"type": "queue.acknowledge", "delivery_id": message["delivery_id"]})

    server = queues(cy).QueueServer(application, engine=engine, name=NAME, partitions=PARTITIONS)
    server.acknowledgement = acknowledgement
    server.balance_interval = 0.01

    async def first():
        task = asyncio.create_task(server.arun())
        await server.wait_started()
        for body in (b"one", b"two"):
            await engine.publish(NAME, "a", body)
        await in_time(lambda: seen)
        return task

    async def second():
        running = asyncio.create_task(server.arun())
        await server.wait_started()
        assert server.stats()["partitions"] == PARTITIONS
        await engine.join()
        server.stop()
        await running
        assert server.application is application

    loop = run.loop_factory()
    # That tasks are destroyed while they are pending is what such an end of a loop means.
    loop.set_exception_handler(lambda loop, context: None)
    task = loop.run_until_complete(first())
    loop.close()
    run(second())
    # It is closed while another run may be at work.
    del task
    gc.collect()
    assert seen[0] == (b"one", False)
    assert seen[1:] == [(b"one", True), (b"two", True)]


def test_cancelled(cy, run):
    """What is in hand is cut off at once, and delivered again."""

    async def main():
        engine, seen = engine_for(cy), Seen()
        server = queues(cy).QueueServer(seen, engine=engine, name=NAME, partitions=PARTITIONS)
        running = asyncio.create_task(server.arun())
        await server.wait_started()
        await engine.publish(NAME, "a", b"hold")
        await eventually(lambda: seen.messages)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not engine.queues[NAME].sessions
        assert sum(len(partition.waiting) for partition in engine.queues[NAME].partitions) == 1

    run(main())


def test_stopped_while_it_connects(cy, run):
    """Nobody waits for an engine that does not answer."""

    async def main():
        connecting = asyncio.Event()

        class Silent:
            def describe(self):
                return "silent:"

            async def connect(self, shape):
                connecting.set()
                await asyncio.get_running_loop().create_future()

        server = queues(cy).QueueServer(for_ever, engine=Silent(), name=NAME)
        running = asyncio.create_task(server.arun())
        await connecting.wait()
        server.stop()
        await running

    run(main())


def test_an_engine_that_refuses(cy, run):
    async def main():
        class Refusing:
            def describe(self):
                return "nowhere:"

            async def connect(self, shape):
                raise queues(cy).EngineError("nowhere: no such place")

        server = queues(cy).QueueServer(for_ever, engine=Refusing(), name=NAME)
        with pytest.raises(queues(cy).EngineError, match="nowhere: no such place"):
            await server.arun()

    run(main())

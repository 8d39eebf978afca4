"""Messages that were delivered very often: only what has ended its workers is put aside, whatever was near it."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from support.loops import passes
from support.queues import NAME, Seen, consuming, engine_for, queues, quiet_failures
from support.serving import eventually, in_time


def suspects_of(cy):
    return importlib.import_module(f"{cy.__name__}.sources.queue.suspects")


def delivered_before(engine, times):
    """Have everything that waits be delivered as if it had been before, without having begun."""
    for partition in engine.queues[NAME].partitions:
        for stored in partition.waiting:
            stored.deliveries = times


@pytest.mark.parametrize("times", [4, 19, 20, 1000])
def test_never_begun(cy, run, times):
    """A message that was given back often, and then fails once, is tried again."""

    async def main():
        engine, seen = engine_for(cy), []

        async def application(scope, receive, send):
            message = await receive()
            seen.append(message["deliveries"])
            if len(seen) < 5:
                raise ValueError("not yet")

        await engine.publish(NAME, "a", b"x")
        delivered_before(engine, times)
        async with consuming(cy, engine, application, quiet_failures(cy)):
            await engine.join()
        assert seen == list(range(times + 1, times + 6))
        assert engine.dead_letters(NAME) == []
        assert not engine.queues[NAME].suspects

    run(main())


def test_alone(cy, run, monkeypatch):
    """While one of them is in hand, nothing else begins; afterwards everything goes on."""
    monkeypatch.setattr(suspects_of(cy), "BETWEEN", 0.0)

    async def main():
        engine, together, now = engine_for(cy), [], {}

        async def application(scope, receive, send):
            while True:
                message = await receive()
                now[scope["scope_id"]] = message
                together.append((message["deliveries"] > 20, len(now)))
                await passes(5)
                del now[scope["scope_id"]]

        for number in range(6):
            await engine.publish(NAME, f"suspect-{number}", b"x")
        delivered_before(engine, 50)
        for number in range(6):
            await engine.publish(NAME, f"suspect-{number}", b"after")
            await engine.publish(NAME, f"scope-{number}", b"x")
        async with consuming(cy, engine, application):
            await engine.join()
        assert [count for suspect, count in together if suspect] == [1] * 6
        assert sum(not suspect for suspect, _ in together) == 12

    run(main())


def test_what_is_in_hand_comes_back_first(cy, run):
    async def main():
        engine, seen = engine_for(cy), Seen()
        async with consuming(cy, engine, seen):
            await engine.publish(NAME, "a", b"hold")
            await eventually(lambda: seen.messages)
            await engine.publish(NAME, "b", b"x")
            delivered_before(engine, 50)
            await passes(20)
            assert seen.bodies == [b"hold"]
            seen.release.set()
            await engine.join()
            assert seen.bodies == [b"hold", b"x"]

    run(main())


def test_a_slow_one(cy, run, monkeypatch):
    """Others wait for it for a moment only, and its note stays until it is done."""
    monkeypatch.setattr(suspects_of(cy), "ALONE", 0.01)

    async def main():
        engine, seen = engine_for(cy), Seen()
        await engine.publish(NAME, "a", b"hold")
        delivered_before(engine, 50)
        async with consuming(cy, engine, seen):
            await eventually(lambda: seen.messages)
            await engine.publish(NAME, "b", b"x")
            await in_time(lambda: seen.bodies == [b"hold", b"x"])
            assert list(engine.queues[NAME].suspects.values()) == [1]
            seen.release.set()
            await engine.join()
            await in_time(lambda: not engine.queues[NAME].suspects)

    run(main())


def test_beside_others(cy, run, monkeypatch):
    """If what is in hand takes longer than that, it begins all the same, and no note blames it for what they do."""
    monkeypatch.setattr(suspects_of(cy), "ALONE", 0.01)

    async def main():
        engine, seen = engine_for(cy), Seen()
        async with consuming(cy, engine, seen):
            await engine.publish(NAME, "a", b"hold")
            await eventually(lambda: seen.messages)
            await engine.publish(NAME, "b", b"hold too")
            delivered_before(engine, 50)
            await in_time(lambda: seen.bodies == [b"hold", b"hold too"])
            assert not engine.queues[NAME].suspects
            seen.release.set()
            await engine.join()

    run(main())


def test_waits_once_for_what_is_in_hand(cy, run, monkeypatch):
    """What one suspect has waited for in vain holds up neither the next ones nor anything else."""
    dispatcher = importlib.import_module(f"{cy.__name__}.sources.queue.dispatch").Dispatcher
    all_came_back, waits = dispatcher.all_came_back, []

    async def first_one_soon(self, seconds):
        waits.append(seconds)
        return await all_came_back(self, 0.01 if len(waits) == 1 else 60.0)

    monkeypatch.setattr(dispatcher, "all_came_back", first_one_soon)

    async def main():
        engine, seen = engine_for(cy), Seen()
        async with consuming(cy, engine, seen):
            await engine.publish(NAME, "slow", b"hold")
            await eventually(lambda: seen.messages)
            for number in range(5):
                await engine.publish(NAME, f"suspect-{number}", b"hold")
            delivered_before(engine, 50)
            await eventually(lambda: waits)
            await engine.publish(NAME, "other", b"x")
            await in_time(lambda: len(seen.messages) == 7)
            assert (len(waits), len(engine.queues[NAME].suspects)) == (1, 0)
            seen.release.set()
            await engine.join()
            # All have come back: the next one begins alone again.
            seen.release.clear()
            await engine.publish(NAME, "suspect", b"hold")
            delivered_before(engine, 50)
            await in_time(lambda: len(seen.messages) == 8)
            assert (len(waits), len(engine.queues[NAME].suspects)) == (2, 1)
            seen.release.set()
            await engine.join()

    run(main())


def test_a_connection_that_is_cut(cy, run, monkeypatch):
    """As often as it may be while the same message is in hand alone: the worker has not ended."""
    monkeypatch.setattr(importlib.import_module(f"{cy.__name__}.serving.retrying").random, "uniform", lambda *_: 0.0)

    async def main():
        engine, seen = engine_for(cy), Seen()
        await engine.publish(NAME, "a", b"hold")
        delivered_before(engine, 50)
        async with consuming(cy, engine, seen):
            for count in range(1, 6):
                await in_time(lambda count=count: len(seen.messages) == count)
                (session,) = engine.queues[NAME].sessions
                session.cut("on purpose")
            await in_time(lambda: len(seen.messages) == 6)
            assert list(engine.queues[NAME].suspects.values()) == [1]
            seen.release.set()
            await engine.join()
            await in_time(lambda: not engine.queues[NAME].suspects)
        assert engine.dead_letters(NAME) == []

    run(main())


def test_another_worker_takes_it_meanwhile(cy, run, monkeypatch):
    """The note is removed by the worker that has made it."""
    monkeypatch.setattr(suspects_of(cy), "FAILED", 0.01)

    async def main():
        engine, seen = engine_for(cy), Seen()
        await engine.publish(NAME, "a", b"hold")
        delivered_before(engine, 50)
        async with consuming(cy, engine, seen):
            await eventually(lambda: seen.messages)
            (session,) = engine.queues[NAME].sessions
            session.cut("on purpose")
            # Somebody else is done with it, who knew nothing of suspects.
            for partition in engine.queues[NAME].partitions:
                partition.waiting.clear()
            await in_time(lambda: not engine.queues[NAME].suspects)

    run(main())


@pytest.mark.slow
def test_what_ends_its_workers(cy, run, monkeypatch, caplog):
    """It is put aside, and all that was delivered as often with it is done."""
    monkeypatch.setattr(suspects_of(cy), "BETWEEN", 0.0)
    # As if the loop had stood still until the connection was cut.
    monkeypatch.setattr(suspects_of(cy), "BLOCKED", -1.0)

    async def main():
        engine, done, ended = engine_for(cy), [], []

        async def application(scope, receive, send):
            message = await receive()
            if message["body"] == b"deadly":
                ended.append(message["deliveries"])
                # To the broker, it is the same as the end of the process.
                (session,) = engine.queues[NAME].sessions
                session.cut("it was killed")
                await asyncio.get_running_loop().create_future()
            done.append(message["body"])

        for scope_id in ("a", "b", "c"):
            await engine.publish(NAME, scope_id, b"before")
            await engine.publish(NAME, scope_id, b"deadly" if scope_id == "b" else b"after")
            await engine.publish(NAME, scope_id, b"last")
        attributes = {"max_deliveries": 1, "shutdown_timeout": 0.01}
        async with consuming(cy, engine, application, quiet_failures(cy), **attributes):
            await engine.join()
        assert set(done) >= {b"before", b"after", b"last"}
        assert done.count(b"last") >= 3
        assert len(ended) >= 5
        (letter,) = engine.dead_letters(NAME)
        assert (letter.body, letter.headers["x-scope-id"]) == (b"deadly", "b")
        assert letter.headers["x-failure"] == "each of 2 workers has ended while it was in hand alone"
        assert not engine.queues[NAME].suspects

    monkeypatch.setattr(importlib.import_module(f"{cy.__name__}.serving.retrying").random, "uniform", lambda *_: 0.0)
    run(main())


def test_behind_one_that_takes_its_time_to_end(cy, run, monkeypatch):
    """A suspect, too, waits until the instance before its own has let go of what it has."""
    monkeypatch.setattr(suspects_of(cy), "ALONE", 0.02)

    async def main():
        engine, seen, release = engine_for(cy), [], asyncio.Event()

        async def application(scope, receive, send):
            try:
                while True:
                    message = await receive()
                    seen.append(message["body"])
                    if message["redelivered"] or message["body"] == b"other":
                        await send({"type": "queue.acknowledge"})
            except asyncio.CancelledError:
                await release.wait()
                raise

        async with consuming(cy, engine, application, acknowledgement="manual") as server:
            await engine.publish(NAME, "a", b"one")
            await eventually(lambda: seen)
            await engine.publish(NAME, "a", b"suspect")
            delivered_before(engine, 50)
            await passes(5)
            server.delete_application_instance("a")
            await engine.publish(NAME, "b", b"other")
            await in_time(lambda: b"other" in seen)
            assert seen == [b"one", b"other"]
            release.set()
            await engine.join()
            assert seen == [b"one", b"other", b"one", b"suspect"]

    run(main())


def test_a_pause_before_another_try(cy, run):
    """It is not cut short by what else a scope has had to wait for."""

    async def main():
        engine, seen, fail = engine_for(cy), [], asyncio.Event()

        async def application(scope, receive, send):
            async def wait_and_fail():
                await fail.wait()
                raise ValueError("on purpose")

            async with asyncio.TaskGroup() as group:
                if scope["scope_id"] == "a":
                    group.create_task(wait_and_fail())
                while True:
                    message = await receive()
                    seen.append(message["body"])
                    if scope["scope_id"] != "a":
                        await send({"type": "queue.acknowledge"})

        attributes = {"acknowledgement": "manual", "retry_delay": 60.0, "shutdown_timeout": 0.01}
        async with consuming(cy, engine, application, quiet_failures(cy), **attributes) as server:
            await engine.publish(NAME, "a", b"one")
            await eventually(lambda: seen)
            await engine.publish(NAME, "b", b"suspect")
            delivered_before(engine, 50)
            await passes(5)
            await engine.publish(NAME, "a", b"two")
            await passes(5)
            # One is in hand, so that the suspect does not begin, and two waits for the suspect.
            assert seen == [b"one"]
            fail.set()
            await in_time(lambda: server.stats()["acknowledged"])
            await engine.publish(NAME, "c", b"three")
            await in_time(lambda: b"three" in seen)
            assert seen == [b"one", b"suspect", b"three"]

    run(main())


def test_a_session_that_is_lost_before_it_begins(cy, run):
    """It begins in the next session."""

    async def main():
        engine, seen, asked = engine_for(cy), Seen(), []

        class Server(queues(cy).QueueServer):
            async def note_suspect(self, key):
                asked.append(key)
                if len(asked) == 1:
                    raise queues(cy).EngineError("the engine is gone")
                return await super().note_suspect(key)

        await engine.publish(NAME, "a", b"x")
        delivered_before(engine, 50)
        async with consuming(cy, engine, seen, Server):
            await engine.join()
        assert len(asked) == 2
        assert seen.bodies == [b"x"]

    run(main())


def test_stopped_meanwhile(cy, run):
    """What has not begun goes back."""

    async def main():
        engine, seen = engine_for(cy), Seen()
        for scope_id in ("a", "b", "c"):
            await engine.publish(NAME, scope_id, b"hold")
        delivered_before(engine, 50)
        async with consuming(cy, engine, seen) as server:
            await eventually(lambda: seen.messages)
            server.stop()
            await passes(5)
            seen.release.set()
        assert len(seen.messages) == 1
        assert sum(len(partition.waiting) for partition in engine.queues[NAME].partitions) == 2
        assert not engine.queues[NAME].suspects

    run(main())

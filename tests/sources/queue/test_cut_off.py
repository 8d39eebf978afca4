"""Work that is cut off is not done, whatever the application makes of its cancellation."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from support.loops import passes
from support.queues import NAME, consuming, engine_for, queues
from support.serving import eventually


class Swallowing:
    """An application that is cut off with its first message in hand, swallows that, and does as `then` says."""

    def __init__(self, then):
        self.then = then
        self.deliveries = []

    async def __call__(self, scope, receive, send):
        message = await receive()
        self.deliveries.append(message["deliveries"])
        if len(self.deliveries) == 1:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                if self.then == "acknowledge":
                    await send({"type": "queue.acknowledge"})
                elif self.then == "receive":
                    await receive()
                return
        await send({"type": "queue.acknowledge"})


def in_queue(engine):
    return sum(len(partition.waiting) for partition in engine.queues[NAME].partitions)


@pytest.mark.parametrize("acknowledgement", ["automatic", "manual"])
@pytest.mark.parametrize("then", ["return", "receive"])
def test_deleted(cy, run, then, acknowledgement):
    """The message is delivered again, and nobody has failed with it."""

    async def main():
        engine, application = engine_for(cy), Swallowing(then)
        attributes = {"acknowledgement": acknowledgement, "shutdown_timeout": 0.01, "max_deliveries": 1}
        async with consuming(cy, engine, application, **attributes) as server:
            await engine.publish(NAME, "a", b"x")
            await eventually(lambda: application.deliveries)
            server.delete_application_instance("a")
            await eventually(lambda: len(application.deliveries) == 2)
            await engine.join()
            counts = server.stats()
        assert application.deliveries == [1, 2]
        assert (counts["acknowledged"], counts["retried"], counts["buried"]) == (1, 0, 0)

    run(main())


@pytest.mark.parametrize("acknowledgement", ["automatic", "manual"])
@pytest.mark.parametrize("then", ["return", "receive", "acknowledge"])
def test_stopped(cy, run, then, acknowledgement):
    """Only what the application has acknowledged is gone; another server gets the rest, marked."""

    async def main():
        engine, application = engine_for(cy), Swallowing(then)
        attributes = {"acknowledgement": acknowledgement, "shutdown_timeout": 0.01}
        async with consuming(cy, engine, application, **attributes) as server:
            await engine.publish(NAME, "a", b"x")
            await eventually(lambda: application.deliveries)
        assert server.stats()["acknowledged"] == (then == "acknowledge")
        assert in_queue(engine) == (then != "acknowledge")
        async with consuming(cy, engine, application, **attributes):
            await engine.join()
        assert application.deliveries == ([1] if then == "acknowledge" else [1, 2])

    run(main())


@pytest.mark.parametrize("then", ["return", "receive"])
@pytest.mark.parametrize("cut", [False, True], ids=["in time", "too late"])
def test_an_asynchronous_override(cy, run, then, cut):
    """What the application finishes while an override has yet to delete it is done; what it finishes later is not."""

    async def main():
        engine, finish, seen = engine_for(cy), asyncio.Event(), []

        class Patient(queues(cy).QueueServer):
            async def delete_application_instance(self, scope_id):
                if not cut:
                    finish.set()
                    await passes(5)
                return await super().delete_application_instance(scope_id)

        async def application(scope, receive, send):
            seen.append((await receive())["deliveries"])
            with contextlib.suppress(asyncio.CancelledError):
                await finish.wait()
            if then == "receive":
                await receive()

        async with consuming(cy, engine, application, Patient, shutdown_timeout=0.01) as server:
            await engine.publish(NAME, "a", b"x")
            await eventually(lambda: seen)
        assert (server.stats()["acknowledged"], in_queue(engine)) == ((0, 1) if cut else (1, 0))

    run(main())


def test_several_in_hand(cy, run):
    """With manual acknowledgement, none of those in hand is to blame: they come back as they were, together."""

    async def main():
        engine, seen, ended = engine_for(cy), [], []

        async def application(scope, receive, send):
            try:
                while True:
                    seen.append((await receive())["body"])
            except asyncio.CancelledError:
                ended.append(True)

        attributes = {"acknowledgement": "manual", "shutdown_timeout": 0.01, "max_deliveries": 1}
        async with consuming(cy, engine, application, **attributes) as server:
            for body in (b"one", b"two"):
                await engine.publish(NAME, "a", body)
            await eventually(lambda: len(seen) == 2)
            await passes(3)
            server.delete_application_instance("a")
            await eventually(lambda: len(seen) == 4)
            assert (seen, len(ended)) == ([b"one", b"two"] * 2, 1)
            assert (server.stats()["retried"], server.stats()["buried"]) == (0, 0)

    run(main())

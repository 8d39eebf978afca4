"""Who may settle a message, or answer it: the instance that has received it, and no other."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from support.queues import NAME, consuming, engine_for, quiet_failures
from support.serving import eventually

SENDS = [
    {"type": "queue.acknowledge"},
    {"type": "queue.reject"},
    {"type": "queue.reject", "requeue": True},
    {"type": "queue.reply", "body": b"answer"},
]


@pytest.mark.parametrize("acknowledgement", ["automatic", "manual"])
@pytest.mark.parametrize("asked", SENDS)
def test_a_task_that_outlives_its_instance(cy, run, asked, acknowledgement):
    """What the next instance has in hand is none of its business, even if it is the same message."""

    async def main():
        engine, messages, sends = engine_for(cy), [], []
        engine.replies["me"] = replies = []

        async def application(scope, receive, send):
            messages.append(await receive())
            sends.append(send)
            if len(messages) == 1:
                raise ValueError("on purpose")
            await asyncio.get_running_loop().create_future()

        attributes = {"acknowledgement": acknowledgement, "shutdown_timeout": 0.01}
        async with consuming(cy, engine, application, quiet_failures(cy), **attributes) as server:
            await engine.publish(NAME, "a", b"x", reply_to="me")
            await eventually(lambda: len(messages) == 2)
            assert messages[0]["delivery_id"] != messages[1]["delivery_id"]
            for named in ({}, {"delivery_id": messages[0]["delivery_id"]}, {"delivery_id": messages[1]["delivery_id"]}):
                with pytest.raises(ValueError, match="in hand"):
                    await sends[0]({**asked, **named})
            counts = server.stats()
            assert (counts["buried"], counts["given_back"], counts["replied"], replies) == (0, 0, 0, [])

    run(main())


def test_one_that_was_not_received_yet(cy, run):
    """Not even a task of the same instance settles what is on its way to the application."""

    async def main():
        engine, seen, asked = engine_for(cy), [], []

        async def application(scope, receive, send):
            async def in_every_turn():
                while True:
                    asked.append(True)
                    with contextlib.suppress(ValueError):
                        await send({"type": "queue.acknowledge"})
                    await asyncio.sleep(0)

            if (await receive())["body"] == b"one":
                acknowledging = asyncio.create_task(in_every_turn())
                try:
                    seen.append((await receive())["deliveries"])
                    raise ValueError("on purpose")
                finally:
                    acknowledging.cancel()
            seen.append("again")

        async with consuming(cy, engine, application, quiet_failures(cy)):
            await engine.publish(NAME, "a", b"one")
            await eventually(lambda: asked)
            await engine.publish(NAME, "a", b"two")
            await engine.join()
        assert seen == [1, "again"]

    run(main())

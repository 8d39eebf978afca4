"""Streams that are opened, broken off anywhere and closed leave nothing: no object, task, timer or descriptor."""

from __future__ import annotations

import asyncio
import random

import pytest

from support.census import census, grown_since
from support.certificates import write_certificates
from support.effort import EFFORT
from support.serving import in_time
from support.streams import Client, contexts_of, server_of, serving

pytestmark = [pytest.mark.slow, pytest.mark.few_combinations]

SENT = [
    b"a",
    b"a\n",
    b"x" * 3000 + b"\n",
    b"a\n" * 500,
    b"y" * 5000,
    b"fail\n",
    b"close\n",
    b"return\nmore\n",
    b"push\n",
]


async def application(scope, receive, send):
    """Answers, fails, closes, returns and pushes to itself, as its lines say."""
    instance = scope["state"]["current"]()
    while (message := await receive())["type"] != "stream.disconnect":
        match message.get("data"):
            case b"fail":
                raise RuntimeError("as asked for")
            case b"close":
                await send({"type": "stream.close"})
            case b"return":
                return
            case b"push":
                instance.server.send_to(instance.scope_id, {"type": "push"})
            case bytes() as data:
                await send({"type": "stream.send", "data": data * 20})
    if message["writable"]:
        await send({"type": "stream.send", "data": b"bye"})


async def break_off(address, tls, chance):
    """One connection that goes wrong somewhere."""
    async with Client(address, tls) as client:
        for _ in range(chance.randrange(4)):
            client.send(chance.choice(SENT))
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
        way = chance.randrange(4)
        if way == 0:
            client.abort()
        elif way == 1 and tls is None:
            client.half_close()
            # Without a timeout of its own: asyncio keeps the timers of those that were not reached.
            await client.reader.read()


async def churn(address, tls, count, seed, workers=40):
    """So many of them, some at a time."""
    chance = random.Random(seed)
    left = count

    async def work():
        nonlocal left
        while left > 0:
            left -= 1
            try:
                await break_off(address, tls, chance)
            except OSError:
                # The server was faster.
                continue

    await asyncio.gather(*[work() for _ in range(workers)])


@pytest.mark.parametrize("way", ["plain", "tls", "sessions"])
def test_leaks(cy, run, tmp_path, way, caplog):
    """The same many connections again leave no more than the first ones."""
    tls = None
    if way == "tls":
        write_certificates(tmp_path)
        tls = contexts_of(tmp_path)

    async def main():
        overrides = {"max_message_size": 4000, "application_undelivered": lambda self, *_: None}
        if way == "sessions":
            overrides["scope_id"] = lambda self, connection, first_message: first_message[:1] or None
            overrides["reconnect_timeout"] = 0.05
        server = server_of(
            cy, application, ssl=tls and tls[0], application_exception=lambda self, *_: None, **overrides
        )
        server.state = {"current": cy.current_instance}

        async def quiet():
            await in_time(lambda: not server.connections and not server.application_instances)
            await in_time(lambda: server.stats()["closing"] == 0 and not server.away)
            assert server.waiting_bytes == 0

        async with serving(server) as address:
            client = tls and tls[1]
            await churn(address, client, 200, seed=0)
            await quiet()
            tasks, before = len(asyncio.all_tasks()), census()
            await churn(address, client, 400 * max(1, EFFORT or 1), seed=EFFORT or 1)
            await quiet()
            # Hooks are called in the background.
            await in_time(lambda: len(asyncio.all_tasks()) <= tasks)
            assert await grown_since(before) == {}

    run(main())
    assert "Traceback" not in caplog.text

"""Connections that are opened, broken off anywhere and closed leave nothing: no instance, task, timer or descriptor."""

from __future__ import annotations

import asyncio
import random

import pytest

from support.census import census, grown_since
from support.effort import EFFORT
from support.http_corpus_heads import CHUNKED, CLOSE, END, get, post
from support.http_raw_client import RawClient, server_of, serving_http
from support.serving import in_time

pytestmark = pytest.mark.slow


async def application(scope, receive, send):
    """Answers at once, or when the body is there, or in many pieces, by the path."""
    path = scope["path"]
    if path == "/read":
        while (message := await receive())["type"] == "http.request" and message.get("more_body"):
            pass
    if path == "/wait":
        while (await receive())["type"] != "http.disconnect":
            pass
    headers = [] if path == "/stream" else [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if path == "/stream":
        for _ in range(10):
            await send({"type": "http.response.body", "body": b"a" * 20_000, "more_body": True})
    if path == "/fail":
        raise RuntimeError("as asked for")
    await send({"type": "http.response.body"})


def to(path, *lines, body=b""):
    return post(*lines, body=body).replace(b" / ", b" " + path + b" ", 1)


WHOLES = [
    get(),
    get(CLOSE),
    get() * 5,
    to(b"/read", b"Content-Length: 2000", body=b"a" * 2000),
    to(b"/read", CHUNKED, body=b"5\r\nhello\r\n" * 20 + b"0\r\nX-A: b\r\n\r\n"),
    to(b"/read", b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"),
    to(b"/", CHUNKED, body=b"5\r\nhello\r\n" + END),
    to(b"/stream"),
    to(b"/stream") + get(),
    to(b"/wait"),
    to(b"/wait") + get(),
    to(b"/fail"),
    get() + b"nonsense\r\n\r\n" + get(),
    post(CHUNKED, body=b"nonsense\r\n"),
    get(b"Upgrade: websocket", b"Connection: upgrade"),
    get(b"Upgrade: h2c", b"Connection: upgrade"),
]


async def break_off(address, rng):
    """One connection that goes wrong somewhere."""
    client = await RawClient(address).connect()
    data = rng.choice(WHOLES)
    cut = rng.randrange(len(data) + 1)
    parts = rng.randint(0, 2)
    for piece in (data[:cut], data[cut:])[:parts]:
        if not await client.send(piece):
            break
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
    way = rng.randrange(4)
    if way == 0 and data.startswith(b"GET") and client.ended is None:
        client.half_close()
        await client.end()
    elif way == 1:
        while len(client.data) < 10 and b"/wait" not in data and parts == 2 and await client.read_some():
            pass
    if way == 2:
        client.close()
    else:
        client.abort()


async def churn(address, count, seed, workers=40):
    """So many of them, some at a time."""
    rng = random.Random(seed)
    left = count

    async def work():
        nonlocal left
        while left > 0:
            left -= 1
            await break_off(address, rng)

    await asyncio.gather(*[work() for _ in range(workers)])


async def leaves_nothing(server, address, count, seed):
    async def quiet():
        await in_time(lambda: not server.connections and not server.application_instances)
        await in_time(lambda: server.stats()["closing"] == 0)

    await churn(address, 300, seed=0)
    await quiet()
    tasks, before = len(asyncio.all_tasks()), census()
    await churn(address, count, seed)
    await quiet()
    assert len(asyncio.all_tasks()) == tasks
    assert await grown_since(before) == {}


@pytest.fixture(autouse=True)
def _clients_that_have_gone_are_given_up_soon(cy, monkeypatch):
    """What is left after it does not hang on how long the server waits for them."""
    monkeypatch.setattr("cyasgi.gateways.http.connection.HALF_CLOSED", 0.1)


def leaking_server(cy):
    return server_of(cy, application, application_exception=lambda self, exception, details: None)


@pytest.mark.parametrize("seed", [1, 2])
def test_aborted_connections_leave_nothing(cy, run, seed):
    """Hundreds of connections, broken off at random."""

    async def main():
        server = leaking_server(cy)
        async with serving_http(server) as (address,):
            await leaves_nothing(server, address, 500, seed)

    run(main())


@pytest.mark.few_combinations(1)
@pytest.mark.parametrize("seed", range(20))
def test_a_hundred_thousand_aborted_connections_leave_nothing(cy, run, seed):
    """The same with as many as a busy day has, five thousand at each server; a fifth of them without CYASGI_EFFORT."""

    async def main():
        server = leaking_server(cy)
        async with serving_http(server) as (address,):
            await leaves_nothing(server, address, 5000 if EFFORT > 1 else 1000, seed)

    run(main())

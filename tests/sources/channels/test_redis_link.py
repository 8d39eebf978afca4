"""The connections to one Redis: how they fail, and how they are closed."""

from __future__ import annotations

import asyncio
import importlib

import pytest
from redis.asyncio import ConnectionPool

from support.census import census, grown_since
from support.loops import PATIENCE
from support.redis_servers import HoldingProxy, RedisServer
from support.serving import in_time

pytestmark = pytest.mark.slow


@pytest.fixture
def link_module(cy):
    return importlib.import_module(f"{cy.__name__}.sources.channels.redis.link")


def test_a_call_after_a_reset(link_module, run, redis):
    """It fails like any other connection, on each loop, although redis-py has not noticed yet."""

    async def main():
        link = link_module.Link(lambda: ConnectionPool.from_url(redis.url), lambda names: None)
        await link.open()
        for connection in (link._commands, link._changes):
            connection._writer.transport.abort()
        # The transports close in the loop's next passes; the reader of changes learns of it in the same ones.
        for _ in range(5):
            await asyncio.sleep(0)
        with pytest.raises(link_module.FAILURES):
            await link.call(("PING",))
        with pytest.raises(link_module.FAILURES):
            await link.ping()
        await link.close()

    run(main())


def test_a_redis_that_accepts_and_does_not_answer(link_module, run, own_redis, monkeypatch):
    """The error says how long that was waited for."""
    monkeypatch.setattr(link_module, "ANSWER_TIMEOUT", 0.05)

    async def main():
        link = link_module.Link(lambda: ConnectionPool.from_url(own_redis.url, socket_timeout=None), lambda names: None)
        own_redis.pause()
        try:
            with pytest.raises(TimeoutError, match=r"^no answer within 0\.1 s$"):
                await link.open()
        finally:
            own_redis.go_on()
        await link.close()

    run(main())


@pytest.fixture
def tls(tmp_path):
    """A Redis with TLS."""
    with RedisServer.with_tls(tmp_path) as redis:
        yield redis


def test_closed_in_order(link_module, run, tls):
    """What closes waits for TLS's goodbye on both connections: a loop that ends afterwards has none any more."""

    async def main():
        async with HoldingProxy(tls) as proxy:
            url = tls.tls_url.replace(str(tls.tls_port), proxy.url.split(":")[2].partition("/")[0])
            link = link_module.Link(lambda: ConnectionPool.from_url(url), lambda names: None)
            await link.open()
            proxy.hold()
            closing = asyncio.create_task(link.close())
            await in_time(lambda: not link._commands.is_connected)
            for _ in range(20):
                await asyncio.sleep(0)
            assert not closing.done()
            proxy.speak()
            await closing

    run(main())


def test_closed_before_a_silent_peer(link_module, run, tls, monkeypatch):
    """Nobody waits for its goodbye for long."""
    monkeypatch.setattr(link_module, "CLOSE_TIMEOUT", 0.05)

    async def main():
        for silent in (False, True):
            before = census()
            link = link_module.Link(lambda: ConnectionPool.from_url(tls.tls_url), lambda names: None)
            await link.open()
            if silent:
                tls.pause()
            try:
                async with asyncio.timeout(PATIENCE):
                    await link.close()
            finally:
                tls.go_on()
        # Once it has come after all, nothing is left of the connections.
        assert not await grown_since(before)

    run(main())

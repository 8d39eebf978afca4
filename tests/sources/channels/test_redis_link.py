"""The connections to one Redis: how they fail, and how they are closed."""

from __future__ import annotations

import asyncio
import importlib

import pytest
from redis.asyncio import ConnectionPool

from support.census import census, grown_since
from support.certificates import write_certificates
from support.redis_servers import RedisServer, free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def link_module(cy):
    return importlib.import_module(f"{cy.__name__}.sources.channels.redis.link")


def test_a_call_after_a_reset(link_module, run, redis):
    """It fails like any other connection, on each loop, although redis-py has not noticed yet."""

    async def main():
        link = link_module.Link(lambda: ConnectionPool.from_url(redis.url), lambda names: None)
        await link.open()
        for writer in link._writers:
            writer.transport.abort()
        # The transports close in the loop's next passes; the reader of changes learns of it in the same ones.
        for _ in range(5):
            await asyncio.sleep(0)
        with pytest.raises(link_module.FAILURES):
            await link.call(("PING",))
        with pytest.raises(link_module.FAILURES):
            await link.ping()
        await link.close()

    run(main())


def test_closed_before_a_peer_that_is_silent(link_module, run, tmp_path, monkeypatch):
    """TLS waits for the other's goodbye; not for ever, and nothing is left of the connections."""
    monkeypatch.setattr(link_module, "CLOSE_TIMEOUT", 0.05)
    folder = tmp_path / "redis"
    folder.mkdir()
    write_certificates(folder)
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"]

    async def main(redis):
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={folder / 'ca.pem'}"
        # What a loop and TLS keep from their first connection on is no part of it.
        for silent in (False, True):
            before = census()
            link = link_module.Link(lambda: ConnectionPool.from_url(url), lambda names: None)
            await link.open()
            if silent:
                redis.pause()
            await link.close()
            redis.go_on()
        assert not await grown_since(before)

    with RedisServer(folder, *options, "--tls-ca-cert-file", "ca.pem", "--tls-auth-clients", "no") as redis:
        run(main(redis))

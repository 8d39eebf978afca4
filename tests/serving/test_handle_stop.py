"""A source that has to be told when the server stops: handle_stop() and wait_stopping()."""

from __future__ import annotations

import asyncio

import pytest

from support.serving import eventually, fast, for_ever, in_time, reader


def server_of(cls, **methods):
    return type("Server", (fast(cls),), methods)(reader)


def test_told_before_handle_is_cancelled(cy, run):
    """What it feeds while it is told is still accepted, and drains."""

    async def main():
        told = []

        async def handle(self):
            try:
                await for_ever(self)
            finally:
                told.append("cancelled")

        async def handle_stop(self):
            told.append("stop")
            await asyncio.sleep(0)
            self.get_or_create_application_instance("id", {"type": "test"}).put_nowait("last")

        server = server_of(cy.StatelessServer, handle=handle, handle_stop=handle_stop)
        running = asyncio.create_task(server.arun())
        await server.wait_started()
        server.stop()
        await running
        assert told == ["stop", "cancelled"]
        assert server.undelivered == []
        assert server.stats()["created"] == 1

    run(main())


@pytest.mark.parametrize("how", ["returns", "fails"])
def test_also_if_handle_ends_by_itself(cy, run, how):
    async def main():
        told = []

        async def handle(self):
            if how == "fails":
                raise OSError("the source is gone")

        async def handle_stop(self):
            told.append("stop")

        server = server_of(cy.StatelessServer, handle=handle, handle_stop=handle_stop)
        if how == "fails":
            with pytest.raises(OSError, match="the source is gone"):
                await server.arun()
        else:
            await server.arun()
        assert told == ["stop"]

    run(main())


def test_not_if_arun_is_cancelled(cy, run):
    async def main():
        async def handle_stop(self):
            raise AssertionError("there is no time for that")

        server = server_of(cy.StatelessServer, handle=for_ever, handle_stop=handle_stop)
        running = asyncio.create_task(server.arun())
        await server.wait_started()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run(main())


def test_it_may_fail(cy, run, caplog):
    async def main():
        async def handle_stop(self):
            raise OSError("no connection")

        server = server_of(cy.StatelessServer, handle=for_ever, handle_stop=handle_stop)
        running = asyncio.create_task(server.arun())
        await server.wait_started()
        server.stop()
        await running

    run(main())
    assert "handle_stop() failed" in caplog.messages


@pytest.mark.parametrize("how", ["too long", "second stop"])
def test_it_is_bounded(cy, run, how):
    async def main():
        cut = []

        async def handle_stop(self):
            try:
                await for_ever(self)
            finally:
                cut.append(True)

        server = server_of(cy.StatelessServer, handle=for_ever, handle_stop=handle_stop)
        server.shutdown_timeout = 0.01 if how == "too long" else 60
        running = asyncio.create_task(server.arun())
        await server.wait_started()
        server.stop()
        if how == "second stop":
            await eventually(lambda: server._cyasgi.server_run.stopping)
            server.stop()
        await in_time(lambda: running.done())
        assert cut == [True]

    run(main())


def test_wait_stopping(cy, run):
    async def main():
        server = server_of(cy.StatelessServer, handle=for_ever)
        with pytest.raises(RuntimeError, match="needs a running server"):
            await server.wait_stopping()
        running = asyncio.create_task(server.arun())
        await server.wait_started()
        waiting = asyncio.create_task(server.wait_stopping())
        await asyncio.sleep(0)
        assert not waiting.done()
        server.stop()
        await waiting
        await running

    run(main())

"""A server that has run may run again, in another loop too; two runs of it at a time are refused."""

from __future__ import annotations

import asyncio

import pytest

from support.loops import passes
from support.serving import for_ever, handling, in_time, one_shot, reader


def test_usable_again(cy, run):
    """A server whose arun() has ended runs again, with every id afresh."""
    handled = []

    async def application(scope, receive, send):
        while True:
            handled.append(await receive())

    async def handle(server):
        server.get_or_create_application_instance("a", {}).put_nowait(len(handled))

    async def main():
        server = handling(cy.StatelessServer, handle)(application)
        for _ in range(3):
            await server.arun()
        assert handled == [0, 1, 2]

    run(main())


def test_usable_in_another_loop(cy, run):
    """arun() in one loop, then in another, then run(): each starts with what was made before it, and loses nothing."""
    handled = []

    async def application(scope, receive, send):
        while True:
            handled.append((scope, await receive()))

    async def handle(server):
        server.get_or_create_application_instance("b", "inside").put_nowait(2)

    server = handling(cy.StatelessServer, handle)(application)
    for runner in (lambda: run(server.arun()), lambda: run(server.arun()), server.run):
        handled.clear()
        server.get_or_create_application_instance("a", "outside").put_nowait(1)
        runner()
        assert sorted(handled) == [("inside", 2), ("outside", 1)]
        assert len(server.application_instances) == 0


def test_second_arun_is_refused(cy, run):
    """A second arun() beside the first is a RuntimeError that leaves the first one alone."""
    gate = asyncio.Event()

    async def handle(server):
        await gate.wait()
        server.get_or_create_application_instance("a", {}).put_nowait(1)
        await in_time(lambda: "a" not in server.application_instances)

    async def main():
        server = handling(cy.StatelessServer, handle)(one_shot)
        first = asyncio.create_task(server.arun())
        await passes(5)
        for _ in range(2):
            with pytest.raises(RuntimeError):
                await server.arun()
        gate.set()
        await first
        await server.arun()

    run(main())


def test_second_one_in_another_thread_is_refused(cy, run):
    """run() in another thread is refused as long as arun() is at it here."""

    async def main():
        server = handling(cy.StatelessServer, for_ever)(reader)
        first = asyncio.create_task(server.arun())
        await passes(5)
        with pytest.raises(RuntimeError):
            await asyncio.to_thread(server.run)
        await passes(5)
        assert not first.done()
        first.cancel()
        await asyncio.wait([first])

    run(main())


def test_two_servers_in_one_loop(impl, run):
    """Two servers in one loop do not touch each other: one ends, the other goes on."""

    async def short(server):
        await passes(3)

    async def main():
        first = handling(impl.StatelessServer, short)(reader)
        second = handling(impl.StatelessServer, for_ever)(reader)
        other = asyncio.create_task(second.arun())
        kept = second.get_or_create_application_instance("a", {})
        await first.arun()
        await passes(10)
        assert not other.done()
        assert second.get_or_create_application_instance("a", {}) is kept
        other.cancel()
        await asyncio.wait([other])

    run(main())

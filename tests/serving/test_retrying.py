"""retrying(): what fails is tried again, after pauses that grow."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import logging

import pytest

from support.serving import fast, in_time, reader


@pytest.fixture
def retrying(cy):
    return importlib.import_module(f"{cy.__name__}.serving.retrying").retrying


def failing(count, error=OSError):
    """An attempt that fails so many times before it succeeds; and the times at which it was made."""
    times = []

    async def attempt():
        times.append(asyncio.get_running_loop().time())
        if len(times) <= count:
            raise error(f"failure {len(times)}")
        return "done"

    return attempt, times


def test_until_it_succeeds(retrying, run, caplog):
    async def main():
        attempt, times = failing(3)
        assert await retrying(attempt, first=0.002, most=0.01) == "done"
        assert len(times) == 4

    run(main())
    assert [message.partition(";")[0] for message in caplog.messages] == ["failure 1", "failure 2", "failure 3"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_pauses_grow(retrying, run):
    async def main():
        attempt, times = failing(4)
        await retrying(attempt, first=0.02, most=0.08)
        pauses = [after - before for before, after in itertools.pairwise(times)]
        for pause, most in zip(pauses, (0.02, 0.04, 0.08, 0.08), strict=True):
            assert pause >= most / 2 - 0.005
        return pauses

    run(main())


def test_other_errors_are_raised(retrying, run):
    async def main():
        attempt, times = failing(3, ValueError)
        with pytest.raises(ValueError, match="failure 1"):
            await retrying(attempt)
        assert len(times) == 1

    run(main())


def test_a_bound(retrying, run):
    async def main():
        attempt, times = failing(9)
        with pytest.raises(OSError, match="failure 3"):
            await retrying(attempt, first=0.001, attempts=3)
        assert len(times) == 3

    run(main())


def test_an_attempt_that_went_well_for_long_begins_anew(retrying, run):
    async def main():
        count = 0

        async def attempt():
            nonlocal count
            count += 1
            if count < 5:
                await asyncio.sleep(0.01)
                raise OSError("gone again")

        await retrying(attempt, first=0.001, most=0.002, attempts=2)
        assert count == 5

    run(main())


def test_it_ends_with_the_server(retrying, cy, run):
    async def main():
        attempt, times = failing(10**6)

        async def handle(self):
            self.spawn(retrying(attempt, first=0.001, most=0.001))
            await asyncio.get_running_loop().create_future()

        server = type("Server", (fast(cy.StatelessServer),), {"handle": handle})(reader)
        running = asyncio.create_task(server.arun())
        await in_time(lambda: len(times) > 2)
        server.stop()
        await running

    run(main())

"""How long messages wait in queues: one in 16 is timed, and only those that an application takes."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from cyasgi._common.cells import CELLS, MESSAGE_TIME, SAMPLED_ONE_IN, Page
from support.instances import make, silent
from support.loops import passes


@pytest.fixture
def sampled(cy):
    """The histogram of what the core of this twin samples, when it is called."""
    page = Page()
    sampler = importlib.import_module(f"{cy.__name__}.core").SAMPLER
    sampler.start(page.cells)
    yield lambda: page.histogram(MESSAGE_TIME)
    sampler.stop()


async def reads(scope, receive, send):
    """Takes a message for each time that its scope says so."""
    while True:
        await scope["go"].acquire()
        await receive()


def scope():
    return {"type": "test", "go": asyncio.Semaphore(0)}


def test_one_in_so_many(cy, run, sampled):
    """Messages that are taken one by one."""

    async def main():
        instance = make(silent(cy, reads), scope=scope())
        for _ in range(4 * SAMPLED_ONE_IN):
            instance.put_nowait("a message")
            instance.scope["go"].release()
            await passes(3)
        assert instance.empty()

    run(main())
    assert sampled().count == 4 and 0 < sampled().sum < 60


def test_one_of_a_queue_at_a_time(cy, run, sampled):
    """While a message is followed no other one of its queue is."""

    async def main():
        instance = make(silent(cy, reads), scope=scope())
        for number in range(4 * SAMPLED_ONE_IN):
            instance.put_nowait(number)
        assert sampled().count == 0
        for _ in range(4 * SAMPLED_ONE_IN):
            instance.scope["go"].release()
        await passes(8 * SAMPLED_ONE_IN)
        assert instance.empty() and sampled().count == 1

    run(main())


@pytest.mark.parametrize("way", ["get", "get_nowait"])
def test_other_ways_to_take(cy, run, sampled, way):
    async def main():
        instance = make(silent(cy, reads), scope=scope())
        for number in range(SAMPLED_ONE_IN):
            await instance.put(number)
        for number in range(SAMPLED_ONE_IN):
            taken = await instance.get() if way == "get" else instance.get_nowait()
            assert taken == number
        assert sampled().count == 1

    run(main())


def test_what_nobody_takes(cy, run, sampled):
    """Messages of a queue that is dropped, or of an instance that ends, have not been taken."""

    async def main():
        server = silent(cy, reads)
        instance = make(server, scope=scope())
        for number in range(SAMPLED_ONE_IN):
            instance.put_nowait(number)
        assert instance.take_all() == list(range(SAMPLED_ONE_IN))
        for number in range(SAMPLED_ONE_IN):
            instance.put_nowait(number)
        await server.delete_application_instance("id")
        await passes(5)
        assert sampled().count == 0
        # Its place is free again.
        for number in range(SAMPLED_ONE_IN):
            instance = make(server, scope=scope())
            instance.put_nowait(number)
        assert instance.get_nowait() == 0

    run(main())


def test_messages_for_a_successor(cy, run, sampled):
    """A message that is put into an instance that has ended is timed when the next one takes it, if at all."""

    async def returns(scope, receive, send):
        await receive()

    async def main():
        server = silent(cy, returns)
        for _ in range(3 * SAMPLED_ONE_IN):
            make(server).put_nowait("a message")
            await passes(5)
        assert sampled().count == 3

    run(main())


def test_off(cy, run, sampled):
    """Nothing is counted before the start and after the stop."""

    async def main():
        importlib.import_module(f"{cy.__name__}.core").SAMPLER.stop()
        instance = make(silent(cy, reads), scope=scope())
        for number in range(3 * SAMPLED_ONE_IN):
            instance.put_nowait(number)
            assert instance.get_nowait() == number
        assert sampled().count == 0

    run(main())


def test_cells_that_are_too_short(cy):
    sampler = importlib.import_module(f"{cy.__name__}.core").SAMPLER
    with pytest.raises(ValueError, match=rf"^cells: 8 bytes, accepted are {8 * CELLS} or more$"):
        sampler.start(Page().cells[:1])

"""What the table costs: the same beside few live instances and beside many."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest
from conftest import passes

SCOPE = {"type": "test"}


def make(server: Any, scope_id: Any = "id", scope: Any = SCOPE) -> Any:
    return server.get_or_create_application_instance(scope_id, scope)


async def until(condition: Any) -> None:
    """Waits for what only time brings, for a bounded time."""
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came true")


async def by_message(scope: Any, receive: Any, send: Any) -> Any:
    """Reads on until a message tells it to return, to fail, or to be busy with something else."""
    while True:
        match await receive():
            case "return":
                return "returned"
            case "fail":
                raise ValueError("on purpose")
            case "busy":
                await asyncio.get_running_loop().create_future()


def quiet(cy: Any, application: Any = by_message, **arguments: Any) -> Any:
    """A server that says nothing of failures and left messages: they are not the subject here."""

    class Server(cy.StatelessServer):
        application_checker_interval = 0.001

        def application_exception(self, exception, details):
            pass

        def application_undelivered(self, messages, details):
            pass

    return Server(application, **arguments)


#: The cost of one operation beside the second number of live instances, over that beside the first.
SIZES = (200, 8000)
#: A cost that grew with the number would grow forty times.
TIMES = 8


async def populated(cy: Any, size: int, *, busy: bool = False, **attributes: Any) -> Any:
    server = quiet(cy, max_applications=size)
    for name, value in attributes.items():
        setattr(server, name, value)
    for number in range(size):
        instance = make(server, number)
        if busy:
            instance.put_nowait("busy")
    await passes(4)
    return server


# Servers are kept alive to the end of a test: of one that is dropped with its instances at work the loop complains.


async def look_up(cy: Any, size: int) -> Any:
    server = await populated(cy, size)

    def operate(number):
        for _ in range(20):
            make(server, number * 7 % size)

    return operate


async def evict_idle(cy: Any, size: int) -> Any:
    server = await populated(cy, size)
    return lambda number: make(server, ("new", number))


async def evict_busy(cy: Any, size: int) -> Any:
    server = await populated(cy, size, busy=True)
    return lambda number: make(server, ("new", number))


async def evict_finished(cy: Any, size: int) -> Any:
    server = await populated(cy, size)
    for number in range(100):
        server.application_instances[size - 1 - number].put_nowait("return")
    await passes(3)
    return lambda number: make(server, ("new", number))


async def evict_by_last_used(cy: Any, size: int) -> Any:
    server = await populated(cy, size)

    def operate(number):
        server.application_instances[size - 1 - number]["last_used"] = number
        make(server, ("new", number))

    return operate


async def delete_and_create(cy: Any, size: int) -> Any:
    server = await populated(cy, size)

    def operate(number):
        server.delete_application_instance(number * 7 % size)
        make(server, number * 7 % size)

    return operate


@pytest.mark.parametrize(
    "prepare",
    [look_up, evict_idle, evict_busy, evict_finished, evict_by_last_used, delete_and_create],
    ids=lambda prepare: prepare.__name__,
)
def test_cost_does_not_grow_with_the_number(cy, run, prepare):
    """Look-up, insertion, deletion and making room cost the same beside 200 live instances and beside 8,000."""

    alive = []

    async def cost(size):
        operate = await prepare(cy, size)
        best = float("inf")
        for round_ in range(5):
            start = time.process_time()
            for number in range(20):
                operate(round_ * 20 + number)
            best = min(best, time.process_time() - start)
            await passes(3)
        alive.append(operate)
        return best

    async def main():
        few, many = [await cost(size) for size in SIZES]
        assert many < TIMES * few + 0.0005

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_a_checker_beside_many_idle_instances_costs_nothing(cy, run):
    """A checker, however short its interval, does not look at instances that only wait."""

    alive = []

    async def cost(size):
        server = await populated(cy, size, idle_timeout=1000)
        checker = asyncio.create_task(server.application_checker())
        await asyncio.sleep(0.05)
        start = time.process_time()
        await asyncio.sleep(0.25)
        spent = time.process_time() - start
        checker.cancel()
        assert len(server.application_instances) == size
        alive.append(server)
        return spent

    async def main():
        few, many = [await cost(size) for size in SIZES]
        assert many < 3 * few + 0.02

    run(main())


@pytest.mark.parametrize("what", ["finished", "expired"])
def test_finding_the_finished_and_the_expired_costs_what_they_are(cy, run, what):
    """Reaping fifty that have finished, or have been idle too long, costs the same beside many as beside few."""

    alive = []

    async def cost(size):
        server = await populated(cy, size, idle_timeout=0.5 if what == "expired" else None)
        table = server.application_instances
        if what == "expired":
            await asyncio.sleep(0.5)
            for number in range(50, size):
                make(server, number)
        else:
            for number in range(50):
                table[number].put_nowait("return")
        start = time.process_time()
        checker = asyncio.create_task(server.application_checker())
        await until(lambda: len(table) <= size - 50)
        spent = time.process_time() - start
        checker.cancel()
        assert set(table) == set(range(50, size))
        alive.append(server)
        return spent

    async def main():
        few, many = zip(*[[await cost(size) for size in SIZES] for _ in range(2)], strict=True)
        assert min(many) < TIMES * min(few) + 0.002

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()

"""Random scripts of puts, receivers, cancellations and timeouts, against the reference or a count of messages."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import pytest

from support.loops import passes
from support.receiving import Log, end, make
from support.serving import quiet

pytestmark = pytest.mark.slow


def random_script(seed: int) -> Any:
    """A script of puts, thefts, passes, children that receive in several ways, cancellations and timeouts."""

    async def play(cls: Any) -> list[Any]:
        pick, log, children = random.Random(seed), Log(), []

        async def child(name, way, receive):
            try:
                match way:
                    case 0:
                        log.note(name, await receive())
                    case 1:
                        log.note(name, await asyncio.wait_for(receive(), 0))
                    case 2:
                        async with asyncio.timeout(0):
                            log.note(name, await receive())
                    case 3:
                        first, second = receive(), receive()
                        log.note(name, await second)
                        log.note(name, await first)
            except asyncio.CancelledError as error:
                log.note(name, "cancelled", error.args)
                if way == 3:
                    first.close()
            except TimeoutError:
                log.note(name, "time is up")

        async def application(scope, receive, send):
            given.append(receive)
            while not ending:
                try:
                    log.note("application", await receive())
                except asyncio.CancelledError as error:
                    log.note("application", "cancelled", error.args)

        given: list[Any] = []
        ending: list[bool] = []
        server = cls(application)
        queue = make(server)
        queue.put_nowait("first")
        future = server.application_instances["id"]["future"]
        await passes(3)
        try:
            for step in range(150):
                match pick.randrange(10):
                    case 0 | 1 | 2:
                        queue.put_nowait(step)
                    case 3 | 4:
                        children.append(asyncio.create_task(child(step, pick.randrange(4), given[0])))
                    case 5:
                        try:
                            log.note(step, queue.get_nowait())
                        except asyncio.QueueEmpty:
                            log.note(step, "empty")
                    case 6:
                        waiting = [task for task in children if not task.done()]
                        if waiting:
                            pick.choice(waiting).cancel(step)
                    case 7:
                        future.cancel(step)
                    case _:
                        await passes(pick.randrange(1, 3))
                log.note(step, queue.qsize())
        finally:
            ending.append(True)
        future.cancel()
        await end(children)
        await passes(3)
        log.note(future.done(), [queue.get_nowait() for _ in range(queue.qsize())])
        log.ticker.cancel()
        return log

    return play


def test_random_scripts(cy, reference, run):
    """Random scripts go as they do with the reference's queue, to the very pass."""

    async def main():
        for seed in range(40):
            play = random_script(seed)
            assert await play(quiet(cy.StatelessServer)) == await play(reference), seed

    run(main())


def test_random_lives(cy, run):
    """Whatever is cancelled, timed out, deleted or ends: each message is received once and in order, or is left over.

    The model: to each life of the one id there are the messages accepted, and those that were received or handed to
    application_undelivered, which are the same in the end, and each of the latter in order.
    """

    async def play(seed):
        pick, numbers = random.Random(seed), itertools.count()
        accepted: dict[Any, list[int]] = {}
        received: dict[Any, list[int]] = {}
        children: list[asyncio.Task[Any]] = []

        async def child(life, receive):
            while pick.random() < 0.8:
                try:
                    async with asyncio.timeout(pick.choice((0, None))):
                        received[life].append(await receive())
                except TimeoutError:
                    pass

        async def application(scope, receive, send):
            life = cy.current_instance()
            while (way := pick.randrange(12)) > 0:
                try:
                    if way <= 2:
                        children.append(asyncio.create_task(child(life, receive)))
                        await passes(pick.randrange(2))
                    elif way <= 4:
                        async with asyncio.timeout(0):
                            received[life].append(await receive())
                    else:
                        received[life].append(await receive())
                except TimeoutError:
                    pass
                except asyncio.CancelledError:
                    if ending or pick.random() < 0.2:
                        raise

        ending: list[bool] = []
        server = quiet(cy.StatelessServer)(application)
        try:
            for _ in range(300):
                life = make(server)
                received.setdefault(life, [])
                match pick.randrange(12):
                    case 0 | 1 | 2 | 3 | 4:
                        accepted.setdefault(life, []).append(number := next(numbers))
                        life.put_nowait(number)
                    case 5:
                        life["future"].cancel()
                    case 6 if children:
                        pick.choice(children).cancel()
                    case 7 if pick.random() < 0.3:
                        server.delete_application_instance("id")
                    case _:
                        await passes(pick.randrange(1, 3))
        finally:
            ending.append(True)
        await end(children)
        while not all(life["future"].done() for life in received):
            for life in received:
                life["future"].cancel()
            await passes(2)
        await end(children)
        await server.delete_application_instance("id")
        await passes(3)
        undelivered: dict[Any, list[int]] = {}
        for messages, life in server.undelivered:
            undelivered.setdefault(life, []).extend(messages)
        for life, taken in received.items():
            left = undelivered.get(life, [])
            assert taken == sorted(taken) and left == sorted(left), seed
            assert sorted(taken + left) == accepted.get(life, []), seed
        return len(received), sum(map(len, received.values())), sum(map(len, undelivered.values()))

    async def main():
        totals = [await play(seed) for seed in range(40)]
        # It is no test of anything unless there are many lives, and messages of both kinds.
        assert all(total > 100 for total in map(sum, zip(*totals, strict=True))), totals

    run(main())

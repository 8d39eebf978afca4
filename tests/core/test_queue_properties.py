"""Random programs on an instance's queue and on `asyncio.Queue`: every answer and every order must be the same, but for
those who put into a full queue: nobody overtakes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st

from support.loops import passes
from support.property_model import holds_for_all, programs, weighted
from support.queue_model import FairQueue

Step = tuple[Any, ...]
#: `cancel` takes the n-th of the tasks still waiting.
PROGRAMS = programs(
    weighted(
        (2, st.just(("put_nowait",))),
        (1, st.just(("get_nowait",))),
        (4, st.just(("put",))),
        (4, st.just(("get",))),
        (3, st.tuples(st.just("cancel"), st.integers(0, 3))),
        (2, st.just(("task_done",))),
        (1, st.just(("join",))),
        (4, st.tuples(st.just("turn"), st.integers(1, 3))),
    )
)


async def carry_out(queue: Any, program: list[Step]) -> list[Any]:
    """What the queue answered to each step, and in which order the tasks that waited on it came to an end."""
    log: list[Any] = []
    waiting: dict[int, asyncio.Task[Any]] = {}
    loop = asyncio.get_running_loop()

    async def follow(number: int, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            log.append((number, "gave", await call(*arguments)))
        except asyncio.CancelledError:
            log.append((number, "was cancelled"))

    def wait(number: int, call: Callable[..., Any], *arguments: Any) -> None:
        waiting[number] = task = loop.create_task(follow(number, call, *arguments))
        # Not in `follow`: a task that is cancelled before its first step never comes there.
        task.add_done_callback(lambda _: waiting.pop(number))

    def attempt(number: int, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            log.append((number, "gave", call(*arguments)))
        except (asyncio.QueueEmpty, asyncio.QueueFull, ValueError) as error:
            log.append((number, "raised", type(error), str(error) if type(error) is ValueError else ""))

    for number, (what, *parameter) in enumerate(program):
        message = {"type": "test.message", "number": number}
        if what == "turn":
            await passes(parameter[0])
        elif what == "cancel":
            if len(waiting) > parameter[0]:
                list(waiting.values())[parameter[0]].cancel()
        elif what == "put" and not queue.maxsize:
            # Now and then this lets the loop breathe, which that of asyncio.Queue does not: with nothing else to do in
            # the meantime it makes no difference.
            await passes(3)
            log.append((number, "gave", await queue.put(message)))
            await passes(3)
        elif what == "put":
            wait(number, queue.put, message)
        elif what in ("get", "join"):
            wait(number, getattr(queue, what))
        elif what == "put_nowait":
            attempt(number, queue.put_nowait, message)
        else:
            attempt(number, getattr(queue, what))
        log.append((number, what, queue.qsize(), queue.empty(), queue.full(), sorted(waiting)))
    await passes(4)
    log.append(("settled", queue.qsize(), queue.empty(), queue.full(), queue.maxsize, sorted(waiting)))
    # Newest first, so that cancelling does not follow the order of the queue's own list of waiters.
    for task in list(waiting.values())[::-1]:
        task.cancel()
    await passes(4)
    log.append(("over", queue.qsize(), sorted(waiting)))
    return log


@pytest.mark.slow
def test_a_queue_does_what_the_queue_of_asyncio_does(cy: Any, run: Any) -> None:
    """put, get, task_done and join, waiting or not, cancelled or not, agree with asyncio.Queue step by step, and where
    it has a bound with the model of a fair one."""

    class Server(cy.StatelessServer):
        max_queue_size = 0

        def application_undelivered(self, messages: list[Any], details: Any) -> None:
            """What a program leaves in the queue is of no interest here."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.get_running_loop().create_future()

    async def main(program: list[Step], maxsize: int) -> None:
        expected = await carry_out(FairQueue(maxsize) if maxsize else asyncio.Queue(), program)
        server = Server(application)
        server.max_queue_size = maxsize
        instance = server.get_or_create_application_instance("a", {"type": "test"})
        await passes(3)
        try:
            assert await carry_out(instance, program) == expected
        finally:
            await server.delete_application_instance("a")

    known = [
        # A getter that was woken and is cancelled in the same pass hands the wake-up to the next in line.
        ([("get",), ("get",), ("turn", 1), ("put_nowait",), ("cancel", 0), ("turn", 1)], 0),
        # The same for a putter.
        ([("put",)] * 3 + [("turn", 2), ("get_nowait",), ("cancel", 0), ("turn", 1)], 1),
        # Two slots are free, and the one putter that waited owns one: the other is for who comes later, but not before
        # it.
        (
            [("put_nowait",)] * 2
            + [("put",), ("turn", 2)]
            + [("get_nowait",)] * 2
            + [("put_nowait",), ("put",), ("turn", 3)],
            2,
        ),
        # A message taken from under a getter that was already woken sends it to the end of the line.
        ([("get",), ("get",), ("turn", 1), ("put_nowait",), ("get_nowait",), ("turn", 1)] + [("put_nowait",)] * 2, 0),
    ]

    def agree(program: list[Step], maxsize: int) -> None:
        with asyncio.Runner(loop_factory=run.loop_factory) as runner:
            runner.run(main(program, maxsize))

    holds_for_all(agree, 350, PROGRAMS, st.sampled_from([0, 1, 2, 3]), known=known)


def test_feeders_that_find_room_do_not_overtake_each_other(cy: Any, run: Any) -> None:
    """Tasks that put into a queue with room put in the order in which they come, as with asyncio.Queue."""

    class Server(cy.StatelessServer):
        def application_undelivered(self, messages: list[Any], details: Any) -> None:
            """They are looked at before."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.get_running_loop().create_future()

    async def arrivals(queue: Any) -> list[int]:
        await asyncio.gather(*(asyncio.ensure_future(queue.put(number)) for number in range(200)))
        return [queue.get_nowait() for _ in range(200)]

    async def main() -> None:
        server = Server(application)
        for maxsize in (0, 1000):
            server.max_queue_size = maxsize
            assert await arrivals(asyncio.Queue(maxsize)) == list(range(200))
            assert await arrivals(server.get_or_create_application_instance(maxsize, None)) == list(range(200))
            await server.delete_application_instance(maxsize)

    run(main())

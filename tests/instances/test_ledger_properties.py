"""Random programs on a whole server: every message that it accepts is finished, or a hook is told of it, once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import strategies as st

from support.loops import passes
from support.property_model import holds_for_all, programs, weighted

pytestmark = pytest.mark.slow

Step = tuple[Any, ...]
IDS = st.sampled_from("abc")
#: What a message has its application do.
ORDERS = st.sampled_from(["next", "next", "pause", "work", "fail", "return", "cancel"])
PROGRAMS = programs(
    weighted(
        (6, st.tuples(st.just("put"), IDS, ORDERS)),
        (3, st.tuples(st.just("await put"), IDS, ORDERS)),
        (2, st.tuples(st.just("put late"), IDS, ORDERS)),
        (2, st.tuples(st.just("delete"), IDS)),
        (1, st.tuples(st.just("cancel"), IDS)),
        (1, st.tuples(st.just("take out"), IDS)),
        (1, st.tuples(st.just("expire"), IDS)),
        (1, st.tuples(st.just("crowd"), st.integers(1, 3))),
        (4, st.tuples(st.just("turn"), st.integers(1, 4))),
    )
)


class Books:
    """What was accepted, and what became of it."""

    def __init__(self) -> None:
        self.accepted: Counter[int] = Counter()
        self.finished: Counter[int] = Counter()
        self.undelivered: Counter[int] = Counter()
        self.interrupted: Counter[int] = Counter()
        #: In the order in which applications began them, by id.
        self.begun: dict[Any, list[int]] = {}

    def close(self) -> None:
        told = self.finished + self.undelivered + self.interrupted
        assert told == self.accepted
        assert max(told.values(), default=1) == 1


class Application:
    """Does what its messages say, in a task of its own or in two."""

    def __init__(self, books: Books, workers: int) -> None:
        self.books = books
        self.workers = workers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self.workers:
            await self.work(scope, receive)
            return
        tasks = [asyncio.create_task(self.work(scope, receive)) for _ in range(self.workers)]
        try:
            # The first that returns or fails ends all of them.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def work(self, scope: Any, receive: Any) -> None:
        while True:
            number, order = await receive()
            self.books.begun.setdefault(scope, []).append(number)
            match order:
                case "pause":
                    await passes(3)
                case "work":
                    await asyncio.get_running_loop().create_future()
                case "fail":
                    raise LookupError(number)
                case "cancel":
                    raise asyncio.CancelledError
                case "return" if not self.workers:
                    self.books.finished[number] += 1
                    return
            self.books.finished[number] += 1


def server_of(cy: Any, books: Books, **attributes: Any) -> Any:
    class Server(cy.StatelessServer):
        application_checker_interval = 0.001

        async def application_send(self, scope: Any, message: Any) -> None:
            """Nothing is sent."""

        async def application_exception(self, exception: BaseException, details: Any) -> None:
            assert exception.args[0] in [number for number, _ in details.in_flight]

        def application_undelivered(self, messages: list[Any], details: Any) -> None:
            assert messages
            books.undelivered.update(number for number, _ in messages)

        def application_ended(self, details: Any, reason: str) -> None:
            assert reason == details.end_reason
            books.interrupted.update(number for number, _ in details.in_flight)

    return type("Server", (Server,), attributes)


async def carry_out(server: Any, books: Books, program: list[Step]) -> None:
    """The program, each of whose messages is numbered."""
    old: dict[str, Any] = {}
    kept: list[Any] = []
    putters = []

    async def put(instance: Any, number: int, order: str) -> None:
        try:
            await instance.put((number, order))
        finally:
            # Also one that the stopping server cancels.
            books.accepted[number] += 1

    for number, (what, *arguments) in enumerate(program):
        scope_id = arguments[0]
        match what:
            case "turn":
                await passes(scope_id)
            case "crowd":
                for other in range(scope_id):
                    server.get_or_create_application_instance(("other", number, other), "other")
            case "put" | "await put" | "put late":
                instance = old.get(scope_id) if what == "put late" else None
                if instance is None:
                    instance = server.get_or_create_application_instance(scope_id, scope_id)
                    old.setdefault(scope_id, instance)
                if what == "await put":
                    putters.append(asyncio.create_task(put(instance, number, arguments[1])))
                elif instance.ended or not instance.full():
                    instance.put_nowait((number, arguments[1]))
                    books.accepted[number] += 1
            case "delete":
                server.delete_application_instance(scope_id)
            case "take out":
                # Nobody else refers to it, and to its tasks.
                kept.append(server.application_instances.pop(scope_id, None))
            case _ if (instance := server.application_instances.get(scope_id)) is not None:
                if what == "cancel":
                    instance["future"].cancel()
                else:
                    server._cyasgi.expire(server, instance, 4)
    await passes(2)
    server.putters, server.kept = putters, kept


@pytest.mark.few_combinations
@pytest.mark.parametrize("undelivered_to", ["hook", "successor"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_ledger_closes(cy: Any, run: Any, workers: int, undelivered_to: str) -> None:
    """Accepted is finished, undelivered or interrupted: each message one of these, and once; the counters agree."""

    async def main(program: list[Step], maxsize: int, limit: int) -> None:
        books = Books()
        cls = server_of(cy, books, max_queue_size=maxsize, undelivered_to=undelivered_to)

        async def handle(server: Any) -> None:
            await carry_out(server, books, program)
            # What is at work for ever is not waited for.
            server._cyasgi.server_run.request_stop()
            server._cyasgi.server_run.request_stop()

        cls.handle = handle
        server = cls(Application(books, workers), limit)
        await server.arun()
        # Those that waited for room have been let go by the end of their instances.
        if server.putters:
            await asyncio.wait_for(asyncio.wait(server.putters), 5)
        # What they put then, and what was taken out of the table by hand.
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        for _ in range(1000):
            if not server._cyasgi.reports.pending and sum(books.accepted.values()) == sum(
                map(len, (books.finished, books.undelivered, books.interrupted))
            ):
                break
            await asyncio.sleep(0)
        books.close()
        stats = server.stats()
        assert (stats["live"], stats["closing"]) == (0, 0)
        assert (stats["undelivered"], stats["interrupted"]) == (
            sum(books.undelivered.values()),
            sum(books.interrupted.values()),
        )
        if not workers and undelivered_to == "hook":
            for begun in books.begun.values():
                assert len(set(begun)) == len(begun)

    def closes(program: list[Step], maxsize: int, limit: int) -> None:
        with asyncio.Runner(loop_factory=run.loop_factory) as runner:
            runner.run(main(program, maxsize, limit))

    known = [
        ([("put", "a", "work"), ("turn", 4), ("crowd", 3), ("turn", 4)], 0, 2),
        ([("put", "a", "fail"), ("put", "a", "next"), ("await put", "a", "next"), ("turn", 4)], 2, 4),
        ([("put", "a", "work"), ("turn", 4), ("take out", "a"), ("put", "a", "next"), ("turn", 4)], 0, 4),
    ]
    holds_for_all(closes, 30, PROGRAMS, st.sampled_from([0, 0, 1, 2]), st.sampled_from([2, 4]), known=known)

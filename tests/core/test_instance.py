"""The instance as an object: an awaitable, one identity, one task; it is the very entry of the table."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from support.instances import make
from support.loops import passes
from support.serving import reader


async def returns(scope: Any, receive: Any, send: Any) -> None:
    return None


# What get_or_create gives


@pytest.mark.slow
def test_the_instance_is_the_entry_of_the_table(cy, run):
    """get_or_create is a plain def that returns an ApplicationInstance, and the table holds that very object."""

    async def main():
        server = cy.StatelessServer(reader)
        assert not inspect.iscoroutinefunction(server.get_or_create_application_instance)
        instance = make(server)
        assert type(instance) is cy.ApplicationInstance
        assert server.application_instances["id"] is instance
        assert instance["input_queue"] is instance

    run(main())


def test_the_same_id_gives_the_same_object(impl, run):
    """For as long as a run lasts its scope_id gives the same object, through feeding, reading and waiting."""

    async def main():
        server = impl.StatelessServer(reader)
        first = make(server)
        assert make(server) is first
        first.put_nowait("message")
        assert make(server) is first
        await passes(5)
        assert make(server, "id", {"type": "another"}) is first
        assert make(server, "other") is not first

    run(main())


def test_ids_are_told_apart_as_a_dict_does(impl, run):
    """Any hashable object is a scope_id, and equal ones are one: 1 and 1.0, but not 1 and "1"."""

    async def main():
        server = impl.StatelessServer(reader)
        assert make(server, 1) is make(server, 1.0) is make(server, True)
        ids = [1, "1", None, (), (1, 2), frozenset(), object(), float("nan"), b"", "", int]
        assert len({id(make(server, scope_id)) for scope_id in ids}) == len(ids)
        assert list(server.application_instances) == ids

    run(main())


def test_max_queue_size_is_a_class_attribute(cy, run):
    """The bound is read from the server, on the class or on the instance, for each instance that is made."""

    async def main():
        server = cy.StatelessServer(reader)
        assert cy.StatelessServer.max_queue_size == 0
        assert make(server, "unbounded").maxsize == 0
        server.max_queue_size = 7
        bounded = make(server, "bounded")
        assert bounded.maxsize == 7
        assert make(server, "unbounded").maxsize == 0
        for number in range(7):
            bounded.put_nowait(number)
        with pytest.raises(asyncio.QueueFull):
            bounded.put_nowait(7)

    run(main())


# The future


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_delete_cancels_the_task_within_one_pass(impl, run, turns):
    """details["future"] is the real Task; one loop pass after a delete it is cancelled, begun or not."""

    async def main():
        server = impl.StatelessServer(reader)
        make(server).put_nowait("message")
        await passes(turns)
        future = server.application_instances["id"]["future"]
        assert isinstance(future, asyncio.Task) and not future.done()
        server.delete_application_instance("id")
        await passes(1)
        assert future.cancelled()

    run(main())


def test_a_delete_cancels_a_run_that_was_never_fed(impl, run):
    """The same for an instance that nobody fed, in every one of its first passes."""

    async def main():
        server = impl.StatelessServer(reader)
        for turns in range(4):
            make(server, turns)
            await passes(turns)
            future = server.application_instances[turns]["future"]
            assert isinstance(future, asyncio.Task)
            server.delete_application_instance(turns)
            await passes(1)
            assert future.cancelled()

    run(main())


def test_the_future_is_the_task_that_runs_the_application(impl, run):
    """Inside the application current_task() is details["future"], which has its result or exception in the end."""

    async def main():
        tasks = {}

        async def application(scope, receive, send):
            tasks[scope["type"]] = asyncio.current_task()
            if await receive() == "fail":
                raise ValueError("on purpose")
            return "result"

        server = impl.StatelessServer(application)
        for scope_id in ("good", "fail"):
            make(server, scope_id, {"type": scope_id}).put_nowait(scope_id)
        await passes(5)
        futures = {scope_id: server.application_instances[scope_id]["future"] for scope_id in tasks}
        assert tasks == futures and len(tasks) == 2
        assert all(future.done() for future in futures.values())
        assert futures["good"].result() == "result"
        assert isinstance(futures["fail"].exception(), ValueError)

    run(main())


# Identity


def test_identity(cy, run):
    """An instance equals itself alone, hashes by identity, is true whether or not it has anything, even when ended."""

    async def main():
        server = cy.StatelessServer(returns)
        a, b = make(server, "a"), make(server, "b")
        assert a == a and a != b and a != dict(a)
        assert len({a, b, a}) == 2 and {a: 1}[a] == 1
        assert hash(a) == hash(a) and isinstance(hash(a), int)
        assert bool(a) is True and a.empty()
        before = hash(a)
        a["mine"] = 1
        await passes(5)
        assert a["future"].done() and bool(a) is True and hash(a) == before
        server.delete_application_instance("a")
        assert bool(a) is True and a == a

    run(main())


def test_repr(cy, run):
    """The repr names the class and the scope_id, follows the state, and never fails."""

    async def main():
        server = cy.StatelessServer(returns)
        instance = make(server, ("user", 1))
        seen = {repr(instance)}
        await instance
        seen.add(repr(instance))
        instance.put_nowait("message")
        seen.add(repr(instance))
        await passes(5)
        seen.add(repr(instance))
        server.delete_application_instance(("user", 1))
        await passes(3)
        assert len(seen) >= 3
        for text in (*seen, repr(instance), str(instance)):
            assert "ApplicationInstance" in text and repr(("user", 1)) in text
            assert len(text) < 500

    run(main())


def test_repr_of_an_instance_that_holds_itself(cy, run):
    """The entry is its own input_queue, and messages may hold it: its repr ends all the same."""

    async def main():
        instance = make(cy.StatelessServer(reader), "id", {"big": "x" * 10_000})
        instance["me"] = instance
        instance.put_nowait(instance)
        assert len(repr(instance)) < 500

    run(main())


# Awaiting it


def test_await_gives_the_instance_and_never_suspends(cy, run):
    """await instance gives the instance without a single suspension, as often as it is awaited."""

    async def main():
        instance = make(cy.StatelessServer(reader))

        async def hold():
            return await instance

        for _ in range(3):
            coroutine = hold()
            with pytest.raises(StopIteration) as stop:
                coroutine.send(None)
            assert stop.value.value is instance
        assert await instance is instance

    run(main())


def test_whatever_takes_an_awaitable_takes_the_instance(cy, run):
    """create_task, ensure_future, gather, wait_for, shield, wait and TaskGroup take it, and give the instance."""

    async def main():
        server = cy.StatelessServer(reader)
        ids = iter(range(100))

        def fresh():
            return make(server, next(ids))

        instance = fresh()
        assert await asyncio.create_task(instance) is instance
        assert await asyncio.create_task(instance, name="twice") is instance
        instance = fresh()
        assert await asyncio.ensure_future(instance) is instance
        several = [fresh(), fresh(), fresh()]
        assert await asyncio.gather(*several, several[0]) == [*several, several[0]]
        instance = fresh()
        assert await asyncio.wait_for(instance, 5) is instance
        instance = fresh()
        assert await asyncio.shield(instance) is instance
        instance = fresh()
        done, _ = await asyncio.wait([asyncio.ensure_future(instance)], timeout=5)
        assert done.pop().result() is instance
        async with asyncio.TaskGroup() as group:
            task = group.create_task(fresh())
        assert task.result() is make(server, next(ids) - 1)
        instance = fresh()
        assert asyncio.iscoroutine(instance)
        assert await asyncio.get_running_loop().create_task(instance) is instance

    run(main())


def test_awaiting_in_any_state(cy, run):
    """Waiting, running and ended instances are awaited alike: the instance comes back, and nothing else happens."""

    async def main():
        async def application(scope, receive, send):
            return await receive()

        instance = make(cy.StatelessServer(application))
        await passes(5)
        assert await instance is instance
        instance.put_nowait("last")
        assert await instance is instance
        await passes(5)
        assert instance["future"].result() == "last"
        assert await instance is instance
        assert await asyncio.gather(instance) == [instance]

    run(main())

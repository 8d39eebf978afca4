"""The instance as an object: a mapping, an awaitable, one identity; it is the very entry of the table."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

import pytest

from support.loops import passes
from support.serving import output, python

SCOPE = {"type": "test"}
KEYS = {"application", "future", "input_queue", "last_used", "scope"}


async def reader(scope: Any, receive: Any, send: Any) -> None:
    while True:
        await receive()


async def returns(scope: Any, receive: Any, send: Any) -> None:
    return None


def make(server: Any, scope_id: Any = "id", scope: Any = SCOPE) -> Any:
    return server.get_or_create_application_instance(scope_id, scope)


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


# The mapping


def test_mapping_keys(cy, run):
    """The five keys are there from the start, each an attribute too, beside scope_id."""

    async def main():
        instance = make(cy.StatelessServer(reader))
        assert isinstance(instance, MutableMapping) and isinstance(instance, Mapping)
        assert issubclass(cy.ApplicationInstance, MutableMapping)
        assert set(instance) == set(instance.keys()) == KEYS and len(instance) == 5
        for key in KEYS:
            assert key in instance
            assert instance[key] is not None
        for key in KEYS:
            assert getattr(instance, key) == instance[key]
        assert instance.future is instance["future"] and instance.input_queue is instance["input_queue"] is instance
        assert instance.scope_id == "id"
        assert instance["scope"] is SCOPE
        assert callable(instance["application"])

    run(main())


def test_mapping_reads(cy, run):
    """Items, values, dict(), ** and match see the same; an unknown key is a KeyError."""

    async def main():
        instance = make(cy.StatelessServer(reader))
        copy = dict(instance)
        assert copy == {**instance} == dict(instance.items())
        assert set(copy) == KEYS and copy["scope"] is SCOPE and copy["input_queue"] is instance
        assert [value for _, value in instance.items()] == list(instance.values())
        assert "scope_id" not in instance and None not in instance
        for key in ("scope_id", "nothing", 1, None):
            with pytest.raises(KeyError):
                instance[key]
        match instance:
            case {"scope": scope, "input_queue": queue}:
                assert scope is SCOPE and queue is instance
            case _:
                raise AssertionError("not matched as a mapping")

    run(main())


def test_get_serves_the_queue_and_the_mapping(cy, run):
    """get() without an argument is the queue's; with one, or two, it is the mapping's."""

    async def main():
        server = cy.StatelessServer(reader)
        instance = make(server)
        assert instance.get("scope") is SCOPE
        assert instance.get("nothing") is None
        assert instance.get("nothing", 5) == 5
        assert instance.get("nothing", default=5) == 5
        instance["nothing"] = "something"
        assert instance.get("nothing", 5) == "something"
        held = make(server, "held")
        held.put_nowait("message")
        assert await held.get() == "message"

    run(main())


def test_own_keys(cy, run):
    """Callers may add keys of their own, of any hashable kind, change and remove them."""

    async def main():
        instance = make(cy.StatelessServer(reader))
        instance["mine"] = 1
        instance[("a", 1)] = 2
        assert instance["mine"] == 1 and len(instance) == 7 and set(instance) == KEYS | {"mine", ("a", 1)}
        instance.update(mine=3, other=4)
        assert instance.setdefault("mine", 9) == 3 and instance.setdefault("fresh", 9) == 9
        assert instance.pop("other") == 4 and instance.pop("other", None) is None
        del instance["mine"], instance["fresh"], instance[("a", 1)]
        assert set(instance) == KEYS
        with pytest.raises(KeyError):
            del instance["mine"]
        with pytest.raises(KeyError):
            instance.pop("mine")
        with pytest.raises(TypeError):
            instance[[]] = 1

    run(main())


def test_own_keys_belong_to_one_instance(cy, run):
    """A key that was added to one instance is on that one alone, and still there when it is looked up again."""

    async def main():
        server = cy.StatelessServer(reader)
        make(server, "a")["mine"] = 1
        assert "mine" not in make(server, "b")
        assert make(server, "a")["mine"] == 1
        assert server.application_instances["a"]["mine"] == 1

    run(main())


def test_fixed_keys_stay(cy, run):
    """The five keys cannot be removed; application, future and input_queue cannot be replaced either."""

    async def main():
        instance = make(cy.StatelessServer(reader))
        before = dict(instance)
        for key in KEYS:
            with pytest.raises(TypeError):
                del instance[key]
            with pytest.raises(TypeError):
                instance.pop(key)
        for key in ("application", "future", "input_queue"):
            with pytest.raises(TypeError):
                instance[key] = None
        assert dict(instance) == before

    run(main())


def test_scope_may_be_replaced(cy, run):
    """Assigning details["scope"] gives the instance another scope, read by key and by attribute."""

    async def main():
        instance = make(cy.StatelessServer(reader))
        scope = {"type": "another"}
        instance["scope"] = scope
        assert instance["scope"] is instance.scope is scope

    run(main())


def test_last_used_may_be_assigned(cy, run):
    """last_used takes any real number, infinite ones too, and reads as it was given; it refuses what is none."""

    async def main():
        instance = make(cy.StatelessServer(reader))
        for value in (0, 12.5, -3, 1e12, float("inf"), float("-inf")):
            instance["last_used"] = value
            assert instance["last_used"] == instance.last_used == value
        for wrong in (float("nan"), "yesterday", None, 1j, []):
            with pytest.raises((TypeError, ValueError)):
                instance["last_used"] = wrong
            assert instance["last_used"] == float("-inf")

    run(main())


def test_last_used_reads_as_wall_clock_seconds(impl, run):
    """last_used is the time of the last look-up, in seconds as time.time() counts them."""

    async def main():
        server = impl.StatelessServer(reader)
        make(server)
        details = server.application_instances["id"]
        # A coarse clock may lag by a tick or two.
        assert abs(details["last_used"] - time.time()) < 1.0
        details["last_used"] = 1000.0
        make(server)
        assert abs(details["last_used"] - time.time()) < 1.0

    run(main())


async def looked_up_and_read(cy: Any) -> None:
    """last_used is never before a time taken before the look-up, never after one taken after reading it, and reads
    the same twice; never does it go back."""
    server = cy.StatelessServer(reader)
    latest, other = 0.0, make(server, "other")
    for number in range(3000):
        before = time.time()
        instance = make(server)
        read = instance["last_used"]
        after = time.time()
        assert latest <= before <= read <= after
        assert instance["last_used"] == instance.last_used == read
        latest = read
        if number == 2000:
            other["last_used"] = after
        if number % 100 == 0:
            # A clock that steps is at another place of its step each time.
            time.sleep(0.0007)  # noqa: ASYNC251


async def looked_up_and_read_late(cy: Any) -> None:
    """Read at any time after the look-up, last_used is not before it, nor after a later one's."""
    server = cy.StatelessServer(reader)
    instances = [make(server, number) for number in range(50)]
    for assigned in (False, True):
        before = []
        for number, instance in enumerate(instances):
            before.append(time.time())
            assert make(server, number) is instance
        if assigned:
            make(server, "other")["last_used"] = time.time()
        for instance, earliest in zip(instances, before, strict=True):
            assert earliest <= instance["last_used"] <= time.time()
        for number, instance in enumerate(instances):
            read = instance["last_used"]
            make(server, number)
            # Not read in between: that one counts as well.
            assert read <= make(server, number)["last_used"] <= time.time()


LOOK_UPS = [looked_up_and_read, looked_up_and_read_late]


@pytest.mark.parametrize("look_ups", LOOK_UPS, ids=lambda look_ups: look_ups.__name__)
def test_last_used_is_the_time_of_the_look_up(cy, run, look_ups):
    """Whatever was assigned to it before, here or elsewhere, it tells when the instance was looked up last."""
    run(look_ups(cy))


@pytest.mark.slow
@pytest.mark.parametrize("look_ups", LOOK_UPS, ids=lambda look_ups: look_ups.__name__)
def test_last_used_is_the_time_of_the_look_up_before_any_is_assigned(cy, tmp_path, look_ups):
    """So it does in a process in which nobody has assigned one yet."""
    code = f"import asyncio, cyasgi, test_instance; asyncio.run(test_instance.{look_ups.__name__}(cyasgi))"
    assert output(python(code, cwd=tmp_path, backend=cy.backend)) == []


def test_last_used_decides_with_look_ups_around_it(cy, run):
    """A time.time() that is assigned takes its place among the look-ups before and after it, in the order of eviction
    too."""

    async def main():
        class Server(cy.StatelessServer):
            def delete_application_instance(self, scope_id):
                evicted.append(scope_id)
                return super().delete_application_instance(scope_id)

        evicted: list[Any] = []
        server = Server(reader, max_applications=9)
        for number in range(9):
            make(server, number)
        await passes(3)
        expected = []
        for number in (4, 8, 0, 2, 6, 1, 3, 5, 7):
            if number % 2:
                server.application_instances[number]["last_used"] = time.time()
            else:
                make(server, number)
            expected.append(number)
        table = server.application_instances
        assert list(table) == expected
        used = [entry["last_used"] for entry in table.values()]
        assert used == sorted(used)
        for number in range(9):
            make(server, ("new", number))
        assert evicted == expected

    run(main())


FIRST_ASSIGNMENT = """
import asyncio, time

from cyasgi.server import StatelessServer


async def reader(scope, receive, send):
    while True:
        await receive()


async def main():
    server = StatelessServer(reader)
    names = ["assigned", "before", "looked up", "after"]
    entries = {name: server.get_or_create_application_instance(name, {}) for name in names}
    await asyncio.sleep(0)
    server.get_or_create_application_instance("before", {})
    now = time.time()
    server.get_or_create_application_instance("looked up", {})
    entries["assigned"]["last_used"] = now
    server.get_or_create_application_instance("after", {})
    print(*server.application_instances, sep=", ")
    used = [entry["last_used"] for entry in server.application_instances.values()]
    print(used == sorted(used))


asyncio.run(main())
"""


@pytest.mark.slow
def test_the_first_last_used_that_is_assigned(cy, tmp_path):
    """So does the first one in a process, even if it was taken before the last of the look-ups before it."""
    lines = output(python(FIRST_ASSIGNMENT, cwd=tmp_path, backend=cy.backend))
    assert lines == ["before, assigned, looked up, after", "True"]


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

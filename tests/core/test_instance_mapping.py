"""The instance as a mapping: its five keys, those that callers add, and `last_used`."""

from __future__ import annotations

import time
from collections.abc import Mapping, MutableMapping
from typing import Any

import pytest

from support.instances import SCOPE, make
from support.loops import passes
from support.serving import output, python, reader

KEYS = {"application", "future", "input_queue", "last_used", "scope"}


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
    code = f"import asyncio, cyasgi, test_instance_mapping as own; asyncio.run(own.{look_ups.__name__}(cyasgi))"
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

"""Faults of the reference in its table of instances: each is shown, and then what cyasgi does instead.

A test whose name ends in `_reference` shows what asgiref's class does, so that the list of differences stays true.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from support.loops import eager_task_factory, passes
from support.recording_server import EVERY_PASS, echo, recording, served
from support.serving import end_all, in_time, reader

# ---- the limit ---------------------------------------------------------------------------------------------------


def kept(base, limit):
    """How many of ten instances a table of this limit keeps."""
    server = recording(base)(reader, max_applications=limit)
    for number in range(10):
        server.get_or_create_application_instance(number, {})
    return len(server.application_instances)


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "count"), [(3, 4), (0, 1)])
def test_limit_reference(reference, run, limit, count):
    """Reference: one instance more than the limit is kept."""

    async def main():
        assert kept(reference, limit) == count

    run(main())


@pytest.mark.parametrize(("limit", "error"), [(-1, ValueError), (None, TypeError), ("5", TypeError)])
def test_silly_limit_reference(reference, run, limit, error):
    """Reference: a limit that is none is found out at the first message."""

    async def main():
        server = recording(reference)(reader, max_applications=limit)
        with pytest.raises(error):
            server.get_or_create_application_instance("a", {})

    run(main())


@pytest.mark.parametrize(("limit", "count"), [(3, 3), (1, 1), (None, 10)])
def test_limit(cy, run, limit, count):
    """As many instances are kept as the limit says; None is no limit."""

    async def main():
        assert kept(cy.StatelessServer, limit) == count

    run(main())


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-1, ValueError), ("5", TypeError), (True, TypeError)])
def test_silly_limit(cy, limit, error):
    """A limit that is none is refused when it is set, with the value in the message."""
    with pytest.raises(error) as refused:
        recording(cy.StatelessServer)(reader, max_applications=limit)
    assert repr(limit) in str(refused.value)
    server = recording(cy.StatelessServer)(reader, max_applications=3)
    with pytest.raises(error):
        server.max_applications = limit
    assert server.max_applications == 3


# ---- who makes room ----------------------------------------------------------------------------------------------


async def working(scope, receive, send):
    """An application that does one thing: with "stay" it stays at work, with anything else it returns."""
    if await receive() == "stay":
        await asyncio.get_running_loop().create_future()


async def ten_finished_and_one_working(base, limit):
    """A full table whose least recently used instance is the only one that has not finished, and a new id."""
    server = recording(base)(working, max_applications=limit)
    server.get_or_create_application_instance("working", {}).put_nowait("stay")
    for number in range(10):
        server.get_or_create_application_instance(number, {}).put_nowait("go")
    await passes(4)
    assert len(server.application_instances) == 11
    future = server.application_instances["working"]["future"]
    server.get_or_create_application_instance("new", {})
    await passes(3)
    return server, future


def test_finished_instances_at_the_limit_reference(reference, run):
    """Reference: an instance at work is evicted beside ten that have finished."""

    async def main():
        _, future = await ten_finished_and_one_working(reference, limit=10)
        assert future.cancelled()

    run(main())


def test_finished_instances_at_the_limit(cy, run):
    """A finished instance makes room before any that lives."""

    async def main():
        server, future = await ten_finished_and_one_working(cy.StatelessServer, limit=11)
        assert not future.done()
        assert "working" in server.application_instances
        assert "new" in server.application_instances
        assert server.stats()["live"] <= 11

    run(main())


CLOCKS = [
    pytest.param((7200.0, 7200.5, 3601.0, 3601.5), id="an hour back"),
    pytest.param((7200.0, 7200.0, 7200.0, 7200.0), id="64 Hz"),
]


async def use_a_last(base, limit, monkeypatch, clock):
    """Makes `a` and `b`, uses `a` again and makes `c`, the wall clock telling these times. Gives who is left."""
    server = recording(base)(reader, max_applications=limit)
    for scope_id, now in zip("abac", clock, strict=True):
        told = SimpleNamespace(time=lambda now=now: now)
        monkeypatch.setattr("asgiref.server.time", told)
        monkeypatch.setattr("time.time", told.time)
        server.get_or_create_application_instance(scope_id, {})
    return list(server.application_instances)


@pytest.mark.parametrize("clock", CLOCKS)
def test_clock_reference(reference, run, monkeypatch, clock):
    """Reference: when the clock goes back, or stands still for a while, the most recently used instance goes."""

    async def main():
        with monkeypatch.context() as patch:
            assert await use_a_last(reference, 1, patch, clock) == ["b", "c"]

    run(main())


@pytest.mark.parametrize("clock", CLOCKS)
def test_clock(cy, run, monkeypatch, clock):
    """The order is by use, whatever the clock says."""

    async def main():
        with monkeypatch.context() as patch:
            assert await use_a_last(cy.StatelessServer, 2, patch, clock) == ["a", "c"]

    run(main())


async def unfit():
    """What no server can take for an application."""


async def create_in_vain(base, limit, application):
    """A creation that cannot succeed, in a full table. Gives who is left."""
    server = recording(base)(reader, max_applications=limit)
    for scope_id in "ab":
        server.get_or_create_application_instance(scope_id, {})
    await passes(2)
    server.application = application
    with pytest.raises(TypeError):
        server.get_or_create_application_instance("c", {})
    return list(server.application_instances)


def test_creation_that_fails_reference(reference, run):
    """Reference: a creation that fails has evicted an innocent instance before."""

    async def main():
        assert await create_in_vain(reference, 1, unfit) == ["b"]

    run(main())


def test_creation_that_fails(cy, run):
    """A creation that fails costs nobody a place."""

    async def main():
        assert await create_in_vain(cy.StatelessServer, 2, "no application") == ["a", "b"]

    run(main())


async def make_a_sibling(base, limit):
    """In a full table of busy instances the least recently used one makes another. Gives the server."""

    async def application(scope, receive, send):
        await receive()
        if scope["id"] == "parent":
            server.get_or_create_application_instance("child", {"id": "child"})
            await asyncio.sleep(0)
            await send("the parent goes on")
        await asyncio.get_running_loop().create_future()

    server = recording(base)(application, max_applications=limit)
    parent = server.get_or_create_application_instance("parent", {"id": "parent"})
    server.get_or_create_application_instance("other", {"id": "other"}).put_nowait(None)
    await passes(3)
    parent.put_nowait(None)
    await passes(5)
    return server


def test_sibling_at_the_limit_reference(reference, run):
    """Reference: an application that makes another at the limit evicts itself."""

    async def main():
        server = await make_a_sibling(reference, limit=1)
        assert list(server.application_instances) == ["other", "child"]
        assert server.sent == []

    run(main())


def test_sibling_at_the_limit(cy, run):
    """The instance that is asking is not the one to make room, though it was used longest ago."""

    async def main():
        server = await make_a_sibling(cy.StatelessServer, limit=2)
        assert sorted(server.application_instances) == ["child", "parent"]
        assert server.sent == ["the parent goes on"]

    run(main())


# ---- what making room costs --------------------------------------------------------------------------------------


class Counted:
    """Makes ids and plain entries that count how often they are looked at."""

    def __init__(self):
        self.count = 0
        counted = self

        class Id(int):
            def __eq__(self, other):
                counted.count += 1
                return super().__eq__(other)

            def __hash__(self):
                counted.count += 1
                return super().__hash__()

        class Entry(dict):
            def __getitem__(self, key):
                counted.count += 1
                return super().__getitem__(key)

            def get(self, key, default=None):
                counted.count += 1
                return super().get(key, default)

        self.id, self.entry = Id, Entry


async def looks_for_evictions(base, many, *, plain):
    """How many looks at ids and entries it takes to evict twenty of so many, entries being plain dicts or not."""
    server, counted = recording(base)(reader, max_applications=many), Counted()
    for number in range(many):
        if plain:
            server.application_instances[counted.id(number)] = counted.entry(
                future=asyncio.get_running_loop().create_future(),
                input_queue=asyncio.Queue(),
                last_used=float(number),
                scope={},
            )
        else:
            server.get_or_create_application_instance(counted.id(number), {})
    await passes(3)
    # The reference keeps one more than its limit.
    server.get_or_create_application_instance(-1, {})
    before = counted.count
    for number in range(20):
        server.get_or_create_application_instance(many + number, {})
    looks = counted.count - before
    assert sum(number in server.application_instances for number in range(many)) <= many - 20
    await end_all([details["future"] for details in server.application_instances.values()])
    return looks


def test_cost_of_eviction_reference(reference, run):
    """Reference: each eviction looks at every entry there is."""

    async def main():
        for many in (100, 2000):
            assert await looks_for_evictions(reference, many, plain=True) >= 20 * (many - 20)

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True])
def test_cost_of_eviction(cy, run, plain):
    """What an eviction looks at does not depend on how many instances there are."""

    async def main():
        few = await looks_for_evictions(cy.StatelessServer, 100, plain=plain)
        many = await looks_for_evictions(cy.StatelessServer, 2000, plain=plain)
        assert many <= 2 * few + 20

    run(main())


# ---- one id, one instance ----------------------------------------------------------------------------------------


async def hand_over(base):
    """Adds one to a stored sum by an instance, deletes it, and does the same by its successor. Gives the sum."""
    stored = 0

    async def application(scope, receive, send):
        nonlocal stored
        own = stored
        try:
            while True:
                own += await receive()
        finally:
            await passes(5)
            stored = own

    server = recording(base)(application)
    for _ in range(2):
        server.get_or_create_application_instance("a", {}).put_nowait(1)
        await passes(20)
        server.delete_application_instance("a")
    await passes(20)
    return stored


def test_successor_of_a_deleted_instance_reference(reference, run):
    """Reference: old and new instance of one id overlap while the old one cleans up: an update is lost."""

    async def main():
        assert await hand_over(reference) == 1

    run(main())


def test_successor_of_a_deleted_instance(cy, run):
    """A fresh instance starts after the old application of its id has ended."""

    async def main():
        assert await hand_over(cy.StatelessServer) == 2

    run(main())


async def ask_for_oneself(base):
    """Under an eager task factory, an application that asks for its own id, at most four times. Gives who started."""
    started = []

    async def application(scope, receive, send):
        started.append(scope)
        if len(started) < 4:
            server.get_or_create_application_instance("a", len(started))
        await receive()

    server = recording(base)(application)
    loop = asyncio.get_running_loop()
    tasks = []

    def factory(*arguments, **options):
        tasks.append(eager_task_factory(*arguments, **options))
        return tasks[-1]

    loop.set_task_factory(factory)
    try:
        server.get_or_create_application_instance("a", 0)
        await passes(3)
    finally:
        loop.set_task_factory(None)
    await end_all(tasks)
    return started


def test_eager_task_factory_reference(reference, run):
    """Reference: under an eager task factory an application that asks for its own id makes another, and so on."""

    async def main():
        assert await ask_for_oneself(reference) == [0, 1, 2, 3]

    run(main())


def test_eager_task_factory(cy, run):
    """Under an eager task factory too an application that asks for its own id finds itself."""

    async def main():
        assert await ask_for_oneself(cy.StatelessServer) == [0]

    run(main())


async def one_shot_twice(base, interval):
    """A server with two instances, `swept` that finished and was reaped, and `idle`."""

    async def application(scope, receive, send):
        if await receive() != "go":
            await echo(scope, receive, send)

    server = recording(base, interval)(application)
    server.get_or_create_application_instance("idle", {})
    server.get_or_create_application_instance("swept", {}).put_nowait("go")
    return server


def test_deleting_twice_reference(reference, run):
    """Reference: deleting twice raises KeyError; deleting what has finished does so after the sweep, not before."""

    async def main():
        server = await one_shot_twice(reference, EVERY_PASS)
        await passes(3)
        assert server.application_instances["swept"]["future"].done()
        server.delete_application_instance("swept")
        server.get_or_create_application_instance("swept", {}).put_nowait("go")
        async with served(server):
            await passes(5)
            with pytest.raises(KeyError):
                server.delete_application_instance("swept")
            server.delete_application_instance("idle")
            with pytest.raises(KeyError):
                server.delete_application_instance("idle")

    run(main())


def test_deleting_twice(cy, run):
    """Deleting what is not there, any more or yet, is no error; awaited, it says whether there was such an instance."""

    async def main():
        server = await one_shot_twice(cy.StatelessServer, 0.001)
        await passes(3)
        server.delete_application_instance("swept")
        server.get_or_create_application_instance("swept", {}).put_nowait("go")
        async with served(server):
            await in_time(lambda: "swept" not in server.application_instances)
            server.delete_application_instance("swept")
            assert await server.delete_application_instance("idle") is True
            assert await server.delete_application_instance("idle") is False
            server.delete_application_instance("never there")

    run(main())

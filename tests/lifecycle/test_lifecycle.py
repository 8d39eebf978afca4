"""ManagedServer: what it knows of its instances, how old they may become, and that it lets go of them."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from typing import Any

import pytest

from support.loops import passes
from support.managed_servers import counted, lifecycle, managed, obeying
from support.serving import checking, in_time, one_shot, reader

SCOPE = {"type": "test"}


def make(server: Any, scope_id: Any = "id", scope: Any = SCOPE) -> Any:
    return server.get_or_create_application_instance(scope_id, scope)


# Settings

WRONG = [
    ("max_age", 0, ValueError),
    ("max_age", -1, ValueError),
    ("max_age", "1", TypeError),
    ("max_age", float("nan"), ValueError),
    ("max_instances_per_key", 0, ValueError),
    ("max_instances_per_key", 1.5, TypeError),
    ("max_messages_per_second", 0, ValueError),
    ("max_messages_per_second", float("inf"), ValueError),
    ("max_messages_per_second", True, TypeError),
    ("max_messages_per_second", 10**400, ValueError),
    ("message_burst", 0, ValueError),
    ("message_burst", 2.0, TypeError),
    ("max_limit_keys", 0, ValueError),
    ("max_limit_keys", None, TypeError),
]


@pytest.mark.parametrize(("name", "value", "error"), WRONG, ids=lambda value: repr(value)[:30])
def test_wrong_settings_are_refused(cy, name, value, error):
    """When they are set, on a server or in a class body; the message names the value and what is accepted."""
    cls = managed(cy)
    server = cls(reader)
    before = getattr(server, name)
    with pytest.raises(error, match=f"{name}=.*accepted is"):
        setattr(server, name, value)
    assert getattr(server, name) == before
    with pytest.raises(error, match=f"{name}=.*accepted is"):
        type("Server", (cls,), {name: value})


# Statistics


def test_messages_and_bytes(cy, run):
    """What the application has received and sent, and how long the parts that ASGI's messages have are."""

    async def main():
        server = managed(cy)(obeying)
        queue = make(server)
        assert counted(server) == (0, 0, 0, 0, 0)
        await passes(3)
        queue.put_nowait({"type": "datagram.receive", "data": b"12345"})
        queue.put_nowait({"type": "websocket.receive", "bytes": None, "text": "né"})
        queue.put_nowait({"type": "http.request", "body": bytearray(7), "more_body": False})
        queue.put_nowait("not a dict")
        assert counted(server) == (0, 0, 0, 0, 0)
        await passes(5)
        assert counted(server) == (4, 3, 15, 15, 0)

    run(main())


def test_times(cy, run):
    """Age and idleness by the server's clock, and the same as points of time."""

    async def main():
        server = managed(cy)(obeying)
        make(server)
        await passes(3)
        server.now += 10
        statistics = server.instance_statistics("id")
        assert (statistics.age, statistics.idle, statistics.scope_id) == (10, 10, "id")
        assert abs(time.time() - 10 - statistics.created) < 5
        make(server)
        server.now += 5
        statistics = server.instance_statistics("id")
        assert (statistics.age, statistics.idle) == (15, 5)
        assert statistics.last_activity - statistics.created == pytest.approx(10)
        server.application_instances["id"].put_nowait({})
        await passes(3)
        assert server.instance_statistics("id").idle == 0

    run(main())


def test_the_snapshot(cy, run):
    """The statistics of all instances in the table, in its order; plain dicts have none."""

    async def main():
        server = managed(cy)(obeying)
        for scope_id in "abc":
            make(server, scope_id)
            server.now += 1
        make(server, "a")
        server.application_instances["own"] = {"input_queue": asyncio.Queue()}
        snapshot = server.snapshot()
        assert list(snapshot) == ["b", "c", "a"]
        assert [statistics.age for statistics in snapshot.values()] == [2, 1, 3]
        server.delete_application_instance("b")
        assert list(server.snapshot()) == ["c", "a"]
        for unknown in ("b", "own", "x"):
            with pytest.raises(KeyError, match=unknown):
                server.instance_statistics(unknown)

    run(main())


def test_errors_are_counted(cy, run):
    """A failed application's record says so, until it is removed."""

    async def main():
        server = managed(cy)(obeying)
        make(server).put_nowait("fail")
        await passes(3)
        assert counted(server) == (1, 0, 0, 0, 1)
        make(server, "other")["future"].cancel()
        await passes(3)
        assert counted(server, "other")[4] == 0
        server.delete_application_instance("id")
        await passes(3)

    run(main())


def test_a_callers_run_is_counted(cy, run):
    """Who runs the application itself is counted as well, and goes on being counted when it calls again."""

    async def main():
        server = managed(cy)(one_shot)
        instance = await make(server)

        async def receive():
            return {"body": b"123"}

        for calls in (1, 2):
            await instance["application"](SCOPE, receive, None)
            assert counted(server) == (calls, 0, 3 * calls, 0, 0)
        await passes(3)
        assert server.heard == [("created", "id")]

    run(main())


def test_an_override_of_the_size(cy, run):
    """Servers whose messages are others tell how long they are."""

    async def main():
        server = managed(cy, message_size=staticmethod(len))(obeying)
        make(server).put_nowait("four")
        await passes(3)
        assert counted(server) == (1, 0, 4, 0, 0)

    run(main())


def test_any_kind_of_application(cy, run):
    """ASGI 2 applications and plain callables are counted like others; the server's attribute is what was given."""

    async def main():
        class Double:
            def __init__(self, scope):
                pass

            async def __call__(self, receive, send):
                await send(await receive())

        for application in (Double, lambda scope, receive, send: obeying(scope, receive, send)):
            server = managed(cy)(application)
            make(server).put_nowait({"data": b"12"})
            await passes(3)
            assert counted(server) == (1, 1, 2, 2, 0)
            assert server.application is application

    run(main())


# Ages


def test_the_maximum_age(cy, run):
    """Whoever is there for longer is deleted, busy or not, used or not; the others stay."""

    async def main():
        server = managed(cy, max_age=60)(obeying)
        for scope_id in "ab":
            make(server, scope_id)
        await passes(3)
        server.now += 30
        make(server, "c")
        make(server, "a").put_nowait({})
        server.now += 30
        assert server.expire_aged() == 0
        server.now += 0.5
        assert server.expire_aged() == 2
        assert list(server.application_instances) == ["c"]
        stats = server.stats()
        assert (stats["aged"], stats["expired"]) == (2, 2)
        await passes(5)
        assert server.heard[3:] == [
            ("expired", "a", "age"),
            ("expired", "b", "age"),
            ("closed", "a"),
            ("closed", "b"),
        ]

    run(main())


def test_the_maximum_age_may_be_changed(cy, run):
    """It is read each time."""

    async def main():
        server = managed(cy)(obeying)
        make(server)
        server.now += 1e9
        assert server.expire_aged() == 0
        server.max_age = 1e10
        assert server.expire_aged() == 0
        server.max_age = 60
        assert server.expire_aged() == 1

    run(main())


def test_the_checker_looks_at_ages(cy, run):
    """On its own, beside its other work; and it ends with the checker."""

    async def main():
        server = managed(cy, max_age=60)(obeying)
        before = len(asyncio.all_tasks())
        async with checking(server):
            make(server)
            server.now += 61
            await in_time(lambda: "id" not in server.application_instances)
        await passes(3)
        assert len(asyncio.all_tasks()) == before

    run(main())


def test_a_refused_deletion(cy, run):
    """An override that keeps an instance gives it its time anew; the others are looked at all the same."""

    async def main():
        refused = []

        def delete(self, scope_id):
            if scope_id == "kept" and len(refused) < 2:
                refused.append(self.now)
                return None
            return super(cls, self).delete_application_instance(scope_id)

        cls = managed(cy, max_age=60, delete_application_instance=delete)
        server = cls(obeying)
        make(server, "kept")
        make(server, "other")
        server.now += 61
        assert server.expire_aged() == 2
        assert list(server.application_instances) == ["kept"]
        assert server.expire_aged() == 0
        server.now += 61
        server.expire_aged()
        server.now += 61
        server.expire_aged()
        assert list(server.application_instances) == [] and refused == [1061, 1122]
        await passes(5)
        assert [heard for heard in server.heard if heard[1] == "kept"] == [
            ("created", "kept"),
            ("expired", "kept", "age"),
            ("closed", "kept"),
        ]
        assert server.stats()["aged"] == 2

    run(main())


def test_a_namesake_does_not_inherit_an_age(cy, run):
    """One taken out of the table by hand is nobody's; who has its id now is as old as it is."""

    async def main():
        server = managed(cy, max_age=60)(obeying)
        old = make(server)
        await passes(3)
        del server.application_instances["id"]
        server.now += 50
        new = make(server)
        server.now += 50
        assert server.expire_aged() == 0
        assert server.application_instances["id"] is new and not old["future"].done()
        old["future"].cancel()
        await passes(3)
        server.now += 50
        assert server.expire_aged() == 1

    run(main())


# Lifetime


def test_an_ended_instance_is_freed(cy, run):
    """No record keeps an instance that was closed, nor one whose server is dropped; without the collector's help."""

    async def main():
        server = managed(cy, max_messages_per_second=5)(obeying)
        instance = make(server, "id", {"client": ("h", 1)})
        await passes(3)
        dead = weakref.ref(instance)
        instance.put_nowait("fail")
        del instance
        await passes(3)
        server.delete_application_instance("id")
        await passes(5)
        server.failures.clear()
        assert dead() is None
        make(server, "id", {"client": ("h", 1)})
        await passes(3)

    gc.collect()
    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_nothing_is_left(cy, run):
    """After many lives of every kind there is no record left, and no key."""

    async def main():
        server = managed(cy, max_instances_per_key=3, max_age=60)(obeying, 7)
        async with checking(server):
            for number in range(200):
                instance = make(server, number % 11, {"client": (f"host {number % 5}", 1)})
                if number % 3 == 0:
                    await passes(number % 4)
                    instance.put_nowait(("return", "fail")[number % 2])
                if number % 13 == 0:
                    server.now += 40
            server.now += 61
            await in_time(lambda: not server.application_instances)
        await passes(5)
        manager = server._cyasgi.observer
        assert (len(manager.records), len(manager.aging), len(manager.keys)) == (0, 0, 0)
        created = [heard[1] for heard in server.heard if heard[0] == "created"]
        closed = [heard[1] for heard in server.heard if heard[0] == "closed"]
        assert sorted(created) == sorted(closed) and len(created) == server.stats()["created"]

    run(main())


def test_calls_of_one_instance_keep_to_themselves(cy, run):
    """A task that a call has left behind sends to that call's connection, and takes nothing from the next one's."""

    async def main():
        gate = asyncio.Event()
        left = []

        async def application(scope, receive, send):
            number = await receive()

            async def late():
                await gate.wait()
                await send(("late", number))
                return await receive()

            if number == 1:
                left.append(asyncio.create_task(late()))
            else:
                gate.set()
                await passes(5)
            await send(("end", number))

        def connection(number):
            queue: asyncio.Queue[Any] = asyncio.Queue()
            queue.put_nowait(number)
            queue.put_nowait(f"second of {number}")
            sent: list[Any] = []

            async def send(message):
                sent.append(message)

            return queue.get, send, sent

        server = lifecycle(cy).ManagedServer(application)
        instance = await server.get_or_create_application_instance("id", SCOPE)
        sent = []
        for number in (1, 2):
            receive, send, to = connection(number)
            sent.append(to)
            await instance["application"](SCOPE, receive, send)
        assert sent == [[("end", 1), ("late", 1)], [("end", 2)]]
        assert await left[0] == "second of 1"
        await server.delete_application_instance("id")

    run(main())

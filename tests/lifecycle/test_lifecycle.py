"""ManagedServer: what it knows of instances, when they end, and what it tells of them."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import time
import weakref
from typing import Any

import pytest

from support.loops import passes
from support.managed_servers import lifecycle, managed
from support.serving import checking, deaf, eventually, for_ever, handling, in_time, one_shot, reader

SCOPE = {"type": "test"}


def make(server: Any, scope_id: Any = "id", scope: Any = SCOPE) -> Any:
    return server.get_or_create_application_instance(scope_id, scope)


async def by_message(scope: Any, receive: Any, send: Any) -> None:
    """Sends back dicts, fails and returns when told to."""
    while True:
        match await receive():
            case "return":
                return
            case "fail":
                raise ValueError("on purpose")
            case dict() as message:
                await send(message)


def counted(server: Any, scope_id: Any = "id") -> tuple[int, ...]:
    statistics = server.instance_statistics(scope_id)
    return (
        statistics.messages_in,
        statistics.messages_out,
        statistics.bytes_in,
        statistics.bytes_out,
        statistics.errors,
    )


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
        server = managed(cy)(by_message)
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
        server = managed(cy)(by_message)
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
        server = managed(cy)(by_message)
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
        server = managed(cy)(by_message)
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
        server = managed(cy, message_size=staticmethod(len))(by_message)
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

        for application in (Double, lambda scope, receive, send: by_message(scope, receive, send)):
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
        server = managed(cy, max_age=60)(by_message)
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
        server = managed(cy)(by_message)
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
        server = managed(cy, max_age=60)(by_message)
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
        server = cls(by_message)
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
        server = managed(cy, max_age=60)(by_message)
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


# Hooks


@pytest.mark.parametrize("end", ["return", "fail", "cancel", "delete", "evict", "remove", "not begun"])
def test_each_instance_is_told_of_once(cy, run, end):
    """That it was made and that it was closed, however it ends."""

    async def main():
        server = managed(cy)(by_message, 1)
        async with checking(server):
            instance = make(server)
            if end != "not begun":
                await passes(3)
            match end:
                case "cancel":
                    instance["future"].cancel()
                case "delete" | "not begun":
                    server.delete_application_instance("id")
                case "evict":
                    make(server, "other")
                case "remove":
                    del server.application_instances["id"]
                    instance["future"].cancel()
                case _:
                    instance.put_nowait(end)
            await passes(10)
            assert [heard for heard in server.heard if heard[1] == "id"] == [("created", "id"), ("closed", "id")]

    run(main())


def test_idle_expiry_is_told_of(cy, run):
    """With its reason, between the two others."""

    async def main():
        server = managed(cy, idle_timeout=0.001)(by_message)
        async with checking(server):
            make(server)
            await in_time(lambda: len(server.heard) == 3)
        assert server.heard == [("created", "id"), ("expired", "id", "idle"), ("closed", "id")]
        assert server.stats()["aged"] == 0

    run(main())


def test_what_on_closed_is_given(cy, run):
    """The instance, and its last statistics."""

    async def main():
        given = []

        def on_closed(self, instance, statistics):
            given.append((instance, statistics))

        server = managed(cy, on_closed=on_closed)(by_message)
        instance = make(server)
        instance.put_nowait({"data": b"12"})
        await passes(3)
        server.now += 7
        server.delete_application_instance("id")
        await passes(5)
        assert given[0][0] is instance
        assert (given[0][1].messages_in, given[0][1].bytes_out, given[0][1].age) == (1, 2, 7)

    run(main())


@pytest.mark.parametrize("slow", ["on_created", "on_expired", "on_closed"])
def test_asynchronous_hooks_come_one_after_the_other(cy, run, slow):
    """A slow one keeps those of the same instance waiting, and nobody else's."""

    async def main():
        gate = asyncio.Event()
        heard = []

        def hook(name):
            async def told(self, instance, *more):
                heard.append(f"{name} {instance.scope_id} begins")
                if name == slow and instance.scope_id == "slow":
                    await gate.wait()
                heard.append(f"{name} {instance.scope_id} ends")

            return told

        names = ("on_created", "on_expired", "on_closed")
        server = managed(cy, max_age=60, **{name: hook(name) for name in names})(by_message)
        make(server, "slow")
        make(server, "other")
        server.now += 61
        server.expire_aged()
        await passes(20)
        others = [f"{name} other {what}" for name in names for what in ("begins", "ends")]
        expected = [line.replace("other", "slow") for line in others]
        assert [line for line in heard if "other" in line] == others
        assert [line for line in heard if "slow" in line] == expected[: expected.index(f"{slow} slow ends")]
        gate.set()
        await passes(20)
        assert [line for line in heard if "slow" in line] == expected

    run(main())


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_hook_that_fails(cy, run, caplog, kind):
    """It is logged, and the next are called all the same."""

    async def main():
        def fails(self, instance, *more):
            raise ValueError("on purpose")

        async def fails_later(self, instance, *more):
            await passes()
            raise ValueError("on purpose")

        hook = fails if kind == "def" else fails_later
        server = managed(cy, on_created=hook, on_expired=hook, max_age=60)(by_message)
        make(server)
        server.now += 61
        server.expire_aged()
        await eventually(lambda: server.heard)
        assert server.heard == [("closed", "id")]

    with caplog.at_level(logging.ERROR, logger="cyasgi.server"):
        run(main())
    assert [record.message for record in caplog.records] == [
        "the hook on_created raised ValueError('on purpose')",
        "the hook on_expired raised ValueError('on purpose')",
    ]
    caplog.clear()


def test_hooks_may_use_the_server(cy, run):
    """They run in the background, in the name of no instance: they may make and delete others."""

    async def main():
        def on_closed(self, instance, statistics):
            self.heard.append(("closed", instance.scope_id))
            assert cy.current_instance() is None
            if instance.scope_id < 5:
                make(self, instance.scope_id + 1)
                self.delete_application_instance(instance.scope_id + 1)

        server = managed(cy, on_closed=on_closed)(by_message, 3)
        make(server, 0)
        server.delete_application_instance(0)
        await eventually(lambda: len(server.heard) == 12)
        assert server.heard[-2:] == [("created", 5), ("closed", 5)]

    run(main())


def test_stopping_tells_of_all(cy, run):
    """A server that ends has told of every instance before arun() returns, asynchronous hooks included."""

    async def main():
        async def on_closed(self, instance, statistics):
            await passes(3)
            self.heard.append(("closed", instance.scope_id))

        cls = handling(managed(cy, on_closed=on_closed), for_ever)
        server = cls(by_message)
        running = asyncio.create_task(server.arun())
        await passes(3)
        for scope_id in range(10):
            make(server, scope_id)
        await passes(3)
        running.cancel()
        await asyncio.wait({running})
        assert sorted(server.heard) == sorted([(what, i) for i in range(10) for what in ("created", "closed")])

    run(main())


def test_a_hook_that_hangs_when_the_server_stops(cy, run, caplog):
    """It is cancelled when `shutdown_timeout` is over, and what comes after it is told nevertheless."""

    async def main():
        async def on_created(self, instance):
            await asyncio.get_running_loop().create_future()

        cls = handling(managed(cy, on_created=on_created, shutdown_timeout=0.01), for_ever)
        server = cls(by_message)
        tasks = len(asyncio.all_tasks())
        running = asyncio.create_task(server.arun())
        await passes(3)
        make(server)
        await passes(3)
        running.cancel()
        await asyncio.wait({running})
        await passes(3)
        assert server.heard == [("closed", "id")]
        assert len(asyncio.all_tasks()) == tasks

    with caplog.at_level(logging.ERROR, logger="cyasgi.server"):
        run(main())
    assert [record.message.split(";")[0] for record in caplog.records] == ["the hook on_created was cancelled"]
    caplog.clear()


def test_an_asynchronous_override_that_deletes(cy, run):
    """What it deletes for its age is told of in order: its end is the end of the application."""

    async def main():
        async def delete(self, scope_id):
            await passes(3)
            await super(cls, self).delete_application_instance(scope_id)

        cls = managed(cy, max_age=60, max_instances_per_key=1, delete_application_instance=delete)
        server = cls(by_message)
        scope = {"client": ("h", 1)}
        make(server, "id", scope)
        server.now += 61
        assert server.expire_aged() == 1
        assert len(server.application_instances) == 0
        assert server.expire_aged() == 0
        await eventually(lambda: len(server.heard) == 3)
        assert server.heard == [("created", "id"), ("expired", "id", "age"), ("closed", "id")]
        make(server, "other", scope)

    run(main())


def test_a_caller_that_calls_again_after_it_was_closed(cy, run):
    """Then it begins again, and is told of again."""

    async def main():
        server = managed(cy)(one_shot)
        instance = await make(server)

        async def receive():
            return {}

        await instance["application"](SCOPE, receive, None)
        await server.delete_application_instance("id")
        await passes(5)
        assert server.heard == [("created", "id"), ("closed", "id")]
        await instance["application"](SCOPE, receive, None)
        assert counted(server)[0] == 1
        server.delete_application_instance("id")
        await passes(5)
        assert server.heard == [("created", "id"), ("closed", "id")] * 2

    run(main())


def test_nothing_is_told_where_nobody_listens(cy, run):
    """Without overrides of the hooks an instance costs no report."""

    async def main():
        server = lifecycle(cy).ManagedServer(reader)
        make(server)
        server.delete_application_instance("id")
        assert server._cyasgi.reports.pending == 0
        await passes(3)

    run(main())


def test_hooks_that_fall_behind(cy, run, monkeypatch):
    """When too many calls are waiting no further instance is made; those that live go on."""

    async def main():
        module = lifecycle(cy)
        monkeypatch.setattr(importlib.import_module(f"{cy.__name__}.lifecycle.managed"), "HOOKS_BEHIND", 20)
        gate = asyncio.Event()

        async def on_created(self, instance):
            await gate.wait()

        server = managed(cy, on_created=on_created)(deaf)
        for number in range(21):
            make(server, number)
        with pytest.raises(module.LimitExceeded, match="more than 20 calls of hooks") as caught:
            make(server, "new", {"type": "test", "client": ("h", 1)})
        assert (caught.value.limit, caught.value.key, caught.value.retry_after) == ("hooks", None, None)
        assert make(server, 5) is server.application_instances[5]
        assert server.stats()["limited_hooks"] == 1 == len(server.limited)
        gate.set()
        await eventually(lambda: not server._cyasgi.reports.pending)
        make(server, "new")

    run(main())


# Lifetime


def test_an_ended_instance_is_freed(cy, run):
    """No record keeps an instance that was closed, nor one whose server is dropped; without the collector's help."""

    async def main():
        server = managed(cy, max_messages_per_second=5)(by_message)
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
        server = managed(cy, max_instances_per_key=3, max_age=60)(by_message, 7)
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

"""The hooks of a ManagedServer: what each instance makes it tell, once, in order, and whatever a hook does."""

from __future__ import annotations

import asyncio
import importlib
import logging
from typing import Any

import pytest

from support.loops import passes
from support.managed_servers import counted, lifecycle, managed, obeying
from support.serving import checking, deaf, eventually, for_ever, handling, in_time, one_shot, reader

SCOPE = {"type": "test"}


def make(server: Any, scope_id: Any = "id", scope: Any = SCOPE) -> Any:
    return server.get_or_create_application_instance(scope_id, scope)


@pytest.mark.parametrize("end", ["return", "fail", "cancel", "delete", "evict", "remove", "not begun"])
def test_each_instance_is_told_of_once(cy, run, end):
    """That it was made and that it was closed, however it ends."""

    async def main():
        server = managed(cy)(obeying, 1)
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
        server = managed(cy, idle_timeout=0.001)(obeying)
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

        server = managed(cy, on_closed=on_closed)(obeying)
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
        server = managed(cy, max_age=60, **{name: hook(name) for name in names})(obeying)
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
        server = managed(cy, on_created=hook, on_expired=hook, max_age=60)(obeying)
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

        server = managed(cy, on_closed=on_closed)(obeying, 3)
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
        server = cls(obeying)
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
        server = cls(obeying)
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
        server = cls(obeying)
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

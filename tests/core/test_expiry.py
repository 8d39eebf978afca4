"""The checker expires what is idle, if asked to, and removes what its caller has left behind."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from support.loops import passes
from support.serving import checking, eventually, fast, in_time, reader

# ------------------------------------------------------------------------------------------ expiry


@pytest.mark.slow
def test_no_expiry_by_default(cy, run):
    """`idle_timeout` is None unless it is set: what is idle stays."""

    async def main():
        server = fast(cy.StatelessServer)(reader)
        assert server.idle_timeout is None
        server.get_or_create_application_instance("a", {})
        async with checking(server):
            await asyncio.sleep(0.03)
            assert "a" in server.application_instances
            assert server.stats()["expired"] == 0

    run(main())


def test_idle_are_expired(cy, run):
    """What has been idle longer than `idle_timeout` is cancelled, removed and counted."""
    heard = []

    async def application(scope, receive, send):
        try:
            await receive()
        except asyncio.CancelledError:
            heard.append(scope)
            raise

    async def main():
        server = fast(cy.StatelessServer)(application)
        server.idle_timeout = 0.005
        server.get_or_create_application_instance("a", "A")
        async with checking(server):
            await in_time(lambda: heard == ["A"])
        assert "a" not in server.application_instances
        assert server.stats()["expired"] == 1
        assert server.stats()["evicted"] == 0
        assert server.failures == []

    run(main())


@pytest.mark.slow
def test_expiry_is_not_early(cy, run):
    """Nothing expires before `idle_timeout` seconds have passed since its last use."""

    async def main():
        server = fast(cy.StatelessServer)(reader)
        server.idle_timeout = 0.05
        loop = asyncio.get_running_loop()
        begun = loop.time()
        server.get_or_create_application_instance("a", {})
        async with checking(server):
            await in_time(lambda: "a" not in server.application_instances)
            assert loop.time() - begun > 0.045

    run(main())


@pytest.mark.slow
def test_use_puts_expiry_off(cy, run):
    """Asking for an instance again is a use: of many, those that are asked for stay and all others expire."""

    async def main():
        server = fast(cy.StatelessServer)(reader)
        server.idle_timeout = 1.5
        records = [server.get_or_create_application_instance(number, {}) for number in range(100)]
        async with checking(server):
            loop = asyncio.get_running_loop()
            begun = loop.time()
            while server.stats()["expired"] < 50 and loop.time() - begun < 20:
                for number in range(0, 100, 2):
                    assert server.get_or_create_application_instance(number, {}) is records[number]
                await asyncio.sleep(0.01)
            assert sorted(server.application_instances) == list(range(0, 100, 2))
            await eventually(lambda: all(record["future"].cancelled() for record in records[1::2]))

    run(main())


@pytest.mark.slow
def test_busy_are_not_expired(cy, run):
    """An application that is at work on a message is not idle, however long that takes."""
    gate = asyncio.Event()
    order = []

    async def application(scope, receive, send):
        await receive()
        await gate.wait()
        order.append("done")
        await receive()

    async def main():
        server = fast(cy.StatelessServer)(application)
        server.idle_timeout = 0.005
        server.get_or_create_application_instance("a", {}).put_nowait(1)
        async with checking(server):
            await asyncio.sleep(0.05)
            assert "a" in server.application_instances
            gate.set()
            await in_time(lambda: "a" not in server.application_instances)
        assert order == ["done"]
        assert server.stats()["expired"] == 1

    run(main())


@pytest.mark.slow
def test_idle_timeout_may_change_at_run_time(cy, run):
    """Setting `idle_timeout` while the checker runs takes effect for instances that are there already."""

    async def main():
        server = fast(cy.StatelessServer)(reader)
        server.get_or_create_application_instance("a", {})
        async with checking(server):
            await asyncio.sleep(0.01)
            assert "a" in server.application_instances
            server.idle_timeout = 0.005
            await in_time(lambda: "a" not in server.application_instances)
            server.idle_timeout = None
            server.get_or_create_application_instance("b", {})
            await asyncio.sleep(0.02)
            assert "b" in server.application_instances

    run(main())


def test_idle_timeout_in_a_class_body(cy, run):
    """`idle_timeout` may be set in the body of a subclass."""

    class Server(fast(cy.StatelessServer)):
        idle_timeout = 0.005

    async def main():
        server = Server(reader)
        server.get_or_create_application_instance("a", {})
        async with checking(server):
            await in_time(lambda: "a" not in server.application_instances)

    run(main())


def test_expired_id_comes_back_fresh(cy, run):
    """After its expiry an id gives a new instance, which expires in its turn."""
    started = []

    async def application(scope, receive, send):
        started.append(scope)
        await receive()

    async def main():
        server = fast(cy.StatelessServer)(application)
        server.idle_timeout = 0.005
        async with checking(server):
            for number in range(3):
                server.get_or_create_application_instance("a", number)
                await in_time(lambda: "a" not in server.application_instances)
        assert started == [0, 1, 2]
        assert server.stats()["expired"] == 3

    run(main())


def test_expired_while_a_caller_runs_it(cy, run):
    """A caller whose application waits in the instance's own queue gets InstanceDeleted when that expires."""

    async def main():
        server = fast(cy.StatelessServer)(reader)
        server.idle_timeout = 0.005
        details = await server.get_or_create_application_instance("a", {})

        async def send(message):
            pass

        async with checking(server):
            with pytest.raises(cy.InstanceDeleted):
                await asyncio.wait_for(details["application"]({}, details.get, send), 20)
        assert server.stats()["expired"] == 1

    run(main())


# ------------------------------------------------------------------------------------------ orphans


@pytest.mark.slow
def test_orphans_are_removed(cy, run):
    """A held instance whose caller's task has ended without calling it is removed and counted."""

    async def caller(server):
        await server.get_or_create_application_instance("a", {})

    async def main():
        server = fast(cy.StatelessServer)(reader)
        async with checking(server):
            await asyncio.create_task(caller(server))
            await in_time(lambda: "a" not in server.application_instances)
        assert server.stats()["orphaned"] == 1
        assert server.failures == []

    run(main())


@pytest.mark.slow
@pytest.mark.usefixtures("watchful")
@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_orphans_of_callers_that_came_to_grief(cy, run, how):
    """It makes no difference whether the caller's task returned, failed or was cancelled."""

    async def caller(server):
        await server.get_or_create_application_instance("a", {})
        if how == "failed":
            raise ZeroDivisionError
        await asyncio.get_running_loop().create_future()

    async def main():
        server = fast(cy.StatelessServer)(reader)
        async with checking(server):
            task = asyncio.create_task(caller(server))
            await passes(5)
            task.cancel()
            await asyncio.wait([task])
            await in_time(lambda: "a" not in server.application_instances)
            with contextlib.suppress(ZeroDivisionError, asyncio.CancelledError):
                task.result()
        assert server.stats()["orphaned"] == 1

    run(main())


def test_held_with_a_living_caller_is_no_orphan(cy, run):
    """As long as the task that holds an instance lives, the instance stays, called or not."""
    gate = asyncio.Event()
    ran = []

    async def application(scope, receive, send):
        ran.append(await receive())

    async def caller(server):
        details = await server.get_or_create_application_instance("a", {})
        await gate.wait()

        async def receive():
            return "from the caller"

        await details["application"]({}, receive, None)

    async def main():
        server = fast(cy.StatelessServer)(application)
        async with checking(server):
            task = asyncio.create_task(caller(server))
            await asyncio.sleep(0.03)
            assert "a" in server.application_instances
            gate.set()
            await task
            await in_time(lambda: "a" not in server.application_instances)
        assert ran == ["from the caller"]
        assert server.stats()["orphaned"] == 0

    run(main())


def test_fed_one_is_no_orphan(cy, run):
    """A held instance that was fed is the server's own to run: it outlives the caller's task."""

    async def caller(server):
        details = await server.get_or_create_application_instance("a", {})
        details.put_nowait(1)

    async def main():
        server = fast(cy.StatelessServer)(reader)
        async with checking(server):
            await asyncio.create_task(caller(server))
            await asyncio.sleep(0.03)
            assert "a" in server.application_instances
            assert server.stats()["orphaned"] == 0

    run(main())


def test_an_expiry_that_fails_is_logged_and_stops_nothing(cy, run, monkeypatch, caplog):
    """The entry stays, as one that was refused does; the checker goes on and expires the others."""

    async def main():
        server = fast(cy.StatelessServer)(reader)
        server.idle_timeout = 0.005
        for scope_id in "ab":
            server.get_or_create_application_instance(scope_id, {})
        life = server._cyasgi
        expire = life.expire

        def failing(server, entry, reason):
            if entry.scope_id == "a":
                raise ZeroDivisionError
            expire(server, entry, reason)

        monkeypatch.setattr(life, "expire", failing)
        async with checking(server):
            await in_time(lambda: "scope_id 'a' could not be expired" in caplog.text and len(caplog.records) > 1)
            assert list(server.application_instances) == ["a"]
            monkeypatch.undo()
            await in_time(lambda: not server.application_instances)

    run(main())

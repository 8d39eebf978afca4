"""Deleting an instance acts at once when it is called, and waits, within bounds, when it is awaited."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from support.loops import passes
from support.serving import Stubborn, eventually, in_time, one_shot, quiet, reader

# ------------------------------------------------------------------------------------------ at once, when called


@pytest.mark.slow
def test_plain_call_removes_at_once(impl, run):
    """A plain call has taken the instance out of the table when it returns."""

    async def main():
        server = quiet(impl.StatelessServer)(reader)
        server.get_or_create_application_instance("a", {})
        server.get_or_create_application_instance("b", {})
        server.delete_application_instance("a")
        assert list(server.application_instances) == ["b"]

    run(main())


def test_future_is_cancelled_one_pass_later(impl, run):
    """The task that `future` names is cancelled one loop pass after the delete."""

    async def main():
        server = quiet(impl.StatelessServer)(reader)
        server.get_or_create_application_instance("a", {})
        future = server.application_instances["a"]["future"]
        await passes(5)
        server.delete_application_instance("a")
        await passes(1)
        assert future.cancelled()

    run(main())


def test_application_hears_of_its_deletion_as_cancellation(impl, run):
    """The application of a deleted instance gets a CancelledError where it waits, and may clean up with awaits."""
    heard = []

    async def application(scope, receive, send):
        try:
            await receive()
        except asyncio.CancelledError:
            await passes(2)
            heard.append("cleaned up")
            raise

    async def main():
        server = quiet(impl.StatelessServer)(application)
        server.get_or_create_application_instance("a", {})
        await passes(5)
        server.delete_application_instance("a")
        await eventually(lambda: heard)

    run(main())
    assert heard == ["cleaned up"]


def test_deleted_before_its_first_step_never_runs(impl, run):
    """An instance that is deleted before the loop turned never starts its application."""
    started = []

    async def application(scope, receive, send):
        started.append(scope)

    async def main():
        server = quiet(impl.StatelessServer)(application)
        server.get_or_create_application_instance("a", {})
        future = server.application_instances["a"]["future"]
        server.delete_application_instance("a")
        await passes(10)
        assert future.cancelled()

    run(main())
    assert started == []


def test_others_are_left_alone(impl, run):
    """Deleting one instance neither cancels nor empties another."""
    got = []

    async def application(scope, receive, send):
        while True:
            got.append((scope["n"], await receive()))

    async def main():
        server = quiet(impl.StatelessServer)(application)
        server.get_or_create_application_instance("a", {"n": 1})
        other = server.get_or_create_application_instance("b", {"n": 2})
        await passes(5)
        server.delete_application_instance("a")
        other.put_nowait("still here")
        await passes(5)

    run(main())
    assert got == [(2, "still here")]


def test_next_one_of_that_id_is_another(impl, run):
    """After a delete the same id gives a fresh instance with a queue and a run of its own."""
    scopes = []

    async def application(scope, receive, send):
        scopes.append(scope)
        await receive()

    async def main():
        server = quiet(impl.StatelessServer)(application)
        old = server.get_or_create_application_instance("a", "old")
        await passes(5)
        server.delete_application_instance("a")
        new = server.get_or_create_application_instance("a", "new")
        assert new is not old
        await eventually(lambda: scopes == ["old", "new"])

    run(main())


def test_awaitable_may_be_dropped(cy, run):
    """What a delete returns may be dropped without a warning, for a known id and an unknown one alike."""

    async def main():
        server = quiet(cy.StatelessServer)(reader)
        server.get_or_create_application_instance("a", {})
        await passes(5)
        server.delete_application_instance("a")
        server.delete_application_instance("a")
        server.delete_application_instance("never there")
        await passes(5)
        gc.collect()

    run(main())


def test_awaitable_of_delete_oldest_may_be_dropped(cy, run):
    """delete_oldest_application_instance acts at once when called, and what it returns may be dropped as well."""

    async def main():
        server = quiet(cy.StatelessServer)(reader)
        for name in "abc":
            server.get_or_create_application_instance(name, {})
        await passes(5)
        server.delete_oldest_application_instance()
        assert list(server.application_instances) == ["b", "c"]
        await server.delete_oldest_application_instance()
        assert list(server.application_instances) == ["c"]
        gc.collect()

    run(main())


def test_delete_oldest_of_an_empty_table_is_no_error(cy, reference, run):
    """With nothing in the table delete_oldest does nothing, called or awaited, where the reference raises."""

    async def main():
        with pytest.raises(ValueError):
            quiet(reference)(reader).delete_oldest_application_instance()
        server = quiet(cy.StatelessServer)(reader)
        server.delete_oldest_application_instance()
        await server.delete_oldest_application_instance()
        assert len(server.application_instances) == 0

    run(main())


# ------------------------------------------------------------------------------------------ waited for, when awaited


def test_awaited_waits_for_the_old_run(cy, run):
    """Awaited, a delete goes on only after the application has cleaned up."""
    order = []

    async def application(scope, receive, send):
        try:
            await receive()
        finally:
            await passes(20)
            order.append("cleaned up")

    async def main():
        server = quiet(cy.StatelessServer)(application)
        server.get_or_create_application_instance("a", {})
        await passes(5)
        answer = await server.delete_application_instance("a")
        order.append("deleted")
        assert answer is True

    run(main())
    assert order == ["cleaned up", "deleted"]


def test_awaited_wait_may_begin_later(cy, run):
    """The wait can begin long after the call: even then it is for that run's end, and the answer is the same."""
    gate = asyncio.Event()
    ended = []

    async def application(scope, receive, send):
        try:
            await receive()
        finally:
            await gate.wait()
            ended.append(True)

    async def main():
        server = quiet(cy.StatelessServer)(application)
        server.get_or_create_application_instance("a", {})
        await passes(5)
        deletion = server.delete_application_instance("a")
        await passes(20)
        waiting = asyncio.ensure_future(deletion)
        await passes(20)
        assert not waiting.done()
        gate.set()
        assert await waiting is True
        assert ended

    run(main())


def test_gather_and_wait_for_take_it(cy, run):
    """gather() and wait_for() take what a delete returns, as they would take a coroutine."""

    async def main():
        server = quiet(cy.StatelessServer)(reader)
        for name in "abc":
            server.get_or_create_application_instance(name, {})
        await passes(5)
        answers = await asyncio.gather(
            server.delete_application_instance("a"),
            server.delete_application_instance("nobody"),
            server.delete_application_instance("b"),
        )
        assert answers == [True, False, True]
        assert await asyncio.wait_for(server.delete_application_instance("c"), 5) is True

    run(main())


def test_unknown_id_is_no_error(cy, reference, run):
    """Deleting an id that is not there, or no longer, does nothing and gives False; the reference raises KeyError."""

    async def main():
        with pytest.raises(KeyError):
            quiet(reference)(reader).delete_application_instance("a")
        server = quiet(cy.StatelessServer)(reader)
        assert await server.delete_application_instance("a") is False
        server.get_or_create_application_instance("a", {})
        assert await server.delete_application_instance("a") is True
        assert await server.delete_application_instance("a") is False

    run(main())


def test_unhashable_id_is_refused_with_nothing_touched(cy, run):
    """An unhashable id is a TypeError at the call, and the table stays as it was."""

    async def main():
        server = quiet(cy.StatelessServer)(reader)
        kept = server.get_or_create_application_instance("a", {})
        with pytest.raises(TypeError):
            server.delete_application_instance(["a"])
        assert server.application_instances["a"] is kept

    run(main())


def test_deleting_what_has_finished(cy, run):
    """A finished instance that still stands in the table is deleted like any other and stays a finished one."""

    async def main():
        server = quiet(cy.StatelessServer)(one_shot)
        details = server.get_or_create_application_instance("a", {})
        details.put_nowait(1)
        await eventually(lambda: details["future"].done())
        assert await server.delete_application_instance("a") is True
        assert not details["future"].cancelled()
        assert "a" not in server.application_instances
        assert server.stats()["finished"] == 1
        assert server.stats()["cancelled"] == 0

    run(main())


@pytest.mark.slow
def test_awaited_wait_is_bounded(cy, run):
    """An application that will not end holds up the one who awaits its deletion no longer than the time-out."""
    application = Stubborn()

    async def main():
        with application:
            server = quiet(cy.StatelessServer)(application)
            server.shutdown_timeout = 0.05
            server.get_or_create_application_instance("a", {})
            await passes(5)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            assert await server.delete_application_instance("a") is True
            assert loop.time() - begun < 5
            application.release.set()
            await in_time(lambda: server.stats()["closing"] == 0)

    run(main())


def test_application_that_deletes_itself(cy, run):
    """An application that awaits its own deletion is not waited for by itself; it ends at its next wait."""
    answers = []

    async def application(scope, receive, send):
        answers.append(await server.delete_application_instance("a"))
        await receive()
        answers.append("went on")

    async def main():
        nonlocal server
        server = quiet(cy.StatelessServer)(application)
        details = server.get_or_create_application_instance("a", {})
        await eventually(lambda: details["future"].done())
        assert details["future"].cancelled()
        assert server.undelivered == []

    server = None
    run(main())
    assert answers == [True]


def test_child_task_that_deletes_its_parent(cy, run):
    """A child task that the application waits for may delete the instance it belongs to: neither waits for ever."""
    answers = []

    async def child(server):
        answers.append(await server.delete_application_instance("a"))

    async def application(scope, receive, send):
        task = asyncio.create_task(child(server))
        try:
            await receive()
        finally:
            await task

    async def main():
        nonlocal server
        server = quiet(cy.StatelessServer)(application)
        server.shutdown_timeout = 50.0
        details = server.get_or_create_application_instance("a", {})
        await eventually(lambda: details["future"].done())

    server = None
    run(main())
    assert answers == [True]


def test_application_may_delete_a_sibling(cy, run):
    """One application that awaits the deletion of another waits for that one's end."""
    order = []

    async def application(scope, receive, send):
        if scope == "killer":
            await receive()
            order.append(await server.delete_application_instance("victim"))
        else:
            try:
                await receive()
            finally:
                await passes(10)
                order.append("victim ended")

    async def main():
        nonlocal server
        server = quiet(cy.StatelessServer)(application)
        server.get_or_create_application_instance("victim", "victim")
        await passes(5)
        server.get_or_create_application_instance("killer", "killer").put_nowait(1)
        await eventually(lambda: len(order) == 2)

    server = None
    run(main())
    assert order == ["victim ended", True]


def test_giving_up_the_wait_does_not_give_up_the_deletion(cy, run):
    """Cancelling the one who waits leaves the application to its clean-up, without a second cancellation."""
    gate = asyncio.Event()
    heard = []

    async def application(scope, receive, send):
        try:
            await receive()
        finally:
            try:
                await gate.wait()
                heard.append("cleaned up")
            except asyncio.CancelledError:
                heard.append("disturbed")
                raise

    async def main():
        server = quiet(cy.StatelessServer)(application)
        server.get_or_create_application_instance("a", {})
        await passes(5)
        waiting = asyncio.ensure_future(server.delete_application_instance("a"))
        await passes(5)
        waiting.cancel()
        await passes(5)
        assert waiting.cancelled()
        assert heard == []
        gate.set()
        await eventually(lambda: heard)

    run(main())
    assert heard == ["cleaned up"]


def test_two_wait_for_one_deletion(cy, run):
    """Two tasks can wait for the end of the same run: only the one who deleted it is told True."""
    gate = asyncio.Event()

    async def application(scope, receive, send):
        try:
            await receive()
        finally:
            await gate.wait()

    async def main():
        server = quiet(cy.StatelessServer)(application)
        server.get_or_create_application_instance("a", {})
        await passes(5)
        first = asyncio.ensure_future(server.delete_application_instance("a"))
        await passes(2)
        second = asyncio.ensure_future(server.delete_application_instance("a"))
        await passes(5)
        assert not first.done()
        gate.set()
        assert await first is True
        assert await second is False

    run(main())


def test_closing_is_logged_to_no_one_when_all_goes_well(cy, run, caplog):
    """An ordinary deletion with an empty queue logs nothing at WARNING or above."""

    async def main():
        server = quiet(cy.StatelessServer)(reader)
        server.get_or_create_application_instance("a", {}).put_nowait(1)
        await passes(5)
        await server.delete_application_instance("a")

    with caplog.at_level(logging.WARNING):
        run(main())
    assert caplog.records == []

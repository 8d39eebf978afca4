"""Messages that an ended instance leaves behind go to application_undelivered: nothing disappears in silence."""

from __future__ import annotations

import asyncio

import pytest

from support.loops import passes
from support.serving import checking, deaf, dies_of_the_first, eventually, in_time, left, one_shot, quiet, reader


@pytest.mark.slow
def test_deleted(cy, run):
    """What is in the queue of a deleted instance goes to the hook as one list, oldest first, with the instance."""

    async def main():
        server = quiet(cy.StatelessServer)(deaf)
        details = server.get_or_create_application_instance("a", {})
        for number in range(3):
            details.put_nowait(number)
        await passes(5)
        await server.delete_application_instance("a")
        await eventually(lambda: server.undelivered)
        await passes(5)
        ((messages, whose),) = server.undelivered
        assert type(messages) is list
        assert messages == [0, 1, 2]
        assert whose is details
        assert whose["scope"] == {}

    run(main())


def test_deleted_before_its_first_step(cy, run):
    """An instance that is deleted before it ever ran leaves all its messages to the hook."""

    async def main():
        server = quiet(cy.StatelessServer)(reader)
        server.get_or_create_application_instance("a", {}).put_nowait("never read")
        server.delete_application_instance("a")
        await eventually(lambda: left(server) == ["never read"])
        await passes(5)
        assert len(server.undelivered) == 1

    run(main())


def test_evicted(cy, run):
    """What is in the queue of an evicted instance goes to the hook."""

    async def main():
        server = quiet(cy.StatelessServer)(deaf, 1)
        server.get_or_create_application_instance("a", "scope of a").put_nowait("for a")
        await passes(5)
        server.get_or_create_application_instance("b", {})
        await eventually(lambda: server.undelivered)
        ((messages, whose),) = server.undelivered
        assert (messages, whose["scope"]) == (["for a"], "scope of a")

    run(main())


def test_counted_as_done_and_never_taken(cy, run):
    """What task_done() was called for before anybody took it is undelivered all the same."""

    async def main():
        server = quiet(cy.StatelessServer)(deaf)
        details = server.get_or_create_application_instance("a", {})
        for number in range(2):
            details.put_nowait(number)
            details.task_done()
        await passes(5)
        server.delete_application_instance("a")
        await eventually(lambda: left(server) == [0, 1])

    run(main())


@pytest.mark.parametrize("leaves", ["found by the checker", "deleted", "evicted"])
@pytest.mark.parametrize("before", [False, True])
def test_taken_and_never_counted_as_done(cy, run, before, leaves):
    """Where nothing is left, an end without task_done() ends join() too, before it and after it, and tells no hook."""

    async def main():
        server = quiet(cy.StatelessServer)(one_shot, 1)
        details = server.get_or_create_application_instance("a", {})
        details.put_nowait("taken")
        joiners = [asyncio.ensure_future(details.join())] if before else []
        await passes(5)
        assert not any(joiner.done() for joiner in joiners)
        match leaves:
            case "found by the checker":
                async with checking(server):
                    await in_time(lambda: "a" not in server.application_instances)
            case "deleted":
                server.delete_application_instance("a")
            case "evicted":
                server.get_or_create_application_instance("b", {})
        joiners.append(asyncio.ensure_future(details.join()))
        await passes(3)
        assert all(joiner.done() for joiner in joiners)
        with pytest.raises(ValueError, match="task_done"):
            details.task_done()
        assert server.undelivered == []

    run(main())


def test_burst_of_new_ids_at_the_limit(cy, run):
    """Fifty ids with one message each in one pass, with ten places: forty messages reach the hook, ten are handled."""
    handled = []

    async def application(scope, receive, send):
        while True:
            handled.append(await receive())

    async def main():
        server = quiet(cy.StatelessServer)(application, 10)
        for number in range(50):
            server.get_or_create_application_instance(number, {}).put_nowait(number)
        await eventually(lambda: len(server.undelivered) == 40 and len(handled) == 10)
        assert sorted(left(server) + handled) == list(range(50))
        assert server.stats()["undelivered"] == 40

    run(main())


def test_finished(cy, run):
    """What an application that returned has not read goes to the hook when the checker reaps it."""

    async def main():
        server = quiet(cy.StatelessServer)(one_shot)
        details = server.get_or_create_application_instance("a", {})
        for number in range(4):
            details.put_nowait(number)
        async with checking(server):
            await in_time(lambda: server.undelivered)
            await passes(5)
        assert server.undelivered == [([1, 2, 3], details)]

    run(main())


def test_failed(cy, run):
    """One message of a hundred kills the application: the ninety-nine behind it go to the hook."""

    async def main():
        server = quiet(cy.StatelessServer)(dies_of_the_first)
        details = server.get_or_create_application_instance("a", {})
        for number in range(100):
            details.put_nowait(number)
        async with checking(server):
            await in_time(lambda: server.undelivered)
            await passes(5)
        assert server.undelivered == [(list(range(1, 100)), details)]

    run(main())


def test_renewed(cy, run):
    """When an ended instance makes way for a fresh one, what it left goes to the hook and not to that one."""
    received = []

    async def application(scope, receive, send):
        received.append(await receive())

    async def main():
        server = quiet(cy.StatelessServer)(application)
        old = server.get_or_create_application_instance("a", {})
        old.put_nowait("first")
        old.put_nowait("too much")
        await eventually(lambda: old["future"].done())
        fresh = server.get_or_create_application_instance("a", {})
        fresh.put_nowait("second")
        await eventually(lambda: received == ["first", "second"])
        await eventually(lambda: server.undelivered)
        assert server.undelivered == [(["too much"], old)]

    run(main())


def test_expired(cy, run):
    """An instance that was expired and is fed afterwards gives that message to the hook as well."""

    async def main():
        server = quiet(cy.StatelessServer)(reader)
        server.idle_timeout = 0.005
        server.application_checker_interval = 0.001
        details = server.get_or_create_application_instance("a", {})
        async with checking(server):
            await in_time(lambda: "a" not in server.application_instances and details["future"].done())
            assert server.undelivered == []
            details.put_nowait("too late")
            await eventually(lambda: server.undelivered)
        assert server.undelivered == [(["too late"], details)]

    run(main())


@pytest.mark.parametrize("how", ["returns", "raises"])
def test_shut_down(cy, run, how):
    """What is still queued when the server ends, drained in vain or not drained at all, goes to the hook."""

    async def main():
        class Server(quiet(cy.StatelessServer)):
            shutdown_timeout = 0.02

            async def handle(self):
                details = self.get_or_create_application_instance("a", {})
                details.put_nowait("one")
                details.put_nowait("two")
                await passes(5)
                if how == "raises":
                    raise ZeroDivisionError

        server = Server(deaf)
        if how == "raises":
            with pytest.raises(ZeroDivisionError):
                await server.arun()
        else:
            await server.arun()
        assert left(server) == ["one", "two"]
        assert server.stats()["undelivered"] == 2

    run(main())


def test_put_on_an_ended_instance(cy, run):
    """Feeding an instance that has ended raises nothing; the message goes to the hook."""

    async def main():
        server = quiet(cy.StatelessServer)(reader)
        details = server.get_or_create_application_instance("a", {})
        await passes(5)
        await server.delete_application_instance("a")
        details.put_nowait("one")
        await details.put("two")
        await eventually(lambda: left(server) == ["one", "two"])
        assert all(whose is details for _, whose in server.undelivered)

    run(main())


def test_put_on_a_finished_record_still_in_the_table(cy, run):
    """What is put on a finished instance that no checker has reaped yet is not lost either."""

    async def main():
        server = quiet(cy.StatelessServer)(one_shot)
        details = server.get_or_create_application_instance("a", {})
        details.put_nowait("read")
        await eventually(lambda: details["future"].done())
        details.put_nowait("late")
        await server.delete_application_instance("a")
        await eventually(lambda: left(server) == ["late"])

    run(main())


def test_waiting_putters(cy, run):
    """A putter waiting on a full queue is woken without an error when the instance ends, and its message handed on."""

    async def main():
        server = quiet(cy.StatelessServer)(deaf)
        server.max_queue_size = 1
        details = server.get_or_create_application_instance("a", {})
        details.put_nowait("in the queue")
        await passes(5)
        putters = [asyncio.create_task(details.put(name)) for name in ("first in line", "second in line")]
        await passes(5)
        assert not any(putter.done() for putter in putters)
        await server.delete_application_instance("a")
        assert await asyncio.gather(*putters) == [None, None]
        await eventually(lambda: len(left(server)) == 3)
        assert left(server) == ["in the queue", "first in line", "second in line"]
        assert server.stats()["undelivered"] == 3

    run(main())


def test_clean_up_may_still_read(cy, run):
    """An application may read the rest of its queue while it cleans up: only what it leaves goes to the hook."""
    read = []

    async def application(scope, receive, send):
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            read.append(await receive())
            read.append(await receive())
            raise

    async def main():
        server = quiet(cy.StatelessServer)(application)
        details = server.get_or_create_application_instance("a", {})
        for number in range(3):
            details.put_nowait(number)
        await passes(5)
        await server.delete_application_instance("a")
        await eventually(lambda: server.undelivered)
        assert read == [0, 1]
        assert left(server) == [2]

    run(main())


def test_message_that_was_handed_over_is_not_undelivered(cy, run):
    """A message that the application has received is its own affair: it never reaches the hook."""

    async def application(scope, receive, send):
        await receive()
        await asyncio.get_running_loop().create_future()

    async def main():
        server = quiet(cy.StatelessServer)(application)
        server.get_or_create_application_instance("a", {}).put_nowait("received")
        await passes(5)
        await server.delete_application_instance("a")
        await passes(5)
        assert server.undelivered == []
        assert server.stats()["undelivered"] == 0

    run(main())


def test_message_on_its_way_when_the_instance_is_deleted(cy, run):
    """A message put in the same pass as the delete, with the application waiting, is either received or handed on."""
    received = []

    async def application(scope, receive, send):
        received.append(await receive())
        await receive()

    async def main():
        server = quiet(cy.StatelessServer)(application)
        details = server.get_or_create_application_instance("a", {})
        await passes(5)
        details.put_nowait("on its way")
        server.delete_application_instance("a")
        await passes(10)
        assert received + left(server) == ["on its way"]

    run(main())

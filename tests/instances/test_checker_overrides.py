"""Checkers beside each other, overridden or absent: nothing but tidiness needs the one that there is."""

from __future__ import annotations

import asyncio

import pytest

from support.loops import passes
from support.serving import checking, eventually, fast, in_time, one_shot, quiet


async def fails(scope, receive, send):
    raise ValueError(await receive())


def test_two_checkers(cy, run):
    """Two checkers at once do everything once."""

    async def main():
        server = fast(cy.StatelessServer)(fails)
        async with checking(server), checking(server):
            for number in range(20):
                server.get_or_create_application_instance(number, {}).put_nowait(number)
            await in_time(lambda: len(server.application_instances) == 0)
            await in_time(lambda: len(server.failures) >= 20)
            await passes(20)
        assert sorted(failure.args[0] for failure in server.failures) == list(range(20))
        assert server.stats()["failed"] == 20

    run(main())


def test_second_checker_goes_on_when_the_first_is_cancelled(cy, run):
    """Cancelling one of two checkers leaves the other at work."""

    async def main():
        server = quiet(cy.StatelessServer)(one_shot)
        server.application_checker_interval = 3600
        for order in ("first", "second"):
            checkers = [asyncio.create_task(server.application_checker()) for _ in range(2)]
            await passes(5)
            gone = checkers.pop(0 if order == "first" else 1)
            gone.cancel()
            await asyncio.wait([gone])
            assert gone.cancelled()
            server.get_or_create_application_instance(order, {}).put_nowait(1)
            await eventually(lambda: len(server.application_instances) == 0)
            checkers[0].cancel()
            await asyncio.wait(checkers)

    run(main())


def test_checker_without_arun(impl, run):
    """Subclasses that have a main loop of their own run the checker as a task, cancel it and run it again."""

    async def main():
        server = fast(impl.StatelessServer)(one_shot)
        for number in range(3):
            async with checking(server):
                server.get_or_create_application_instance(number, {}).put_nowait(1)
                await in_time(lambda: len(server.application_instances) == 0)

    run(main())


def test_override_that_returns_early(cy, run):
    """A checker that returns at once ends nothing: handle() goes on, and so does everything else."""

    class Server(fast(cy.StatelessServer)):
        async def application_checker(self):
            pass

        async def handle(self):
            details = self.get_or_create_application_instance("a", {})
            details.put_nowait(1)
            await asyncio.sleep(0.02)
            done.append(details["future"].done())
            assert self.get_or_create_application_instance("a", {}) is not details

    done = []

    async def main():
        server = Server(one_shot)
        await server.arun()
        assert len(server.application_instances) == 0

    run(main())
    assert done == [True]


def test_override_that_wraps(impl, run):
    """A checker that does its own bit and then awaits the one above works as before."""
    order = []

    class Server(fast(impl.StatelessServer)):
        async def application_checker(self):
            order.append("mine")
            await super().application_checker()

        async def handle(self):
            self.get_or_create_application_instance("a", {}).put_nowait(1)
            await in_time(lambda: "a" not in self.application_instances)

    async def main():
        await Server(one_shot).arun()

    run(main())
    assert order == ["mine"]


def test_override_in_the_manner_of_the_reference(impl, run):
    """A checker written after the reference's, over the table with its four keys, does its work."""
    reports = []

    class Server(quiet(impl.StatelessServer)):
        async def application_checker(self):
            while True:
                await asyncio.sleep(0.001)
                for scope_id, details in list(self.application_instances.items()):
                    if details["future"].done():
                        exception = details["future"].exception()
                        if exception:
                            reports.append(exception.args)
                        del self.application_instances[scope_id]

        async def handle(self):
            for name in "abc":
                self.get_or_create_application_instance(name, {}).put_nowait(name)
            await in_time(lambda: len(self.application_instances) == 0)

    async def main():
        await Server(fails).arun()

    run(main())
    assert sorted(reports) == [("a",), ("b",), ("c",)]


def test_override_with_a_second_checker_in_handle(cy, run):
    """A handle() that is nothing but a checker, beside the one that arun() runs, reports each failure once."""

    class Server(fast(cy.StatelessServer)):
        async def handle(self):
            await self.application_checker()

    async def main():
        server = Server(fails)
        task = asyncio.create_task(server.arun())
        await passes(5)
        for number in range(10):
            server.get_or_create_application_instance(number, {}).put_nowait(number)
        await in_time(lambda: len(server.failures) == 10 and len(server.application_instances) == 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(server.failures) == 10

    run(main())


def test_nothing_but_tidiness_depends_on_it(cy, run):
    """With no checker at all: the limit holds, finished ones go first, failures are reported, ids start afresh."""

    async def main():
        server = quiet(cy.StatelessServer)(fails, 3)
        idle = [server.get_or_create_application_instance(name, {}) for name in "ab"]
        failed = server.get_or_create_application_instance("c", {})
        failed.put_nowait("c")
        await eventually(lambda: failed["future"].done())
        assert "c" in server.application_instances
        server.get_or_create_application_instance("d", {}).put_nowait("d")
        assert list(server.application_instances) == ["a", "b", "d"]
        await eventually(lambda: len(server.failures) == 1)
        await eventually(lambda: server.application_instances["d"]["future"].done())
        fresh = server.get_or_create_application_instance("d", {})
        await eventually(lambda: len(server.failures) == 2)
        assert not fresh["future"].done()
        assert not any(details["future"].done() for details in idle)
        assert [failure.args for failure in server.failures] == [("c",), ("d",)]

    run(main())

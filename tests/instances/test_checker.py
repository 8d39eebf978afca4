"""The checker never returns, reaps what has finished, and is stopped by nothing."""

from __future__ import annotations

import asyncio

import pytest

from support.loops import passes
from support.serving import Stubborn, checking, eventually, fast, in_time, one_shot, quiet, reader

SILLY = [None, Ellipsis, "x", 0, -1, -0.5, float("nan"), float("-inf"), b"1", (), 1j, 1e-300]


# ------------------------------------------------------------------------------------------ what wakes it


@pytest.mark.slow
def test_checker_never_returns(impl, run):
    """application_checker() goes on for ever, with nothing to do and after having done something."""

    async def main():
        server = fast(impl.StatelessServer)(one_shot)
        async with checking(server):
            await asyncio.sleep(0.01)
            server.get_or_create_application_instance("a", {}).put_nowait(1)
            await in_time(lambda: "a" not in server.application_instances)
            await asyncio.sleep(0.01)

    run(main())


def test_finished_are_reaped(impl, run):
    """A record whose run has ended is taken out of the table, others stay."""

    async def main():
        server = fast(impl.StatelessServer)(one_shot)
        async with checking(server):
            for name in "abc":
                server.get_or_create_application_instance(name, {})
            server.get_or_create_application_instance("b", {}).put_nowait(1)
            await in_time(lambda: list(server.application_instances) == ["a", "c"])

    run(main())


def test_finished_run_wakes_the_checker(cy, run):
    """With an interval of an hour a finished instance is still reaped at once: its end wakes the checker."""

    async def main():
        server = quiet(cy.StatelessServer)(one_shot)
        server.application_checker_interval = 3600
        async with checking(server):
            for number in range(5):
                server.get_or_create_application_instance(number, {}).put_nowait(1)
                await eventually(lambda: len(server.application_instances) == 0)

    run(main())


def test_what_finished_before_the_checker_began_is_reaped_too(cy, run):
    """A checker that starts late finds what has finished already, without waiting for its first interval."""

    async def main():
        server = quiet(cy.StatelessServer)(one_shot)
        server.application_checker_interval = 3600
        details = server.get_or_create_application_instance("a", {})
        details.put_nowait(1)
        await eventually(lambda: details["future"].done())
        assert "a" in server.application_instances
        async with checking(server):
            await eventually(lambda: "a" not in server.application_instances)

    run(main())


def test_interval_is_read_each_time(impl, run):
    """The interval is looked up anew for every wait, so that it may be changed, or computed, at run time."""
    reads = []

    class Server(quiet(impl.StatelessServer)):
        idle_timeout = 30.0

        @property
        def application_checker_interval(self):
            reads.append(None)
            return 0.001

    async def main():
        server = Server(reader)
        server.get_or_create_application_instance("a", {})
        async with checking(server):
            await in_time(lambda: len(reads) > 3)

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("interval", SILLY, ids=repr)
def test_silly_intervals_are_clamped(cy, run, interval):
    """An interval that is no number, not a number, zero or negative stops no checker: it expires as it should."""

    async def main():
        server = quiet(cy.StatelessServer)(reader)
        server.application_checker_interval = interval
        server.idle_timeout = 0.005
        server.get_or_create_application_instance("a", {})
        async with checking(server):
            await in_time(lambda: "a" not in server.application_instances)

    run(main())


@pytest.mark.parametrize("interval", [float("inf"), 1e300, 10**400], ids=["inf", "1e300", "10**400"])
def test_endless_intervals_are_clamped(cy, run, interval):
    """An interval without an end does not keep the checker from reaping."""

    async def main():
        server = quiet(cy.StatelessServer)(one_shot)
        server.application_checker_interval = interval
        async with checking(server):
            await passes(5)
            server.get_or_create_application_instance("a", {}).put_nowait(1)
            await eventually(lambda: "a" not in server.application_instances)

    run(main())


def test_silly_interval_in_a_class_body(cy, run):
    """A silly interval is not refused in a class body either; it reads back as it was written."""

    class Server(quiet(cy.StatelessServer)):
        application_checker_interval = "often"

    async def main():
        server = Server(one_shot)
        assert server.application_checker_interval == "often"
        async with checking(server):
            server.get_or_create_application_instance("a", {}).put_nowait(1)
            await eventually(lambda: "a" not in server.application_instances)

    run(main())


@pytest.mark.slow
def test_interval_of_zero_does_not_spin(cy, run):
    """An interval of zero is clamped to a millisecond: the checker does not take the processor for itself."""
    reads = []

    class Server(quiet(cy.StatelessServer)):
        idle_timeout = 30.0

        @property
        def application_checker_interval(self):
            reads.append(None)
            return 0

    async def main():
        server = Server(reader)
        server.get_or_create_application_instance("a", {})
        loop = asyncio.get_running_loop()
        async with checking(server):
            begun = loop.time()
            await asyncio.sleep(0.05)
            # A few reads for each wait of a millisecond; one for each pass of the loop would be thousands.
            assert len(reads) <= 4 * (loop.time() - begun) / 0.001 + 10

    run(main())


# ------------------------------------------------------------------------------------------ what must not stop it


async def raises_cancelled(scope, receive, send):
    await receive()
    raise asyncio.CancelledError("by itself")


async def cancels_its_task(scope, receive, send):
    await receive()
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


async def awaits_what_is_cancelled(scope, receive, send):
    await receive()
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.cancel)
    await future


@pytest.mark.parametrize("application", [raises_cancelled, cancels_its_task, awaits_what_is_cancelled])
def test_cancelled_application_is_finished_not_failed(cy, run, application):
    """An application that ends cancelled, by whatever way, is reaped and counted, not reported; nothing stops."""

    async def main():
        server = fast(cy.StatelessServer)(application)
        async with checking(server):
            for number in range(3):
                server.get_or_create_application_instance(number, {}).put_nowait(1)
            await in_time(lambda: len(server.application_instances) == 0)
            await passes(10)
        assert server.failures == []
        stats = server.stats()
        assert (stats["cancelled"], stats["failed"], stats["finished"]) == (3, 0, 0)

    run(main())


def test_future_that_somebody_cancelled(cy, run):
    """Cancelling `details["future"]` from outside makes a finished instance, and stops nothing."""

    async def main():
        server = fast(cy.StatelessServer)(reader)
        async with checking(server):
            details = server.get_or_create_application_instance("a", {})
            await passes(5)
            details["future"].cancel()
            await in_time(lambda: "a" not in server.application_instances)
        assert server.failures == []
        assert server.stats()["cancelled"] == 1

    run(main())


def test_reference_dies_of_a_cancelled_application(reference, run):
    """In the reference one application that ends cancelled takes the checker with it."""

    async def main():
        server = fast(reference)(raises_cancelled)
        checker = asyncio.create_task(server.application_checker())
        server.get_or_create_application_instance("a", {}).put_nowait(1)
        await asyncio.wait([checker], timeout=10)
        assert checker.cancelled()

    run(main())


@pytest.mark.parametrize("entry", [{}, {"future": None}, {"scope": {}, "last_used": 0.0}, {"future": "no future"}])
def test_plain_dicts_in_the_table_harm_nobody(cy, run, entry):
    """Entries that lack what the reference's entries have do not stop the checker."""

    async def main():
        server = fast(cy.StatelessServer)(one_shot)
        server.idle_timeout = 0.02
        server.application_instances["odd"] = dict(entry)
        async with checking(server):
            server.get_or_create_application_instance("a", {}).put_nowait(1)
            await in_time(lambda: "a" not in server.application_instances)
            server.get_or_create_application_instance("b", {})
            await in_time(lambda: "b" not in server.application_instances)

    run(main())


def test_plain_dict_with_a_finished_future_is_reaped(impl, run):
    """A plain dict whose future is done is reaped like any other entry."""

    async def main():
        server = fast(impl.StatelessServer)(reader)
        future = asyncio.get_running_loop().create_future()
        server.application_instances["mine"] = {
            "input_queue": asyncio.Queue(),
            "future": future,
            "scope": {},
            "last_used": 1.0,
        }
        async with checking(server):
            await asyncio.sleep(0.01)
            assert "mine" in server.application_instances
            future.set_result(None)
            await in_time(lambda: "mine" not in server.application_instances)

    run(main())


def test_resisting_application_does_not_stop_the_checker(cy, run):
    """An application that will not end keeps the checker from nothing else."""
    application = Stubborn()

    async def dispatcher(scope, receive, send):
        if scope == "stubborn":
            started.set_result(None)
            await application(scope, receive, send)
        else:
            await receive()

    async def main():
        nonlocal started
        with application:
            started = asyncio.get_running_loop().create_future()
            server = fast(cy.StatelessServer)(dispatcher)
            server.shutdown_timeout = 0.01
            server.get_or_create_application_instance("stubborn", "stubborn")
            await started
            async with checking(server):
                server.delete_application_instance("stubborn")
                server.idle_timeout = 0.005
                server.get_or_create_application_instance("a", {})
                await in_time(lambda: "a" not in server.application_instances)
                application.release.set()
                await in_time(lambda: server.stats()["closing"] == 0)

    started = None
    run(main())


def test_an_end_that_raises_stops_nothing(cy, run, caplog):
    """A plain dict whose future cannot be asked for its exception is logged, and the checker goes on."""

    class Odd(asyncio.Future):  # type: ignore[type-arg]
        def exception(self):
            raise ZeroDivisionError("on purpose")

    async def main():
        server = fast(cy.StatelessServer)(one_shot)
        future = Odd()
        async with checking(server):
            details = {"future": future, "input_queue": asyncio.Queue(), "scope": {}, "last_used": 1.0}
            server.application_instances["odd"] = details
            future.set_result(None)
            await in_time(lambda: "odd" not in server.application_instances)
            server.get_or_create_application_instance("a", {}).put_nowait(1)
            await in_time(lambda: "a" not in server.application_instances)
        assert [record.exc_info[1].args for record in caplog.records] == [("on purpose",)]

    run(main())

"""How a caller's run ends: exceptions, deletions and cancellations, each to whom it belongs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.loops import passes

SCOPE = {"type": "test"}


def make(server: Any, scope_id: Any = "id", scope: Any = SCOPE) -> Any:
    return server.get_or_create_application_instance(scope_id, scope)


async def until(condition: Any) -> None:
    """Waits for what only time brings, for a bounded time."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came true")


def recorder(seen: list) -> Any:
    """An application that notes its scope and one message, and returns both."""

    async def application(scope, receive, send):
        seen.append(scope["type"])
        seen.append(message := await receive())
        return scope["type"], message

    return application


async def forever(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.get_running_loop().create_future()


async def receive_mine() -> str:
    return "mine"


@pytest.mark.slow
def test_exceptions_go_to_the_caller_alone(cy, run):
    """What the application raises in a caller's run the caller gets, itself; no hook hears of it."""

    async def main():
        reported = []
        error = ValueError("on purpose")

        class Server(cy.StatelessServer):
            application_checker_interval = 0.001

            def application_exception(self, exception, details):
                reported.append(exception)

        async def application(scope, receive, send):
            raise error

        server = Server(application)
        checker = asyncio.create_task(server.application_checker())
        for _ in range(2):
            instance = await make(server)
            with pytest.raises(ValueError) as caught:
                await instance["application"](SCOPE, None, None)
            assert caught.value is error
            await until(lambda: not server.application_instances)
        instance = await make(server)
        with pytest.raises(ValueError):
            await instance["application"](SCOPE, None, None)
        await make(server)
        await server.delete_application_instance("id")
        await passes(5)
        checker.cancel()
        assert reported == []

    run(main())


@pytest.mark.parametrize("way", ["deleted", "evicted", "expired", "by itself"])
def test_deleted_meanwhile(cy, run, way):
    """Deleted, evicted or expired, the run is cancelled, and the caller's await raises InstanceDeleted and no more."""

    async def main():
        assert issubclass(cy.InstanceDeleted, Exception)
        seen = []

        class Server(cy.StatelessServer):
            application_checker_interval = 0.001
            idle_timeout = 0.01 if way == "expired" else None

        async def application(scope, receive, send):
            try:
                if way == "by itself":
                    server.delete_application_instance("id")
                # Nobody feeds it: the instance is idle, and expires where there is an idle timeout.
                await receive()
            except BaseException as error:
                seen.append(type(error))
                raise

        async def caller():
            instance = await make(server)
            try:
                await instance["application"](SCOPE, instance.get, None)
            except BaseException as error:
                seen.append(type(error))
            seen.append(asyncio.current_task().cancelling())
            await passes(3)
            return "went on"

        server = Server(application, max_applications=1)
        task = asyncio.create_task(caller())
        await passes(5)
        match way:
            case "deleted":
                server.delete_application_instance("id")
            case "evicted":
                make(server, "other")
            case "expired":
                checker = asyncio.create_task(server.application_checker())
                await until(lambda: seen)
                checker.cancel()
        assert await asyncio.wait_for(task, 5) == "went on"
        assert seen == [asyncio.CancelledError, cy.InstanceDeleted, 0]

    run(main())


def test_instance_deleted_names_the_instance(cy, run):
    """The message of InstanceDeleted says which instance it was."""

    async def main():
        server = cy.StatelessServer(forever)
        instance = await make(server, ("user", 7))
        task = asyncio.create_task(instance["application"](SCOPE, None, None))
        await passes(3)
        server.delete_application_instance(("user", 7))
        await asyncio.wait([task], timeout=5)
        assert repr(("user", 7)) in str(task.exception())

    run(main())


def test_a_cancellation_from_elsewhere_stays_one(cy, run):
    """The caller's task being cancelled, or the application cancelling itself, is a CancelledError for the caller."""

    async def main():
        async def cancels_itself(scope, receive, send):
            raise asyncio.CancelledError

        server = cy.StatelessServer(forever)
        instance = await make(server)
        task = asyncio.create_task(instance["application"](SCOPE, None, None))
        await passes(3)
        task.cancel()
        await passes(3)
        assert task.cancelled()
        assert make(server) is not instance

        server.application = cancels_itself
        instance = await make(server, "other")
        with pytest.raises(asyncio.CancelledError):
            await instance["application"](SCOPE, None, None)
        assert asyncio.current_task().cancelling() == 0

    run(main())


@pytest.mark.parametrize("first", ["deleted", "cancelled"])
def test_deleted_and_cancelled_at_once(cy, run, first):
    """Cancelled from elsewhere in the pass in which it is deleted, the caller ends cancelled, in either order."""

    async def main():
        server = cy.StatelessServer(forever)
        instance = await make(server)
        task = asyncio.create_task(instance["application"](SCOPE, None, None))
        await passes(3)
        if first == "cancelled":
            task.cancel()
        server.delete_application_instance("id")
        if first == "deleted":
            task.cancel()
        await passes(4)
        assert task.cancelled()

    run(main())


def test_timeouts_around_a_call(cy, run):
    """asyncio.timeout and wait_for around a call work as around any coroutine; a delete inside one is no timeout."""

    async def main():
        server = cy.StatelessServer(forever)
        instance = await make(server)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await instance["application"](SCOPE, None, None)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(instance["application"](SCOPE, None, None), 0.001)
        asyncio.get_running_loop().call_soon(server.delete_application_instance, "id")
        with pytest.raises(cy.InstanceDeleted):
            async with asyncio.timeout(5):
                await instance["application"](SCOPE, None, None)
        assert asyncio.current_task().cancelling() == 0

    run(main())


def test_a_deletion_never_reaches_the_caller_after_the_call(cy, run):
    """An instance that is deleted when its call has just ended leaves the caller's task alone."""

    async def main():
        server = cy.StatelessServer(recorder([]))

        async def caller():
            instance = await make(server)
            await instance["application"](SCOPE, receive_mine, None)
            server.delete_application_instance("id")
            await passes(3)
            make(server)
            server.delete_application_instance("id")
            await passes(3)
            return asyncio.current_task().cancelling()

        assert await asyncio.create_task(caller()) == 0

    run(main())


def test_an_application_that_takes_its_time_to_clean_up(cy, run):
    """InstanceDeleted comes when the application's clean-up has ended, and one that swallows it leaves no trace."""

    async def main():
        log = []

        async def cleans_up(scope, receive, send):
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await passes(3)
                log.append("cleaned up")

        async def swallows(scope, receive, send):
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                return "swallowed"

        async def caller(scope_id):
            instance = await make(server, scope_id)
            try:
                log.append(await instance["application"](SCOPE, None, None))
            except cy.InstanceDeleted:
                log.append("deleted")
            await passes(2)
            return asyncio.current_task().cancelling()

        server = cy.StatelessServer(cleans_up)
        task = asyncio.create_task(caller("a"))
        await passes(3)
        server.delete_application_instance("a")
        assert await asyncio.wait_for(task, 5) == 0
        assert log == ["cleaned up", "deleted"]
        server.application = swallows
        task = asyncio.create_task(caller("b"))
        await passes(3)
        server.delete_application_instance("b")
        assert await asyncio.wait_for(task, 5) == 0
        assert log[2] in ("deleted", "swallowed")

    run(main())

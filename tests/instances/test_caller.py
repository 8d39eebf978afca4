"""Who runs the application: the caller, by the documented way of awaiting and calling ``instance["application"]``."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
from typing import Any

import pytest

from support.instances import SCOPE, make, recorder
from support.loops import passes
from support.serving import in_time


async def forever(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.get_running_loop().create_future()


async def receive_mine() -> str:
    return "mine"


# Called


def test_the_caller_runs_it(cy, run):
    """instance["application"](scope, receive, send) runs the application with these three and gives its result."""

    async def main():
        got = []

        async def application(scope, receive, send):
            got.append((scope, receive, send, asyncio.current_task(), cy.current_instance()))
            return "result"

        class Server(cy.StatelessServer):
            async def application_send(self, scope, message):
                raise AssertionError("the caller has its own send")

        server = Server(application)
        instance = await make(server)
        scope, receive, send = {"type": "caller"}, object(), object()
        assert await instance["application"](scope, receive, send) == "result"
        assert got == [(scope, receive, send, asyncio.current_task(), instance)]
        assert all(left is right for left, right in zip(got[0], (scope, receive, send), strict=False))

    run(main())


def test_the_call_gives_a_true_coroutine(cy, run):
    """What the call gives is a coroutine by every test, to be awaited or handed to create_task, gather and wait_for."""

    async def main():
        seen = []
        server = cy.StatelessServer(recorder(seen))
        instances = await asyncio.gather(*(make(server, number) for number in range(5)))
        coroutines = [instance["application"]({"type": "caller"}, receive_mine, None) for instance in instances]
        for coroutine in coroutines:
            assert inspect.iscoroutine(coroutine) and asyncio.iscoroutine(coroutine)
            assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
        result = ("caller", "mine")
        assert await coroutines[0] == result
        assert await asyncio.create_task(coroutines[1]) == result
        assert await asyncio.gather(coroutines[2]) == [result]
        assert await asyncio.wait_for(coroutines[3], 5) == result
        async with asyncio.TaskGroup() as group:
            task = group.create_task(coroutines[4])
        assert task.result() == result
        assert seen == ["caller", "mine"] * 5

    run(main())


@pytest.mark.parametrize("way", ["await", "create_task", "fed", "fed and awaited"])
def test_called_before_the_servers_run_has_begun_it_takes_over(cy, run, way):
    """A call that comes before the application's first step makes the run the caller's: the server runs nothing."""

    async def main():
        seen = []
        instance = make(cy.StatelessServer(recorder(seen)))
        if "fed" in way:
            instance.put_nowait("message")
        if "await" in way:
            await instance
        call = instance["application"]({"type": "caller"}, receive_mine, None)
        if way == "create_task":
            call = asyncio.create_task(call)
            await passes(5)
        assert await call == ("caller", "mine")
        await passes(5)
        assert seen == ["caller", "mine"]

    run(main())


def test_called_after_the_servers_run_has_begun(cy, run):
    """After the server has begun the run, while it lasts and after its end, a call raises RuntimeError that says so."""

    async def main():
        seen = []
        instance = make(cy.StatelessServer(recorder(seen)))
        await passes(4)
        assert seen == ["test"]
        with pytest.raises(RuntimeError, match="run"):
            await instance["application"]({"type": "caller"}, receive_mine, None)
        instance.put_nowait("message")
        await passes(4)
        assert seen == ["test", "message"] and instance["future"].done()
        with pytest.raises(RuntimeError, match="run"):
            await instance["application"]({"type": "caller"}, receive_mine, None)
        assert seen == ["test", "message"]

    run(main())


def test_fed_while_the_caller_runs_it(cy, run):
    """What is put while a caller runs the application waits in the queue, which the caller may hand on as receive."""

    async def main():
        seen = []

        async def application(scope, receive, send):
            seen.append(scope["type"])
            seen.extend([await receive() for _ in range(3)])

        server = cy.StatelessServer(application)
        instance = await make(server)
        task = asyncio.create_task(instance["application"]({"type": "caller"}, instance.get, None))
        instance.put_nowait(1)
        await passes(4)
        make(server).put_nowait(2)
        await instance.put(3)
        await task
        assert seen == ["caller", 1, 2, 3]

    run(main())


def test_a_call_that_has_ended_finishes_the_record(cy, run):
    """When the call has ended the record is finished: never handed out again, and reaped by the checker."""

    async def main():
        seen = []

        class Server(cy.StatelessServer):
            application_checker_interval = 0.001

        server = Server(recorder(seen))
        instance = await make(server)
        await instance["application"](SCOPE, receive_mine, None)
        await passes(5)
        assert server.application_instances["id"] is instance
        fresh = await make(server)
        assert fresh is not instance
        await fresh["application"](SCOPE, receive_mine, None)
        checker = asyncio.create_task(server.application_checker())
        await in_time(lambda: not server.application_instances)
        checker.cancel()

    run(main())


def test_a_kept_instance_may_be_called_again(cy, run):
    """One instance serves call after call, each with its own scope, as a keep-alive connection does."""

    async def main():
        seen = []
        server = cy.StatelessServer(recorder(seen))
        instance = await make(server)
        for number in range(5):
            assert await instance["application"]({"type": number}, receive_mine, None) == (number, "mine")
            assert server.application_instances["id"] is instance
            await passes(number)
        assert seen == [part for number in range(5) for part in (number, "mine")]

    run(main())


@pytest.mark.parametrize("removed", ["reaped", "deleted", "removed"])
def test_calling_again_puts_the_record_back(cy, run, removed):
    """Called again after its record has gone, the instance is in the table again for as long as the call lasts."""

    async def main():
        gate = asyncio.Event()

        class Server(cy.StatelessServer):
            application_checker_interval = 0.001

        async def application(scope, receive, send):
            await gate.wait()

        server = Server(application, max_applications=2)
        instance = await make(server)
        gate.set()
        await instance["application"](SCOPE, None, None)
        match removed:
            case "reaped":
                checker = asyncio.create_task(server.application_checker())
                await in_time(lambda: not server.application_instances)
                checker.cancel()
            case "deleted":
                await server.delete_application_instance("id")
            case "removed":
                del server.application_instances["id"]
        assert not server.application_instances
        await make(server, "a")
        await make(server, "b")
        gate.clear()
        task = asyncio.create_task(instance["application"](SCOPE, None, None))
        await passes(3)
        assert server.application_instances["id"] is instance
        assert list(server.application_instances) == ["b", "id"]
        assert make(server) is instance
        server.delete_application_instance("id")
        await asyncio.wait([task], timeout=5)
        assert isinstance(task.exception(), cy.InstanceDeleted)

    run(main())


def test_calling_again_when_the_id_is_a_newer_instances(cy, run):
    """Called again after its id has gone to a newer instance, it raises RuntimeError and touches nothing."""

    async def main():
        seen = []
        server = cy.StatelessServer(recorder(seen))
        instance = await make(server)
        await instance["application"](SCOPE, receive_mine, None)
        newer = await make(server)
        assert newer is not instance
        with pytest.raises(RuntimeError):
            await instance["application"](SCOPE, receive_mine, None)
        assert server.application_instances["id"] is newer
        assert seen == ["test", "mine"]
        assert await newer["application"](SCOPE, receive_mine, None) == ("test", "mine")

    run(main())


def test_two_callers_do_not_run_it_at_once(cy, run):
    """While one caller runs the application another call is refused."""

    async def main():
        server = cy.StatelessServer(forever)
        instance = await make(server)
        task = asyncio.create_task(instance["application"](SCOPE, None, None))
        await passes(3)
        with pytest.raises(RuntimeError):
            await instance["application"](SCOPE, None, None)
        assert not task.done()
        task.cancel()
        await passes(3)
        assert task.cancelled()

    run(main())


def test_a_caller_waits_for_the_clean_up_of_the_old_run(cy, run):
    """A caller's run of a fresh instance, too, begins after the old one under its id has cleaned up."""

    async def main():
        log, gate = [], asyncio.Event()

        async def application(scope, receive, send):
            log.append(f"{scope['n']} begins")
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await gate.wait()
                log.append(f"{scope['n']} ends")

        server = cy.StatelessServer(application)
        make(server, "id", {"n": 1}).put_nowait("message")
        await passes(3)
        server.delete_application_instance("id")
        fresh = await make(server, "id", {"n": 2})
        task = asyncio.create_task(fresh["application"]({"n": 2}, None, None))
        await passes(10)
        assert log == ["1 begins"]
        gate.set()
        await in_time(lambda: len(log) == 3)
        assert log == ["1 begins", "1 ends", "2 begins"]
        task.cancel()
        await asyncio.wait([task], timeout=5)

    run(main())


@pytest.mark.slow
def test_server_and_caller_never_both_run_it(cy, run):
    """Whatever the order of awaits, puts, calls and passes, one side alone runs the application, once at a time."""

    async def play(seed):
        pick = random.Random(seed)
        active, begun = [], []

        async def application(scope, receive, send):
            assert not active
            active.append(scope["type"])
            begun.append(scope["type"])
            try:
                for _ in range(3):
                    await receive()
            finally:
                active.clear()

        server = cy.StatelessServer(application)
        instance = make(server, "id", {"type": "server"})
        calls = []
        for _ in range(12):
            match pick.randrange(5):
                case 0:
                    assert await instance is instance
                case 1 if not instance["future"].done() or "caller" in begun:
                    instance.put_nowait("message")
                case 2:
                    with contextlib.suppress(RuntimeError):
                        call = instance["application"]({"type": "caller"}, receive_mine, None)
                        calls.append(asyncio.create_task(call))
                case 3:
                    calls.append(asyncio.create_task(instance))
                case _:
                    await passes(pick.randrange(1, 4))
        await passes(6)
        errors = [call.exception() for call in calls]
        assert all(error is None or isinstance(error, RuntimeError) for error in errors)
        assert len(set(begun)) <= 1 and begun.count("server") <= 1
        await server.delete_application_instance("id")

    async def main():
        for seed in range(100):
            await play(seed)

    run(main())


# As the document shows it


def test_the_documented_request(cy, run):
    """The HTTP server of the documented API: await, call, report, delete in finally, over and over under one id."""

    async def main():
        answers, reported = [], []

        class Server(cy.StatelessServer):
            async def application_send(self, scope, message):
                answers.append((scope["path"], message))

            async def application_exception(self, exception, details):
                reported.append((str(exception), details["scope"]["path"]))

            async def request(self, scope_id, path):
                scope = {"type": "http", "path": path}
                instance = await self.get_or_create_application_instance(scope_id, scope)

                async def receive():
                    return {"type": "http.request", "body": b""}

                async def send(message):
                    await self.application_send(scope, message)

                try:
                    await instance["application"](scope, receive, send)
                except Exception as error:
                    await self.application_exception(error, instance)
                finally:
                    await self.delete_application_instance(scope_id)

        async def application(scope, receive, send):
            await receive()
            if scope["path"] == "/fails":
                raise ValueError("on purpose")
            await send("hello")

        server = Server(application)
        for path in ("/a", "/fails", "/b"):
            await server.request("peer", path)
            assert not server.application_instances
        await asyncio.gather(*(server.request(f"peer {number}", f"/{number}") for number in range(5)))
        assert answers == [(path, "hello") for path in ("/a", "/b", "/0", "/1", "/2", "/3", "/4")]
        assert reported == [("on purpose", "/fails")]
        assert not server.application_instances

    run(main())


def test_documented_overrides(cy, run):
    """async def overrides that await super() are held, called and deleted through, as the documented API has it."""

    async def main():
        log, seen = [], []

        class Server(cy.StatelessServer):
            async def get_or_create_application_instance(self, scope_id, scope):
                instance = await super().get_or_create_application_instance(scope_id, scope)
                log.append(("created", scope_id))
                return instance

            async def delete_application_instance(self, scope_id):
                await super().delete_application_instance(scope_id)
                log.append(("deleted", scope_id))

        server = Server(recorder(seen))
        instance = await server.get_or_create_application_instance("id", SCOPE)
        await passes(5)
        assert seen == []
        task = asyncio.create_task(instance["application"]({"type": "websocket"}, receive_mine, None))
        assert await task == ("websocket", "mine")
        await server.delete_application_instance("id")
        assert log == [("created", "id"), ("deleted", "id")] and not server.application_instances

    run(main())

"""What is no intake, or is spared with work in hand: callers, connections, hooks, instances, tasks of others."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from support.loops import passes
from support.serving import Stubborn, for_ever, handling, in_time, reader, stop

# ------------------------------------------------------------------------------------------ callers and connections


@pytest.mark.parametrize("where", ["handle", "task", "called in a task"])
def test_caller_finishes_its_call_and_begins_no_other(cy, run, where):
    """Who runs an application as its caller is spared until the call has ended, and then takes no further request."""
    answered, begun = [], []

    async def application(scope, receive, send):
        begun.append(scope)
        await asyncio.sleep(0.02)
        await send(scope)

    async def send(message):
        answered.append(message)

    async def work(server):
        for number in range(100_000):
            instance = await server.get_or_create_application_instance(number, number)
            call = instance["application"](number, None, send)
            await (asyncio.create_task(call) if where == "called in a task" else call)
            await asyncio.sleep(0.2)

    async def handle(server):
        if where == "handle":
            await work(server)
        await asyncio.wait([asyncio.create_task(work(server))])

    async def main():
        before = asyncio.all_tasks()
        server = handling(cy.StatelessServer, handle, shutdown_timeout=20.0)(application)
        running = asyncio.create_task(server.arun())
        await in_time(lambda: begun)
        stop(server)
        await asyncio.wait_for(running, 30)
        assert begun == answered == [0]
        assert asyncio.all_tasks() == before

    run(main())


def test_feeder_that_awaits_its_instance_is_intake(cy, run):
    """`await get_or_create(...)` makes no caller of a task that then feeds the instance."""
    taken, processed = [], []

    async def application(scope, receive, send):
        while True:
            processed.append(await receive())

    async def work(server):
        for number in range(100_000):
            instance = await server.get_or_create_application_instance("a", {})
            instance["input_queue"].put_nowait(number)
            taken.append(number)
            await asyncio.sleep(0)

    async def handle(server):
        await asyncio.wait([asyncio.create_task(work(server))])

    async def main():
        server = handling(cy.StatelessServer, handle, shutdown_timeout=20.0)(application)
        running = asyncio.create_task(server.arun())
        await in_time(lambda: len(taken) > 10)
        stop(server)
        await passes(2)
        count = len(taken)
        await asyncio.wait_for(running, 30)
        assert processed == taken
        assert len(taken) == count

    run(main())


@pytest.mark.slow
def test_caller_whose_instance_is_deleted_may_clean_up(cy, run):
    """A caller whose call is cut gets InstanceDeleted, and may see to its client before it is cancelled itself."""
    order = []

    async def caller(server):
        instance = await server.get_or_create_application_instance("a", {})
        try:
            await instance["application"]({}, None, None)
        except cy.InstanceDeleted:
            await asyncio.sleep(0.02)
            order.append("told the client")
        await for_ever(server)

    async def application(scope, receive, send):
        await asyncio.get_running_loop().create_future()

    async def handle(server):
        await asyncio.wait([asyncio.create_task(caller(server))])

    async def main():
        before = asyncio.all_tasks()
        server = handling(cy.StatelessServer, handle, shutdown_timeout=0.1)(application)
        running = asyncio.create_task(server.arun())
        await passes(10)
        stop(server)
        await asyncio.wait_for(running, 20)
        assert asyncio.all_tasks() == before

    run(main())
    assert order == ["told the client"]


@pytest.mark.parametrize("later", [False, True], ids=["at once", "start_serving later"])
@pytest.mark.parametrize("returns", [False, True], ids=["serves for ever", "returns"])
def test_connections_carry_answers(cy, run, later, returns):
    """Connections of a listener stay for the answers to what was accepted, and end before arun() does."""
    gate = None
    accepted, cancelled = [], []

    async def application(scope, receive, send):
        while True:
            message = await receive()
            await gate.wait()
            await send(message)

    async def application_send(server, scope, message):
        server.writer.write(message)
        await server.writer.drain()

    async def connected(server, stream, writer):
        server.writer = writer
        try:
            while line := await stream.readline():
                server.get_or_create_application_instance("a", {}).put_nowait(line)
                accepted.append(line)
        except asyncio.CancelledError:
            # Raised again, it would come to grief in asyncio's own callback, up to 3.11.7.
            cancelled.append(True)
        finally:
            writer.close()

    async def handle(server):
        server.listener = await asyncio.start_server(
            lambda *streams: connected(server, *streams), "127.0.0.1", 0, start_serving=not later
        )
        if later:
            await server.listener.start_serving()
        if not returns:
            await for_ever(server)

    async def main():
        nonlocal gate
        gate = asyncio.Event()
        server = handling(cy.StatelessServer, handle, shutdown_timeout=20.0, application_send=application_send)(
            application
        )
        before = asyncio.all_tasks()
        running = asyncio.create_task(server.arun())
        await in_time(lambda: hasattr(server, "listener") and server.listener.is_serving())
        stream, writer = await asyncio.open_connection(*server.listener.sockets[0].getsockname())
        writer.write(b"one\ntwo\n")
        await in_time(lambda: len(accepted) == 2)
        stop(server)
        await asyncio.sleep(0.02)
        assert not running.done()
        assert cancelled == []
        gate.set()
        assert await stream.readline() == b"one\n"
        assert await stream.readline() == b"two\n"
        await asyncio.wait_for(running, 20)
        assert cancelled == [True]
        assert await stream.read() == b""
        writer.close()
        await writer.wait_closed()
        await in_time(lambda: asyncio.all_tasks() == before)

    run(main())


# ------------------------------------------------------------------------------------------ what is no intake


def test_applications_and_their_tasks_are_none(cy, run):
    """Applications that handle() has created drain, and the tasks that they have started are their own affair."""
    order = []

    async def child():
        await asyncio.sleep(0.02)
        order.append("child")

    async def application(scope, receive, send):
        task = asyncio.create_task(child())
        await receive()
        await task
        order.append("application")

    async def handle(server):
        server.get_or_create_application_instance("a", {}).put_nowait(1)
        await for_ever(server)

    async def main():
        server = handling(cy.StatelessServer, handle, shutdown_timeout=20.0)(application)
        running = asyncio.create_task(server.arun())
        await passes(10)
        stop(server)
        await asyncio.wait_for(running, 20)

    run(main())
    assert order == ["child", "application"]


@pytest.mark.slow
def test_hooks_and_overrides_are_none(cy, run):
    """Asynchronous hooks and overrides that handle() has set off are not cut by the stop."""
    order = []

    async def application(scope, receive, send):
        await receive()
        raise LookupError

    async def hook(server, exception, details):
        await asyncio.sleep(0.05)
        order.append("hook")

    async def handle(server):
        server.get_or_create_application_instance("a", {}).put_nowait(1)
        await passes(5)
        server.get_or_create_application_instance("b", {})
        server.get_or_create_application_instance("c", {})
        await for_ever(server)

    async def main():
        class Server(handling(cy.StatelessServer, handle, shutdown_timeout=20.0, application_exception=hook)):
            async def delete_application_instance(self, scope_id):
                await asyncio.sleep(0.05)
                await super().delete_application_instance(scope_id)
                order.append(scope_id)

        server = Server(application, max_applications=1)
        running = asyncio.create_task(server.arun())
        await passes(20)
        stop(server)
        await asyncio.wait_for(running, 20)

    run(main())
    assert sorted(order) == ["a", "b", "c", "hook"]


@pytest.mark.slow
def test_plain_entries_are_none(cy, run):
    """The future of a plain dict that handle() has put into the table drains like an instance."""
    processed = []

    async def handle(server):
        async def work():
            while True:
                message = await queue.get()
                await asyncio.sleep(0.01)
                processed.append(message)

        queue = asyncio.Queue()
        task = asyncio.ensure_future(work())
        server.application_instances["a"] = {"input_queue": queue, "future": task, "scope": {}, "last_used": 0.0}
        for number in range(3):
            queue.put_nowait(number)
        await for_ever(server)

    async def main():
        server = handling(cy.StatelessServer, handle, shutdown_timeout=20.0)(reader)
        running = asyncio.create_task(server.arun())
        await passes(10)
        stop(server)
        await asyncio.wait_for(running, 20)

    run(main())
    assert processed == [0, 1, 2]


def test_other_servers_and_other_tasks_are_none(cy, run):
    """What another server of the same loop has started, or nobody's handle(), goes on."""

    def starting(tasks):
        async def handle(server):
            tasks.append(asyncio.create_task(for_ever(server)))
            await for_ever(server)

        return handle

    async def main():
        mine, others = [], []
        server = handling(cy.StatelessServer, starting(mine))(reader)
        other = handling(cy.StatelessServer, starting(others))(reader)
        bystander = asyncio.create_task(for_ever(None))
        running = [asyncio.create_task(one.arun()) for one in (server, other)]
        await passes(10)
        stop(server)
        await asyncio.wait_for(running[0], 20)
        assert mine[0].cancelled()
        assert not others[0].done()
        assert not bystander.done()
        stop(other)
        await asyncio.wait_for(running[1], 20)
        assert others[0].cancelled()
        assert not bystander.done()
        bystander.cancel()

    run(main())


# ------------------------------------------------------------------------------------------ when the run is over


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True], ids=["over", "runs again"])
@pytest.mark.parametrize("by", ["task", "task of an application"])
def test_asked_after_the_run(cy, run, by, again):
    """A task of a run that is over gets a RuntimeError for an instance; another run, and anybody else, gets one."""
    heard = []

    async def application(scope, receive, send):
        if by == "task of an application" and not tasks:
            tasks.append(asyncio.create_task(leftover()))
        while True:
            heard.append(await receive())

    async def leftover():
        while not asking.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asking.wait()
        server.get_or_create_application_instance("late", {}).put_nowait("late")

    async def handle(server):
        server.get_or_create_application_instance("a", {}).put_nowait("in time")
        if by == "task" and not tasks:
            tasks.append(asyncio.create_task(leftover()))
        await passes(5)
        if heard.count("in time") == 2 and again:
            asking.set()
            await asyncio.wait(tasks)

    async def main():
        nonlocal server, asking
        asking = asyncio.Event()
        server = handling(cy.StatelessServer, handle, shutdown_timeout=0.05)(application)
        await server.arun()
        assert heard == ["in time"]
        if not again:
            asking.set()
            await asyncio.wait(tasks)
            with pytest.raises(RuntimeError, match="'late' was asked for by a task that handle"):
                tasks[0].result()
            assert len(server.application_instances) == 0
        # Whoever is no task of that run may create, before the next run as ever.
        server.get_or_create_application_instance("b", {}).put_nowait("between")
        await server.arun()
        assert sorted(heard) == sorted(["in time", "between", "in time", *(["late"] if again else [])])

    server = asking = None
    tasks = []
    run(main())


@pytest.mark.slow
def test_nothing_runs_on_that_the_last_task_created(cy, run):
    """An instance that is created at the very end, by a task that resists, is gone when arun() has ended."""
    stubborn = Stubborn()

    async def handle(server):
        async def work():
            while not stubborn.release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
                    with contextlib.suppress(RuntimeError):
                        server.get_or_create_application_instance(len(called), {}).put_nowait(1)

        tasks.append(asyncio.create_task(work()))

    async def application(scope, receive, send):
        called.append(scope)
        await receive()
        await receive()

    called, tasks = [], []

    async def main():
        before = asyncio.all_tasks()
        with stubborn:
            server = handling(cy.StatelessServer, handle, shutdown_timeout=0.1)(application)
            await asyncio.wait_for(server.arun(), 20)
            count = len(called)
            assert asyncio.all_tasks() - before == set(tasks)
            await passes(20)
            assert len(called) == count > 0
            assert len(server.application_instances) == 0
        await asyncio.wait(tasks)

    run(main())

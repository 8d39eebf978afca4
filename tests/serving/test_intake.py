"""What handle() has started is intake: it ends before anything drains, and nothing of it outlives arun()."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from support.loops import passes
from support.serving import Stubborn, for_ever, handling, in_time, reader


def stop(server):
    """As the first signal does under run()."""
    server._cyasgi.server_run.request_stop()


class Source:
    """A layer with more messages than anybody takes before the stop."""

    def __init__(self, count=100_000):
        self.left = count
        self.taken = []

    async def receive(self):
        await asyncio.sleep(0)
        self.left -= 1
        self.taken.append(self.left)
        return self.left


async def by_create_task(work):
    await asyncio.wait([asyncio.create_task(work())])


async def by_ensure_future(work):
    await asyncio.wait([asyncio.ensure_future(work())])


async def by_loop(work):
    await asyncio.wait([asyncio.get_running_loop().create_task(work())])


async def by_gather(work):
    await asyncio.gather(work(), work())


async def by_shield(work):
    await asyncio.shield(work())


async def by_task_group(work):
    async with asyncio.TaskGroup() as group:
        group.create_task(work())


async def by_task_of_a_task(work):
    await asyncio.wait([asyncio.create_task(by_create_task(work))])


async def by_callback(work):
    kept = []
    asyncio.get_running_loop().call_soon(lambda: kept.append(asyncio.ensure_future(work())))
    await asyncio.sleep(1000)


async def by_timer(work):
    kept = []
    asyncio.get_running_loop().call_later(0.001, lambda: kept.append(asyncio.ensure_future(work())))
    await asyncio.sleep(1000)


async def and_forgotten(work):
    work.kept = asyncio.create_task(work())


STARTS = [
    by_create_task,
    by_ensure_future,
    by_loop,
    by_gather,
    by_shield,
    by_task_group,
    by_task_of_a_task,
    by_callback,
    by_timer,
    and_forgotten,
]


@pytest.mark.parametrize("start", STARTS)
def test_ends_first(cy, run, start):
    """After the stop no further message is taken; all that were taken are processed; nothing goes on."""
    source, processed = Source(), []

    async def application(scope, receive, send):
        while True:
            message = await receive()
            await passes(2)
            processed.append(message)

    async def handle(server):
        async def work():
            while True:
                message = await source.receive()
                server.get_or_create_application_instance(message % 3, {}).put_nowait(message)

        def begin():
            return work()

        await start(begin)
        await for_ever(server)

    async def main():
        before = asyncio.all_tasks()
        server = handling(cy.StatelessServer, handle, shutdown_timeout=20.0)(application)
        running = asyncio.create_task(server.arun())
        await in_time(lambda: len(source.taken) > 30)
        stop(server)
        # A group passes its cancellation on when it is its turn.
        await passes(6)
        taken = len(source.taken)
        await asyncio.wait_for(running, 30)
        assert len(source.taken) == taken
        assert sorted(processed) == sorted(source.taken)
        assert server.undelivered == []
        assert asyncio.all_tasks() == before

    run(main())


@pytest.mark.parametrize("end", ["returns", "raises", "cancelled", "spawned task fails"])
def test_however_it_ends(cy, run, end):
    """A task that handle() left behind ends with the server, whatever ended that."""

    async def fail():
        raise LookupError

    async def handle(server):
        tasks.append(asyncio.create_task(for_ever(server)))
        await passes(3)
        if end == "raises":
            raise LookupError
        if end == "spawned task fails":
            server.spawn(fail())
        if end != "returns":
            await for_ever(server)

    tasks = []

    async def main():
        server = handling(cy.StatelessServer, handle)(reader)
        running = asyncio.create_task(server.arun())
        await passes(10)
        if end == "cancelled":
            running.cancel()
        await asyncio.wait([running], timeout=20)
        assert running.done()
        assert tasks[0].cancelled()
        if end in ("raises", "spawned task fails"):
            assert isinstance(running.exception(), LookupError)

    run(main())


def test_reference_leaves_them(reference, run):
    """In the reference a task that handle() has started goes on after arun()."""

    async def handle(server):
        tasks.append(asyncio.create_task(for_ever(server)))

    tasks = []

    async def main():
        await handling(reference, handle)(reader).arun()
        await passes(5)
        assert not tasks[0].done()
        tasks[0].cancel()

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize("where", ["handle", "task"])
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "waiting"])
def test_swallowed_cancellation_is_repeated(cy, run, times, where, busy):
    """A task that swallows its cancellation is cancelled again, long before the bound, until it ends."""
    swallowed = []

    async def work(server):
        while True:
            try:
                await (asyncio.sleep(0) if busy else asyncio.sleep(1000))
            except asyncio.CancelledError:
                if len(swallowed) == times:
                    raise
                swallowed.append(True)

    async def handle(server):
        if where == "handle":
            await work(server)
        await asyncio.wait([asyncio.create_task(work(server))])

    async def main():
        loop = asyncio.get_running_loop()
        before = asyncio.all_tasks()
        server = handling(cy.StatelessServer, handle, shutdown_timeout=60.0)(reader)
        running = asyncio.create_task(server.arun())
        await passes(10)
        stop(server)
        begun = loop.time()
        await asyncio.wait_for(running, 30)
        assert loop.time() - begun < 15
        assert len(swallowed) == times
        assert asyncio.all_tasks() == before

    run(main())


@pytest.mark.slow
def test_cancellation_that_is_always_swallowed(cy, run, caplog):
    """A task that never ends holds the server up within the bounds; what it took is processed or told; it is logged."""
    processed, taken = [], []

    async def application(scope, receive, send):
        while True:
            message = await receive()
            processed.append(message)

    async def handle(server):
        async def work():
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.001)
                    message = len(taken)
                    server.get_or_create_application_instance("a", {}).put_nowait(message)
                    taken.append(message)

        tasks.append(asyncio.create_task(work()))
        await asyncio.wait(tasks)

    tasks = []
    release = None

    async def main():
        nonlocal release
        release = asyncio.Event()
        server = handling(cy.StatelessServer, handle, shutdown_timeout=0.2)(application)
        running = asyncio.create_task(server.arun())
        await in_time(lambda: len(processed) > 10)
        stop(server)
        await asyncio.wait_for(running, 20)
        told = [message for messages, _ in server.undelivered for message in messages]
        assert sorted(processed + told) == taken
        assert len(server.application_instances) == 0
        # Asked for an instance now, the server says what is wrong; the task fails of it.
        await asyncio.wait(tasks, timeout=20)
        with pytest.raises(RuntimeError, match="the server's run is over"):
            tasks[0].result()
        assert len(server.application_instances) == 0
        assert server.stats()["closing"] == 0
        release.set()

    run(main())
    assert [record for record in caplog.records if "1 task that handle() has started goes on" in record.getMessage()]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["finally", "except", "behind", "child", "gather", "group", "wait_for"])
def test_clean_up_is_left_alone(cy, run, form):
    """A task that cleans up after its cancellation is not cancelled once more within the bound."""
    order = []

    async def clean_up():
        try:
            await asyncio.sleep(0.3)
            order.append("cleaned up")
        except asyncio.CancelledError:
            order.append("cut")
            raise

    async def work(server):
        try:
            await for_ever(server)
        except asyncio.CancelledError:
            if form == "except":
                await clean_up()
        finally:
            if form not in ("except", "behind"):
                await clean_up()
        if form == "behind":
            await clean_up()

    async def handle(server):
        if form == "child":
            await asyncio.create_task(work(server))
        elif form == "gather":
            await asyncio.gather(work(server))
        elif form == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(work(server))
        elif form == "wait_for":
            await asyncio.wait_for(work(server), 1000)
        else:
            await work(server)

    async def main():
        server = handling(cy.StatelessServer, handle, shutdown_timeout=20.0)(reader)
        running = asyncio.create_task(server.arun())
        await passes(10)
        stop(server)
        await asyncio.wait_for(running, 30)

    run(main())
    assert order == ["cleaned up"]


def test_second_request_hurries_clean_up(cy, run):
    """The second request to stop cancels what handle() has started once more, clean-up or not."""
    order = []

    async def work(server):
        try:
            await for_ever(server)
        finally:
            order.append("cleaning up")
            await for_ever(server)

    async def handle(server):
        await asyncio.wait([asyncio.create_task(work(server))])

    async def main():
        server = handling(cy.StatelessServer, handle, shutdown_timeout=60.0)(reader)
        running = asyncio.create_task(server.arun())
        await passes(10)
        stop(server)
        await in_time(lambda: order)
        stop(server)
        await asyncio.wait_for(running, 20)

    run(main())
    assert order == ["cleaning up"]


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

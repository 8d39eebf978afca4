"""What handle() has started is intake: it ends before anything drains, and nothing of it outlives arun()."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from support.loops import passes
from support.serving import for_ever, handling, in_time, reader, stop


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

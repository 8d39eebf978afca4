"""What a loop that was closed over a server's work leaves behind: it ends, is told of, and hinders no other loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc

import pytest

from support.loops import passes
from support.serving import deaf, eventually, quiet, reader

SCOPE = {"type": "test"}


def make(server, scope_id="id"):
    return server.get_or_create_application_instance(scope_id, SCOPE)


def close_over(run, coroutine):
    """Runs it in a loop of its own, which is then closed over whatever goes on."""
    loop = run.loop_factory()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False
        loop.close()


def plain_dict(work):
    queue = asyncio.Queue()
    return {"input_queue": queue, "future": asyncio.ensure_future(work(queue)), "scope": SCOPE, "last_used": 1.0}


@pytest.mark.parametrize("how", ["deleted", "asked for", "asked for while closing", "checked", "evicted"])
def test_plain_dicts(cy, run, how):
    """A plain dict whose future waits in a closed loop counts as finished: it is renewed, reaped and deleted, and what
    is in its queue is told."""
    server = quiet(cy.StatelessServer)(reader, 1)

    async def work(queue):
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                if how != "asked for while closing":
                    raise

    async def before():
        server.application_instances["id"] = plain_dict(work)
        server.application_instances["id"]["input_queue"].put_nowait("queued")
        await passes(2)
        if how == "asked for while closing":
            server.delete_application_instance("id")
            await passes(2)

    close_over(run, before())

    async def after():
        match how:
            case "deleted":
                server.delete_application_instance("id")
            case "evicted":
                make(server, "other")
                assert server.stats()["evicted"] == 0
            case "checked":
                checker = asyncio.create_task(server.application_checker())
                make(server, "other")
                await eventually(lambda: "id" not in server.application_instances)
                checker.cancel()
            case _:
                instance = make(server)
                instance.put_nowait("new")
                await eventually(lambda: instance.idle and instance.empty())
        await eventually(lambda: server.undelivered)
        assert [messages for messages, _ in server.undelivered] == [["queued"]]
        assert server.stats()["closing"] == 0

    run(after())
    gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["delete_application_instance", "delete_oldest_application_instance"])
def test_asynchronous_overrides(cy, run, method):
    """An override that waits in a closed loop is over: its victim is told of, and the next run ends in order."""

    class Server(quiet(cy.StatelessServer)):
        async def handle(self):
            make(self, "new").put_nowait("new")
            await passes(5)

    async def override(self, *args):
        if here is not None:
            await here
        result = getattr(cy.StatelessServer, method)(self, *args)
        await result

    setattr(Server, method, override)
    here = None
    server = Server(deaf, 1)

    async def before():
        nonlocal here
        here = asyncio.get_running_loop().create_future()
        make(server, "first").put_nowait("queued")
        await passes(3)
        make(server, "second")
        await passes(3)
        assert list(server.application_instances) == ["second"]

    close_over(run, before())
    here = None
    server.shutdown_timeout = 0.1
    run(server.arun())
    assert [messages for messages, _ in server.undelivered] == [["queued"], ["new"]]
    stats = server.stats()
    assert stats["live"] == stats["closing"] == 0 and stats["cancelled"] == stats["created"] == 3
    gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["serving", "draining"])
def test_a_run_of_the_server(cy, run, when):
    """A run that its loop was closed over is over: nothing can be spawned in it, the server runs anew, and what is
    collected of it touches nothing of the new run."""

    class Server(quiet(cy.StatelessServer)):
        async def handle(self):
            if when == "serving" or again:
                await asyncio.get_running_loop().create_future()

    again = False
    server = Server(deaf)
    held = []

    async def before():
        held.append(asyncio.ensure_future(server.arun()))
        make(server, "old").put_nowait("queued")
        await passes(20)
        assert not held[0].done()

    close_over(run, before())
    again = True

    async def spawned():
        raise AssertionError("never run")

    with pytest.raises(RuntimeError, match="needs a running server"):
        server.spawn(spawned())
    server.stop()

    async def after():
        task = asyncio.create_task(server.arun())
        await passes(5)
        instance = make(server, "new")
        await passes(5)
        held.clear()
        gc.collect()
        await passes(5)
        assert not instance.ended and not task.done()
        server.spawn(passes())
        server.shutdown_timeout = 0.05
        server.stop()
        await asyncio.wait({task}, timeout=5)
        assert task.done() and task.exception() is None

    run(after())
    assert [messages for messages, _ in server.undelivered] == [["queued"]]
    assert server.stats()["live"] == 0


def test_a_caller(cy, run):
    """The run of a caller in a closed loop is counted once, when it is noticed, and not again when it is collected."""
    server = quiet(cy.StatelessServer)(deaf)
    held = []

    async def before():
        instance = await make(server)
        held.append(asyncio.ensure_future(instance["application"](SCOPE, None, None)))
        await passes(3)

    close_over(run, before())

    async def after():
        make(server)
        await passes(3)
        assert server.stats()["cancelled"] == 1
        held.clear()
        gc.collect()
        await passes(3)
        assert server.stats()["cancelled"] == 1 and server.stats()["live"] == 1

    run(after())


def test_messages_from_other_threads(cy, run):
    """Those that wait for room in a closed loop are told of as undelivered, behind what was queued, and nobody who has
    fed them waits for ever."""
    server = quiet(cy.StatelessServer)(deaf)
    server.max_queue_size = 1

    async def before():
        instance = make(server)
        accepted = await asyncio.to_thread(lambda: [instance.put_threadsafe(number) for number in range(3)])
        await eventually(accepted[0].done)
        await passes(3)
        return accepted

    accepted = close_over(run, before())
    assert not accepted[1].done() and not accepted[2].done()

    async def after():
        make(server)
        await eventually(lambda: server.undelivered)

    run(after())
    assert [future.result(0) for future in accepted] == [None, None, None]
    assert [message for messages, _ in server.undelivered for message in messages] == [0, 1, 2]
    gc.collect()


@pytest.mark.parametrize("end", ["returns", "fails", "deleted", "cancelled", "cancelled in a thread", "loop closed"])
def test_the_future_of_an_instance_that_no_loop_had_started(cy, run, end):
    """It is done when the task is that a loop has made of the instance, and cancels it."""

    async def application(scope, receive, send):
        message = await receive()
        if message == "fails":
            raise ValueError("on purpose")
        return message

    server = quiet(cy.StatelessServer)(application)
    instance = make(server)
    future = instance["future"]
    assert isinstance(future, concurrent.futures.Future)

    async def main():
        assert make(server) is instance
        await passes(3)
        assert isinstance(instance["future"], asyncio.Task) and not future.done()
        match end:
            case "returns" | "fails":
                instance.put_nowait(end)
            case "deleted":
                server.delete_application_instance("id")
            case "cancelled":
                assert future.cancel()
            case "cancelled in a thread":
                assert await asyncio.to_thread(future.cancel)
        if end != "loop closed":
            await eventually(lambda: instance.ended and future.done())

    if end == "loop closed":
        close_over(run, main())

        async def after():
            assert make(server) is not instance

        run(after())
    else:
        run(main())
    done, _ = concurrent.futures.wait([future], 5)
    assert done == {future}
    match end:
        case "returns":
            assert future.result() == "returns"
        case "fails":
            assert isinstance(future.exception(), ValueError)
        case _:
            assert future.cancelled() and instance.end_reason in ("cancelled", "deleted")


@pytest.mark.parametrize("by", ["its holder", "a deletion"])
def test_whoever_waits_for_such_a_future_hears_of_its_cancellation(cy, by):
    """Without any loop."""
    server = quiet(cy.StatelessServer)(deaf)
    future = make(server)["future"]
    if by == "its holder":
        future.cancel()
    else:
        server.delete_application_instance("id")
    done, _ = concurrent.futures.wait([future], 5)
    assert done == {future}


def in_thread(function):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(20)


def test_debug_mode_ends_with_its_loop(cy, run):
    """A table and a queue whose loop was in debug mode may be used from any thread when that loop runs no more; and
    another loop, not in debug mode, checks nothing."""
    server = quiet(cy.StatelessServer)(deaf)

    async def main():
        make(server).put_nowait("queued")
        await passes(3)

    loop = run.loop_factory()
    loop.set_debug(True)
    loop.run_until_complete(main())

    def use():
        assert len(server.application_instances) == 1 and list(server.application_instances) == ["id"]
        assert server.application_instances["id"].get_nowait() == "queued"

    in_thread(use)
    in_thread(lambda: loop.run_until_complete(main()))
    loop.run_until_complete(main())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False
    loop.close()

    async def later():
        make(server, "later")
        await passes(3)
        assert await asyncio.to_thread(lambda: list(server.application_instances)) == ["id", "later"]

    run(later())

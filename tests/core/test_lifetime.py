"""What has ended is gone: with the collector off instances, their tasks and queues die of reference counts alone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tracemalloc
import types
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from support.loops import passes

#: Bytes that may be more after thousands of instances: caches that had not been filled, and nothing for each.
SLACK = 16 * 1024


class Scope(dict):
    """A scope that can be watched."""

    __slots__ = ("__weakref__",)


class Failure(Exception):
    """A failure that can be watched."""


class Probe:
    """Something that lives in an application's frame, or is a message."""


def make(server: Any, scope_id: Any = "id") -> Any:
    return server.get_or_create_application_instance(scope_id, Scope(type="test"))


async def until(condition: Any) -> None:
    """Waits for what only time brings, for a bounded time."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came true")


@pytest.fixture
def no_collector() -> Iterator[None]:
    """The collector is off for the length of a test, and does not look at what was there before it."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()


def server_of(cy: Any, probes: list, **settings: Any) -> Any:
    """A server whose applications do what a message says, and leave a probe in their frame."""

    async def application(scope: Any, receive: Any, send: Any) -> Any:
        probe = Probe()
        probes.append(weakref.ref(probe))
        while True:
            match await receive():
                case "return":
                    return "returned"
                case "fail":
                    raise Failure
                case "send":
                    await send("message")
                case "busy":
                    await asyncio.get_running_loop().create_future()

    class Server(cy.StatelessServer):
        application_checker_interval = 0.001

        async def application_send(self, scope, message):
            await asyncio.sleep(0)

        def application_exception(self, exception, details):
            assert details["scope"]["type"] == "test"

        def application_undelivered(self, messages, details):
            assert details["scope"]["type"] == "test"

    server = Server(application)
    for name, value in settings.items():
        setattr(server, name, value)
    return server


def watched(instance: Any) -> list[weakref.ref[Any]]:
    return [weakref.ref(thing) for thing in (instance, instance["future"], instance["scope"])]


def alive(references: list[weakref.ref[Any]]) -> list[Any]:
    return [thing for reference in references if (thing := reference()) is not None]


# How instances come to their end. Each gives weak references to what is to die.


async def deleted(server: Any) -> list[weakref.ref[Any]]:
    """Deleted while it waits in receive."""
    instance = make(server)
    instance.put_nowait("send")
    await passes(4)
    references = watched(instance)
    server.delete_application_instance("id")
    return references


async def deleted_and_awaited(server: Any) -> list[weakref.ref[Any]]:
    """Deleted while it is busy, with messages left, and its end awaited."""
    instance = make(server)
    message = Probe()
    instance.put_nowait("busy")
    instance.put_nowait(message)
    await passes(4)
    references = [*watched(instance), weakref.ref(message)]
    assert await server.delete_application_instance("id")
    return references


async def deleted_before_it_began(server: Any) -> list[weakref.ref[Any]]:
    """Deleted, and never fed, before its first step."""
    references = watched(make(server))
    server.delete_application_instance("id")
    return references


async def deleted_while_held(server: Any) -> list[weakref.ref[Any]]:
    """Awaited, never called, and deleted."""
    references = watched(await make(server))
    await passes(3)
    server.delete_application_instance("id")
    return references


async def evicted(server: Any) -> list[weakref.ref[Any]]:
    """Evicted for others."""
    server.max_applications = 2
    references = []
    for number in range(4):
        instance = make(server, number)
        instance.put_nowait("busy" if number else "send")
        references += watched(instance)
        await passes(4)
    return references[:6]


async def renewed(server: Any) -> list[weakref.ref[Any]]:
    """Finished, or failed, and followed by others under its id."""
    references = []
    for message in ("return", "fail", "return"):
        instance = make(server)
        instance.put_nowait(message)
        references += watched(instance)
        await passes(4)
    make(server)
    return references


async def reaped(server: Any) -> list[weakref.ref[Any]]:
    """Finished, failed or cancelled, and reaped by the checker."""
    references = []
    for message in ("return", "fail", "send"):
        instance = make(server, message)
        instance.put_nowait(message)
        references += watched(instance)
    await passes(4)
    server.application_instances["send"]["future"].cancel()
    await reap(server)
    return references


async def reap(server: Any) -> None:
    checker = asyncio.create_task(server.application_checker())
    await until(lambda: not server.application_instances)
    checker.cancel()


async def expired(server: Any) -> list[weakref.ref[Any]]:
    """Idle for too long."""
    server.idle_timeout = 0.005
    instance = make(server)
    instance.put_nowait("send")
    references = watched(instance)
    del instance
    await reap(server)
    return references


async def called(server: Any) -> list[weakref.ref[Any]]:
    """Run by a caller, several times, and deleted."""

    async def receive() -> str:
        return "return"

    instance = await make(server)
    for _ in range(3):
        await instance["application"](instance["scope"], receive, None)
    references = watched(instance)
    await server.delete_application_instance("id")
    return references


async def called_and_failed(server: Any) -> list[weakref.ref[Any]]:
    """Run by a caller, to whom it fails, and reaped."""

    async def receive() -> str:
        return "fail"

    instance = await make(server)
    with contextlib.suppress(Failure):
        await instance["application"](instance["scope"], receive, None)
    references = watched(instance)
    del instance
    await reap(server)
    return references


async def called_and_deleted(server: Any) -> list[weakref.ref[Any]]:
    """Run by a caller, and deleted meanwhile."""

    async def caller() -> list[weakref.ref[Any]]:
        instance = await make(server)
        references = watched(instance)
        try:
            await instance["application"](instance["scope"], instance.get, None)
        except Exception as error:
            if type(error).__name__ != "InstanceDeleted":
                raise
        return references

    task = asyncio.create_task(caller())
    await passes(4)
    server.delete_application_instance("id")
    return await task


async def removed(server: Any) -> list[weakref.ref[Any]]:
    """Taken out of the table by hand, and cancelled."""
    instance = server.application_instances.pop("id", None) or make(server)
    instance.put_nowait("send")
    await passes(4)
    del server.application_instances["id"]
    instance["future"].cancel()
    return watched(instance)


async def stopped(server: Any) -> list[weakref.ref[Any]]:
    """Alive when the server is stopped."""
    references = []

    async def handle() -> None:
        for number in range(3):
            instance = make(server, number)
            instance.put_nowait("send")
            references.extend(watched(instance))
            await passes(number)

    server.handle = handle
    await server.arun()
    del server.handle
    return references


ENDS = [
    deleted,
    deleted_and_awaited,
    deleted_before_it_began,
    deleted_while_held,
    evicted,
    renewed,
    reaped,
    expired,
    called,
    called_and_failed,
    called_and_deleted,
    removed,
    stopped,
]
each_end = pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)


@each_end
def test_what_has_ended_dies_at_once(cy, run, no_collector, end):
    """Within a few loop passes of its end nothing is left of an instance, its task, its scope and its frame."""

    async def main():
        probes: list[weakref.ref[Any]] = []
        server = server_of(cy, probes)
        references = await end(server)
        assert references
        await passes(6)
        assert alive(references) == []
        live = [entry for entry in server.application_instances.values() if not entry["future"].done()]
        assert len(alive(probes)) <= len(live)

    run(main())


def is_ours(thing: Any) -> bool:
    if isinstance(thing, types.CoroutineType):
        return "cyasgi" in thing.cr_code.co_filename or thing.cr_code.co_name == "application"
    return type(thing).__module__.split(".")[0] == "cyasgi" or isinstance(thing, (asyncio.Task, Probe, Scope))


@each_end
def test_no_cycles_are_left(cy, run, no_collector, end):
    """With what has ended, no reference cycle is left for the collector to find."""

    async def main():
        server = server_of(cy, [])
        await end(server)
        await passes(6)
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            gc.collect()
            garbage = [repr(thing) for thing in gc.garbage if is_ours(thing)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
        assert garbage == []

    run(main())


@pytest.mark.parametrize("hook", ["def", "async def"])
def test_a_failure_that_was_reported_is_forgotten(cy, run, no_collector, hook):
    """Once the hook has had it, the exception is gone too, with its traceback and the frames in it."""

    async def main():
        probes: list[weakref.ref[Any]] = []
        errors = []
        server = server_of(cy, probes)

        def plain(exception, details):
            errors.append(weakref.ref(exception))

        async def slow(exception, details):
            await passes(2)
            errors.append(weakref.ref(exception))

        server.application_exception = plain if hook == "def" else slow
        for number in range(3):
            make(server, number).put_nowait("fail")
        await reap(server)
        await until(lambda: len(errors) == 3)
        await passes(6)
        assert len(probes) == 3 and alive(probes) == alive(errors) == []

    run(main())


# What an application was given, kept by somebody


@pytest.mark.parametrize("kept", ["receive", "send", "both"])
@pytest.mark.parametrize("waits", ["in receive", "elsewhere"])
@pytest.mark.parametrize("end", ["returned", "failed", "deleted", "cancelled"])
def test_receive_and_send_keep_nothing_alive(cy, run, no_collector, kept, waits, end):
    """Kept when the application has ended they hold neither instance, task, frame nor messages; the scope only send
    does, which still needs it."""

    async def main():
        references: list[weakref.ref[Any]] = []
        keeping: list[Any] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            probe = Probe()
            references.append(weakref.ref(probe))
            keeping.extend({"receive": [receive], "send": [send], "both": [receive, send]}[kept])
            for _ in range(3):
                message = await receive()
                references.append(weakref.ref(message))
                await send(message)
            message = (await receive()) if waits == "in receive" else await gates[0]
            if message == "fail":
                raise Failure

        server = server_of(cy, [])
        server.application = application
        gates = [asyncio.get_running_loop().create_future()]
        instance = make(server)
        for _ in range(3):
            instance.put_nowait(Probe())
            await passes(3)
        things = watched(instance)
        references += things if kept == "receive" else things[:2]
        match end:
            case "deleted":
                server.delete_application_instance("id")
            case "cancelled":
                instance["future"].cancel()
            case _:
                message = "fail" if end == "failed" else "return"
                if waits == "in receive":
                    instance.put_nowait(message)
                else:
                    gates[0].set_result(message)
        await passes(3)
        assert instance["future"].done() and len(keeping) == 1 + (kept == "both")
        del instance
        if end != "deleted":
            await reap(server)
        await passes(6)
        assert len(references) >= 6 and alive(references) == []

    run(main())


@pytest.mark.parametrize("children", [0, 1, 2])
def test_what_waits_in_receive_is_collected_with_its_closed_loop(cy, run, children):
    """An instance whose loop was closed while it waits goes with the next collection once its server is dropped: its
    task, frame and scope too, and its children that wait beside it."""
    references: list[weakref.ref[Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        probe = Probe()
        references.append(weakref.ref(probe))
        tasks = [asyncio.create_task(receive()) for _ in range(children)]
        references.extend(map(weakref.ref, tasks))
        await receive()
        await receive()

    async def begin() -> None:
        instance = make(cy.StatelessServer(application))
        await passes(3)
        instance.put_nowait("for the application, which was first")
        await passes(3)
        references.extend(watched(instance))
        for task in asyncio.all_tasks():
            # What asyncio says of a task that it sees pending at its end is not the subject.
            task._log_destroy_pending = False
        assert instance.idle and not instance["future"].done()

    loop = run.loop_factory()
    loop.run_until_complete(begin())
    loop.close()
    del loop
    gc.collect()
    assert len(references) == 4 + children and alive(references) == []


# In numbers


def traced(cycles: Any, total: int) -> Any:
    """How much more memory is in use after many cycles than after some."""

    async def measured() -> int:
        tracemalloc.start()
        try:
            await cycles(total // 10)
            await passes(6)
            before, _ = tracemalloc.get_traced_memory()
            await cycles(total // 10 * 9)
            await passes(6)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return after - before

    return measured()


@pytest.mark.slow
@pytest.mark.parametrize("ids", ["one id", "ever new ids"])
def test_many_finished_leave_no_memory(cy, run, no_collector, ids):
    """5,000 instances that were made, fed and have returned leave no memory behind, under one id or under many."""

    async def main():
        server = server_of(cy, _Forgetful(), max_applications=50)
        count = 0

        async def cycles(number):
            nonlocal count
            for _ in range(number // 10):
                for slot in range(10):
                    count += 1
                    make(server, slot if ids == "one id" else count).put_nowait("return")
                await passes(2)

        assert await traced(cycles, 5000) < SLACK
        assert server.stats()["finished"] >= 4900

    run(main())


class _Forgetful(list):
    """Takes probes and keeps none."""

    def append(self, _: Any) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("way", ["deleted", "evicted", "called"])
def test_many_others_leave_no_memory(cy, run, no_collector, way):
    """Nor do those that were deleted, evicted or run by a caller."""

    async def main():
        server = server_of(cy, _Forgetful(), max_applications=10)
        count = 0

        async def receive():
            return "return"

        async def cycles(number):
            nonlocal count
            for _ in range(number):
                count += 1
                if way == "called":
                    instance = await make(server, count)
                    await instance["application"](instance["scope"], receive, None)
                    server.delete_application_instance(count)
                else:
                    make(server, count).put_nowait("send")
                    if way == "deleted":
                        server.delete_application_instance(count - 5)
                if count % 5 == 0:
                    await passes(3)

        assert await traced(cycles, 1250) < SLACK

    run(main())


@pytest.mark.slow
def test_one_instance_leaves_nothing_per_message(cy, run, no_collector):
    """Nor does a single instance that is looked up, fed and waited for thousands of times, its queue full or not."""

    async def main():
        server = server_of(cy, _Forgetful(), max_queue_size=5)

        async def cycles(number):
            for _ in range(number // 10):
                for _ in range(10):
                    await make(server).put("send")
                make(server)["last_used"] = 1.0
                await passes(1)

        assert await traced(cycles, 2500) < SLACK

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("end", ["deleted", "finished", "evicted"])
def test_a_crowd_leaves_no_memory(cy, run, no_collector, end):
    """When 5,000 instances that lived at once have gone, what they took is given back: the tables keep no room for
    them. (asyncio does, in its own set of all tasks, for tasks of any kind.)"""

    async def crowd(server: Any, count: int) -> None:
        for number in range(count):
            make(server, number).put_nowait("busy" if number % 2 and end != "finished" else "send")
        await passes(4)
        assert server.stats()["live"] == count
        match end:
            case "deleted":
                for number in range(count):
                    server.delete_application_instance(number)
            case "finished":
                for number in range(count):
                    make(server, number).put_nowait("return")
                await passes(4)
                await reap(server)
            case "evicted":
                server.max_applications = 1
                make(server, "last")
                await server.delete_application_instance("last")
                server.max_applications = None
        await passes(6)
        await until(lambda: not any(server.stats()[what] for what in ("live", "closing")))
        await until(lambda: not server._cyasgi.reports.pending)

    async def main():
        server = server_of(cy, _Forgetful(), max_applications=None)
        # Its default logs what the busy ones had in flight, and pytest keeps that.
        server.application_ended = lambda details, reason: None
        # What is made once, whatever the number.
        await crowd(server, 20)
        tracemalloc.start()
        try:
            await crowd(server, 5000)
            # Until then the interpreter keeps some of what it may need again, tuples for example.
            gc.collect()
            traces = tracemalloc.take_snapshot().filter_traces(
                [tracemalloc.Filter(False, "*_weakrefset.py"), tracemalloc.Filter(False, tracemalloc.__file__)]
            )
        finally:
            tracemalloc.stop()
        # A single dict that keeps its room keeps 29 bytes for each.
        assert sum(trace.size for trace in traces.traces) < 20 * 5000

    run(main())


# Servers


@each_end
def test_a_dropped_server_dies(cy, run, no_collector, end):
    """A server whose instances have ended dies with the last reference to it, and its application with it."""

    async def main():
        server = server_of(cy, [])
        references = [weakref.ref(server), weakref.ref(server.application)]
        await end(server)
        for scope_id in list(server.application_instances):
            await server.delete_application_instance(scope_id)
        await passes(6)
        del server
        assert alive(references) == []

    run(main())


def test_a_server_that_was_never_used_dies(cy, run, no_collector):
    """Made and dropped, with its table looked at or not, a server is gone."""

    async def main():
        for look in (False, True):
            server = server_of(cy, [])
            if look:
                assert len(server.application_instances) == 0 and server.stats()["live"] == 0
            references = [weakref.ref(server), weakref.ref(server.application)]
            del server
            assert alive(references) == []

    run(main())


def test_a_server_with_instances_that_wait_is_collected(impl, run):
    """A server that is dropped with its instances waiting goes with the next collection, as the reference's does."""

    async def main():
        async def application(scope, receive, send):
            await receive()

        server = impl.StatelessServer(application)
        references = [weakref.ref(server), weakref.ref(application)]
        for number in range(3):
            make(server, number)
        await passes(4)
        del server, application
        gc.collect()
        await passes(3)
        gc.collect()
        assert alive(references) == []

    run(main())
    # That tasks are destroyed while they wait is what dropping them means.
    assert all("destroyed" in complaint["message"] for complaint in run.complaints)
    run.complaints.clear()


def test_settings_are_kept_for_no_server(cy, no_collector):
    """Classes that tune a server, and the servers made of them, are not remembered by the package."""

    def make_and_drop():
        class Tuned(cy.StatelessServer):
            max_queue_size = 5
            idle_timeout = 1.5
            shutdown_timeout = 2

        return weakref.ref(Tuned), weakref.ref(Tuned(None))

    tuned, server = make_and_drop()
    assert server() is None
    # A class is a cycle in itself.
    gc.collect()
    assert tuned() is None


def test_a_server_dropped_with_live_instances_is_collected(cy, run):
    """A loop closed over live instances, and their server dropped: the collector takes it all, quietly, and whoever
    still holds an instance finds it whole."""

    async def application(scope, receive, send):
        while True:
            await receive()

    async def populate(server: Any) -> None:
        for number in range(20):
            server.get_or_create_application_instance(number, {})
        await passes(3)
        for details in server.application_instances.values():
            # What asyncio says of a task that it sees pending at its end is not the subject.
            details["future"]._log_destroy_pending = False

    def dropped(kept: range) -> tuple[weakref.ref[Any], list[Any]]:
        server = cy.StatelessServer(application)
        loop = run.loop_factory()
        loop.run_until_complete(populate(server))
        loop.close()
        return weakref.ref(server), [server.application_instances[number] for number in kept]

    for kept in (range(0), range(1), range(19, 20), range(5, 15)):
        server, instances = dropped(kept)
        gc.collect()
        assert [instance.scope_id for instance in instances] == list(kept)
        for instance in instances:
            assert instance["last_used"] > 0
            instance.put_nowait("to nobody")
        del instances[:]
        if kept:
            del instance
        gc.collect()
        assert server() is None

"""What has ended is gone: with the collector off instances, their tasks and queues die of reference counts alone."""

from __future__ import annotations

import asyncio
import gc
import types
import weakref
from typing import Any

import pytest

from support.lifetime import (
    Failure,
    Probe,
    Scope,
    alive,
    each_end,
    make,
    no_collector as no_collector,
    reap,
    server_of,
    watched,
)
from support.loops import passes
from support.serving import in_time


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
        await in_time(lambda: len(errors) == 3)
        await passes(6)
        assert len(probes) == 3 and alive(probes) == alive(errors) == []

    run(main())


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

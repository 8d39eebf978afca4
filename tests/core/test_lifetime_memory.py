"""Thousands of instances, and thousands of messages of one, leave no memory behind."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest

from support.lifetime import make, no_collector as no_collector, reap, server_of
from support.loops import passes
from support.serving import in_time

#: Bytes that may be more after thousands of instances: caches that had not been filled, and nothing for each.
SLACK = 16 * 1024


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
        await in_time(lambda: not any(server.stats()[what] for what in ("live", "closing")))
        await in_time(lambda: not server._cyasgi.reports.pending)

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

"""What the supervising process makes of what workers tell, and of what they leave out."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest

from cyasgi._common.cells import FAILURES, REQUESTS, Page
from cyasgi.gateways.net.descriptors import open_descriptors
from cyasgi.metrics.overview import MOST_FAILURES, MOST_TYPES, Failure, Overview, ServerOverview
from cyasgi.workers.watching import PoolWatch


class Worker:
    """As a pool knows it."""

    beat = 1.0
    ending = False

    def __init__(self, number=1, pid=100):
        self.number, self.pid = number, pid
        loop = asyncio.get_running_loop()
        self.ready = loop.create_future()
        self.started = loop.time()
        self.silence = 0.0
        self.page = Page()

    def __str__(self):
        return f"worker {self.pid}"

    @property
    def serving(self):
        return self.ready.done() and not self.ending


def failure(number):
    return Failure(float(number), "http", f"GET '/{number}'", "ValueError", "Traceback")


def test_what_a_worker_tells(run):
    """The failures of an overview without any are those of the one before."""

    async def main():
        watch = PoolWatch("127.0.0.1:0")
        worker = Worker()
        watch.started(worker)
        watch.heard(worker, Overview({"http": ServerOverview({"live": 1})}, failures=(failure(1),)).to_json())
        watch.heard(worker, Overview({"http": ServerOverview({"live": 2})}, failures=None).to_json())
        worker.page.cells[REQUESTS] = 5
        snapshot = watch.snapshot()
        [view] = snapshot.workers
        assert view.overview.servers["http"].stats == {"live": 2} and view.cells[REQUESTS] == 5
        assert [(number, one.scope) for number, one in snapshot.failures] == [(1, "GET '/1'")]
        assert snapshot.started == 1

    run(main())


def test_what_is_no_overview(run, caplog):
    """It is logged once, and what the worker has told before stays."""

    async def main():
        watch = PoolWatch("127.0.0.1:0")
        worker = Worker()
        watch.started(worker)
        watch.heard(worker, Overview({"http": ServerOverview({"live": 1})}).to_json())
        for overview in (None, {"servers": 5}, [1], {"lag": "x" * 10_000}):
            watch.heard(worker, overview)
        assert watch.snapshot().workers[0].overview.servers["http"].stats == {"live": 1}
        watch.ended(worker)
        # What it has sent is handled after its end.
        watch.heard(worker, Overview().to_json())
        assert not watch.snapshot().workers

    run(main())
    [record] = caplog.records
    assert record.levelno == logging.ERROR and len(record.getMessage()) < 300
    assert record.getMessage().startswith("worker 100 does not tell what it does: an overview has ")


def test_a_worker_that_has_ended(run):
    """Its counters and its last failures stay, bounded; its page is closed."""

    async def main():
        watch = PoolWatch("127.0.0.1:0")
        for number in range(1, MOST_FAILURES + 5):
            worker = Worker(number % 3, number)
            watch.started(worker)
            worker.page.cells[REQUESTS] = 2
            worker.page.cells[FAILURES] = 2
            overview = Overview({"http": ServerOverview({"created": 2, "live": 1})}, 0.0, {"ValueError": 1})
            watch.heard(
                worker, {**overview.to_json(), "failures": Overview(failures=(failure(number),)).to_json()["failures"]}
            )
            watch.ended(worker)
        snapshot = watch.snapshot()
        count = MOST_FAILURES + 4
        totals = snapshot.totals()
        assert totals.cells[REQUESTS] == 2 * count
        assert totals.stats == {"http": {"created": 2 * count}}
        assert totals.failure_types == {"ValueError": count, "other": count}
        assert [one.moment for _, one in snapshot.failures] == list(range(count, count - MOST_FAILURES, -1))
        assert snapshot.started == count and not snapshot.workers

    run(main())


def types_told(watch, worker, *kinds):
    watch.heard(worker, Overview(failure_types=dict.fromkeys(kinds, 1)).to_json())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows passes on no descriptors")
def test_a_worker_that_has_ended_keeps_no_descriptor(run):
    """Though somebody still knows it, as the collector has not come by."""

    async def main():
        watch = PoolWatch("127.0.0.1:0")
        workers = [Worker(number) for number in range(10)]
        before = open_descriptors()
        for worker in workers:
            worker.page = watch.page()
            watch.started(worker)
        assert open_descriptors() > before
        for worker in workers:
            worker.page.cells[REQUESTS] = 2
            watch.ended(worker)
        assert open_descriptors() == before
        assert watch.snapshot().totals().cells[REQUESTS] == 20

    run(main())


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_types_of_failures_keep_their_counters(run, order):
    """Whichever worker tells of further types, and whichever ends: no counter becomes smaller, as if begun anew."""

    def look():
        found = watch.snapshot().totals().failure_types
        assert all(found.get(kind, 0) >= count for kind, count in seen.items()), (seen, found)
        assert len(found) <= MOST_TYPES + 1
        seen.update(found)

    async def main():
        workers = {number: Worker(number, number) for number in (1, 2)}
        for worker in workers.values():
            watch.started(worker)
        types_told(watch, workers[2], *(f"Second{number}" for number in range(MOST_TYPES - 5)), "other")
        look()
        # Further ones of the worker that is listed first.
        types_told(watch, workers[1], *(f"First{number}" for number in range(10)))
        look()
        types_told(watch, workers[2], *(f"Second{number}" for number in range(MOST_TYPES)), "other")
        look()
        for number in order:
            worker = workers[number]
            worker.page.cells[FAILURES] = 30
            watch.ended(worker)
            look()
        assert sum(seen.values()) == 60
        assert sorted(seen) == sorted(
            [*(f"Second{number}" for number in range(15)), *(f"First{number}" for number in range(5)), "other"]
        )

    watch = PoolWatch("127.0.0.1:0")
    seen = {}
    run(main())


def test_states(run):
    """Late is one that is not heard for longer than two heartbeats, too."""

    async def main():
        watch = PoolWatch("127.0.0.1:0")
        assert watch.snapshot().state == "starting"
        first, second = Worker(2, 100), Worker(1, 200)
        for worker in (first, second):
            watch.started(worker)
        assert [view.state for view in watch.snapshot().workers] == ["starting", "starting"]
        first.ready.set_result(None)
        watch.pool_serves()
        first.silence = 2.0
        watch.heard(first, Overview(lag=0.5).to_json())
        assert [(view.number, view.state, view.lag) for view in watch.snapshot().workers] == [
            *((1, "starting", 0.0), (2, "serving", 0.5))
        ]
        first.silence = 3.0
        assert watch.snapshot().workers[1].lag == 3.0
        first.ending = second.ending = True
        watch.pool_stops()
        assert [view.state for view in watch.snapshot().workers] == ["stopping", "stopping"]
        assert watch.snapshot().state == "stopping"
        watch.replaces("died")
        assert watch.snapshot().restarts == {"replaced": 0, "died": 1}

    run(main())


def test_the_page_cannot_be_served(run, caplog, monkeypatch):
    """It is logged, and whoever supervises goes on."""

    async def main():
        watch = PoolWatch("127.0.0.1:0")
        watch.bind()
        assert watch.name.startswith("http://127.0.0.1:") and watch.paths == []

        async def fail():
            raise OSError("no more")

        monkeypatch.setattr(watch._server, "handle", fail)
        async with watch.showing():
            await asyncio.sleep(0)
        watch.close()

    run(main())
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == ["metrics and health are served no more"]
    assert "no more" in str(caplog.records[-1].exc_info[1])


def test_misuse():
    with pytest.raises(ValueError, match="nowhere"):
        PoolWatch("nowhere")

"""One coarse timer for all connections: met late rather than early, moved for next to nothing, gone when cancelled."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import weakref

import pytest
from http_wire import FakeClock


class Clock:
    """Deadlines under a clock that the test moves."""

    def __init__(self, cy, on_tick=None):
        self.module = importlib.import_module(f"{cy.__name__}.gateways.deadlines")
        self.deadlines = self.module.Deadlines(on_tick)
        self.met = []

    def at(self, seconds, name):
        return self.deadlines.at(seconds, lambda: self.met.append(name))

    def advance(self, seconds):
        """Lets the time pass, tick by tick; gives what was met."""
        deadlines = self.deadlines
        end = deadlines.now + seconds
        while deadlines.now < end:
            self.jump(min(self.module.RESOLUTION, end - deadlines.now))
        met, self.met = self.met, []
        return met

    def jump(self, seconds):
        """The same at one blow, as after a long pause of the loop."""
        self.deadlines._loop = FakeClock(asyncio.get_running_loop(), self.deadlines.now + seconds)
        self.deadlines._tick()


def case(cy, run, test, **options):
    async def main():
        clock = Clock(cy, **options)
        try:
            test(clock)
        finally:
            clock.deadlines.close()

    run(main())


def test_met_once_and_never_early(cy, run):
    """Each is met between its moment and three ticks after it, in order, and only once."""

    def test(clock):
        handles = [clock.at(seconds, seconds) for seconds in (3, 1, 2)]
        assert clock.advance(0.99) == []
        assert clock.advance(0.76) == [1]
        assert clock.advance(10) == [2, 3]
        assert clock.advance(10) == []
        for handle in handles:
            handle.cancel()

    case(cy, run, test)


def test_moved_and_cancelled(cy, run):
    """It may be moved either way, put off for ever and taken up again; cancelled it is not met, nor referred to."""

    def test(clock):
        later, sooner, never, gone = (clock.at(seconds, seconds) for seconds in (1, 10, None, 2))
        later.move(5)
        sooner.move(1)
        gone.cancel()
        gone.cancel()
        gone.move(0)
        assert clock.advance(2) == [10]
        assert clock.advance(4) == [1]
        never.move(1)
        assert clock.advance(2) == [None]
        never.move(1)
        never.move(None)
        assert clock.advance(100) == []

    case(cy, run, test)


def test_due_may_be_written(cy, run):
    """Who moves it with every request writes `due`, and calls `relist` only if that is earlier than it is looked at."""

    def test(clock):
        handle = clock.at(1, "x")
        for _ in range(100):
            handle.due = clock.deadlines.now + 1
            assert handle.due >= handle.listed
            assert clock.advance(0.5) == []
        handle.due = clock.deadlines.now + 0.1
        handle.relist()
        assert clock.advance(1) == ["x"]

    case(cy, run, test)


def test_after_a_long_pause(cy, run):
    """What was due meanwhile is met; what was not is not."""

    def test(clock):
        clock.at(5, "due")
        clock.at(1_000_001, "not due")
        clock.jump(1_000_000)
        assert clock.met == ["due"]
        assert clock.advance(2) == ["due", "not due"]

    case(cy, run, test)


def test_one_that_raises_and_one_that_cancels(cy, run, caplog):
    """Neither keeps the others from being met."""

    def test(clock):
        def fail():
            raise ZeroDivisionError

        def cancel():
            for one in (first, second):
                if one is not None:
                    one.cancel()
            clock.met.append("cancelled the other")

        first = second = None
        clock.deadlines.at(1, fail)
        first = clock.deadlines.at(1, cancel)
        second = clock.deadlines.at(1, cancel)
        clock.at(1, "last")
        assert sorted(clock.advance(2)) == ["cancelled the other", "last"]
        assert [record.levelno for record in caplog.records] == [logging.ERROR]

    case(cy, run, test)


def test_it_ticks_only_while_there_is_something_to_wait_for(cy, run):
    """An idle server costs nothing; the first deadline starts the timer again."""
    ticks = []

    def test(clock):
        assert clock.deadlines._timer is None
        handle = clock.at(None, "x")
        assert len(ticks) == 1 and clock.deadlines._timer is not None
        clock.advance(1)
        assert len(ticks) == 5
        handle.cancel()
        clock.advance(0.25)
        assert clock.deadlines._timer is None
        assert clock.deadlines._buckets == {}

    case(cy, run, test, on_tick=lambda: ticks.append(None))


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_nothing_is_kept(cy, run, how):
    """Neither a cancelled deadline nor closed deadlines keep what was to be done."""

    class Something:
        def done(self):
            pass

    def test(clock):
        thing = Something()
        handle = clock.deadlines.at(100, thing.done)
        gone = weakref.ref(thing)
        del thing
        gc.disable()
        try:
            assert gone() is not None
            if how == "cancel":
                handle.cancel()
            else:
                clock.deadlines.close()
            assert gone() is None
        finally:
            gc.enable()

    case(cy, run, test)

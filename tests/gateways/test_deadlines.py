"""One coarse timer for all connections: met late rather than early, moved for next to nothing, gone when cancelled."""

from __future__ import annotations

import gc
import importlib
import logging
import math
import weakref

import pytest

from support.http_connection import jump, let_pass

#: The delay of a tick that is to come one pass of the loop later.
PASS = 0.001


class Clock:
    """Deadlines under a clock that the test moves."""

    def __init__(self, cy, on_tick=None):
        self.module = importlib.import_module(f"{cy.__name__}.gateways.net.deadlines")
        self.deadlines = self.module.Deadlines(on_tick)
        self.met = []

    def at(self, seconds, name):
        return self.deadlines.at(seconds, lambda: self.met.append(name))

    def advance(self, seconds):
        """Lets the time pass, tick by tick; gives what was met."""
        let_pass(self.deadlines, seconds)
        return self.take()

    def jump(self, seconds):
        """The same at one blow, as when the loop was blocked; gives the delay until it is looked at again."""
        return jump(self.deadlines, seconds)

    def take(self):
        met, self.met = self.met, []
        return met


def case(cy, run, test, **options):
    async def main():
        clock = Clock(cy, **options)
        try:
            test(clock)
        finally:
            clock.deadlines.close()

    run(main())


@pytest.mark.slow
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


def test_a_blocked_loop(cy, run):
    """The time that the loop has lost counts against nobody, whether a deadline was set before it, in it or after."""

    def test(clock):
        clock.at(5, "before")
        assert clock.jump(1_000_000) == PASS
        clock.at(5, "in it")
        clock.jump(PASS)
        clock.at(5, "after")
        assert clock.advance(4.75) == []
        assert set(clock.advance(1)) == {"before", "in it", "after"}

    case(cy, run, test)


def test_set_just_before_a_tick(cy, run):
    """What was set at the end of a block is not early, though the last tick was before it."""

    def test(clock):
        # The loop has been blocked for 5.5 s when a keep-alive of 0.3 s begins, and the tick is late.
        clock.at(0.3, "keep-alive")
        clock.jump(5.5)
        clock.jump(PASS)
        assert clock.take() == []
        assert clock.advance(0.25) == []
        assert clock.advance(0.5) == ["keep-alive"]

    case(cy, run, test)


def test_everybody_is_read_before_anybody_is_judged(cy, run):
    """After a late tick what is over is met one pass of the loop later, unless what was read has moved it on."""

    def test(clock):
        read, silent = clock.at(1, "read"), clock.at(1, "silent")
        assert clock.advance(1.25) == []
        assert clock.jump(2) == PASS
        assert clock.take() == []
        read.move(None)
        assert clock.jump(PASS) == clock.module.RESOLUTION
        assert clock.take() == ["silent"]
        assert silent.due == math.inf

    case(cy, run, test)


def test_a_loop_that_is_always_blocked(cy, run):
    """Judging is put off three times in a row at most."""

    def test(clock):
        clock.at(0.1, "x")
        assert [clock.jump(2) for _ in range(3)] == [PASS] * 3
        assert clock.take() == []
        assert clock.jump(2) == clock.module.RESOLUTION
        assert clock.take() == ["x"]

    case(cy, run, test)


def test_a_busy_loop(cy, run):
    """Ticks that are a little late, as those of a busy loop are, are no block: all of that time counts."""

    def test(clock):
        clock.at(10, "x")
        for _ in range(30):
            assert clock.jump(0.35) == clock.module.RESOLUTION
        assert clock.take() == ["x"]

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

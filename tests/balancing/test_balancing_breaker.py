"""The circuit breaker, against a model of it and in the cases worth a sentence."""

from __future__ import annotations

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from cyasgi.balancing import Breaker, BreakerState


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Model:
    """What the breaker is to do, with time in steps of one second, each looked at."""

    def __init__(self, threshold, window, open_time, probes):
        self.threshold, self.window, self.open_time, self.probes = threshold, window, open_time, probes
        self.state = "closed"
        self.verdicts = []
        self.countdown = 0
        self.probing = {}  # number of the run: seconds left
        self.good = 0
        self.runs = []  # for each: the number of openings before it, whether it is well
        self.openings = 0

    def closes(self):
        self.state, self.verdicts, self.probing, self.good = "closed", [], {}, 0

    def opens(self):
        self.state, self.countdown, self.openings = "open", self.open_time, self.openings + 1

    def second(self):
        if self.state == "open":
            self.countdown -= 1
            if self.countdown == 0:
                self.state, self.probing, self.good = "half-open", {}, 0
        elif self.state == "half-open":
            for number in list(self.probing):
                if self.state == "half-open":
                    self.probing[number] -= 1
                    if self.probing[number] == 0:
                        del self.probing[number]
                        if self.runs[number][1]:
                            self.probe_went_well()

    def probe_went_well(self):
        self.good += 1
        if self.good == self.probes:
            self.closes()

    def admits(self):
        return self.state == "closed" or (self.state == "half-open" and self.good + len(self.probing) < self.probes)

    def admit(self, well):
        if self.state == "half-open":
            self.probing[len(self.runs)] = self.open_time
        self.runs.append([self.openings, well])

    def verdict(self, number, good):
        if self.runs[number][0] != self.openings or self.state == "open":
            return
        if self.state == "closed":
            self.verdicts = [*self.verdicts, good][-self.window :]
            if self.verdicts.count(False) >= self.threshold:
                self.opens()
        elif good:
            self.probing.pop(number, None)
            self.probe_went_well()
        else:
            self.opens()


class BreakerMachine(RuleBasedStateMachine):
    runs = Bundle("runs")

    @initialize(
        threshold=st.integers(1, 3), more=st.integers(0, 2), open_time=st.integers(1, 4), probes=st.integers(1, 3)
    )
    def begin(self, threshold, more, open_time, probes):
        self.clock = Clock()
        self.changes = [("closed", "closed")]
        self.breaker = Breaker(
            failure_threshold=threshold,
            failure_window=threshold + more,
            open_time=open_time,
            probes=probes,
            clock=self.clock,
            on_change=lambda old, new: self.changes.append((old, new)),
        )
        self.model = Model(threshold, threshold + more, open_time, probes)
        self.permits = []

    @precondition(lambda self: self.model.admits())
    @rule(target=runs, well=st.booleans())
    def admit(self, well):
        self.permits.append(self.breaker.admit(well=well))
        self.model.admit(well)
        return len(self.permits) - 1

    @precondition(lambda self: not self.model.admits())
    @rule()
    def admit_in_vain(self):
        with pytest.raises(RuntimeError, match="lets no run through"):
            self.breaker.admit()

    @rule(run=runs)
    def succeed(self, run):
        self.breaker.succeed(self.permits[run])
        self.model.verdict(run, True)

    @rule(run=runs)
    def fail(self, run):
        self.breaker.fail(self.permits[run])
        self.model.verdict(run, False)

    @rule(run=runs)
    def release(self, run):
        self.breaker.release(self.permits[run])
        self.model.probing.pop(run, None)

    @rule(run=runs)
    def mark_well(self, run):
        self.breaker.mark_well(self.permits[run])
        self.model.runs[run][1] = True

    @rule(seconds=st.integers(1, 6))
    def time_passes(self, seconds):
        self.clock.now += seconds
        for _ in range(seconds):
            self.model.second()

    @rule()
    def look(self):
        """Only now and then: what nobody has looked at must have happened all the same."""
        assert self.breaker.state == self.model.state
        assert self.breaker.available == self.model.admits()
        assert self.breaker.opened == self.model.openings
        wait = self.breaker.available_in
        assert (wait == 0) == self.model.admits()
        if self.model.state == "open":
            assert wait == self.model.countdown
        elif wait:
            assert wait == min(self.model.probing.values())

    @invariant()
    def changes_follow_each_other(self):
        assert all(before[1] == after[0] for before, after in zip(self.changes, self.changes[1:], strict=False))
        legal = {("closed", "open"), ("open", "half-open"), ("half-open", "open"), ("half-open", "closed")}
        assert set(self.changes[1:]) <= legal

    @invariant()
    def no_more_probes_than_allowed(self):
        if self.model.state == "half-open":
            assert len(self.model.probing) + self.model.good <= self.model.probes

    def teardown(self):
        if hasattr(self, "breaker"):
            self.look()


BreakerMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
test_breaker_is_its_model = BreakerMachine.TestCase


def broken(clock, **options):
    """A breaker that a failure has opened."""
    breaker = Breaker(failure_threshold=1, failure_window=1, open_time=10, clock=clock, **options)
    breaker.fail(breaker.admit())
    assert breaker.state == "open"
    return breaker


def test_failures_need_not_be_consecutive():
    """So many failures among the last verdicts open it; those that have left the window count no more."""
    breaker = Breaker(failure_threshold=2, failure_window=3, clock=Clock())
    for good in (False, True, True, False, True):
        (breaker.succeed if good else breaker.fail)(breaker.admit())
        assert breaker.state is BreakerState.CLOSED
    breaker.fail(breaker.admit())
    assert breaker.state is BreakerState.OPEN


def test_late_verdicts_of_runs_from_before_say_nothing():
    """What began before the breaker opened neither closes nor opens it once it is half-open."""
    clock = Clock()
    breaker = Breaker(failure_threshold=1, failure_window=1, open_time=10, clock=clock)
    good, bad, last = breaker.admit(), breaker.admit(), breaker.admit()
    breaker.fail(last)
    clock.now += 10
    breaker.succeed(good)
    breaker.fail(bad)
    assert breaker.state == "half-open" and breaker.available


def test_a_probe_that_says_nothing_gives_up_its_place():
    """A probe without a verdict is replaced after the time; when well, it has succeeded by then."""
    clock = Clock()
    breaker = broken(clock)
    clock.now += 10
    hanging = breaker.admit()
    assert not breaker.available and breaker.available_in == 10
    clock.now += 10
    assert breaker.state == "half-open" and breaker.available
    breaker.admit(well=True)
    clock.now += 10
    assert breaker.state == "closed"
    breaker.fail(hanging)
    assert breaker.state == "open"


def test_what_comes_too_late_for_a_probe():
    """What a probe does once its time is over, seen or not, does not change what became of it then."""
    clock = Clock()
    breaker = broken(clock)
    clock.now += 10
    probe = breaker.admit()
    clock.now += 10
    breaker.mark_well(probe)
    assert breaker.state == "half-open" and breaker.available
    clock = Clock()
    breaker = broken(clock)
    clock.now += 10
    probe = breaker.admit(well=True)
    clock.now += 10
    breaker.release(probe)
    assert breaker.state == "closed"


def test_probes_from_before_hold_no_place():
    """When one of several probes fails, the places of all are free the next time."""
    clock = Clock()
    breaker = broken(clock, probes=2)
    clock.now += 10
    _, bad = breaker.admit(), breaker.admit()
    clock.now += 9
    breaker.fail(bad)
    clock.now += 10
    breaker.admit()
    breaker.admit()
    assert not breaker.available


def test_a_released_probe_leaves_its_place():
    """A probe that was cancelled is as if it had never been."""
    clock = Clock()
    breaker = broken(clock)
    clock.now += 10
    breaker.release(breaker.admit())
    assert breaker.available
    breaker.succeed(breaker.admit())
    assert breaker.state == "closed"


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"failure_threshold": 0}, ValueError, "failure_threshold=0: accepted is an int of at least 1"),
        ({"failure_threshold": True}, TypeError, "failure_threshold=True: accepted is an int of at least 1"),
        ({"failure_threshold": 2.0}, TypeError, "failure_threshold=2.0: "),
        (
            {"failure_threshold": 6, "failure_window": 5},
            ValueError,
            "failure_window=5: .* at least failure_threshold=6",
        ),
        ({"failure_window": "9"}, TypeError, "failure_window='9': "),
        ({"open_time": 0}, ValueError, "open_time=0: accepted is a number of seconds above 0, at most 1e9"),
        ({"open_time": float("inf")}, ValueError, "open_time=inf: "),
        ({"open_time": float("nan")}, ValueError, "open_time=nan: "),
        ({"open_time": 10**400}, ValueError, "open_time=1000"),
        ({"open_time": "1"}, TypeError, "open_time='1': "),
        ({"probes": 0}, ValueError, "probes=0: "),
        ({"clock": 3}, TypeError, "clock=3: accepted is a function"),
    ],
)
def test_bad_settings(options, error, says):
    """A setting that makes no sense is refused, with its value and what is accepted."""
    with pytest.raises(error, match=says):
        Breaker(**options)

"""Ratios within one run, and whether they keep what is promised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.catalogue import QUESTIONS
from benchmarks.question import Bar, Measurement, Question, Timed
from benchmarks.sides import FLOOR

#: Base units to those that people read.
SCALE = {"ns": 1e9, "µs": 1e6, "ms": 1e3, "s": 1.0, "B": 1.0, "KiB": 2**-10, "MiB": 2**-20, "%": 100.0}

Key = tuple[str, str, int, str, str, str]


class Answers:
    """The measurements of one run, to be asked by question, figure, size, side, loop and collector."""

    def __init__(self, measurements: list[Measurement]) -> None:
        self.all = measurements
        self._by_key: dict[Key, Measurement] = {
            (one.question, one.figure, one.size, one.side, one.loop, one.collector): one for one in measurements
        }

    def get(
        self, question: str, figure: str, size: int, side: str, loop: str, collector: str = "on"
    ) -> Measurement | None:
        return self._by_key.get((question, figure, size, side, loop, collector))

    def of(self, question: str) -> list[Measurement]:
        return [one for one in self.all if one.question == question]


@dataclass(frozen=True)
class Verdict:
    """One promise, and what came of it on one loop at one size."""

    bar: Bar
    question: str
    size: int
    loop: str
    value: float

    @property
    def held(self) -> bool:
        return (self.bar.least is None or self.value >= self.bar.least) and (
            self.bar.most is None or self.value <= self.bar.most
        )

    def told(self, unit: str) -> str:
        """For example 'reference / cython: goal >= 4x, got 5.2x'."""
        bar = self.bar
        name_of = QUESTIONS[self.question].name_of
        if bar.by is None:
            what, scale, suffix = name_of(bar.of), SCALE.get(unit, 1.0), f" {unit}"
        elif bar.by_size is not None:
            what, scale, suffix = f"{name_of(bar.of)}, {self.size:,} against {bar.by_size:,}", 1.0, "×"
        elif bar.by_loop is not None:
            what, scale, suffix = f"{name_of(bar.of)}, {self.loop} against {bar.by_loop}", 1.0, "×"
        else:
            what, scale, suffix = f"{name_of(bar.of)} / {name_of(bar.by)}", 1.0, "×"
        limit = f">= {bar.least * scale:,.4g}" if bar.least is not None else f"<= {(bar.most or 0) * scale:,.4g}"
        return f"{what}: goal {limit}{suffix}, got {shown(self.value * scale)}{suffix}"


def shown(value: float) -> str:
    """Three significant digits, without exponents."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 if abs(value) < 10 else 1}f}" if abs(value) >= 0.1 else f"{value:#.2g}"


def verdicts(question: Question, answers: Answers) -> Iterator[Verdict]:
    """Every promise of a question for every loop and size at which both of its sides were measured."""
    for bar in question.bars:
        for one in answers.of(question.name):
            if (one.side, one.figure, one.collector) != (bar.of, bar.figure, "on"):
                continue
            if (bar.size is not None and one.size != bar.size) or (bar.loop is not None and one.loop != bar.loop):
                continue
            if bar.by is None:
                yield Verdict(bar, question.name, one.size, one.loop, one.median)
                continue
            by_size = one.size if bar.by_size is None else bar.by_size
            other = answers.get(question.name, bar.figure, by_size, bar.by, bar.by_loop or one.loop)
            if other is not None and other.median:
                yield Verdict(bar, question.name, one.size, one.loop, one.median / other.median)


def gain_of(one: Measurement | None, reference: Measurement | None, *, more: bool) -> float | None:
    """How many times better than the reference; `more`: of what should be large."""
    if one is None or reference is None or not one.median or not reference.median:
        return None
    return one.median / reference.median if more else reference.median / one.median


class Ratio(NamedTuple):
    """What a ratio is of: how many times better a twin is than what it is measured against."""

    question: str
    figure: str
    size: int
    loop: str
    side: str
    #: The reference; where there is none the floor, or the way of doing the work that the others are compared with.
    against: str


def ratios(answers: Answers) -> Mapping[Ratio, float]:
    """What two runs on different machines can be compared by; larger is better for cyasgi."""
    found: dict[Ratio, float] = {}
    for one in answers.all:
        question = QUESTIONS.get(one.question)
        if one.side not in ("pure", "cython") or one.collector != "on" or question is None:
            continue
        described = question.figures.get(one.figure)
        if described is None or not described.judged:
            continue
        for name, other in _against(question, one, answers):
            gain = gain_of(one, other, more=described.more)
            if gain is not None:
                found[Ratio(one.question, one.figure, one.size, one.loop, one.side, name)] = gain
                break
    return found


def _against(question: Question, one: Measurement, answers: Answers) -> Iterator[tuple[str, Measurement | None]]:
    """What a measurement can be compared with, the best first."""
    for side in ("reference", FLOOR):
        yield side, answers.get(one.question, one.figure, one.size, side, one.loop)
    if isinstance(question, Timed) and question.base not in ("", one.figure) and one.figure in question.ways:
        yield question.base, answers.get(one.question, question.base, one.size, one.side, one.loop)

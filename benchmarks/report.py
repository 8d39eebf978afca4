"""Writes what a run found: results.json with every sample, and table.md for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.judge import SCALE, Answers, gain_of, shown, verdicts
from benchmarks.question import BUSY, BUSY_ENOUGH, Measurement, Probed, Question, Timed
from benchmarks.sides import FLOOR, PEERS, SIDES

HOW_TO_READ = """\
cyasgi is a library that runs ASGI applications, one instance for each client, and servers built on it. Here it is
measured against what it can stand in for, in the same run, so that the sides of a row can be compared with each other;
times of different runs or machines cannot.

- *reference*: asgiref's `StatelessServer` or, where brackets name another server, that one.
- *pure*, *cython*: cyasgi in pure Python, and with its compiled core.
- *floor*: as little as can do the same work; below each table stands what that is. *minimal* is a second one.
- A cell has the median of the rounds and in brackets, as a measure of the spread, the least and the first and third
  quartile (of two or three rounds: the least and the most). Less is better unless the row says otherwise.
- *gains*: how many times better than the reference; below 1 it is worse.
- *loop*: asyncio's own event loop, or uvloop's. *gc*: the garbage collector on, as a user has it, or off.
- *reached* and *missed*: goals that were set before anything was measured."""


def columns(question: Timed | Probed, answers: Answers) -> list[str]:
    """The usual sides, and those of the others that were asked."""
    measured = {one.side for one in answers.of(question.name)}
    return [*SIDES, FLOOR, *(side for side in PEERS if side in measured)]


def save(directory: Path, environment: dict[str, str], mode: str, records: list[dict[str, Any]]) -> None:
    """The raw data, complete enough to draw everything else from again."""
    found = {"environment": environment, "mode": mode, "measurements": records}
    (directory / "results.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def read(directory: Path) -> tuple[dict[str, str], Answers]:
    """The environment and the answers of an earlier run."""
    found = json.loads((directory / "results.json").read_text())
    return found["environment"], Answers([Measurement.from_record(record) for record in found["measurements"]])


def _cell(one: Measurement | None, scale: float) -> str:
    if one is None:
        return "–"
    if len(one.samples) == 1:
        return shown(one.median * scale)
    if len(one.samples) < 4:
        return f"{shown(one.median * scale)} ({shown(one.least * scale)}–{shown(max(one.samples) * scale)})"
    first, third = one.quartiles
    return f"{shown(one.median * scale)} ({shown(one.least * scale)}; {shown(first * scale)}–{shown(third * scale)})"


def _rows(question: Timed | Probed, answers: Answers) -> Iterator[list[str]]:
    seen: dict[tuple[str, int, str, str], None] = {}
    for one in answers.of(question.name):
        seen[one.figure, one.size, one.loop, one.collector] = None
    order = list(question.figures)
    shown_sides = columns(question, answers)
    for figure, size, loop, collector in sorted(seen, key=lambda row: (order.index(row[0]), row[1], row[2], row[3])):
        described = question.figures[figure]
        scale = SCALE.get(described.unit, 1.0)
        sides = {side: answers.get(question.name, figure, size, side, loop, collector) for side in shown_sides}
        reference = sides["reference"]
        gained = []
        for side in ("pure", "cython"):
            gain = gain_of(sides[side], reference, more=described.more) if described.judged else None
            gained.append("–" if gain is None else f"{shown(gain)}×")
        yield [
            f"{described.title}, {described.unit}{' (more is better)' if described.more else ''}",
            f"{size:,}",
            loop,
            collector,
            *(_cell(one, scale) for one in sides.values()),
            *gained,
        ]


def _rounds(question: Question, answers: Answers) -> str:
    """How many samples there are of each figure."""
    counts = sorted({len(one.samples) for one in answers.of(question.name)})
    told = " to ".join(dict.fromkeys((str(counts[0]), str(counts[-1]))))
    return "One run of each." if counts == [1] else f"Medians of {told} rounds."


def _hasty(question: Question, answers: Answers) -> str:
    """Which servers had time left, so that their rates are the load generator's."""
    found: dict[str, list[str]] = {}
    for one in answers.of(question.name):
        if one.figure in BUSY and one.median < BUSY_ENOUGH:
            where = f"{one.loop}, {one.size:,} {question.size_of}"
            found.setdefault(where, []).append(f"{question.name_of(one.side)} {one.median:.0%}")
    if not found:
        return ""
    return (
        "Not short of time, so that the rate says more about the load generator, and only the CPU time about the "
        "server: " + "; ".join(f"{', '.join(names)} ({where})" for where, names in found.items()) + "."
    )


def section(question: Timed | Probed, answers: Answers) -> str:
    """One question: its table, its floor and its promises."""
    sides = map(question.name_of, columns(question, answers))
    heads = ["figure", question.size_of, "loop", "gc", *sides, "pure gains", "cython gains"]
    lines = [f"## {question.title} (`{question.name}`)", ""]
    lines += [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    lines += [f"| {' | '.join(row)} |" for row in _rows(question, answers)]
    lines.append("")
    lines += [f"{_rounds(question, answers)} {_hasty(question, answers)}".rstrip(), ""]
    if question.floor_is:
        lines += [f"Floor: {question.floor_is}.", ""]
    if question.note:
        lines += [question.note, ""]
    for verdict in verdicts(question, answers):
        mark = "reached" if verdict.held else "**missed**"
        unit = question.figures[verdict.bar.figure].unit
        title = question.figures[verdict.bar.figure].title
        place = f"{title}, {verdict.size:,} {question.size_of}, {verdict.loop}"
        lines.append(f"- {mark}: {verdict.told(unit)} ({place})")
    return "\n".join(lines).rstrip() + "\n"


def missed(questions: list[Timed | Probed], answers: Answers) -> list[str]:
    """Every promise that was not kept, in a line each."""
    return [
        f"{question.name} [{verdict.size:,} {verdict.loop}] {verdict.told(question.figures[verdict.bar.figure].unit)}"
        for question in questions
        for verdict in verdicts(question, answers)
        if not verdict.held
    ]


def table(
    questions: list[Timed | Probed], environment: dict[str, str], answers: Answers, charts: list[tuple[str, str]]
) -> str:
    """The whole of table.md."""
    kept = [verdict.held for question in questions for verdict in verdicts(question, answers)]
    lines = ["# Benchmarks", ""]
    lines += [f"- {name}: {value}" for name, value in environment.items()]
    lines += ["", HOW_TO_READ, "", f"{sum(kept)} of {len(kept)} goals were reached in this run.", ""]
    lines += [f"![{title}]({name})\n" for title, name in charts]
    lines += [section(question, answers) for question in questions if answers.of(question.name)]
    return "\n".join(lines)

"""What changed between two runs, in ratios only: times differ with the machine, advantages hardly do."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from benchmarks.judge import Ratio, ratios, shown
from benchmarks.report import read

#: What is told of the two machines.
TOLD = ("commit", "python", "cpu", "date")
HEADS = ("question", "figure", "size", "loop", "ratio", "before", "after", "change")
#: Columns that hold numbers.
NUMBERS = ("size", "before", "after", "change")


def compare(before: Path, after: Path, threshold: float, names: Collection[str] = ()) -> int:
    """Prints how many times better each twin was in either run than what it is measured against (of these questions
    only, if any are named) and what only one of the runs has.

    Returns:
        1 if an advantage shrank by more than the threshold; 2 if a run has nothing of what was asked for, or the two
        have nothing in common.
    """
    (environment, earlier), (now, later) = read(before), read(after)
    was, is_now = (
        {key: ratio for key, ratio in ratios(answers).items() if not names or key.question in names}
        for answers in (earlier, later)
    )
    print(f"before: {before}\n        {_told(environment)}\nafter:  {after}\n        {_told(now)}\n")
    print("Each ratio says how many times better the first is than the second; more is better for cyasgi.\n")
    rows = []
    worse = []
    better = 0
    for key in (key for key in is_now if key in was):
        change = is_now[key] / was[key] - 1
        rows.append(_row(key, was[key], is_now[key], change))
        if change < -threshold:
            worse.append(rows[-1])
            rows[-1].append("WORSE")
        elif change > threshold:
            better += 1
            rows[-1].append("better")
    if rows:
        _print(rows)
    missing = _missing(was.keys() - is_now.keys(), is_now), _missing(is_now.keys() - was.keys(), was)
    for where, absent in zip((after, before), missing, strict=True):
        if absent:
            print(f"Missing in {where}:", *absent, sep="\n  ")
            print()
    unanswered = [name for name in names if not all(any(key.question == name for key in run) for run in (was, is_now))]
    if not rows or unanswered:
        what = (
            f"nothing to compare of {', '.join(unanswered)}" if unanswered else "the two runs have no ratio in common"
        )
        print(f"Not comparable: {what}.", file=sys.stderr)
        if not rows:
            return 2
    told = f"{len(worse)} of {len(rows)} ratios are worse by more than {threshold:.0%}, {better} better"
    if worse:
        print("Worse:")
        _print(row[:-1] for row in worse)
    print(f"{told}.")
    return 1 if worse else 2 if unanswered else 0


def _told(environment: Mapping[str, str]) -> str:
    return "; ".join(
        environment[name][:12] if name == "commit" else environment[name] for name in TOLD if name in environment
    )


def _row(key: Ratio, was: float, is_now: float, change: float) -> list[str]:
    size = f"{key.size:,}"
    values = f"{shown(was)}×", f"{shown(is_now)}×", f"{change:+.0%}"
    return [key.question, key.figure, size, key.loop, f"{key.side} / {key.against}", *values]


def _print(rows: Iterable[list[str]]) -> None:
    """An aligned table; a question is named where it begins."""
    rows = [list(HEADS), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    before = ""
    for row in rows:
        cells = [
            cell.rjust(width) if head in NUMBERS else cell.ljust(width)
            for head, cell, width in zip(HEADS, ["" if row[0] == before else row[0], *row[1:]], widths, strict=False)
        ]
        before = row[0]
        print("  ".join([*cells, *row[len(HEADS) :]]).rstrip())
    print()


def _missing(keys: Iterable[Ratio], there: Iterable[Ratio]) -> list[str]:
    """What a run lacks: whole questions by their names, single ratios of the others."""
    partly = {key.question for key in there}
    questions: dict[str, int] = {}
    single = []
    for key in sorted(keys):
        if key.question in partly:
            single.append(f"{key.question}: {key.figure}, {key.size:,}, {key.loop}, {key.side} / {key.against}")
        else:
            questions[key.question] = questions.get(key.question, 0) + 1
    return [f"{name} (all of its {count} ratios)" for name, count in questions.items()] + single

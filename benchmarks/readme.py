"""Writes the README's figures from a run in bench_results/, or says where they differ from it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from benchmarks.catalogue import QUESTIONS
from benchmarks.fresh import ROOT
from benchmarks.judge import SCALE, Answers, gain_of, shown, verdicts
from benchmarks.question import Figure, Measurement, Probed, Question, Timed
from benchmarks.report import read
from benchmarks.sides import FLOOR, LOOPS, PEERS, SIDES

#: The sides of every table, and what stands above them.
COLUMNS = {"reference": "reference", "pure": "pure", "cython": "compiled", FLOOR: "floor"}

BLOCK = re.compile(
    r"<!-- figures:begin(?: (?P<source>\S*/\S*))?(?P<names>(?: [a-z_]+)*) -->\n(?P<body>.*?)<!-- figures:end -->",
    re.DOTALL,
)


def readme(directory: Path | None, *, check: bool) -> int:
    """Fills each block from the run that it names already, or from `directory` if that answers any of its questions;
    1 if `check` and a block differs.

    A block begins with ``<!-- figures:begin DIRECTORY QUESTION... -->``; one that names no questions has all that no
    other block names.
    """
    path = ROOT / "README.md"
    text = path.read_text()
    blocks = list(BLOCK.finditer(text))
    if not blocks:
        print("README.md has no block between <!-- figures:begin --> and <!-- figures:end -->")
        return 1
    elsewhere = {name for found in blocks for name in found["names"].split()}
    written = text
    for found in blocks:
        names = set(found["names"].split()) or QUESTIONS.keys() - elsewhere
        source = found["source"] or ""
        if directory is not None and any(one.question in names for one in read(directory)[1].all):
            source = directory.resolve().relative_to(ROOT).as_posix()
        if not (ROOT / source / "results.json").is_file():
            print(f"README.md takes its figures from {source!r}, where no results.json is")
            return 1
        begin = f"<!-- figures:begin {source}{found['names']} -->"
        written = written.replace(found[0], f"{begin}\n{block(ROOT / source, names)}<!-- figures:end -->")
    if written == text:
        return 0
    if check:
        print("the figures in README.md are not those of the runs that it names: run python -m benchmarks readme")
        return 1
    path.write_text(written)
    return 0


def block(directory: Path, names: Collection[str]) -> str:
    """What stands between the two marks: the figures of these questions."""
    environment, answers = read(directory)
    questions = [question for name, question in QUESTIONS.items() if name in names]
    lines = [
        f"{environment['python']}, {environment['cpu']}, commit {environment['commit'][:12]}, {environment['date']};",
        f"every sample and chart is in [{directory.name}](bench_results/{directory.name}/table.md). Made with",
        f"`{environment['command']}`. Medians; a gain is the reference's figure over cyasgi's (of the compiled core).",
        "",
        *table([question for question in questions if not question.called], answers),
        *table([question for question in questions if question.called], answers),
    ]
    kept = [verdict.held for question in questions for verdict in verdicts(question, answers)]
    if kept:
        lines.append(f"Of the {len(kept)} goals set for these questions, {sum(kept)} were reached in that run.")
    return "\n".join(lines) + "\n"


def table(questions: list[Timed | Probed], answers: Answers) -> Iterator[str]:
    """One table of the questions that were asked, which have one reference, with every further side that was asked."""
    asked = [question for question in questions if answers.of(question.name)]
    if not asked:
        return
    measured = {one.side for question in asked for one in answers.of(question.name)}
    sides = [*COLUMNS, *(side for side in PEERS if side in measured)]
    heads = [asked[0].name_of("reference"), *(COLUMNS.get(side, side) for side in sides[1:])]
    yield f"| question | size | loop | {' | '.join(heads)} | gain |"
    yield f"|{' --- |' * (len(heads) + 4)}"
    yield from rows(asked, sides, answers)
    yield ""


def rows(questions: Iterable[Timed | Probed], sides: Iterable[str], answers: Answers) -> Iterator[str]:
    """The first figure of each question, or those that it wants told, at the largest size at which the reference was
    measured too, else at the largest; the run's own table has all."""
    for question in questions:
        for figure in question.told or itertools.islice(question.figures, 1):
            described = question.figures[figure]
            size = _size(question, figure, answers)
            if size is None:
                continue
            for loop in LOOPS:
                found = {side: answers.get(question.name, figure, size, side, loop) for side in sides}
                if any(found[side] for side in SIDES):
                    yield _row(question, described, size, loop, found)


def _row(question: Question, figure: Figure, size: int, loop: str, found: Mapping[str, Measurement | None]) -> str:
    scale = SCALE.get(figure.unit, 1.0)
    cells = ["–" if one is None else shown(one.median * scale) for one in found.values()]
    gain = gain_of(found["cython"], found["reference"], more=figure.more)
    told = "–" if gain is None else f"{shown(gain)}×"
    return f"| {question.title}: {figure.title}, {figure.unit} | {size:,} | {loop} | {' | '.join(cells)} | {told} |"


def _size(question: Question, figure: str, answers: Answers) -> int | None:
    measured = [one for one in answers.of(question.name) if one.figure == figure and one.collector == "on"]
    compared = [one.size for one in measured if one.side == "reference"]
    return max(compared or [one.size for one in measured], default=None)

"""Writes the README's figures from a run in bench_results/, or says where they differ from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.catalogue import QUESTIONS
from benchmarks.fresh import ROOT
from benchmarks.judge import SCALE, Answers, gain_of, shown, verdicts
from benchmarks.question import Question
from benchmarks.report import read
from benchmarks.sides import FLOOR

BLOCK = re.compile(r"<!-- figures:begin(?P<source>[^>]*)-->\n(?P<body>.*?)<!-- figures:end -->", re.DOTALL)


def readme(directory: Path | None, *, check: bool) -> int:
    """Fills the block from `directory`, or from the run that it names already; 1 if `check` and it differs."""
    path = ROOT / "README.md"
    text = path.read_text()
    found = BLOCK.search(text)
    if found is None:
        print("README.md has no block between <!-- figures:begin --> and <!-- figures:end -->")
        return 1
    source = found["source"].strip() if directory is None else directory.resolve().relative_to(ROOT).as_posix()
    if not (ROOT / source / "results.json").is_file():
        print(f"README.md takes its figures from {source!r}, where no results.json is")
        return 1
    written = BLOCK.sub(lambda _: f"<!-- figures:begin {source} -->\n{block(ROOT / source)}<!-- figures:end -->", text)
    if written == text:
        return 0
    if check:
        print(f"the figures in README.md are not those of {source}: run python -m benchmarks readme {source}")
        return 1
    path.write_text(written)
    return 0


def block(directory: Path) -> str:
    """What stands between the two marks."""
    environment, answers = read(directory)
    lines = [
        f"{environment['python']}, {environment['cpu']}, commit {environment['commit'][:12]}, {environment['date']};",
        f"every sample and chart is in [{directory.name}](bench_results/{directory.name}/table.md). Made with",
        f"`{environment['command']}`. Medians; a gain is the reference's figure over cyasgi's (of the compiled core).",
        "",
        "| question | size | loop | reference | pure | compiled | floor | gain |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *rows(answers),
        "",
    ]
    kept = [verdict.held for question in QUESTIONS.values() for verdict in verdicts(question, answers)]
    lines.append(f"Of the {len(kept)} bars set for these questions, {sum(kept)} were reached in that run.")
    return "\n".join(lines) + "\n"


def rows(answers: Answers) -> Iterator[str]:
    """Each figure at the largest size at which the reference was measured too, else at the largest."""
    for question in QUESTIONS.values():
        for figure, described in question.figures.items():
            size = _size(question, figure, answers)
            if size is None:
                continue
            scale = SCALE.get(described.unit, 1.0)
            for loop in ("asyncio", "uvloop"):
                sides = [
                    answers.get(question.name, figure, size, side, loop) for side in ("reference", "pure", "cython")
                ]
                floor = answers.get(question.name, figure, size, FLOOR, loop)
                if not any(sides):
                    continue
                gain = gain_of(sides[2], sides[0], more=described.more)
                cells = ["–" if one is None else shown(one.median * scale) for one in (*sides, floor)]
                told = "–" if gain is None else f"{shown(gain)}×"
                title = f"{question.title}: {described.title}, {described.unit}"
                yield f"| {title} | {size:,} | {loop} | {' | '.join(cells)} | {told} |"


def _size(question: Question, figure: str, answers: Answers) -> int | None:
    measured = [one for one in answers.of(question.name) if one.figure == figure and one.collector == "on"]
    compared = [one.size for one in measured if one.side == "reference"]
    return max(compared or [one.size for one in measured], default=None)

"""Writes the figures of benchmarks/README.md, and the summary in README.md, from runs in bench_results/."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks import capacity
from benchmarks.catalogue import QUESTIONS
from benchmarks.fresh import ROOT
from benchmarks.judge import SCALE, Answers, gain_of, shown, verdicts
from benchmarks.question import Figure, Measurement, Probed, Question, Timed
from benchmarks.report import read
from benchmarks.sides import FLOOR, LOOPS, PEERS, SIDES

#: The file with all figures, and the one with the summary.
FIGURES = ROOT / "benchmarks" / "README.md"
FRONT = ROOT / "README.md"

#: The sides of every table, and what stands above them.
COLUMNS = {"reference": "reference", "pure": "pure", "cython": "compiled", FLOOR: "floor"}

BLOCK = re.compile(
    r"<!-- figures:begin(?: (?P<source>\S*/\S*))?(?P<names>(?: [a-z_]+)*) -->\n(?P<body>.*?)<!-- figures:end -->",
    re.DOTALL,
)
#: A model of capacity, and the run that it is made from.
MODEL = re.compile(r"(<!-- model:begin (?P<source>\S+) -->\n).*?(?=<!-- model:end -->)", re.DOTALL)
SUMMARY = re.compile(r"(?<=<!-- summary:begin -->\n).*?(?=<!-- summary:end -->)", re.DOTALL)


class Line(NamedTuple):
    """A line of the summary, and the question, figure (empty for the first) and loop that it is taken from."""

    title: str
    question: str
    figure: str = ""
    loop: str = "asyncio"
    against: str = "asgiref"


LINES = (
    Line("Look up a live instance", "lookup"),
    Line("A message in, and its answer out", "message"),
    Line("Create and start an instance", "create"),
    Line("The same at the limit, where another one is evicted", "evict"),
    Line("Find and remove an instance that has finished", "reap"),
    Line("Memory of an idle instance", "resident"),
    Line("Share of a core that the checker takes", "checker"),
    Line("99 % of messages received within", "latency", "p99"),
    Line("UDP echo, CPU time for each datagram", "udp", loop="uvloop"),
    Line("HTTP, 13 bytes answered, CPU time for each request", "http", loop="uvloop", against="uvicorn"),
    Line("The same with a browser's headers", "http_varied", loop="uvloop", against="uvicorn"),
    Line("The same with an access log", "http_log", loop="uvloop", against="uvicorn"),
    Line("HTTP, 1 MiB in parts, CPU time for each request", "http_stream", loop="uvloop", against="uvicorn"),
    Line("WebSocket echo, CPU time for each message", "websocket", loop="uvloop", against="uvicorn"),
)


def readme(directory: Path | None, *, check: bool) -> int:
    """Fill each block from the run that it names already, or from `directory` if that answers any of its questions;
    return 1 if `check` and anything differs.

    The model of capacity is made anew from the run that it names.

    A block begins with ``<!-- figures:begin DIRECTORY QUESTION... -->``; one that names no questions has all that no
    other block names. The summary takes each figure from the block with the largest size of its question.
    """
    text = FIGURES.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    if not blocks:
        print(f"{_name(FIGURES)} has no block between <!-- figures:begin --> and <!-- figures:end -->")
        return 1
    elsewhere = {name for found in blocks for name in found["names"].split()}
    written = text
    runs = []
    for found in blocks:
        names = set(found["names"].split()) or QUESTIONS.keys() - elsewhere
        source = found["source"] or ""
        if directory is not None and any(one.question in names for one in read(directory)[1].all):
            source = directory.resolve().relative_to(ROOT).as_posix()
        if not (ROOT / source / "results.json").is_file():
            print(f"{_name(FIGURES)} takes its figures from {source!r}, where no results.json is")
            return 1
        begin = f"<!-- figures:begin {source}{found['names']} -->"
        written = written.replace(found[0], f"{begin}\n{block(ROOT / source, names)}<!-- figures:end -->")
        runs.append((names, read(ROOT / source)[1]))
    for found in MODEL.finditer(text):
        lines = "\n".join(capacity.told(read(ROOT / found["source"])[1]))
        written = written.replace(found[0], f"{found[1]}{lines}\n")
    front = FRONT.read_text(encoding="utf-8")
    if not SUMMARY.search(front):
        print(f"{_name(FRONT)} has no block between <!-- summary:begin --> and <!-- summary:end -->")
        return 1
    lines = "\n".join(summary(runs)) + "\n"
    changed = [
        (path, new)
        for path, old, new in ((FIGURES, text, written), (FRONT, front, SUMMARY.sub(lambda _: lines, front)))
        if old != new
    ]
    if check and changed:
        names_of = " and ".join(_name(path) for path, _ in changed)
        print(f"the figures in {names_of} are not those of the runs: run python -m benchmarks readme")
        return 1
    for path, new in changed:
        path.write_text(new, encoding="utf-8")
    return 0


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def summary(runs: list[tuple[Collection[str], Answers]]) -> Iterator[str]:
    """The table of the front page: the compiled core's figures and those of what it is measured against.

    Args:
        runs: the questions that each run is told for, and its answers.
    """
    yield "| | instances, connections | loop | compared with | its figure | cyasgi's | gain |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for line in LINES:
        question = QUESTIONS[line.question]
        name = line.figure or next(iter(question.figures))
        figure = question.figures[name]
        sizes = [(_size(question, name, answers), answers) for names, answers in runs if line.question in names]
        size, answers = max(((size, answers) for size, answers in sizes if size is not None), key=lambda one: one[0])
        scale = SCALE.get(figure.unit, 1.0)
        reference = answers.get(line.question, name, size, "reference", line.loop)
        cython = answers.get(line.question, name, size, "cython", line.loop)
        gain = gain_of(cython, reference, more=figure.more)
        assert reference is not None
        assert cython is not None
        assert gain is not None
        before, after = (f"{shown(one.median * scale)} {figure.unit}" for one in (reference, cython))
        yield f"| {line.title} | {size:,} | {line.loop} | {line.against} | {before} | {after} | {shown(gain)}× |"


def block(directory: Path, names: Collection[str]) -> str:
    """What stands between the two marks: the figures of these questions."""
    environment, answers = read(directory)
    questions = [question for name, question in QUESTIONS.items() if name in names]
    lines = [
        f"{environment['python']}, {environment['cpu']}, commit {environment['commit'][:12]}, {environment['date']};",
        f"every sample and chart is in [{directory.name}](../bench_results/{directory.name}/table.md). Made with",
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

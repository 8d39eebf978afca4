"""The command: `python -m benchmarks [--quick | --full] [names...]`, and `compare`, `draw`, `readme`, `profile`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import monotonic

import benchmarks
from benchmarks import profiling, report
from benchmarks.catalogue import QUESTIONS
from benchmarks.compare import compare
from benchmarks.environment import busy, describe, directory_name
from benchmarks.fresh import ROOT
from benchmarks.judge import Answers
from benchmarks.question import Measurement, Probed, Timed
from benchmarks.readme import readme
from benchmarks.rounds import end_line, measure
from benchmarks.sides import FLOOR, LOOPS, PEERS, SIDES, available, available_loops

COMPARE = """How many times better cyasgi was in two runs than what it is measured against, and what has changed. Exits
with 1 if one of these ratios is worse by more than the threshold, with 2 if there is nothing to compare."""


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["compare"]:
        return main_compare(arguments[1:])
    if arguments[:1] == ["draw"]:
        return main_draw(arguments[1:])
    if arguments[:1] == ["readme"]:
        return main_readme(arguments[1:])
    if arguments[:1] == ["profile"]:
        return main_profile(arguments[1:])
    return main_run(arguments)


def main_compare(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=COMPARE)
    parser.add_argument("before", type=Path, help="a directory with the results.json of a run")
    parser.add_argument("after", type=Path, help="another one")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.25,
        help="the part of a ratio that may be lost before this exits with 1 (default: 0.25)",
    )
    parser.add_argument("names", nargs="*", metavar="name", help="only these questions")
    chosen = parser.parse_intermixed_args(arguments)
    check_names(parser, chosen.names)
    for directory in (chosen.before, chosen.after):
        if not (directory / "results.json").is_file():
            parser.error(f"{directory}: no results.json is there")
    return compare(chosen.before, chosen.after, chosen.threshold, chosen.names)


def check_names(parser: argparse.ArgumentParser, names: list[str]) -> None:
    unknown = set(names) - set(QUESTIONS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(QUESTIONS)}")


def main_draw(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks draw", description="Draws the charts of a run again, from its results.json."
    )
    parser.add_argument("directory", type=Path, help="where the results.json of the run is")
    parser.add_argument("output", type=Path, nargs="?", help="where to draw (default: the same directory)")
    chosen = parser.parse_args(arguments)
    if not (chosen.directory / "results.json").is_file():
        parser.error(f"{chosen.directory}: no results.json is there")
    output = chosen.output or chosen.directory
    output.mkdir(parents=True, exist_ok=True)
    drawn = draw(report.read(chosen.directory)[1], output)
    print(*(f"{name:20}{title}" for title, name in drawn), sep="\n")
    return 0 if drawn else 1


def main_readme(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks readme")
    parser.add_argument("directory", type=Path, nargs="?", help="the run to take the figures from (default: as before)")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if the figures differ")
    chosen = parser.parse_args(arguments)
    return readme(chosen.directory, check=chosen.check)


def main_profile(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks profile",
        description="Where the time of servers under load goes, by perf, as Markdown; for the questions about servers.",
    )
    parser.add_argument("--sides", default="reference,cython", help="only these (default: %(default)s)")
    parser.add_argument("--loop", default="uvloop", help="the event loop (default: %(default)s)")
    parser.add_argument("--symbols", type=int, default=25, help="functions to name (default: %(default)s)")
    parser.add_argument("names", nargs="+", metavar="name", help="the questions")
    chosen = parser.parse_args(arguments)
    check_names(parser, chosen.names)
    if hindrance := profiling.hindrance():
        parser.error(hindrance)
    for name in chosen.names:
        question = QUESTIONS[name]
        if not isinstance(question, Probed) or "cpu" not in question.figures:
            parser.error(f"{name} puts no server under load")
        for side in chosen.sides.split(","):
            print(profiling.profile(question, side, chosen.loop, question.sizes["usual"][-1], "usual", chosen.symbols))
    return 0


def main_run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=benchmarks.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--quick", dest="mode", action="store_const", const="quick", help="a few minutes, one round")
    modes.add_argument(
        "--full", dest="mode", action="store_const", const="full", help="many hours: all sizes, collector off too"
    )
    parser.add_argument("--list", action="store_true", help="name the questions")
    parser.add_argument("--sides", default=",".join((*SIDES, FLOOR, *PEERS)), help="only these (default: %(default)s)")
    parser.add_argument("--loops", default=",".join(LOOPS), help="only these (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="where to write (default: bench_results/<date>-<python>-<machine>)")
    parser.add_argument("--no-charts", action="store_true", help="do not draw")
    parser.add_argument("names", nargs="*", metavar="name", help="only these questions")
    chosen = parser.parse_args(arguments)
    if chosen.list:
        for question in QUESTIONS.values():
            print(f"{question.name:20}{question.title}")
        return 0
    check_names(parser, chosen.names)
    sides = tuple(chosen.sides.split(","))
    if unknown := set(sides) - {*SIDES, FLOOR, *PEERS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join((*SIDES, FLOOR, *PEERS))}")
    return run(
        [QUESTIONS[name] for name in chosen.names or QUESTIONS],
        chosen.mode or "usual",
        available(sides),
        available_loops(tuple(chosen.loops.split(","))),
        chosen.output,
        charts=not chosen.no_charts,
    )


def unused(directory: Path) -> Path:
    """The directory, or the first of it with a number behind that does not exist yet."""
    number, free = 2, directory
    while free.exists():
        free = directory.with_name(f"{directory.name}-{number}")
        number += 1
    return free


def run(
    questions: list[Timed | Probed], mode: str, sides: list[str], loops: list[str], output: Path | None, *, charts: bool
) -> int:
    """Asks the questions one after another; what was answered is written even when it is interrupted."""
    environment = describe()
    if hindrance := busy():
        print(f"{hindrance}; the figures will be worth little", file=sys.stderr)
    records = []
    begun = monotonic()
    asked = []
    failed = False
    for number, question in enumerate(questions, 1):
        print(f"[{number}/{len(questions)}] {question.title}", file=sys.stderr)
        hindrance = question.hindrance() if isinstance(question, Probed) else ""
        if hindrance or not question.sizes[mode]:
            print(f"      left out: {hindrance or f'not in a {mode} run'}", file=sys.stderr)
            continue
        try:
            records += measure(question, mode, sides, loops)
        except KeyboardInterrupt:
            print("interrupted: what is complete is written", file=sys.stderr)
            failed = True
            break
        except RuntimeError as error:
            print(f"      failed: {error}", file=sys.stderr)
            failed = True
            continue
        asked.append(question)
        end_line()
        answers = Answers([Measurement.from_record(record) for record in records])
        print(report.section(question, answers))
    environment["took"] = f"{monotonic() - begun:.0f} s"
    if not records:
        return 1
    directory = output or unused(ROOT / "bench_results" / directory_name())
    directory.mkdir(parents=True, exist_ok=True)
    answers = Answers([Measurement.from_record(record) for record in records])
    report.save(directory, environment, mode, records)
    drawn = draw(answers, directory) if charts else []
    (directory / "table.md").write_text(report.table(asked, environment, answers, drawn))
    for line in report.missed(asked, answers):
        print(f"missed: {line}")
    print(f"written to {directory}")
    return 1 if failed else 0


def draw(answers: Answers, directory: Path) -> list[tuple[str, str]]:
    """Draws the charts where matplotlib is installed; title and file of each."""
    try:
        from benchmarks.charts import draw_all
    except ImportError as error:
        print(f"no charts: {error}; the extra 'bench' brings what they need", file=sys.stderr)
        return []
    return draw_all(answers, directory)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

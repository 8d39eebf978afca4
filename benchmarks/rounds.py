"""Puts a question to its sides, round after round, and collects what they answer."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator
from time import process_time
from typing import Any

from benchmarks.fresh import fresh
from benchmarks.question import Measurement, Probed, Timed, added
from benchmarks.sides import loop_factory
from benchmarks.workload import Workload

#: The least number of rounds that a median is taken of.
ROUNDS = 7
#: Interpreters that a timed question is asked in, one after the other, and rounds in each: where things lie in memory,
#: and how strings hash, is chance that stays for as long as an interpreter lives.
INTERPRETERS = {"quick": (1, ROUNDS), "usual": (3, 3), "full": (3, 3)}
#: With so many instances one interpreter answers, since making them takes longest; and what needs an interpreter for
#: each round has fewer rounds.
VERY_MANY = 1_000_000
ROUNDS_OF_VERY_MANY = 3


def tell(line: str) -> None:
    """Progress: one line that is written over on a terminal, one line each elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)


def end_line() -> None:
    """Leaves the line that progress was written to."""
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def spaced(number: int) -> str:
    return f"{number:,}"


async def _time(workload: Workload, collector: str) -> float:
    """CPU seconds per operation of one round on one side; nothing waits, so an idle machine takes as long."""
    gc.collect()
    await workload.prepare()
    if collector == "off":
        gc.disable()
    try:
        started = process_time()
        await workload.work()
        elapsed = process_time() - started
    finally:
        gc.enable()
    await workload.finish()
    return elapsed / workload.operations


async def _interleave(
    workloads: dict[tuple[str, str], Workload], collectors: list[str], rounds: int
) -> dict[tuple[str, str, str], list[float]]:
    """Samples by way, side and collector. Each round begins with another workload and every other one goes backwards,
    so that none always follows the same one; the first one only warms up."""
    samples: dict[tuple[str, str, str], list[float]] = {
        (*key, collector): [] for key in workloads for collector in collectors
    }
    for workload in workloads.values():
        await workload.open()
    order = list(workloads)
    for number in range(rounds + 1):
        order.append(order.pop(0))
        for collector in collectors:
            for key in order if number % 2 else reversed(order):
                sample = await _time(workloads[key], collector)
                if number:
                    samples[*key, collector].append(sample)
    for workload in workloads.values():
        await workload.close()
    return samples


def measure_timed(
    name: str, mode: str, sizes: list[int], sides: list[str], loops: list[str], rounds: int
) -> list[dict[str, Any]]:
    """The measurements of a timed question, in so many rounds; runs in an interpreter of its own."""
    # Imported here because the questions' own modules import this one's neighbours.
    from benchmarks.catalogue import QUESTIONS

    question = QUESTIONS[name]
    assert isinstance(question, Timed)
    collectors = ["on", "off"] if mode == "full" else ["on"]
    records = []
    for size in sizes:
        for loop in loops:
            tell(f"{name}: {spaced(size)} {question.size_of}, {loop}")
            workloads = {
                (way, side): made for way in question.ways for side in sides if (made := question.make(side, size, way))
            }
            with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
                samples = runner.run(_interleave(workloads, collectors, rounds))
            samples |= _added(question.base, samples)
            records += [
                Measurement(name, figure, size, side, loop, collector, taken).record()
                for (figure, side, collector), taken in samples.items()
            ]
    return records


def _added(base: str, samples: dict[tuple[str, str, str], list[float]]) -> dict[tuple[str, str, str], list[float]]:
    """What each way took beyond the one that it is compared with, round by round."""
    return {
        (added(way), side, collector): [one - other for one, other in zip(taken, compared, strict=True)]
        for (way, side, collector), taken in samples.items()
        if way != base and (compared := samples.get((base, side, collector)))
    }


def _joined(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One measurement of all the samples that were taken of the same."""
    found: dict[tuple[Any, ...], Measurement] = {}
    for one in map(Measurement.from_record, records):
        key = (one.figure, one.size, one.side, one.loop, one.collector)
        if key in found:
            found[key].samples += one.samples
        else:
            found[key] = one
    return [one.record() for one in found.values()]


def _probes(question: Probed, mode: str, sides: list[str], loops: list[str]) -> Iterator[tuple[int, str, str]]:
    for size in question.sizes[mode]:
        asked = [side for side in sides if side in question.asked(mode, size)]
        for loop in loops:
            if question.loops is None or loop in question.loops:
                yield from ((size, loop, side) for side in asked)


def _without_lacking(question: Probed, mode: str, sides: list[str]) -> list[str]:
    """The sides that lack nothing; what the others lack is told on stderr."""
    asked = {side for size in question.sizes[mode] for side in question.asked(mode, size)}
    lacking = {side: question.lacking(side) for side in sides if side in asked}
    for side, what in lacking.items():
        if what:
            print(f"      {question.name_of(side)}: left out: {what}", file=sys.stderr)
    return [side for side in sides if not lacking.get(side)]


def measure_probed(question: Probed, mode: str, sides: list[str], loops: list[str]) -> list[dict[str, Any]]:
    """The measurements of a probed question: an interpreter for each side, the sides alternating."""
    found: dict[tuple[str, int, str, str], list[float]] = {}
    rounds = question.rounds[mode]
    sides = _without_lacking(question, mode, sides)
    for number in range(rounds):
        asked = [
            one for one in _probes(question, mode, sides, loops) if one[0] < VERY_MANY or number < ROUNDS_OF_VERY_MANY
        ]
        for size, loop, side in asked[:: -1 if number % 2 else 1]:
            tell(f"{question.name}: {spaced(size)} {question.size_of}, {loop}, {side}, round {number + 1} of {rounds}")
            arguments = question.arguments.get(mode, {})
            answer = fresh(question.probe, side=side, loop=loop, size=size, **arguments)
            for figure, value in answer.items():
                found.setdefault((figure, size, side, loop), []).append(value)
    return [
        Measurement(question.name, figure, size, side, loop, "on", samples).record()
        for (figure, size, side, loop), samples in found.items()
    ]


def measure(question: Timed | Probed, mode: str, sides: list[str], loops: list[str]) -> list[dict[str, Any]]:
    """The answer to one question."""
    if isinstance(question, Timed):
        records = []
        for sizes, (interpreters, rounds) in _interpreters(question, mode):
            for _ in range(interpreters):
                records += fresh(
                    measure_timed, name=question.name, mode=mode, sizes=sizes, sides=sides, loops=loops, rounds=rounds
                )
        return _joined(records)
    return measure_probed(question, mode, sides, loops)


def _interpreters(question: Timed, mode: str) -> Iterator[tuple[list[int], tuple[int, int]]]:
    """Sizes, how many interpreters are to be asked about them, and the rounds in each."""
    few = [size for size in question.sizes[mode] if size < VERY_MANY]
    many = [size for size in question.sizes[mode] if size >= VERY_MANY]
    if few:
        yield few, INTERPRETERS[mode]
    if many:
        yield many, (1, ROUNDS)

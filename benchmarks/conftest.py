"""The questions under pytest-benchmark: python -m pytest benchmarks -o python_files='bench_*.py'.

Each test is named after its question, loop, size and side, for example test_wake[asyncio-1000-cython], and where the
work is done in several ways the way stands before the side. Its group holds the sides of one question side by side.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.fresh import fresh
from benchmarks.question import MODES, Probed, Timed
from benchmarks.rounds import ROUNDS
from benchmarks.sides import FLOOR, SIDES, available, available_loops, loop_factory


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mode", choices=MODES, default="quick", help="which sizes the benchmarks are run at (default: quick)"
    )


def _cases(question: Timed | Probed, mode: str) -> Iterator[tuple[str, int, str, str]]:
    if isinstance(question, Probed) and question.hindrance():
        return
    for loop in available_loops():
        if isinstance(question, Probed) and question.loops is not None and loop not in question.loops:
            continue
        for size in question.sizes[mode]:
            for side in available(question.asked(mode, size) if isinstance(question, Probed) else (*SIDES, FLOOR)):
                if isinstance(question, Timed):
                    yield from ((loop, size, way, side) for way in question.ways if question.make(side, size, way))
                elif not question.lacking(side):
                    yield loop, size, "", side


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        question = metafunc.module.QUESTION
        cases = list(_cases(question, metafunc.config.getoption("--mode")))
        several = isinstance(question, Timed) and len(question.ways) > 1
        names = ["-".join((loop, str(size), *[way] * several, side)) for loop, size, way, side in cases]
        metafunc.parametrize("case", cases, ids=names, indirect=True)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Callable[[Any], None]:
    """Call it with pytest-benchmark's fixture to put the module's question to one side."""
    question = request.module.QUESTION
    loop, size, way, side = request.param
    mode = request.config.getoption("--mode")

    def case(benchmark: Any) -> None:
        benchmark.group = f"{question.name} {loop} {size}"
        benchmark.extra_info["title"] = question.title
        # pytest-benchmark's own calibration warns where rounds take long.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(question, Timed):
                _time(question, benchmark, loop, size, way, side)
            else:
                _probe(question, benchmark, mode, loop, size, side)

    return case


def _time(question: Timed, benchmark: Any, loop: str, size: int, way: str, side: str) -> None:
    workload = question.make(side, size, way)
    assert workload is not None
    benchmark.extra_info["operations"] = workload.operations
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(workload.open())
        used = False

        def prepare() -> None:
            nonlocal used
            if used:
                runner.run(workload.finish())
            runner.run(workload.prepare())
            used = True

        benchmark.pedantic(lambda: runner.run(workload.work()), setup=prepare, rounds=ROUNDS, warmup_rounds=1)
        runner.run(workload.finish())
        runner.run(workload.close())
    benchmark.extra_info["per_operation"] = benchmark.stats.stats.median / workload.operations


def _probe(question: Probed, benchmark: Any, mode: str, loop: str, size: int, side: str) -> None:
    """The time is that of the whole interpreter; what was asked for stands in extra_info."""
    arguments = {"side": side, "loop": loop, "size": size, **question.arguments.get(mode, {})}
    answer = benchmark.pedantic(lambda: fresh(question.probe, **arguments), rounds=1)
    benchmark.extra_info.update(answer)

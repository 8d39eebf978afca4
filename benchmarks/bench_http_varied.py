"""HTTP as browsers speak it: eleven headers, and no request like the one before, so that nothing of it is known yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.applications import ANSWER
from benchmarks.http_load import TARGETS, question, under_load
from benchmarks.question import Bar
from benchmarks.sides import FLOOR, PEERS, SIDES


def probe(side: str, loop: str, size: int, seconds: int) -> Mapping[str, float]:
    return under_load(side, loop, application="answer", connections=size, seconds=seconds, expected=ANSWER, varied=True)


QUESTION = question(
    name="http_varied",
    title="HTTP, kept connections, a browser's headers and varied targets, 13 bytes answered",
    probe=probe,
    sides=(*SIDES, FLOOR, *PEERS),
    floor_is="a constant answer after httptools; minimal: a scope, a task and two sends for each request, in plain "
    "Python, nothing checked",
    bars=(
        Bar("cython", "reference", most=0.45, figure="cpu"),
        Bar("cython", "granian", most=0.75, figure="cpu"),
        Bar("pure", "reference", most=1.0, figure="cpu"),
    ),
    note=f"{TARGETS:,} targets in turn; eleven headers, some 470 bytes. The rest as in `http`.",
)


def test_http_varied(benchmark: Any, case: Any) -> None:
    """Puts a server under load with requests that differ."""
    case(benchmark)

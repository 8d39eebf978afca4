"""HTTP as in `http`, with an access log: each server's own, as it comes, into a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.applications import ANSWER
from benchmarks.http_load import question, under_load
from benchmarks.question import Bar


def probe(side: str, loop: str, size: int, seconds: int) -> Mapping[str, float]:
    return under_load(side, loop, application="answer", connections=size, seconds=seconds, expected=ANSWER, log=True)


QUESTION = question(
    name="http_log",
    title="HTTP, kept connections, 13 bytes answered and logged",
    probe=probe,
    floor_is="a constant answer after httptools, and a constant line for each, written many at a time",
    bars=(
        Bar("cython", "reference", most=0.2, figure="cpu"),
        Bar("pure", "reference", most=1.0, figure="cpu"),
    ),
    note="Each log in its server's own format, into a file; every request must have come to stand in it.",
)


def test_http_log(benchmark: Any, case: Any) -> None:
    """Puts a server that keeps a log under load."""
    case(benchmark)

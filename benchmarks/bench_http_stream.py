"""A large response over HTTP, sent part by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.applications import PART, PARTS
from benchmarks.http_load import question, under_load
from benchmarks.question import Bar


def probe(side: str, loop: str, size: int, seconds: int) -> Mapping[str, float]:
    return under_load(side, loop, application="stream", connections=size, seconds=seconds, expected=PART * PARTS)


QUESTION = question(
    name="http_stream",
    title="HTTP, 1 MiB answered in parts of 64 KiB",
    probe=probe,
    floor_is="the same chunks written by a bare protocol, parsed by httptools",
    bars=(
        Bar("cython", "reference", most=0.9, figure="cpu"),
        Bar("pure", "reference", most=1.0, figure="cpu"),
    ),
    note="Chunked: the application gives no length.",
)


def test_http_stream(benchmark: Any, case: Any) -> None:
    """Puts a server of large responses under load."""
    case(benchmark)

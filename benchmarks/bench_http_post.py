"""A request with a body over HTTP, the body sent back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.applications import POSTED
from benchmarks.http_load import question, under_load
from benchmarks.question import Bar


def probe(side: str, loop: str, size: int, seconds: int) -> Mapping[str, float]:
    return under_load(side, loop, application="echo", connections=size, seconds=seconds, expected=POSTED, posted=POSTED)


QUESTION = question(
    name="http_post",
    title="HTTP, 100 KiB posted and sent back",
    probe=probe,
    floor_is="the parts of the body sent back by a bare protocol, parsed by httptools",
    bars=(
        Bar("cython", "reference", most=0.55, figure="cpu"),
        Bar("pure", "reference", most=1.0, figure="cpu"),
    ),
)


def test_http_post(benchmark: Any, case: Any) -> None:
    """Puts a server that sends bodies back under load."""
    case(benchmark)

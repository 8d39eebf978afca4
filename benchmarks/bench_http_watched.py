"""HTTP as in `http`, with and without `--metrics`: what it costs to count requests for whoever watches the server."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from benchmarks.applications import ANSWER
from benchmarks.http_load import hindrance as hindrance_http, question, under_load
from benchmarks.question import Bar


def hindrance() -> str:
    return hindrance_http() or ("" if find_spec("prometheus_client") else "prometheus_client is not installed")


def probe(side: str, loop: str, size: int, seconds: int) -> Mapping[str, float]:
    return under_load(
        side, loop, application="answer", connections=64, seconds=seconds, expected=ANSWER, watched=bool(size)
    )


QUESTION = question(
    name="http_watched",
    title="HTTP, 13 bytes answered, without (0) and with (1) --metrics",
    probe=probe,
    size_of="watched",
    sizes={"quick": (0, 1), "usual": (0, 1), "full": (0, 1)},
    sides=("pure", "cython"),
    full_only=(),
    hindrance=hindrance,
    rounds={"quick": 1, "usual": 21, "full": 41},
    told=("cpu",),
    bars=tuple(Bar(side, side, most=1.03, figure="cpu", size=1, by_size=0) for side in ("cython", "pure")),
    note="One worker. With --metrics it has a supervising process, whose CPU time counts as the server's. Nobody asks "
    "for the metrics meanwhile.",
)


def test_http_watched(benchmark: Any, case: Any) -> None:
    """Puts a server that is watched under load, and one that is not."""
    case(benchmark)

"""A large response over HTTP, sent part by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.applications import PART, PARTS
from benchmarks.http_load import FIGURES, SECONDS, hindrance, under_load
from benchmarks.question import Bar, Probed
from benchmarks.servers import CALLED, lacking
from benchmarks.sides import FLOOR, SIDES


def probe(side: str, loop: str, size: int, seconds: int) -> Mapping[str, float]:
    return under_load(side, loop, application="stream", connections=size, seconds=seconds, expected=PART * PARTS)


QUESTION = Probed(
    name="http_stream",
    title="HTTP, 1 MiB answered in parts of 64 KiB",
    size_of="connections",
    sizes={"quick": (64,), "usual": (64,), "full": (64,)},
    probe=probe,
    figures=FIGURES,
    arguments=SECONDS,
    sides=(*SIDES, FLOOR, "granian", "hypercorn", "daphne"),
    full_only=("hypercorn", "daphne"),
    loops=("uvloop",),
    called=CALLED,
    floor_is="the same chunks written by a bare protocol, parsed by httptools",
    bars=(
        Bar("cython", "reference", most=0.9, figure="cpu"),
        Bar("pure", "reference", most=1.0, figure="cpu"),
    ),
    hindrance=hindrance,
    lacking=lacking,
    note="Chunked: the application gives no length.",
)


def test_http_stream(benchmark: Any, case: Any) -> None:
    """Puts a server of large responses under load."""
    case(benchmark)

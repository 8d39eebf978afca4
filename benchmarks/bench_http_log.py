"""HTTP as in `http`, with an access log: each server's own, as it comes, into a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.applications import ANSWER
from benchmarks.http_load import FIGURES, SECONDS, hindrance, under_load
from benchmarks.question import Bar, Probed
from benchmarks.servers import CALLED, lacking
from benchmarks.sides import FLOOR, SIDES


def probe(side: str, loop: str, size: int, seconds: int) -> Mapping[str, float]:
    log = side != FLOOR
    side = side if log else "cython"
    return under_load(side, loop, application="answer", connections=size, seconds=seconds, expected=ANSWER, log=log)


QUESTION = Probed(
    name="http_log",
    title="HTTP, kept connections, 13 bytes answered and logged",
    size_of="connections",
    sizes={"quick": (64,), "usual": (64,), "full": (64,)},
    probe=probe,
    figures=FIGURES,
    arguments=SECONDS,
    sides=(*SIDES, FLOOR, "granian", "hypercorn", "daphne"),
    full_only=("hypercorn", "daphne"),
    loops=("uvloop",),
    called=CALLED,
    floor_is="cyasgi, compiled, without the log",
    bars=(
        Bar("cython", "reference", most=0.2, figure="cpu"),
        Bar("pure", "reference", most=1.0, figure="cpu"),
    ),
    hindrance=hindrance,
    lacking=lacking,
    note="Each log in its server's own format, into a file; every request must have come to stand in it.",
)


def test_http_log(benchmark: Any, case: Any) -> None:
    """Puts a server that keeps a log under load."""
    case(benchmark)

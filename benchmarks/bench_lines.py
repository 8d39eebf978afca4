"""Lines echoed over TCP, end to end: small messages on many connections."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.question import Bar, Probed
from benchmarks.sides import FLOOR, SIDES
from benchmarks.websocket_load import FIGURES, echoed, hindrance

SOURCE = Path(__file__).with_name("lines_load.c")


def probe(side: str, loop: str, size: int, seconds: float) -> Mapping[str, float]:
    return echoed(SOURCE, side, "lines", loop, connections=size, length=64, seconds=seconds)


QUESTION = Probed(
    name="lines",
    title="lines echoed over TCP, 64 bytes",
    size_of="connections",
    sizes={"quick": (64,), "usual": (64,), "full": (1, 64, 512)},
    probe=probe,
    figures=FIGURES,
    arguments={"quick": {"seconds": 0.5}, "usual": {"seconds": 2.0}, "full": {"seconds": 3.0}},
    sides=(*SIDES, FLOOR),
    loops=("uvloop",),
    called={"reference": "asyncio's streams"},
    floor_is="an asyncio protocol that splits what comes into lines, and sends each back",
    bars=(
        Bar("cython", "reference", most=0.6, figure="cpu", size=64),
        Bar("cython", FLOOR, most=1.3, figure="cpu", size=64),
    ),
    hindrance=hindrance,
    note="A line under way on each connection. The reference is asyncio.start_server with readline() and drain(). "
    "Server and load generator (native, C) have a core each; every answer is compared.",
)


def test_lines(benchmark: Any, case: Any) -> None:
    """Puts an echo server for lines under load."""
    case(benchmark)

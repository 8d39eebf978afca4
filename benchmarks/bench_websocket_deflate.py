"""WebSocket echo with permessage-deflate, end to end."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.question import Bar, Probed
from benchmarks.servers import CALLED, lacking
from benchmarks.sides import SIDES
from benchmarks.websocket_load import FIGURES, hindrance, under_load


def probe(side: str, loop: str, size: int, seconds: float) -> Mapping[str, float]:
    return under_load(side, loop, connections=size, length=512, seconds=seconds, deflate=True)


QUESTION = Probed(
    name="websocket_deflate",
    title="WebSocket echo, 512 bytes, compressed",
    size_of="connections",
    sizes={"quick": (64,), "usual": (64,), "full": (64,)},
    probe=probe,
    figures=FIGURES,
    arguments={"quick": {"seconds": 0.5}, "usual": {"seconds": 2.0}, "full": {"seconds": 3.0}},
    sides=(*SIDES, "hypercorn"),
    full_only=("hypercorn",),
    loops=("uvloop",),
    called=CALLED,
    bars=(
        Bar("cython", "reference", most=0.9, figure="cpu"),
        Bar("pure", "reference", most=1.0, figure="cpu"),
    ),
    hindrance=partial(hindrance, deflate=True),
    lacking=lacking,
    note="permessage-deflate as each server does it by default; granian and daphne do not. The rest as in `websocket`.",
)


def test_websocket_deflate(benchmark: Any, case: Any) -> None:
    """Puts a WebSocket echo server that compresses under load."""
    case(benchmark)

"""WebSocket echo, end to end: small messages on many connections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.question import Bar, Probed
from benchmarks.servers import CALLED, lacking
from benchmarks.sides import FLOOR, SIDES
from benchmarks.websocket_load import FIGURES, hindrance, under_load


def probe(side: str, loop: str, size: int, seconds: float) -> Mapping[str, float]:
    return under_load(side, loop, connections=size, length=64, seconds=seconds, deflate=False)


QUESTION = Probed(
    name="websocket",
    title="WebSocket echo, 64 bytes",
    size_of="connections",
    sizes={"quick": (64,), "usual": (64,), "full": (1, 64, 512)},
    probe=probe,
    figures=FIGURES,
    arguments={"quick": {"seconds": 0.5}, "usual": {"seconds": 2.0}, "full": {"seconds": 3.0}},
    sides=(*SIDES, FLOOR, "granian", "gunicorn", "hypercorn", "daphne"),
    full_only=("gunicorn", "hypercorn", "daphne"),
    loops=("uvloop",),
    called=CALLED,
    floor_is="a handshake by rote, then each read is taken for one message, unmasked in C and sent back",
    bars=(
        Bar("cython", "reference", most=0.5, figure="cpu", size=64),
        Bar("pure", "reference", most=1.0, figure="cpu"),
    ),
    hindrance=hindrance,
    lacking=lacking,
    note="A message under way on each connection; binary, masked, not compressed. uvicorn with websockets-sansio, the "
    "fastest of its three. Server and load generator (native, C) have a core each; every answer is compared.",
)


def test_websocket(benchmark: Any, case: Any) -> None:
    """Puts a WebSocket echo server under load."""
    case(benchmark)

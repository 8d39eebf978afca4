"""UDP echo where every datagram is from a new client, on a full table: a creation and an eviction each time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.bench_udp import FIGURES, FLOOR_IS
from benchmarks.question import Bar, Probed
from benchmarks.udp import hindrance, under_load


def probe(side: str, loop: str, size: int, seconds: float) -> Mapping[str, float]:
    return under_load(side, loop, clients=1, window=64, seconds=seconds, limit=size, roam=True)


QUESTION = Probed(
    name="roaming",
    title="UDP echo, every datagram from a new client, at the limit",
    size_of="instances at most",
    sizes={"quick": (1_000,), "usual": (1_000,), "full": (1_000, 10_000)},
    probe=probe,
    figures=FIGURES,
    arguments={"quick": {"seconds": 0.5}, "usual": {"seconds": 1.0}, "full": {"seconds": 2.0}},
    floor_is=FLOOR_IS,
    bars=(
        Bar("cython", "floor", most=1.5, figure="cpu", size=1_000, loop="uvloop"),
        Bar("cython", "reference", most=0.3, figure="cpu", size=1_000, loop="uvloop"),
        Bar("pure", "reference", most=1.0, figure="cpu"),
    ),
    hindrance=hindrance,
    note="64 bytes, 64 datagrams under way. The load generator is native (C, sendmmsg); a core each.",
)


def test_roaming(benchmark: Any, case: Any) -> None:
    """Puts an echo server under load from clients that never come back."""
    case(benchmark)

"""UDP echo, end to end: cyasgi's gateway, a minimal one on the reference's class, a bare protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.question import BUSY, Bar, Figure, Probed
from benchmarks.udp import hindrance, under_load

#: Datagrams under way at a time: as many as the default receive buffer of a socket holds.
WINDOW = 256
WINDOW_OF_ONE = 64

FLOOR_IS = (
    "sends back whatever comes: a bare DatagramProtocol on uvloop; on asyncio, whose transport takes one datagram for "
    "each turn of the loop, a bare socket that is read until it is empty"
)
FIGURES = {
    "cpu": Figure("server's CPU time per datagram", "µs"),
    "rate": Figure("answers per second", "/s", more=True),
    "p50": Figure("half of the answers within", "ms"),
    "p99": Figure("99 % within", "ms"),
    "lost": Figure("datagrams lost", "%"),
    **BUSY,
}


def probe(side: str, loop: str, size: int, seconds: float) -> Mapping[str, float]:
    window = WINDOW_OF_ONE if size == 1 else min(size, WINDOW)
    return under_load(side, loop, clients=size, window=window, seconds=seconds, limit=2 * size, roam=False)


QUESTION = Probed(
    name="udp",
    title="UDP echo through a gateway",
    size_of="client scopes",
    sizes={"quick": (512,), "usual": (1, 512), "full": (1, 512, 1_000, 100_000)},
    probe=probe,
    figures=FIGURES,
    arguments={"quick": {"seconds": 0.5}, "usual": {"seconds": 1.0}, "full": {"seconds": 2.0}},
    floor_is=FLOOR_IS,
    bars=(
        Bar("cython", "floor", most=0.8, figure="cpu", size=512, loop="uvloop"),
        Bar("cython", "cython", most=1.15, figure="cpu", size=512, loop="asyncio", by_loop="uvloop"),
        Bar("cython", "reference", most=0.7, figure="cpu", size=512, loop="uvloop"),
        Bar("cython", "floor", most=1.3, figure="cpu", size=1, loop="uvloop"),
        Bar("pure", "reference", most=1.0, figure="cpu"),
    ),
    hindrance=hindrance,
    note=f"64 bytes; {WINDOW_OF_ONE} datagrams under way with one client, else {WINDOW}, or one each if there are "
    "fewer clients. The load generator is native (C, sendmmsg), server and generator have a core each. "
    "On Linux cyasgi reads and writes sockets itself, the compiled core up to 64 datagrams at a time.",
)


def test_udp(benchmark: Any, case: Any) -> None:
    """Puts an echo server under load."""
    case(benchmark)

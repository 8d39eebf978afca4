"""Several ASGI applications behind one: `LoadBalancer`, its strategies and its circuit breakers."""

from .backend import Backend
from .balancer import LoadBalancer, NoApplicationAvailable
from .breaker import Breaker, BreakerState
from .strategy import (
    ConsistentHash,
    LeastRunning,
    RoundRobin,
    Strategy,
    Weighted,
    by_client,
    by_header,
    by_path,
)

__all__ = [
    "Backend",
    "Breaker",
    "BreakerState",
    "ConsistentHash",
    "LeastRunning",
    "LoadBalancer",
    "NoApplicationAvailable",
    "RoundRobin",
    "Strategy",
    "Weighted",
    "by_client",
    "by_header",
    "by_path",
]

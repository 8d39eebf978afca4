"""What workers are supervised by, and when they are replaced."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

#: Seconds after which a worker that does not answer is killed.
TIMEOUT = 30.0
#: Seconds from the start of a worker until it must serve.
START_TIMEOUT = 60.0
#: How often in a row a worker may end before it serves.
START_ATTEMPTS = 10
#: Workers at a time, at most.
MOST_WORKERS = 1024


@dataclass(frozen=True)
class Recycling:
    """When a worker is replaced by a new one; each limit is None for none.

    Args:
        max_requests: requests, WebSockets and datagrams that it has begun.
        max_requests_jitter: up to as many more, at random, so that not all workers are replaced at once.
        max_rss: bytes of memory that it occupies (resident set size).
        lifetime: seconds since it has begun to serve.
        lifetime_jitter: up to as many seconds more, at random.
    """

    max_requests: int | None = None
    max_requests_jitter: int = 0
    max_rss: int | None = None
    lifetime: float | None = None
    lifetime_jitter: float = 0.0

    @property
    def wanted(self) -> bool:
        """Whether there is any limit."""
        return self.max_requests is not None or self.max_rss is not None or self.lifetime is not None

    def drawn(self) -> Recycling:
        """Return the limits of one worker, with its share of the jitter, and none on top."""
        return Recycling(
            None if self.max_requests is None else self.max_requests + random.randint(0, self.max_requests_jitter),
            max_rss=self.max_rss,
            lifetime=None if self.lifetime is None else self.lifetime + random.uniform(0, self.lifetime_jitter),
        )


@dataclass(frozen=True)
class Supervision:
    """How workers are supervised.

    Args:
        count: how many there are at first.
        timeout: seconds after which one whose event loop does not turn is killed; None for never.
        start_timeout: seconds that one may take until it serves; None for no limit.
        start_attempts: how often in a row one may end before it serves, until the supervisor gives up.
        end_timeout: seconds that one may take to end.
        recycling: when workers are replaced.
    """

    count: int = 1
    timeout: float | None = TIMEOUT
    start_timeout: float | None = START_TIMEOUT
    start_attempts: int = START_ATTEMPTS
    end_timeout: float = 65.0
    recycling: Recycling = field(default_factory=Recycling)

    def with_end_timeout(self, seconds: float) -> Supervision:
        """Return the same with another `end_timeout`."""
        return replace(self, end_timeout=seconds)

    @property
    def beat(self) -> float:
        """Seconds between two heartbeats of a worker."""
        return 1.0 if self.timeout is None else min(1.0, self.timeout / 4)

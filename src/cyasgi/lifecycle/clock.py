"""The clock of a managed server, which subclasses may override."""

from __future__ import annotations

import logging
from typing import Protocol

from .._common.guarding import INTERRUPTS

logger = logging.getLogger("cyasgi.lifecycle")


class Clocked(Protocol):
    """A server that has a clock."""

    def clock(self) -> float:
        """Return the time in seconds of a monotonic clock."""
        ...


def time_or(server: Clocked, default: float) -> float:
    """Return the server's time, or `default` if its clock raises: the end of an instance must not fail for that."""
    try:
        return server.clock()
    except INTERRUPTS:
        raise
    except BaseException as error:
        logger.error("clock() raised %r", error, exc_info=error)
        return default

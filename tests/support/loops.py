"""Event loops for tests: which there are, how long a test may take on one, and letting it turn."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

#: uvloop does not exist for Windows; everywhere else a missing one fails the run.
LOOPS = ("asyncio",) if sys.platform == "win32" else ("asyncio", "uvloop")
#: Seconds after which a test that hangs is given up: far above what any test needs.
PATIENCE = 60.0


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop


async def passes(count: int = 1) -> None:
    """Lets the loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)

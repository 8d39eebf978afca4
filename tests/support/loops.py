"""Event loops for tests: which there are, how long a test may take on one, and letting it turn."""

from __future__ import annotations

import asyncio
import sys
import types
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


@types.coroutine
def going_on(coroutine, yielded):
    """The rest of a coroutine that has made its first step."""
    while True:
        try:
            sent = yield yielded
        except BaseException as error:
            step = coroutine.throw, error
        else:
            step = coroutine.send, sent
        try:
            yielded = step[0](step[1])
        except StopIteration as stop:
            return stop.value


def eager_task_factory(loop, coroutine, *, context=None, eager_start=True, **options):
    """Like asyncio's, which came with Python 3.12: a task makes its first step before its maker has it in hand."""
    if sys.version_info >= (3, 12):
        # Not asyncio's own: some that came with 3.13 do not take all that uvloop hands on.
        return asyncio.Task(coroutine, loop=loop, context=context, eager_start=True, **options)

    async def rest():
        return await going_on(coroutine, yielded)

    yielded = context.run(coroutine.send, None) if context else coroutine.send(None)
    return asyncio.Task(rest(), loop=loop, context=context, **options)

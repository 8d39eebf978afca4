"""What becomes of calls of hooks that were not made when an event loop ends, a server is freed, or Python exits."""

from __future__ import annotations

import asyncio
import atexit
import gc
import sys
import weakref
from collections.abc import AsyncGenerator
from typing import Protocol


class Reporter(Protocol):
    """Whatever may have calls of hooks to make."""

    async def tell_rest(self) -> None:
        """Make the calls that are left, since the loop is about to end."""

    def log_rest(self) -> None:
        """Log the calls that are left, since there will be no loop to make them in."""


_reporters: weakref.WeakSet[Reporter] = weakref.WeakSet()


class LoopEnd:
    """Sees to it that `Reporter.tell_rest` is awaited at the end of every loop in which there were calls to make.

    When all tasks have ended, and before the loop does, asyncio.run(), asyncio.Runner and this package close the
    asynchronous generators that were started in the loop. This is one, which does nothing else.
    """

    __slots__ = ("__weakref__", "_generator", "_loop", "_manager")

    def __init__(self, manager: Reporter) -> None:
        self._manager = weakref.ref(manager)
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._generator: AsyncGenerator[None, None] | None = None
        _reporters.add(manager)

    def expect(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have `tell_rest` awaited at the end of this loop, which is running."""
        if self._loop is not None and self._loop() is loop:
            return
        self._loop = weakref.ref(loop)
        self._generator = _at_the_end(weakref.ref(self))
        hooks = sys.get_asyncgen_hooks()
        # Freeing it must not run anything in the loop.
        sys.set_asyncgen_hooks(hooks.firstiter, None)
        try:
            self._generator.__anext__().send(None)
        except StopIteration:
            pass
        finally:
            sys.set_asyncgen_hooks(*hooks)

    async def told(self) -> None:
        """Await `tell_rest`, unless all of this is garbage: from Python 3.15 on, weak references lead there, too."""
        manager = self._manager()
        if manager is not None and not gc.is_finalized(self._generator):
            await manager.tell_rest()


async def _at_the_end(end: weakref.ref[LoopEnd]) -> AsyncGenerator[None, None]:
    loop = weakref.ref(asyncio.get_running_loop())
    try:
        yield
    finally:
        there = end()
        # If it is freed because its loop was closed without ending generators, it may not await.
        if there is not None and asyncio._get_running_loop() is loop() is not None:
            await there.told()


@atexit.register
def _log_all() -> None:
    for manager in list(_reporters):
        manager.log_rest()

"""What is still to be told to hooks when an event loop ends, a server is dropped, or the interpreter ends."""

from __future__ import annotations

import asyncio
import atexit
import sys
import weakref
from collections.abc import AsyncGenerator
from typing import Protocol


class Reporter(Protocol):
    """Who has something to tell."""

    async def tell_rest(self) -> None:
        """Tell what is still to be told; the loop is about to end."""

    def log_rest(self) -> None:
        """Log what is still to be told; there is no loop to come."""


_reporters: weakref.WeakSet[Reporter] = weakref.WeakSet()


class LoopEnd:
    """Has `Reporter.tell_rest` awaited at the end of every loop that something was to be told in.

    asyncio.run(), asyncio.Runner and this package close the asynchronous generators that were begun in a loop when all
    tasks have ended, and the loop still turns: this is one that never does anything else.
    """

    __slots__ = ("_generator", "_loop", "_manager")

    def __init__(self, manager: Reporter) -> None:
        self._manager = weakref.ref(manager)
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._generator: AsyncGenerator[None, None] | None = None
        _reporters.add(manager)

    def expect(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop, which is running, may end before all is told."""
        if self._loop is not None and self._loop() is loop:
            return
        self._loop = weakref.ref(loop)
        self._generator = _at_the_end(self._manager)
        hooks = sys.get_asyncgen_hooks()
        # When it is dropped nothing has to be run in the loop.
        sys.set_asyncgen_hooks(hooks.firstiter, None)
        try:
            self._generator.__anext__().send(None)
        except StopIteration:
            pass
        finally:
            sys.set_asyncgen_hooks(*hooks)


async def _at_the_end(manager: weakref.ref[Reporter]) -> AsyncGenerator[None, None]:
    loop = weakref.ref(asyncio.get_running_loop())
    try:
        yield
    finally:
        there = manager()
        # One that is dropped, its loop having been closed without a word, may not await.
        if there is not None and asyncio._get_running_loop() is loop() is not None:
            await there.tell_rest()


@atexit.register
def _log_all() -> None:
    for manager in list(_reporters):
        manager.log_rest()

"""Signals that an event loop has handled and lets go of, without a moment in which they would end the process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any


def let_go(loop: asyncio.AbstractEventLoop, number: int, handler: Any) -> None:
    """Have an event loop handle a signal no more, and this handler from now on.

    Args:
        handler: as `signal.signal` accepts it; None for one that was not installed from Python, which cannot be put
            back: then the signal has its default.
    """
    mask = getattr(signal, "pthread_sigmask", None)
    # The loop sets the default, which may end the process: a signal that comes then waits for the handler.
    before = None if mask is None else mask(signal.SIG_BLOCK, {number})
    try:
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(number)
        if handler is not None:
            signal.signal(number, handler)
    finally:
        if mask is not None:
            mask(signal.SIG_SETMASK, before)

"""Try again what fails, after a pause that grows: for connections to engines that come and go."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

logger = logging.getLogger("cyasgi.server")

Result = TypeVar("Result")


async def retrying(
    attempt: Callable[[], Awaitable[Result]],
    *,
    errors: type[Exception] | tuple[type[Exception], ...] = OSError,
    first: float = 0.5,
    most: float = 30.0,
    attempts: int | None = None,
    log: logging.Logger = logger,
) -> Result:
    """Call `attempt` and await what it returns, again after each failure, and return its result.

    For tasks of a server: ``self.spawn(retrying(self.follow))``. The pauses double from `first` to `most` seconds, each
    shortened by up to a half at random, so that those who have failed together do not return together. An attempt that
    has gone on for longer than `most` begins a new series. Each failure is logged as a warning in one line.

    Args:
        attempt: called without arguments.
        errors: what counts as a failure; anything else is raised.
        first: the pause after the first failure, in seconds.
        most: the longest pause, in seconds.
        attempts: how often to try in one series; None for no limit.

    Raises:
        Exception: one of `errors`, of the last attempt of a series; or any other that an attempt has raised.
    """
    failures = 0
    while True:
        began = time.monotonic()
        try:
            return await attempt()
        except errors as error:
            failures = 1 if time.monotonic() - began > most else failures + 1
            if attempts is not None and failures >= attempts:
                raise
            pause = min(most, first * 2.0 ** min(failures - 1, 60)) * random.uniform(0.5, 1.0)
            log.warning("%s; trying again in %.1f s", str(error) or repr(error), pause)
        await asyncio.sleep(pause)

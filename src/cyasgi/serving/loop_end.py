"""The end of the event loop of a run(): ends its remaining tasks and threads, each within a bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..core.tasks import is_left_pending, leave_pending

logger = logging.getLogger("cyasgi.server")

#: Seconds between two checks of threads that have to end.
LOOK = 0.01


def with_executor(loop: asyncio.AbstractEventLoop, replaceable: bool) -> Callable[[], ThreadPoolExecutor | None]:
    """Give the loop a default executor whose threads can be waited for within a bound; return a function that finds it.

    asyncio up to 3.11 and uvloop join the threads of theirs for as long as these take. A loop that does not show its
    executor gets one only if it is `replaceable`, that is known to have none.
    """
    if hasattr(loop, "_default_executor"):
        return lambda: loop._default_executor
    if not replaceable:
        return lambda: None
    executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
    loop.set_default_executor(executor)
    return lambda: executor


def close_loop(
    loop: asyncio.AbstractEventLoop, find_executor: Callable[[], ThreadPoolExecutor | None], bound: float
) -> None:
    """Close the loop as asyncio.Runner does, but take at most `bound` seconds for each step."""
    rest: set[asyncio.Task[Any]] = {task for task in asyncio.all_tasks(loop) if not task.done()}
    for task in rest:
        task.cancel()
    # The tasks that the server has given up have had their time.
    fresh = {task for task in rest if not is_left_pending(task)}
    if rest:
        loop.run_until_complete(asyncio.wait(fresh or rest, timeout=bound if fresh else LOOK))
    for task in rest:
        if not task.done():
            leave_pending(task)
        elif not task.cancelled() and (error := task.exception()) is not None:
            loop.call_exception_handler(
                {"message": "unhandled exception while the server's loop closed", "exception": error, "task": task}
            )
    deadline = time.monotonic() + bound
    with contextlib.suppress(TimeoutError):
        loop.run_until_complete(asyncio.wait_for(loop.shutdown_asyncgens(), max(0.1, bound)))
    executor = find_executor()
    if executor is not None:
        loop.run_until_complete(_end_threads(executor, max(0.1, deadline - time.monotonic())))
    elif not hasattr(loop, "_default_executor"):
        with contextlib.suppress(TimeoutError):
            loop.run_until_complete(
                asyncio.wait_for(loop.shutdown_default_executor(), max(0.1, deadline - time.monotonic()))
            )


async def _end_threads(executor: ThreadPoolExecutor, seconds: float) -> None:
    executor.shutdown(wait=False)
    # An executor of another kind manages its threads itself.
    threads = getattr(executor, "_threads", ())
    deadline = time.monotonic() + seconds
    while busy := [thread for thread in threads if thread.is_alive()]:
        if time.monotonic() > deadline:
            for thread in busy:
                logger.warning("the thread %r is still running, %s", *told(thread))
            return
        # The loop has to go on: a thread may be waiting for it.
        await asyncio.sleep(LOOK)


def told(thread: threading.Thread) -> tuple[str, str]:
    """Return the thread's name, and where it is, in words."""
    return thread.name, place_of(thread)


def place_of(thread: threading.Thread) -> str:
    """Say where a thread is: the innermost line and, if that is in the standard library, the one that led there."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return "at a place that is not known"
    innermost = frame
    while frame is not None and _is_standard(frame.f_code.co_filename):
        frame = frame.f_back
    places = [innermost] if frame is None or frame is innermost else [innermost, frame]
    return ", called ".join(f"at {one.f_code.co_filename}:{one.f_lineno} in {one.f_code.co_qualname}" for one in places)


def _is_standard(filename: str) -> bool:
    library = sysconfig.get_path("stdlib")
    return filename.startswith(library) and "site-packages" not in filename

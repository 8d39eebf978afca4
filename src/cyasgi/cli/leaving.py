"""The end of the process, which threads that are still running do not hold up."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time

from ..serving.loop_end import told

logger = logging.getLogger("cyasgi")

#: Seconds that threads have to end after the command; those of applications have had `shutdown_timeout` before.
GRACE = 1.0


def leave_threads_behind(code: int) -> None:
    """Let threads keep the process alive for at most `GRACE` seconds from now on.

    When the interpreter exits, it waits for all threads, including those of executors, and nothing can end a thread
    from outside. So the process exits without the interpreter, and functions registered with `atexit` do not run.
    """
    ending, all_told = threading.Event(), threading.Event()
    # Both start now: CPython 3.12 starts no thread once the interpreter exits.
    threading.Thread(target=_watch, args=(code, ending, all_told), name="cyasgi-exit", daemon=True).start()
    threading.Thread(target=_tell, args=(ending, all_told), name="cyasgi-tell", daemon=True).start()


def _left() -> list[threading.Thread]:
    main = threading.main_thread()
    return [one for one in threading.enumerate() if one is not main and not one.daemon and one.is_alive()]


def _watch(code: int, ending: threading.Event, all_told: threading.Event) -> None:
    time.sleep(GRACE)
    if not _left():
        # Threads are not what the interpreter is waiting for.
        return
    # Not for ever: a blocked thread may hold the lock of a stream or handler that logging needs.
    ending.set()
    all_told.wait(GRACE)
    os._exit(code)


def _tell(ending: threading.Event, all_told: threading.Event) -> None:
    ending.wait()
    for thread in _left():
        logger.warning("the thread %r did not end, it is %s: the process exits without it", *told(thread))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    all_told.set()

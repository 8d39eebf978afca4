"""The end of the process: a thread that goes on does not keep it alive."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time

from ..serving.loop_end import told

logger = logging.getLogger("cyasgi")

#: Seconds that threads have to end when the command is over; those of applications have had the servers' time as well.
GRACE = 1.0


def leave_threads_behind(code: int) -> None:
    """From now on let the process live for `GRACE` seconds at most, if all that keeps it are threads.

    The interpreter waits for threads when it ends, those of executors included, and nothing can end a thread from
    without: so the process ends without the interpreter's consent, and functions registered with `atexit` do not run.
    """
    ending, all_told = threading.Event(), threading.Event()
    # Both begin now: at its end CPython 3.12 starts no thread any more.
    threading.Thread(target=_watch, args=(code, ending, all_told), name="cyasgi-exit", daemon=True).start()
    threading.Thread(target=_tell, args=(ending, all_told), name="cyasgi-tell", daemon=True).start()


def _left() -> list[threading.Thread]:
    main = threading.main_thread()
    return [one for one in threading.enumerate() if one is not main and not one.daemon and one.is_alive()]


def _watch(code: int, ending: threading.Event, all_told: threading.Event) -> None:
    time.sleep(GRACE)
    if not _left():
        # What takes its time is the interpreter's own affair.
        return
    # A thread may hold the lock of a stream or of a handler: then nothing can be told.
    ending.set()
    all_told.wait(GRACE)
    os._exit(code)


def _tell(ending: threading.Event, all_told: threading.Event) -> None:
    ending.wait()
    for thread in _left():
        logger.warning("the thread %r did not end, it is %s: the process ends without it", *told(thread))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    all_told.set()

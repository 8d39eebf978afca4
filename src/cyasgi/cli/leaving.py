"""The end of the process: a thread that goes on does not keep it alive."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time

from .._loop_end import told

logger = logging.getLogger("cyasgi")

#: Seconds that threads have to end when the command is over; those of applications have had the servers' time as well.
GRACE = 1.0


def leave_threads_behind(code: int) -> None:
    """From now on let the process live for `GRACE` seconds at most, if all that keeps it are threads.

    The interpreter waits for threads when it ends, those of executors included, and nothing can end a thread from
    without: so the process ends without the interpreter's consent, and functions registered with `atexit` do not run.
    """
    threading.Thread(target=_watch, args=(code,), name="cyasgi-exit", daemon=True).start()


def _watch(code: int) -> None:
    time.sleep(GRACE)
    main = threading.main_thread()
    left = [one for one in threading.enumerate() if one is not main and not one.daemon and one.is_alive()]
    if not left:
        # What takes its time is the interpreter's own affair.
        return
    # A thread may hold the lock of a stream or of a handler: then nothing can be told.
    telling = threading.Thread(target=_tell, args=(left,), daemon=True)
    telling.start()
    telling.join(GRACE)
    os._exit(code)


def _tell(threads: list[threading.Thread]) -> None:
    for thread in threads:
        logger.warning("the thread %r did not end, it is %s: the process ends without it", *told(thread))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()

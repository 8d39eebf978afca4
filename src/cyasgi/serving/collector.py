"""How often the garbage collector runs while a server has the process to itself."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

#: Default thresholds of CPython up to 3.12, of 3.13, and from 3.14 on. Others were chosen by the user, and are kept.
UNTOUCHED = {(700, 10, 10), (2000, 10, 10), (2000, 10, 0)}

#: Reference counts free instances, so that the collector finds only cycles that applications leave. With this many
#: young objects between two collections one takes milliseconds, and a full one comes after 5 million new objects.
#: Measured by the benchmark `pauses`.
THRESHOLDS = (5_000, 10, 100)


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Collect less often inside the context, in the main thread and unless the user has chosen thresholds."""
    before = gc.get_threshold()
    if before not in UNTOUCHED or threading.current_thread() is not threading.main_thread():
        yield
        return
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        if gc.get_threshold() == THRESHOLDS:
            gc.set_threshold(*before)

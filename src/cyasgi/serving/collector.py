"""How often the garbage collector looks while a server has the process to itself."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

#: What interpreters start with: up to 3.12, 3.13, from 3.14. Anything else was chosen by the user, and stays.
UNTOUCHED = {(700, 10, 10), (2000, 10, 10), (2000, 10, 0)}

#: Instances die by reference counts, so that what the collector finds are cycles that applications left. With so many
#: young objects between two looks a pass takes milliseconds, and all objects are looked at after 5 million new ones.
#: Measured by the benchmark `pauses`.
THRESHOLDS = (5_000, 10, 100)


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """In the main thread, and unless the user chose thresholds: collect less often, and as before afterwards."""
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

"""How much freed memory the C library keeps at hand, in a process that the command has to itself."""

from __future__ import annotations

import ctypes
import os
import sys

#: From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
#: Bytes. glibc begins with 128 KiB for both: a body of that size then costs the page faults of memory that was given
#: back to the system a moment before, which is most of its CPU time (benchmark `http_post`).
KEPT, MAPPED = 8 * 2**20, 2**20
#: Whoever has set one of these has chosen.
CHOICES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Lets glibc keep up to 8 MiB, and map only what is longer than 1 MiB by itself, unless the environment says what
    it is to do; returns whether that was set. Other C libraries are left as they are."""
    if not sys.platform.startswith("linux") or any(name in os.environ for name in CHOICES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_TRIM_THRESHOLD, KEPT) and mallopt(M_MMAP_THRESHOLD, MAPPED))

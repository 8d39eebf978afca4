"""How much freed memory the C library keeps, in a process that belongs to the command."""

from __future__ import annotations

import ctypes
import os
import sys

#: From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
#: Bytes. glibc starts with 128 KiB for both: then a body of that size causes page faults, in memory that was returned
#: to the system a moment before, which take most of its CPU time (benchmark `http_post`).
KEPT, MAPPED = 8 * 2**20, 2**20
#: Environment variables that take precedence.
CHOICES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let glibc keep up to 8 MiB, and map only blocks of more than 1 MiB separately; return whether that was set.

    Nothing is set if the environment already has one of `CHOICES`, or with another C library.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in CHOICES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_TRIM_THRESHOLD, KEPT) and mallopt(M_MMAP_THRESHOLD, MAPPED))

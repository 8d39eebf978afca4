"""How many files and connections the system lets this process have open."""

from __future__ import annotations

import contextlib
import errno
import os
import sys

if sys.platform != "win32":
    import resource

#: Descriptors that are left to the application: an eighth of all, but not fewer and not more than these.
SHARE = 8
LEAST, MOST = 16, 256


def open_descriptors() -> int:
    """Return how many files are open, or a guess where the system does not tell."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            # One of them is the folder's own.
            return len(os.listdir(folder)) - 1
    return 32


def descriptor_limit() -> int | None:
    """Return how many files may be open, or None for any number."""
    if sys.platform == "win32":
        return None
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def reserved(limit: int) -> int:
    """Return how many descriptors of this limit are left to the application."""
    return min(max(limit // SHARE, LEAST), MOST)


def room_for_connections() -> int | None:
    """Return how many further connections may be open; None for any number."""
    limit = descriptor_limit()
    return None if limit is None else max(1, limit - reserved(limit) - open_descriptors())


def raise_descriptor_limit(connections: int) -> None:
    """Raise the soft limit so that this many further connections may be open, or as many as the hard limit allows."""
    limit = descriptor_limit()
    if sys.platform == "win32" or limit is None:
        return
    wanted = connections + open_descriptors() + MOST
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if wanted > limit:
        # macOS has a limit of its own below an unlimited hard one.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def lack_of_descriptors() -> OSError | None:
    """Return the error that opening one more file gives if none is left, else None."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return error
    return None

"""Processes under load: each on a core of its own, and the CPU time that they took."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


def pinned(core: int, words: list[str]) -> list[str]:
    """The command, on one core where there are several."""
    if (os.cpu_count() or 1) > 1 and shutil.which("taskset"):
        return ["taskset", "-c", str(core), *words]
    return words


@functools.cache
def load_generator(source: Path, directory: str, options: tuple[str, ...] = ()) -> str:
    """Compiles a load generator into the directory.

    Raises:
        RuntimeError: that did not work; the message is the compiler's.
    """
    binary = str(Path(directory, source.stem))
    words = ["cc", "-O2", "-o", binary, str(source), *options]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return binary


class Usage(NamedTuple):
    """What processes have had of their core, in seconds."""

    #: Ran on it.
    ran: float
    #: Could have run, and waited for it. 0.0 where the kernel does not say.
    waited: float = 0.0

    def __add__(self, other: Any) -> Usage:
        return Usage(self.ran + other.ran, self.waited + other.waited)

    def since(self, earlier: Usage) -> Usage:
        return Usage(self.ran - earlier.ran, self.waited - earlier.waited)

    def busy(self, seconds: float) -> float:
        """The part of this time in which there was something to do."""
        return min(1.0, (self.ran + self.waited) / seconds)


#: Called with the process before its CPU time is read, if anything is to go on between two readings.
watch: Callable[[int], None] | None = None


def usage(pid: int) -> Usage:
    """What a process, its children and theirs have had until now, with all the threads that they have now."""
    if watch is not None:
        watch(pid)
    return sum(map(_usage, _family(pid)), Usage(0.0))


def _usage(pid: int) -> Usage:
    try:
        # To the nanosecond, where the kernel was built so; figures for each thread.
        if exact := list(Path(f"/proc/{pid}/task").glob("*/schedstat")):
            threads = [[int(word) * 1e-9 for word in one.read_text().split()[:2]] for one in exact]
            return Usage(sum(ran for ran, _ in threads), sum(waited for _, waited in threads))
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return Usage((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
    except (FileNotFoundError, ProcessLookupError):
        return Usage(0.0)


def _family(pid: int) -> list[int]:
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children[int(fields[1])].append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children[one]
    return found

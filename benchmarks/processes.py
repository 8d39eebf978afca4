"""Processes under load: each on a core of its own, and the CPU time that they took."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path


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


def cpu_seconds(pid: int) -> float:
    """Time that a process, its children and theirs have had a core, with all the threads that they have now."""
    return sum(_cpu_seconds(one) for one in _family(pid))


def _cpu_seconds(pid: int) -> float:
    try:
        # To the nanosecond, where the kernel was built so; a figure for each thread.
        if exact := list(Path(f"/proc/{pid}/task").glob("*/schedstat")):
            return sum(int(one.read_text().split()[0]) for one in exact) * 1e-9
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


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

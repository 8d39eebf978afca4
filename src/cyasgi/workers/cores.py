"""How many cores this process may use."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use: by its affinity, and by the CPU quota of its control groups.

    A quota of one core and a half counts as two.

    Args:
        root: where `/proc` and `/sys` are.
    """
    return max(1, min([_by_affinity(), *_quotas(root)]))


def _by_affinity() -> int:
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[int]:
    """Yield the quota of each control group of this process, and of those that these are in, in whole cores."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        mounted = root / "sys/fs/cgroup"
        if number == "0" and not controllers:
            read = _quota_v2
        elif "cpu" in controllers.split(","):
            read = _quota_v1
            mounted /= next((name for name in (controllers, "cpu") if (mounted / name).is_dir()), "cpu")
        else:
            continue
        group = Path(path.lstrip("/"))
        # Inside a container, the group's own path may not be mounted: its top is the container's.
        for one in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
                quota = read(mounted / one)
                if quota is not None:
                    yield math.ceil(quota)


def _quota_v2(group: Path) -> float | None:
    quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(group: Path) -> float | None:
    quota = int((group / "cpu.cfs_quota_us").read_text(encoding="ascii"))
    period = int((group / "cpu.cfs_period_us").read_text(encoding="ascii"))
    return None if quota <= 0 else quota / period

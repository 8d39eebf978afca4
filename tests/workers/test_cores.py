"""How many cores a process may use, by its affinity and the quotas of its control groups."""

from __future__ import annotations

import os

import pytest

from cyasgi.workers.cores import usable_cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """machine(cgroup, files) gives the cores where there are 16, with these files below /sys/fs/cgroup."""
    monkeypatch.setattr(os, "process_cpu_count", lambda: 16, raising=False)

    def cores(cgroup, files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(cgroup, encoding="utf-8")
        for name, content in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return usable_cores(tmp_path)

    return cores


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {}, 16),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, 16),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000\n"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 2),
        ("0::/a\n", {"a/cpu.max": "1000 100000\n"}, 1),
        ("0::/not/mounted\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/a\n", {"a/cpu.max": "nonsense\n"}, 16),
        ("0::/a\n", {"a/cpu.max": "100 0\n"}, 16),
        (
            "4:cpu,cpuacct:/a\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            4,
        ),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 16),
        ("5:memory:/a\n", {"memory/a/cpu.max": "100000 100000\n"}, 16),
    ],
)
def test_quotas(machine, cgroup, files, expected):
    assert machine(cgroup, files) == expected


def test_without_control_groups(machine, tmp_path, monkeypatch):
    """Only the affinity counts."""
    assert usable_cores(tmp_path) == 16
    monkeypatch.setattr(os, "process_cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1
    monkeypatch.delattr(os, "process_cpu_count")
    assert usable_cores(tmp_path) == (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )

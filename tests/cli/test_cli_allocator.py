"""The C library's thresholds in the command's process."""

from __future__ import annotations

import importlib
import platform
import sys

import pytest

from support.serving import output, python

SCRIPT = """
    from cyasgi.cli.allocator import keep_freed_memory
    print(keep_freed_memory())
"""
GLIBC = sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"


NAMES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def told(tmp_path, **chosen):
    """What the function says in a process of its own, for it changes what holds for the whole process."""
    return output(python(SCRIPT, cwd=tmp_path, **{**dict.fromkeys(NAMES), **chosen}))


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="glibc's thresholds")
def test_is_set(tmp_path):
    """Where nobody has chosen, glibc takes both values."""
    assert told(tmp_path) == ["True"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_chose_stays(tmp_path, name):
    """A variable of the environment that says what glibc is to do is left to say it."""
    value = "glibc.malloc.trim_threshold=1000000" if name == "GLIBC_TUNABLES" else "1000000"
    assert told(tmp_path, **{name: value}) == ["False"]


def test_other_systems_are_left_alone(monkeypatch):
    """Elsewhere than on Linux, and without mallopt, nothing happens."""
    allocator = importlib.import_module("cyasgi.cli.allocator")
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert allocator.keep_freed_memory() is False
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False

"""Where and with what a run was made: figures without it mean nothing."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.fresh import ROOT

PACKAGES = (
    "cyasgi",
    "asgiref",
    "uvloop",
    "cython",
    "channels",
    "django",
    "httptools",
    "websockets",
    "uvicorn",
    "granian",
    "gunicorn",
    "gunicorn_h1c",
    "hypercorn",
    "daphne",
    "matplotlib",
)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (ValueError, OSError):
        return "unknown"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _build() -> str:
    """What the interpreter was configured with, paths left out."""
    words = shlex.split(sysconfig.get_config_var("CONFIG_ARGS") or "")
    return " ".join(word for word in words if "/" not in word) or "no options"


def _governor() -> str:
    """How the clock rate of the first core is chosen."""
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return "unknown"


def busy() -> str:
    """Why figures taken now would mean little, or an empty string."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return f"the machine is busy: a load of {load:.2f} on {cores} cores" if load > 0.25 * cores else ""


def describe() -> dict[str, str]:
    """What a reader needs to judge the figures, or to take them again."""
    commit = _git("rev-parse", "HEAD") or "unknown"
    # What the runs themselves write does not change the code that is measured.
    if _git("status", "--porcelain", "--", "src", "benchmarks", "setup.py", "pyproject.toml"):
        commit += " and uncommitted changes"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "commit": commit,
        "python": f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}",
        "python's build": _build(),
        "cpu": f"{_cpu()}, {os.cpu_count()} cores",
        "clock rate governor": _governor(),
        "memory": _memory(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": "{:.2f} {:.2f} {:.2f} at the start".format(*os.getloadavg()),
        **{package: _version(package) for package in PACKAGES},
    }


def directory_name() -> str:
    """<date>-<python>-<machine>: the same for every run of a day, whose later ones get a number."""
    python = f"{platform.python_implementation().lower()}{platform.python_version()}"
    machine = f"{platform.machine()}-{os.cpu_count()}cpu"
    return f"{datetime.now(UTC):%Y-%m-%d}-{python}-{machine}"

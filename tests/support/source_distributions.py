"""Source distributions of installed packages: asgiref and uvicorn ship their tests nowhere else."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys

import pytest

#: For tests that fetch something.
needs_index = pytest.mark.skipif(
    bool(os.environ.get("CYASGI_OFFLINE")), reason="CYASGI_OFFLINE says that there is no network"
)

#: What pip says when no package index answers, or none that has the package at all.
_NO_INDEX = re.compile(r"connection broken by|\(from versions: none\)")


def source_distribution(name, directory):
    """The path of the source distribution of the release of this package that is installed, fetched if need be.

    Without a package index the test is skipped; an index that lacks this release fails it.
    """
    version = importlib.metadata.version(name)
    archive = directory / f"{name}-{version}.tar.gz"
    if not archive.exists():
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries=1", "--timeout=15", "download"]
        options = ["--no-binary", name, "--no-deps", "--dest", str(directory), f"{name}=={version}"]
        download = subprocess.run([*pip, *options], capture_output=True, text=True, timeout=300, check=False)
        if download.returncode or not archive.exists():
            said = download.stdout + download.stderr
            if _NO_INDEX.search(said):
                pytest.skip(f"no package index has given the source distribution of {name} {version}")
            pytest.fail(
                f"{name} {version} has its tests in its source distribution, which pip did not get "
                f"(set CYASGI_OFFLINE where there is no network):\n{said}",
                pytrace=False,
            )
    return archive

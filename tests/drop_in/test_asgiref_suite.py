"""asgiref's own tests of its server, unchanged, run on cyasgi."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile
from xml.etree import ElementTree

import pytest

from support.serving import environment
from support.source_distributions import needs_index, source_distribution

pytestmark = pytest.mark.slow

#: What makes the tests' `from asgiref.server import StatelessServer` give cyasgi's class.
CONFTEST = """
import os

import cyasgi

cyasgi.install()

import asgiref.server

assert asgiref.server.StatelessServer is cyasgi.StatelessServer
assert cyasgi.backend == os.environ["CYASGI_BACKEND"]
"""


@pytest.fixture(scope="session")
def downloads(tmp_path_factory):
    """Where the source distribution is kept for the length of a session."""
    return tmp_path_factory.mktemp("asgiref")


def published_tests(downloads):
    """The text of tests/test_server.py in the source distribution of the asgiref that is installed."""
    archive = source_distribution("asgiref", downloads)
    with tarfile.open(archive) as distribution:
        return distribution.extractfile(f"{archive.name.removesuffix('.tar.gz')}/tests/test_server.py").read()


@pytest.mark.long
@needs_index
def test_asgiref_suite(cy, downloads, tmp_path):
    """Every test that asgiref has of its server passes on cyasgi."""
    if importlib.util.find_spec("pytest_asyncio") is None:
        pytest.fail("asgiref's tests need pytest-asyncio, which is not installed", pytrace=False)
    (tmp_path / "test_server.py").write_bytes(published_tests(downloads))
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n", encoding="utf-8")
    report = tmp_path / "report.xml"
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", "test_server.py"],
        cwd=tmp_path,
        env=environment(CYASGI_BACKEND=cy.backend, PYTEST_ADDOPTS=None),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout + tests.stderr
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert {what: suite.get(what) for what in ("failures", "errors", "skipped")} == {
        "failures": "0",
        "errors": "0",
        "skipped": "0",
    }
    assert int(suite.get("tests")) >= 3

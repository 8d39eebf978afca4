"""uvicorn's own tests of its protocols and its server pass with our class, but for a written list of differences.

They are in uvicorn's sdist alone, which is fetched from the package index.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile

import pytest

from support.serving import environment
from support.source_distributions import needs_index, source_distribution

pytestmark = pytest.mark.slow

#: How uvicorn's conftest names the class that ours takes the place of.
REPLACED = 'pytest.param("uvicorn.protocols.http.h11_impl:H11Protocol", id="h11")'
FILES = ("tests/protocols/test_http.py", "tests/test_server.py")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The sources of the uvicorn that is installed, with our class in the list of protocols that are tested."""
    directory = tmp_path_factory.mktemp("uvicorn")
    with tarfile.open(source_distribution("uvicorn", directory)) as file:
        file.extractall(directory, filter="data")
    (found,) = directory.glob("uvicorn-*/")
    conftest = found / "tests" / "conftest.py"
    text = conftest.read_text(encoding="utf-8")
    assert text.count(REPLACED) == 1
    text = text.replace(REPLACED, 'pytest.param("support.uvicorn_adapter:Adapted", id="cyasgi")')
    conftest.write_text(text, encoding="utf-8")
    (found / "ours.ini").write_text("[pytest]\n", encoding="utf-8")
    return found


@pytest.mark.long
@needs_index
def test_uvicorns_own_tests(cy, sources):
    """Each of the differences is still one: a listed test that passes fails the run."""
    command = [sys.executable, "-m", "pytest", "-q", "-c", "ours.ini", "--rootdir", ".", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-p", "anyio", "-p", "support.uvicorn_adapter", *FILES, "-k", "cyasgi"],
        cwd=sources,
        env=environment(CYASGI_BACKEND=cy.backend, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    closing = done.stdout.rstrip().rpartition("\n")[2]
    assert done.returncode == 0, done.stdout[-8000:]
    counts = {what: int(count) for count, what in re.findall(r"(\d+) (passed|xfailed|failed|error)", closing)}
    assert counts.keys() == {"passed", "xfailed"}
    assert counts["passed"] >= 50


@pytest.mark.parametrize(("index", "outcome"), [("none", pytest.skip.Exception), ("another", pytest.fail.Exception)])
def test_a_package_index_that_does_not_give_it(index, outcome, tmp_path, monkeypatch):
    """Where there is no index the tests are skipped; one that lacks the release fails them."""
    page = tmp_path / "simple" / "uvicorn" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text('<a href="uvicorn-0.0.1.tar.gz">uvicorn-0.0.1.tar.gz</a>', encoding="utf-8")
    urls = {"none": "http://127.0.0.1:9/simple", "another": page.parents[1].as_uri()}
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", urls[index])
    with pytest.raises(outcome, match="uvicorn"):
        source_distribution("uvicorn", tmp_path)

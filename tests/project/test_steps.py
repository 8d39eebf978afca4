"""`.ci/run` tells its steps, and refuses others before it does anything."""

import os
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / ".ci" / "run"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a script for a POSIX system")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["bash", RUN, *arguments], capture_output=True, text=True, timeout=60, check=False)
    if "is too old: 4 or newer" in done.stderr:
        pytest.skip("the bash of this machine is older than the script needs")
    return done


def test_list_tells_every_step_in_a_line() -> None:
    done = run("--list")
    assert done.returncode == 0, done.stderr
    steps = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert {
        "lint",
        "distributions",
        "tests-compiled",
        "tests-pure",
        "no-compiler",
        "documented-examples",
    } <= steps.keys()


def test_help_tells_what_can_be_set() -> None:
    done = run("--help")
    assert done.returncode == 0, done.stderr
    for word in (".ci/run STEP ...", "PYTHON", "EXAMPLES", "OUTPUT"):
        assert word in done.stdout


@pytest.mark.parametrize("name", ["lnt", "", "lint tools"])
def test_an_unknown_step_is_refused_before_a_known_one_runs(name: str) -> None:
    done = run("lint", name)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("no step ")
    assert done.stderr.count("\n") == 1
    assert "accepted: system-packages tools lint" in done.stderr

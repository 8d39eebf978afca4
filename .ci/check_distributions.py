"""Checks what a source distribution and a wheel contain: everything that belongs into them, and nothing else.

    python .ci/check_distributions.py [--pure] SDIST WHEEL

Run at the root of a git checkout, with which both are compared. ``--pure``: the wheel was built without the extension.
"""

import argparse
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from release import version_of

#: What builds or tests the project from its sdist.
IN_SDIST = re.compile(
    r"(src|tests|benchmarks|\.ci)/.+|(pyproject\.toml|setup\.py|MANIFEST\.in|README\.md|CHANGELOG\.md|LICENSE)"
)
#: What setuptools adds to an sdist by itself.
MADE_BY_SETUPTOOLS = re.compile(r"PKG-INFO|setup\.cfg|src/cyasgi\.egg-info/.+")
#: What is for those who read or build the sources, and not in the wheel.
FOR_SOURCES = {".pyx", ".pxd", ".pxi", ".md"}
EXTENSION = re.compile(r"(cyasgi/(?:\w+/)*\w+)\.[^/]+\.(?:so|pyd)")


def in_checkout() -> set[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    return {name for name in names if name and Path(name).exists()}


def differences(what: str, expected: set[str], found: set[str]) -> list[str]:
    return [f"{what} lacks {name}" for name in sorted(expected - found)] + [
        f"{what} has {name}, which does not belong there" for name in sorted(found - expected)
    ]


def check_sdist(path: Path, version: str) -> list[str]:
    with tarfile.open(path) as archive:
        found = {member.name for member in archive.getmembers() if member.isfile()}
    root = f"cyasgi-{version}/"
    outside = sorted(name for name in found if not name.startswith(root))
    inside = {name.removeprefix(root) for name in found if name.startswith(root)}
    expected = {name for name in in_checkout() if IN_SDIST.fullmatch(name)}
    return [f"the sdist has {name}, outside {root}" for name in outside] + differences(
        "the sdist", expected, {name for name in inside if not MADE_BY_SETUPTOOLS.fullmatch(name)}
    )


def check_wheel(path: Path, version: str, *, pure: bool) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        found = set(archive.namelist())
    info = f"cyasgi-{version}.dist-info/"
    expected = {
        name.removeprefix("src/")
        for name in in_checkout()
        if name.startswith("src/") and Path(name).suffix not in FOR_SOURCES
    }
    extensions = {name: match[1] for name in found if (match := EXTENSION.fullmatch(name))}
    sources = {name.removeprefix("src/").removesuffix(".pyx") for name in in_checkout() if name.endswith(".pyx")}
    problems = differences(
        "the wheel", expected, {name for name in found - extensions.keys() if not name.startswith(info)}
    )
    if sorted(extensions.values()) != (sorted(sources) if not pure else []):
        problems.append(f"the wheel has these extension modules: {sorted(extensions)}")
    if path.name.endswith("-none-any.whl") != pure:
        problems.append(f"{path.name} has the wrong tags for a wheel {'without' if pure else 'with'} the extension")
    needed = ("cyasgi/py.typed", f"{info}licenses/LICENSE")
    problems += [f"the wheel lacks {name}" for name in needed if name not in found]
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sdist", type=Path)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--pure", action="store_true", help="the wheel was built without the extension")
    given = parser.parse_args()
    version = version_of(Path.cwd())
    problems = check_sdist(given.sdist, version) + check_wheel(given.wheel, version, pure=given.pure)
    for problem in problems:
        print(problem)
    if not problems:
        print(f"{given.sdist.name} and {given.wheel.name} hold what they should")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

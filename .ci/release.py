"""Checks that a release is called the same everywhere, and tells what is new in it.

    python .ci/release.py check [--tag TAG]
    python .ci/release.py notes

Run at the root of a checkout. The version stands in ``src/cyasgi/__init__.py``, from where ``pyproject.toml`` reads it;
the changelog's first release must be the same, and so must the tag. ``notes`` prints the changelog's section about it.
"""

import argparse
import re
import sys
import tomllib
from datetime import date
from pathlib import Path

HEADING = re.compile(r"^## \[(?P<name>[^\]]+)\](?: - (?P<date>\S+))?[ \t]*$", re.MULTILINE)
LITERAL = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
#: What PEP 440 calls a final release or a pre-release, as tags have it.
VERSION = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")
ATTRIBUTE = "cyasgi.__version__"


def version_of(root: Path) -> str:
    """Return what ``cyasgi.__version__`` is, without importing it."""
    found = LITERAL.findall((root / "src/cyasgi/__init__.py").read_text(encoding="utf-8"))
    if len(found) != 1:
        raise SystemExit(f'src/cyasgi/__init__.py must have one line __version__ = "...", not {len(found)}')
    return found[0]


def sections(changelog: str) -> list[tuple[str, str | None, str]]:
    """Return name, date and text of each section of a changelog, as they stand there."""
    headings = list(HEADING.finditer(changelog))
    ends = [heading.start() for heading in headings[1:]] + [len(changelog)]
    return [
        (heading["name"], heading["date"], changelog[heading.end() : end].strip())
        for heading, end in zip(headings, ends, strict=True)
    ]


def is_date(text: str | None) -> bool:
    try:
        return text is not None and date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def problems_of(root: Path, tag: str | None = None) -> list[str]:
    """Return what keeps this tree from being released, or, with a tag, from being released as that."""
    version = version_of(root)
    problems = [] if VERSION.fullmatch(version) else [f"{version} is not a version such as 1.2.3 or 1.2.3rc1"]
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    static = settings["project"].get("version")
    read_from = settings.get("tool", {}).get("setuptools", {}).get("dynamic", {}).get("version", {}).get("attr")
    if static is not None or read_from != ATTRIBUTE:
        problems.append(f"pyproject.toml must read the version from {ATTRIBUTE}")
    found = sections((root / "CHANGELOG.md").read_text(encoding="utf-8"))
    if not found or found[0][0] != "Unreleased":
        problems.append("CHANGELOG.md must begin with a section [Unreleased]")
    releases = [section for section in found if section[0] != "Unreleased"]
    if not releases or releases[0][0] != version:
        latest = f"[{releases[0][0]}]" if releases else "none"
        problems.append(f"the version is {version}, the latest release in CHANGELOG.md is {latest}")
    problems += [
        f"CHANGELOG.md: [{name}] needs its date, YYYY-MM-DD" for name, when, _ in releases if not is_date(when)
    ]
    problems += [f"CHANGELOG.md: [{name}] is empty" for name, _, text in releases if not text]
    if tag is not None:
        if tag != f"v{version}":
            problems.append(f"the tag is {tag}, the version {version}")
        if any(name == "Unreleased" and text for name, _, text in found):
            problems.append("CHANGELOG.md has entries under [Unreleased], which belong to this release")
    return problems


def notes_of(root: Path) -> str:
    """Return the changelog's section about the present version."""
    version = version_of(root)
    for name, _, text in sections((root / "CHANGELOG.md").read_text(encoding="utf-8")):
        if name == version:
            return text
    raise SystemExit(f"CHANGELOG.md has no section [{version}]")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="fail, and say why, if the tree cannot be released")
    check.add_argument("--tag", help="the tag that is released, such as v1.2.3")
    commands.add_parser("notes", help="print what is new")
    given = parser.parse_args(arguments)
    root = Path.cwd()
    if given.command == "notes":
        print(notes_of(root))
        return 0
    problems = problems_of(root, given.tag)
    for problem in problems:
        print(problem)
    if not problems:
        print(f"version and changelog agree: {version_of(root)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

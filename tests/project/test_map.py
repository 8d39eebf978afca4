"""The map and the chapters name what is there: rooms, modules, what tests share, runs of benchmarks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.documentation import ROOT, defined_in, links, name_of, prose, tables

#: Everything that the repository has, and not only what was released of it.
in_checkout = pytest.mark.skipif(
    not (ROOT / ".github").exists() or not (ROOT / "src/cyasgi/README.md").exists(), reason="not a checkout"
)


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@in_checkout
def test_what_the_map_names_is_there():
    path = ROOT / "src/cyasgi/README.md"
    named = re.findall(r"((?:`[\w.]+`(?:,| and|, and)?\s+)+)(?:of|in)\s+\[`[^`]+`\]\(([^)]+\.py)\)", prose(path))
    assert len(named) >= 25
    for names, module in named:
        known = defined_in(path.parent / module)
        members = {name.partition(".")[2] for name in known}
        for name in quoted(names):
            assert name in known or name in members, f"{name} is not in {module}"


@in_checkout
@pytest.mark.parametrize("path", sorted((ROOT / "src/cyasgi").glob("*/README.md")), ids=name_of)
def test_chapters_name_every_module_of_their_room(path):
    text = path.read_text(encoding="utf-8")
    for module in path.parent.glob("*.py"):
        assert module.name == "__init__.py" or f"`{module.name}`" in text, module.name
    for part in (*path.parent.glob("_py/*.py"), *path.parent.glob("_cy/*.pxi")):
        assert part.stem == "__init__" or f"`{part.stem}`" in text, part.name
    for folder in path.parent.glob("*/__init__.py"):
        name = folder.parent.name
        assert f"`{name}`" in text or f"`{name}/`" in text, name


@in_checkout
def test_the_map_names_every_room():
    path = ROOT / "src/cyasgi/README.md"
    named = {
        name
        for row in [row for head, rows in tables(path) if head[0].startswith("Room") for row in rows]
        for name in quoted(row[0])
    }
    package = path.parent
    there = {module.name for module in package.glob("*.py")} | {
        f"{one.parent.name}/" for one in package.glob("*/__init__.py")
    }
    assert there - {"__init__.py", "__main__.py"} == named


@in_checkout
def test_the_chapter_of_the_tests_names_what_they_share_and_use():
    path = ROOT / "tests/README.md"
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    for module in (path.parent / "support").glob("*.py"):
        assert module.name == "__init__.py" or f"`{module.name}`" in text, module.name
    for room in path.parent.iterdir():
        assert not room.is_dir() or room.name.startswith((".", "_")) or f"`{room.name}`" in text, room.name
    for name in re.findall(r"`(?:support/)?(\w+\.py)`", text):
        there = [path.parent / "support" / name, path.parent / name, ROOT / "src/cyasgi" / name]
        assert any(one.exists() for one in there), name


@in_checkout
def test_every_run_of_benchmarks_is_told():
    folders = {path.name for path in (ROOT / "bench_results").iterdir() if path.is_dir()}
    told = {Path(target).parent.name for target in links(ROOT / "bench_results/README.md")}
    assert folders <= told

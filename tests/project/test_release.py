"""A release is called the same everywhere: `.ci/release.py`, which CI runs, sees what differs."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import cyasgi

ROOT = Path(__file__).parents[2]
CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.3] - 2026-01-02

### Added

- That.

## [1.2.2] - 2026-01-01

- This.
"""


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project that can be released as v1.2.3."""
    (tmp_path / "src/cyasgi").mkdir(parents=True)
    (tmp_path / "src/cyasgi/__init__.py").write_text('"""It."""\n\n__version__ = "1.2.3"\n')
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndynamic = ["version"]\n[tool.setuptools.dynamic]\nversion = { attr = "cyasgi.__version__" }\n'
    )
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_this_version_is_in_the_changelog(release: ModuleType) -> None:
    names = [name for name, _, _ in release.sections((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))]
    assert names[:2] == ["Unreleased", cyasgi.__version__]


@pytest.mark.parametrize("tag", [None, "v1.2.3"])
def test_what_agrees(release: ModuleType, tree: Path, tag: str | None) -> None:
    assert release.problems_of(tree, tag) == []
    assert release.notes_of(tree) == "### Added\n\n- That."


@pytest.mark.parametrize(
    ("file", "old", "new", "tag", "problem"),
    [
        (
            "src/cyasgi/__init__.py",
            "1.2.3",
            "1.2.4",
            None,
            "the version is 1.2.4, the latest release in CHANGELOG.md is [1.2.3]",
        ),
        ("src/cyasgi/__init__.py", "1.2.3", "1.2.3", "v1.2.4", "the tag is v1.2.4, the version 1.2.3"),
        ("src/cyasgi/__init__.py", "1.2.3", "1.2.3", "1.2.3", "the tag is 1.2.3, the version 1.2.3"),
        ("src/cyasgi/__init__.py", "1.2.3", "one", None, "one is not a version such as 1.2.3 or 1.2.3rc1"),
        ("pyproject.toml", 'dynamic = ["version"]', 'version = "1.2.3"', None, "must read the version from"),
        ("pyproject.toml", "cyasgi.__version__", "cyasgi.version", None, "must read the version from"),
        ("CHANGELOG.md", "## [Unreleased]\n", "", None, "must begin with a section [Unreleased]"),
        ("CHANGELOG.md", "[Unreleased]\n", "[Unreleased]\n\n- More.\n", "v1.2.3", "has entries under [Unreleased]"),
        ("CHANGELOG.md", " - 2026-01-02", "", None, "[1.2.3] needs its date"),
        ("CHANGELOG.md", "2026-01-02", "2026-13-02", None, "[1.2.3] needs its date"),
        ("CHANGELOG.md", "- This.\n", "", None, "[1.2.2] is empty"),
    ],
)
def test_what_differs_is_told(
    release: ModuleType, tree: Path, file: str, old: str, new: str, tag: str | None, problem: str
) -> None:
    change(tree / file, old, new)
    assert any(problem in told for told in release.problems_of(tree, tag))


def test_entries_may_wait_for_the_next_release(release: ModuleType, tree: Path) -> None:
    change(tree / "CHANGELOG.md", "[Unreleased]\n", "[Unreleased]\n\n- More.\n")
    assert release.problems_of(tree) == []


def test_it_is_run_as_a_command(
    release: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tree)
    assert release.main(["check", "--tag", "v1.2.3"]) == 0
    assert release.main(["check", "--tag", "v9"]) == 1
    assert release.main(["notes"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "version and changelog agree: 1.2.3",
        "the tag is v9, the version 1.2.3",
        "### Added",
        "",
        "- That.",
    ]


def test_a_missing_section_or_version_ends_it(release: ModuleType, tree: Path) -> None:
    change(tree / "CHANGELOG.md", "[1.2.3]", "[1.2.4]")
    with pytest.raises(SystemExit, match=r"CHANGELOG\.md has no section \[1\.2\.3\]"):
        release.notes_of(tree)
    change(tree / "src/cyasgi/__init__.py", "__version__", "version")
    with pytest.raises(SystemExit, match="must have one line"):
        release.version_of(tree)

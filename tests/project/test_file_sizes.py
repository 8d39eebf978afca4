"""No file of the package, the tests, the benchmarks or CI is longer than can be read in one go."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = ("src", "tests", "benchmarks", ".ci")
CODE = {".py", ".pyx", ".pxi", ".pxd", ".pyi"}
MOST = 500  # lines


def test_no_file_is_too_long() -> None:
    """Whoever reaches the limit splits the file along what it is about, so that its docstring is a sentence again."""
    files = [path for place in PLACES for path in (ROOT / place).rglob("*") if path.suffix in CODE]
    assert Path(__file__) in files
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: count for name, count in lines.items() if count > MOST} == {}

"""The chapters of the documentation, and what is in them: blocks of code, commands, tables, links."""

from __future__ import annotations

import ast
import dis
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
#: Where chapters are, beside README.md itself.
FOLDERS = (".github", "bench_results", "benchmarks", "src", "tests")

FENCE = re.compile(
    r"^(?:<!-- ci: (?P<mark>[a-z-]+) -->\n)?^(?P<indent> *)```(?P<language>[a-z]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
LINK = re.compile(r"(?<!\\)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]*(?:\([^()\s]*\))?[^()\s]*)\)")


class Block(NamedTuple):
    """A block of code in a chapter."""

    path: Path
    line: int
    mark: str
    language: str
    code: str

    def __str__(self) -> str:
        return f"{name_of(self.path)}:{self.line}"


def name_of(path: Path) -> str:
    """The path as seen from the project."""
    return path.relative_to(ROOT).as_posix()


def chapters() -> list[Path]:
    """All chapters that are here: an sdist has not all of them, and neither have the tests of a wheel."""
    found = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.md"))]
    front = ROOT / "README.md"
    # The tables of benchmark runs are written by a program.
    return [path for path in (front, *found) if path.exists() and path.name != "table.md"]


def blocks(*languages: str) -> list[Block]:
    """The blocks in these languages, of all chapters."""
    found = []
    for path in chapters():
        text = path.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match["language"] in languages:
                line = text.count("\n", 0, match.start("code")) + 1
                indent = match["indent"]
                code = re.sub(f"^{indent}", "", match["code"], flags=re.MULTILINE) if indent else match["code"]
                found.append(Block(path, line, match["mark"] or "", match["language"], code))
    return found


def prose(path: Path) -> str:
    """What a chapter has beside its blocks of code."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """The anchors that a chapter's headings have on GitHub."""
    found: set[str] = set()
    for heading in HEADING.findall(prose(path)):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).replace(" ", "-")
        number, anchor = 0, words
        while anchor in found:
            number += 1
            anchor = f"{words}-{number}"
        found.add(anchor)
    return found


def links(path: Path) -> list[str]:
    """The targets of a chapter's links and images."""
    return LINK.findall(re.sub(r"`[^`]*`", "``", prose(path)))


def tables(path: Path) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The head and the rows of each table."""
    lines: list[list[str]] = []
    for line in [*prose(path).splitlines(), ""]:
        if line.startswith("|"):
            lines.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif lines:
            yield lines[0], lines[2:]
            lines = []


def undefined_names(code: CodeType) -> set[str]:
    """The names that a program looks up and nowhere defines."""
    defined, wanted = set(dir(__builtins__) if not isinstance(__builtins__, dict) else __builtins__), set()
    pending = [code]
    while pending:
        one = pending.pop()
        pending += [constant for constant in one.co_consts if isinstance(constant, CodeType)]
        for instruction in dis.get_instructions(one):
            if instruction.opname in ("STORE_NAME", "STORE_GLOBAL"):
                defined.add(instruction.argval)
            elif instruction.opname in ("LOAD_NAME", "LOAD_GLOBAL"):
                wanted.add(instruction.argval)
    return wanted - defined - {"__name__", "__file__"}


def commands(text: str) -> Iterator[list[str]]:
    """The commands in a block for a shell, each as its arguments, those behind && and | too."""
    joined = re.sub(r"\$\([^)]*\)", "SUBSTITUTED", text.replace("\\\n", " "))
    for line in joined.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        arguments: list[str] = []
        for token in [*lexer, ";"]:
            if token in (";", "&&", "|"):
                if arguments:
                    yield arguments
                arguments = []
            else:
                arguments.append(token)


def names_in(node: ast.stmt) -> set[str]:
    """What a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {one.id for target in node.targets for one in ast.walk(target) if isinstance(one, ast.Name)}
    return {node.target.id} if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else set()


def defined_in(path: Path) -> set[str]:
    """What a module defines: functions, classes and names, and `Class.member`."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        found |= names_in(node)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for one in node.body for name in names_in(one)}
    return found

"""The names that a shell offers for MODULE:ATTRIBUTE: of modules in a directory, and of what is in them.

Run as a program of its own that imports nothing but the standard library: a shell waits for it at each press of a key,
and must not run what it names.

    python applications.py DIRECTORY INCOMPLETE
"""

from __future__ import annotations

import ast
import os
import sys
import warnings
from collections.abc import Iterator

#: The bundled applications.
BUNDLED = (
    "cyasgi.dns:example",
    "cyasgi.examples:chat",
    "cyasgi.examples:counter",
    "cyasgi.examples:daytime",
    "cyasgi.examples:discard",
    "cyasgi.examples:echo",
    "cyasgi.examples:hello",
    "cyasgi.redis:example",
)
#: Names that are applications although they are imported.
USUAL = {"app", "application"}
#: Entries of a directory that are looked at, and bytes of a module.
MOST_ENTRIES, MOST_BYTES = 1000, 1_000_000
#: Up to so many modules, their attributes are offered at once.
FEW = 10


def complete(directory: str, incomplete: str) -> list[str]:
    """Return what the word may become, sorted.

    Args:
        directory: where modules are looked for.
        incomplete: the beginning of ``MODULE:ATTRIBUTE``. What ends with a colon or a dot is to be gone on with.
    """
    module, colon, start = incomplete.partition(":")
    if colon:
        found = {f"{module}:{name}" for name in attributes(path_of(directory, module)) if name.startswith(start)}
    else:
        modules, packages = modules_in(directory, module)
        found = {f"{name}." for name in packages}
        if len(modules) <= FEW:
            found |= {f"{one}:{name}" for one in modules for name in attributes(path_of(directory, one))}
        else:
            found |= {f"{name}:" for name in modules}
    if incomplete or not found:
        found |= {name for name in BUNDLED if name.startswith(incomplete)}
    return sorted(found)


def modules_in(directory: str, start: str) -> tuple[list[str], list[str]]:
    """Return the dotted names that begin so, of modules and of packages; a package with code is among both."""
    parent, dot, last = start.rpartition(".")
    modules, packages = [], []
    for entry in entries(os.path.join(directory, *parent.split("."))):
        name, suffix = os.path.splitext(entry.name)
        if not name.startswith(last) or not name.isidentifier() or name.startswith("__"):
            continue
        if suffix == ".py":
            modules.append(f"{parent}{dot}{name}")
        elif not suffix and entry.is_dir():
            inside = {one.name for one in entries(entry.path)}
            if "__init__.py" in inside:
                modules.append(f"{parent}{dot}{name}")
            if any(one.endswith(".py") and one != "__init__.py" for one in inside):
                packages.append(f"{parent}{dot}{name}")
    return modules, packages


def entries(directory: str) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a directory, up to a bound; nothing if it cannot be read."""
    try:
        with os.scandir(directory) as found:
            for _, entry in zip(range(MOST_ENTRIES), found, strict=False):
                yield entry
    except OSError:
        return


def path_of(directory: str, module: str) -> str:
    """Return the path of the file that this module is in, if there is one."""
    path = os.path.join(directory, *module.split("."))
    return os.path.join(path, "__init__.py") if os.path.isdir(path) else f"{path}.py"


def attributes(path: str) -> list[str]:
    """Return the names in a file that may be applications or their factories; none if it is no Python."""
    try:
        with open(path, "rb") as file:
            code = file.read(MOST_BYTES + 1)
        if len(code) > MOST_BYTES:
            return []
        with warnings.catch_warnings():
            # Of the parser, about code that is not ours.
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [name for node in tree.body for name in names_of(node) if not name.startswith("_")]


def names_of(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement gives to what may be called."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        literal = (ast.Constant, ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.Set)
        if node.value is not None and not isinstance(node.value, literal):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (one.id for one in targets if isinstance(one, ast.Name))
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (name for alias in node.names if (name := alias.asname or alias.name) in USUAL)


if __name__ == "__main__":
    for one in complete(os.path.expanduser(sys.argv[1]), sys.argv[2]):
        print(one)

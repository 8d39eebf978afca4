"""The direction of imports: which room may import which, those for types alone included, and no circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import cyasgi

PACKAGE = Path(cyasgi.__file__).parent
#: From the bottom up: a room imports itself and those that stand before it, unless ALONE says otherwise.
LAYERS = (
    {"_moved", "_types", "_settings", "core.backend"},
    {"_common", "asgi_compat", "wire"},
    {"core"},
    {"instances"},
    {"serving"},
    {"server"},
    {"install", "lifecycle", "gateways", "supervisor", "embedding", "balancing", "sources"},
    {"apps", "examples", "dns", "redis", "management", ""},
    {"metrics"},
    {"workers"},
    {"cli"},
    {"__main__"},
)
#: Rooms that know less than their layer would let them.
ALONE = {
    "wire": {"core.backend"},
    "balancing": {"_common", "_settings", "_types", "asgi_compat", "wire.messages"},
    "examples": {"_types", "core.context"},
    "redis": {"_types", "core.context"},
    "dns": {"_types", "examples"},
}
#: Rooms within the gateways, and which of the other ones each may import; modules beside them, such as
#: `gateways.base`, are open to all but `gateways.net`.
GATEWAYS = {"net": set(), "datagram": {"net"}, "http": {"net"}, "websocket": {"net", "http"}, "stream": {"net"}}


def module_names() -> dict[str, Path]:
    """Every module of the package by its name within it, "" for the package itself."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found["" if name == "__init__" else name.removesuffix(".__init__")] = path
    return found


MODULES = module_names()
#: What may be compiled, and is chosen at import time.
EXTENSIONS = {
    "core._core",
    "gateways.datagram._batches",
    "gateways.http._fast_path",
    "gateways.stream._fast_path",
    "gateways.websocket._fast_path",
    "wire._headers",
    "wire.http._head",
    "wire.websocket._fast_path",
}


def imports_of(name: str) -> set[str]:
    """The modules of the package that one imports, wherever in it and for whatever reason."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named = [one.name for one in node.names if one.name.split(".")[0] == "cyasgi"]
            found |= {one.removeprefix("cyasgi").removeprefix(".") for one in named}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
            elif (node.module or "").split(".")[0] == "cyasgi":
                base = []
            else:
                continue
            module = (node.module or "").removeprefix("cyasgi").removeprefix(".") if not node.level else node.module
            whole = ".".join([*base, *([module] if module else [])])
            for one in node.names:
                inner = f"{whole}.{one.name}" if whole else one.name
                found.add(inner if inner in MODULES else whole)
    return found - {name} - EXTENSIONS


def room_of(name: str) -> str:
    return name if name == "core.backend" else name.split(".", maxsplit=1)[0]


def layer_of(room: str) -> int:
    return next(number for number, rooms in enumerate(LAYERS) if room in rooms)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down(name: str) -> None:
    """A module imports its own room, and those below it."""
    room = room_of(name)
    for other in imports_of(name):
        assert other in MODULES, other
        below = room_of(other)
        if below == room:
            continue
        assert layer_of(below) < layer_of(room), f"{name} imports {other}"
        if room in ALONE:
            assert below in ALONE[room] or other in ALONE[room], f"{name} imports {other}"


def test_no_circles() -> None:
    """No module imports itself by way of others: in each round those go whose imports have gone."""
    left = {name: imports_of(name) for name in MODULES}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"these import each other: {left}"


#: Private names that have no public one: those of asyncio and the interpreter, and `_cyasgi`, where a server keeps its
#: manager, out of the way of the names that subclasses take.
WELL_KNOWN = {
    "_cancel_message",
    "_current_frames",
    "_cyasgi",
    "_exception",
    "_exit",
    "_get_running_loop",
    "_log_destroy_pending",
    "_must_cancel",
}


def private_names(path: Path) -> tuple[set[str], set[str]]:
    """The private names that a module defines, and those that it asks other objects for."""
    defined, asked = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            defined.add(node.value)
        elif isinstance(node, ast.Name):
            defined.add(node.id)
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            (defined if own else asked).add(node.attr)
    return defined, asked


@pytest.mark.parametrize("name", sorted(set(MODULES) - {""}))
def test_private_names_are_not_reached_through(name: str) -> None:
    """What a module asks of others is public, or its own; the two halves of an instance's life know each other's."""
    room = room_of(name)
    if room in ("core", "instances"):
        return
    defined, asked = private_names(MODULES[name])
    assert asked - defined - WELL_KNOWN == set()


def test_rooms_are_all_known() -> None:
    """Whoever adds a room, or a module at the top, says where it stands."""
    assert {room_of(name) for name in MODULES} <= set().union(*LAYERS)


def test_gateways_know_only_what_they_build_on() -> None:
    """What gateways share knows none of them, datagrams and HTTP nothing of each other, and HTTP no WebSockets."""
    for name in MODULES:
        room, _, inner = name.partition(".")
        part = inner.split(".")[0]
        if room != "gateways" or part not in GATEWAYS:
            continue
        for other in imports_of(name):
            parts = other.split(".")
            if parts[0] != "gateways" or parts[1] == part:
                continue
            assert parts[1] in GATEWAYS[part] or (parts[1] not in GATEWAYS and part != "net"), f"{name} imports {other}"

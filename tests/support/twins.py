"""The package cyasgi on either back end, side by side in one process."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

import pytest

BACKENDS = ("python", "cython")
MODULES = (
    "cyasgi",
    "cyasgi.server",
    "cyasgi.balancing",
    "cyasgi.embedding",
    "cyasgi.supervisor",
    "cyasgi.gateways",
    "cyasgi.gateways.datagram",
    "cyasgi.gateways.http",
    "cyasgi.gateways.uvicorn",
    "cyasgi.gateways.websocket",
    "cyasgi.install",
    "cyasgi.lifecycle",
)


def _ours() -> list[str]:
    """The names of cyasgi's modules that are imported."""
    return [name for name in sys.modules if name.startswith("cyasgi") and name[6:7] in ("", ".")]


def load(backend: str) -> dict[str, ModuleType]:
    """A complete set of cyasgi's modules on the given back end, without touching the one in sys.modules.

    If that is on this back end it is the set: an extension module is made once in a process, and belongs to the modules
    that it was first imported with.
    """
    if getattr(sys.modules.get("cyasgi"), "backend", None) == backend:
        for name in MODULES:
            importlib.import_module(name)
        return {name: sys.modules[name] for name in _ours()}
    before = {name: sys.modules.pop(name) for name in _ours()}
    chosen = os.environ.get("CYASGI_BACKEND")
    os.environ["CYASGI_BACKEND"] = backend
    try:
        for name in MODULES:
            importlib.import_module(name)
        return {name: sys.modules[name] for name in _ours()}
    finally:
        for name in _ours():
            del sys.modules[name]
        sys.modules.update(before)
        if chosen is None:
            del os.environ["CYASGI_BACKEND"]
        else:
            os.environ["CYASGI_BACKEND"] = chosen


_loaded: dict[str, dict[str, ModuleType]] = {}


def activate(backend: str, request: pytest.FixtureRequest) -> ModuleType:
    """Makes `import cyasgi` give the twin on this back end until the requested fixture ends."""
    here = getattr(sys.modules.get("cyasgi"), "backend", None)
    if here is not None and not _loaded:
        # A test module has imported it: before another takes its place.
        _loaded[here] = load(here)
    if backend not in _loaded:
        _loaded[backend] = load(backend)
    before = {name: sys.modules.pop(name) for name in _ours()}
    sys.modules.update(_loaded[backend])

    def restore() -> None:
        for name in _ours():
            del sys.modules[name]
        sys.modules.update(before)

    request.addfinalizer(restore)
    return _loaded[backend]["cyasgi"]

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
    "cyasgi.metrics",
    "cyasgi.instances.window",
    "cyasgi.serving.retrying",
    "cyasgi.sources.queue",
    "cyasgi.sources.channels",
    "cyasgi.sources.channels.redis.engine",
    "cyasgi.sources.channels.redis.hosts",
)


def _ours() -> list[str]:
    """The names of cyasgi's modules that are imported."""
    return [name for name in sys.modules if name.startswith("cyasgi") and name[6:7] in ("", ".")]


class _Swapped:
    """What stands in sys.modules since the last swap: names are looked for among thousands only after an import."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._mark: tuple[int, str] | None = None

    def names(self) -> list[str]:
        return self._names if self._mark == self._now() else _ours()

    def swap(self, modules: dict[str, ModuleType]) -> dict[str, ModuleType]:
        """Put these modules in the place of those that are there, which are returned."""
        before = {name: sys.modules.pop(name) for name in self.names()}
        sys.modules.update(modules)
        self._names, self._mark = list(modules), self._now()
        return before

    @staticmethod
    def _now() -> tuple[int, str]:
        """How many modules there are, and the last one: an import changes it, and so does a removal."""
        return len(sys.modules), next(reversed(sys.modules))


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
_swapped = _Swapped()


def activate(backend: str, request: pytest.FixtureRequest) -> ModuleType:
    """Makes `import cyasgi` give the twin on this back end until the requested fixture ends."""
    here = getattr(sys.modules.get("cyasgi"), "backend", None)
    if here is not None and not _loaded:
        # A test module has imported it: before another takes its place.
        _loaded[here] = load(here)
    if backend not in _loaded:
        _loaded[backend] = load(backend)
    before = _swapped.swap(_loaded[backend])
    request.addfinalizer(lambda: _swapped.swap(before))
    return _loaded[backend]["cyasgi"]

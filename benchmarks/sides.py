"""The sides that are compared: the reference and both of cyasgi's twins, all in one process, and two event loops."""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

SIDES = ("reference", "pure", "cython")
FLOOR = "floor"
#: Further sides of the questions about gateways, whose reference is another server: a second floor, and servers.
PEERS = ("minimal", "granian", "gunicorn", "hypercorn", "daphne")
LOOPS = ("asyncio", "uvloop")
#: cyasgi.backend as each side must report it.
BACKENDS = {"pure": "python", "cython": "cython"}


def _is_ours(name: str) -> bool:
    return name == "cyasgi" or name.startswith("cyasgi.")


@functools.cache
def load(side: str) -> ModuleType:
    """The module cyasgi on one back end, beside the other one: imported afresh, then taken out of sys.modules."""
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_ours(name)}
    chosen = os.environ.get("CYASGI_BACKEND")
    os.environ["CYASGI_BACKEND"] = BACKENDS[side]
    try:
        module = importlib.import_module("cyasgi")
        for name in ("server", "lifecycle", "balancing"):
            importlib.import_module(f"cyasgi.{name}")
    finally:
        for name in [name for name in sys.modules if _is_ours(name)]:
            del sys.modules[name]
        sys.modules.update(kept)
        if chosen is None:
            del os.environ["CYASGI_BACKEND"]
        else:
            os.environ["CYASGI_BACKEND"] = chosen
    if module.backend != BACKENDS[side]:
        raise RuntimeError(f"asked for cyasgi's back end {BACKENDS[side]!r}, got {module.backend!r}")
    return module


def stateless_server(side: str) -> type[Any]:
    """The class StatelessServer of one side."""
    if side == "reference":
        from asgiref.server import StatelessServer

        return StatelessServer
    return load(side).StatelessServer  # type: ignore[no-any-return]


def settle(side: str) -> None:
    """In a process of its own: `import cyasgi` gives this side's back end."""
    if side in BACKENDS:
        os.environ["CYASGI_BACKEND"] = BACKENDS[side]


def available(wanted: tuple[str, ...] = (*SIDES, FLOOR, *PEERS)) -> list[str]:
    """Those of the wanted sides that load here; the others are named on stderr. A question knows about peers itself."""
    found = []
    for side in wanted:
        try:
            if side in SIDES:
                stateless_server(side)
            found.append(side)
        except ImportError as error:
            print(f"{side}: left out ({error})", file=sys.stderr)
    return found


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop


def available_loops(wanted: tuple[str, ...] = LOOPS) -> list[str]:
    """Those of the wanted event loops that are installed; the others are named on stderr."""
    found = []
    for name in wanted:
        try:
            loop_factory(name)
            found.append(name)
        except ImportError as error:
            print(f"{name}: left out ({error})", file=sys.stderr)
    return found

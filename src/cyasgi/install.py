"""The drop-in switch: makes `asgiref.server.StatelessServer` cyasgi's class, and undoes it."""

from __future__ import annotations

import warnings
from typing import Any

from asgiref import server as asgiref_server

from .server import StatelessServer

#: The reference's own class, whatever the name in its module stands for now.
_reference: Any = asgiref_server.StatelessServer


def _subclasses(cls: type) -> list[type]:
    found: dict[type, None] = {}
    subclass: type
    for subclass in cls.__subclasses__():
        found[subclass] = None
        found.update(dict.fromkeys(_subclasses(subclass)))
    return list(found)


def install() -> None:
    """From now on `asgiref.server.StatelessServer` is cyasgi's. Calling it twice does no harm.

    Warns:
        RuntimeWarning: names the classes that subclass the reference's already and cannot be switched; call
            `install()` before the modules that define them are imported.
    """
    asgiref_server.StatelessServer = StatelessServer  # type: ignore[misc, assignment]
    early = sorted(f"{cls.__module__}.{cls.__qualname__}" for cls in _subclasses(_reference))
    if early:
        warnings.warn(
            "cyasgi.install() came too late for " + ", ".join(early) + ": they keep asgiref's StatelessServer",
            RuntimeWarning,
            stacklevel=2,
        )


def uninstall() -> None:
    """Gives `asgiref.server` its own class back. Classes made meanwhile stay what they are."""
    asgiref_server.StatelessServer = _reference  # type: ignore[misc]

"""The drop-in switch, which replaces `asgiref.server.StatelessServer` by cyasgi's class, and back."""

from __future__ import annotations

import warnings
from typing import Any

from asgiref import server as asgiref_server

from .server import StatelessServer

#: The reference's own class, whatever its module has under that name now.
_reference: Any = asgiref_server.StatelessServer


def _subclasses(cls: type) -> list[type]:
    found: dict[type, None] = {}
    subclass: type
    for subclass in cls.__subclasses__():
        found[subclass] = None
        found.update(dict.fromkeys(_subclasses(subclass)))
    return list(found)


def install() -> None:
    """Replace `asgiref.server.StatelessServer` by cyasgi's class; calling this twice does no harm.

    Warns:
        RuntimeWarning: classes exist that subclass the reference's class; they are named, and stay what they are. Call
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
    """Give `asgiref.server` its own class back; classes defined in the meantime stay what they are."""
    asgiref_server.StatelessServer = _reference  # type: ignore[misc]

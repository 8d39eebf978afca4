"""The setting that says how messages are framed: by name, by a class, or by the path of one."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from ..._settings import Bound
from ...wire.stream import NAMES, Framing, framing_named

#: The path of a class of one's own.
PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
ACCEPTED = f"{', '.join(NAMES)} (with N of 1, 2, 3, 4 or 8 bytes)"


class FramingBound(Bound):
    """What a framing may be."""

    def __init__(self) -> None:
        super().__init__(
            f"a name among {ACCEPTED}; a subclass of cyasgi.wire.stream.Framing, or a function that returns one for "
            "max_message_size; or its path as in 'module:Class'",
            f"{ACCEPTED}, or module:Class for one of your own",
        )

    def wrong(self, value: Any) -> type[Exception] | None:
        if isinstance(value, str):
            return None if framing_named(value) is not None or PATH.fullmatch(value) else ValueError
        return None if callable(value) else TypeError

    def read(self, text: str) -> str:
        return text


def framing_factory(value: Any) -> tuple[Callable[[int], Framing], str]:
    """Return what makes a framing, called with the longest message in bytes, and its name.

    Raises:
        ValueError: the module cannot be imported, has no such attribute, or that makes no framing.
    """
    make = value
    if isinstance(value, str):
        make = framing_named(value)
        if make is None:
            make = _imported(value)
    try:
        made = make(1)
    except Exception as error:
        raise ValueError(f"framing={value!r}: called with 1, the longest message, it raised {error!r}") from error
    if not isinstance(made, Framing):
        raise ValueError(f"framing={value!r}: it makes {made!r}, which is no cyasgi.wire.stream.Framing")
    return make, value if isinstance(value, str) else made.name or type(made).__name__


def _imported(path: str) -> Any:
    module, _, names = path.partition(":")
    try:
        found: Any = import_module(module)
        for name in names.split("."):
            found = getattr(found, name)
    except Exception as error:
        raise ValueError(f"framing={path!r}: it cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"framing={path!r}: it is {found!r}, and no class")
    return found

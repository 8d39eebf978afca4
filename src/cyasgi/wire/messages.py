"""What every message of an application must have, whatever its scope."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


def check_type(message: Any, accepted: Collection[str], scope: str) -> str:
    """Return the type of a message.

    Args:
        accepted: the types that there are.
        scope: what kind of scope accepts them, as in "an HTTP scope".

    Raises:
        TypeError: it is not a dict.
        ValueError: it has no type, or one that is not accepted.
    """
    if not isinstance(message, Mapping):
        raise TypeError(f"a message must be a dict, got {message!r}")
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in accepted:
        raise ValueError(f"unknown type of message {kind!r}: {scope} accepts {', '.join(accepted)}")
    return kind

"""What a message of an application must be, whatever its scope; and the types that a lifespan has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

#: Types of the messages that an application sends in a lifespan scope (ASGI specification, Lifespan Protocol).
LIFESPAN_TYPES = (
    "lifespan.startup.complete",
    "lifespan.startup.failed",
    "lifespan.shutdown.complete",
    "lifespan.shutdown.failed",
)


def check_type(message: Any, accepted: Collection[str], scope: str) -> str:
    """Return the type of a message.

    Args:
        accepted: the types of messages that the scope accepts.
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

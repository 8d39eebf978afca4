"""What an instance serves, in words for a log line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def describe(details: Any) -> str:
    """Describe a request by its method and path, a WebSocket by its path, and others by their scope's type and id.

    Args:
        details: an instance, or a mapping with a `scope` that was written into the table.

    Returns:
        One line; paths are quoted as by `repr`.
    """
    try:
        scope = details["scope"]
    except (KeyError, TypeError):
        scope = None
    kind = scope.get("type") if isinstance(scope, Mapping) else None
    if kind == "http":
        return f"{scope.get('method')} {scope.get('path')!r}"
    if kind == "websocket":
        return f"WebSocket {scope.get('path')!r}"
    text = f"scope_id {getattr(details, 'scope_id', None)!r}"
    return text if kind is None else f"{text}, type {kind!r}"

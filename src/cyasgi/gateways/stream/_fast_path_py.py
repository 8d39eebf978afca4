"""The pure twin of what is compiled of streams: giving an application a message that it waits for."""

from __future__ import annotations

from typing import Any


def give(session: Any, instance: Any, message: Any) -> None:
    """Put a message into the queue of an instance that waits for it."""
    instance.put_nowait(message)

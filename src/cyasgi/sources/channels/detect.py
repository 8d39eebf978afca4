"""Whether a channel layer is one whose messages can be fetched in batches."""

from __future__ import annotations

import sys
from typing import Any


def is_redis_layer(layer: Any) -> bool:
    """Return whether the layer is channels_redis' core layer, and receives as that does."""
    module = sys.modules.get("channels_redis.core")
    known = getattr(module, "RedisChannelLayer", None)
    return (
        known is not None
        and isinstance(layer, known)
        and type(layer).receive is known.receive
        and type(layer).receive_single is known.receive_single
    )

"""A scope, an application that goes by its messages, and a plain dict as an entry."""

from __future__ import annotations

import asyncio
import time
from typing import Any

SCOPE = {"type": "test"}


async def by_message(scope: Any, receive: Any, send: Any) -> Any:
    """Reads on until a message tells it to return, or to be busy with something else."""
    while True:
        match await receive():
            case "return":
                return
            case "busy":
                await asyncio.get_running_loop().create_future()


def own_entry(**more: Any) -> dict[str, Any]:
    future = asyncio.get_running_loop().create_future()
    return {"input_queue": asyncio.Queue(), "future": future, "scope": SCOPE, "last_used": time.time(), **more}

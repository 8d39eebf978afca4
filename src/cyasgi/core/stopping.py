"""The cancellations by which a stopping server ends what it takes messages in by."""

from __future__ import annotations

import asyncio


class Reason(str):
    """Message of such a cancellation. It lives as long as the CancelledError: once gone, the error was handled."""

    __slots__ = ("__weakref__",)


def is_stop(error: BaseException) -> bool:
    """Return whether an error is such a cancellation."""
    return isinstance(error, asyncio.CancelledError) and len(error.args) == 1 and type(error.args[0]) is Reason

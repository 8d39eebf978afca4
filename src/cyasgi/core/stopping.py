"""The cancellations by which a stopping server ends the tasks that take messages in."""

from __future__ import annotations

import asyncio


class Reason(str):
    """The message of such a cancellation, in the CancelledError: once it is gone, the error has been handled."""

    __slots__ = ("__weakref__",)


def is_stop(error: BaseException) -> bool:
    """Return whether an error is such a cancellation."""
    return isinstance(error, asyncio.CancelledError) and len(error.args) == 1 and type(error.args[0]) is Reason

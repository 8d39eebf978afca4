"""Tracked: a message whose sender is told what becomes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, NoReturn, final

from .._common.guarding import INTERRUPTS
from .caller import InstanceDeleted

logger = logging.getLogger("cyasgi.server")

#: What a sender is told, in this order at most: TAKEN first, and then one of the others.
TAKEN: Final = "taken"
DONE: Final = "done"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
UNDELIVERED: Final = "undelivered"

#: Called with what became of the message, and with the error of "failed" and "cancelled", else None.
OnOutcome = Callable[[str, BaseException | None], object]


@final
class Tracked:
    """A message to be put into an instance, with a function that is told what becomes of it.

    The application receives `message` alone. `on_outcome(outcome, error)` is called in the event loop of the instance:

    * ``"taken"`` - the application has received it, and nothing else was told before;
    * ``"done"`` - it has called `receive()` again, in the same task, or has returned. A message that somebody else has
      taken from the queue, by `get()` or `get_nowait()`, is done at once;
    * ``"failed"`` - it has raised `error` before that;
    * ``"cancelled"`` - it was cancelled before that: deleted, evicted, expired, or the server stops;
    * ``"undelivered"`` - the instance has ended, and the message was left in its queue or put after the end.

    The last four come once, and are the last word, except that ``undelivered_to = "successor"`` gives what was left in
    the queue to another instance instead. Nothing is told if the server is dropped with its event loop.

    The function is called in the middle of the queue's work: it should only note what it is told, and not wait. What it
    raises is logged. It may put further messages.

    Args:
        message: what the application receives; anything.
        on_outcome: a plain function.
    """

    __slots__ = ("message", "on_outcome")

    def __init__(self, message: Any, on_outcome: OnOutcome) -> None:
        self.message = message
        self.on_outcome = on_outcome

    def tell(self, outcome: str, error: BaseException | None = None) -> None:
        """Call `on_outcome`; what it raises goes to the log, or to the event loop if it is to end the server."""
        try:
            self.on_outcome(outcome, error)
        except INTERRUPTS as interrupt:
            loop = asyncio._get_running_loop()
            if loop is None:
                raise
            loop.call_soon(_raise, interrupt)
        except BaseException as failure:
            logger.error("the outcome %r of %r could not be told", outcome, self, exc_info=failure)
        finally:
            # This frame is part of the traceback of what was raised.
            del error

    def __repr__(self) -> str:
        return f"<cyasgi.Tracked {self.message!r}>"


def _raise(error: BaseException) -> NoReturn:
    raise error


def outcome_of(error: BaseException | None) -> str:
    """Return what to tell of a message in flight when a run ends with this error; None if it has returned."""
    if error is None:
        return DONE
    return CANCELLED if isinstance(error, (asyncio.CancelledError, InstanceDeleted)) else FAILED


def message_of(item: Any) -> Any:
    """Return the message that was put, whether it is tracked or not."""
    return item.message if type(item) is Tracked else item


def tell_all(items: Any, outcome: str, error: BaseException | None = None) -> None:
    """Tell of each of these that is tracked."""
    for item in items:
        if type(item) is Tracked:
            item.tell(outcome, error)


def undelivered(items: list[Any]) -> list[Any]:
    """Tell of each of these that it was not delivered, and return the messages."""
    tell_all(items, UNDELIVERED)
    return [message_of(item) for item in items]

"""Calls of the library that speaks AMQP, each within bounds and with its errors in one line."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from aiormq.exceptions import AMQPError, ProbableAuthenticationError

from ..._common.guarding import Guard
from .engine import EngineError

Result = TypeVar("Result")

#: Seconds that the broker may take to answer.
PATIENCE = 30.0


async def close_quietly(connection: Any) -> None:
    """Close a connection, whatever state it is in."""
    try:
        await answered(connection.close(), 5.0)
    except EngineError:
        # It was never open, or is gone.
        return


async def answered(awaitable: Awaitable[Result], seconds: float = PATIENCE) -> Result:
    """Await what asks the broker.

    Raises:
        EngineError: it refuses, does not answer in time, or is gone.
    """
    guard = Guard()
    try:
        async with asyncio.timeout(seconds):
            return await awaitable
    except TimeoutError:
        raise EngineError(f"no answer within {seconds:g} seconds") from None
    except asyncio.CancelledError as error:
        # The library raises it as well, in all who wait for an answer when the connection is gone.
        if guard.interrupted(error):
            raise
        raise EngineError("the connection is gone") from None
    except ProbableAuthenticationError as error:
        raise EngineError(f"the user or the password is refused: {words_of(error)}") from error
    except (AMQPError, OSError, RuntimeError) as error:
        raise EngineError(words_of(error)) from error
    except Exception as error:
        # Whoever waits for an answer when the connection ends is given what has ended it: whatever the library could
        # not read has led to, or a bare Exception.
        words = "the connection is gone" if type(error) is Exception else f"{type(error).__name__}: {words_of(error)}"
        raise EngineError(words) from error


def words_of(error: BaseException) -> str:
    """Return an error of the library in one line."""
    words = ": ".join(str(word) for word in error.args if word not in (None, "")) or type(error).__name__
    return " ".join(words.split())

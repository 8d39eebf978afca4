"""Finds the listeners that a server's handle() opens: the server goes on until they are closed, and closes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

from ._context import running

#: The list that the handle() at work in this context enters its listeners into.
opening: ContextVar[list[Any] | None] = ContextVar("cyasgi.opening", default=None)

METHODS = ("create_server", "create_unix_server", "create_datagram_endpoint")


def _listening(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def create(*args: Any, **kwargs: Any) -> Any:
        result = await method(*args, **kwargs)
        listeners = opening.get()
        # What an application opens is its own.
        if listeners is not None and running.get() is None:
            listeners.append(result[0] if isinstance(result, tuple) else result)
        return result

    return create


@contextlib.contextmanager
def watched(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """While inside, what the loop opens for a handle() is entered into that handle()'s list.

    The loop object's own methods are wrapped, since no event loop tells of its listeners. A loop that lets nobody set
    its attributes goes unwatched.
    """
    wrapped = {}
    # Another server on the same loop may have wrapped them already.
    if not isinstance(vars(loop).get("_cyasgi_watchers"), int) if hasattr(loop, "__dict__") else False:
        for name in METHODS:
            wrapped[name] = _listening(getattr(loop, name))
            setattr(loop, name, wrapped[name])
    count = getattr(loop, "_cyasgi_watchers", 0) + 1
    with contextlib.suppress(AttributeError):
        loop._cyasgi_watchers = count  # type: ignore[attr-defined]
    try:
        yield
    finally:
        left = getattr(loop, "_cyasgi_watchers", 1) - 1
        if hasattr(loop, "__dict__"):
            if left > 0:
                loop._cyasgi_watchers = left  # type: ignore[attr-defined]
            else:
                vars(loop).pop("_cyasgi_watchers", None)
                for name in METHODS:
                    vars(loop).pop(name, None)


def is_serving(listener: Any) -> bool:
    """Whether an asyncio server still accepts connections, or a transport is still open."""
    if hasattr(listener, "is_serving"):
        return bool(listener.is_serving())
    return not listener.is_closing()


def is_server(listener: Any) -> bool:
    """An asyncio server, whose closing ends the intake alone; a datagram transport carries the answers too."""
    return hasattr(listener, "is_serving")

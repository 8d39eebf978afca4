"""Finds the listeners that a server's handle() opens: the server runs until they are closed, or closes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from ..core.context import at_work, origin
from .intake import Origin

METHODS = ("create_server", "create_unix_server", "create_datagram_endpoint")


def listening(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap a function that opens a listener: one that a handle() opens by it is entered into its `Intake`."""

    async def create(*args: Any, **kwargs: Any) -> Any:
        source = origin.get()
        # An application owns what it opens.
        if source is None or at_work.get() is not None:
            return await method(*args, **kwargs)
        intake = source.intake
        if kwargs.get("start_serving") is False:
            args, kwargs = _marked(intake.by_listeners, args, kwargs)
        # The listener calls its protocols in copies of the context in which it is opened.
        token = origin.set(intake.by_listeners)
        try:
            result = await method(*args, **kwargs)
        finally:
            origin.reset(token)
        intake.listeners.append(result[0] if isinstance(result, tuple) else result)
        return result

    return create


def _marked(source: Origin, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Wrap the protocol factory of a listener that starts to serve later, in a context that is not known yet."""
    factory: Callable[[], Any] = args[0] if args else kwargs["protocol_factory"]

    def make() -> Any:
        origin.set(source)
        return factory()

    return ((make, *args[1:]), kwargs) if args else (args, {**kwargs, "protocol_factory": make})


@contextlib.contextmanager
def watched(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Inside the context, add each listener that the loop opens for a handle() to the `Intake` of that handle().

    The methods of the loop object are wrapped, since event loops do not tell of their listeners. A loop whose
    attributes cannot be set is not watched.
    """
    wrapped = {}
    # Another server on the same loop may have wrapped them already.
    if not isinstance(vars(loop).get("_cyasgi_watchers"), int) if hasattr(loop, "__dict__") else False:
        for name in METHODS:
            wrapped[name] = listening(getattr(loop, name))
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
    """Return whether an asyncio server still accepts connections, or a transport is still open."""
    if hasattr(listener, "is_serving"):
        return bool(listener.is_serving())
    return not listener.is_closing()


def is_server(listener: Any) -> bool:
    """Return whether it is an asyncio server, which can be closed first; a datagram transport sends the answers too."""
    return hasattr(listener, "is_serving")

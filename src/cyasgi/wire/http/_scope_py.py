"""The pure twin of the scope of a request."""

from __future__ import annotations

from typing import Any


class Scope(dict[str, Any]):
    """A scope that knows its connection, whatever the application writes into it."""

    __slots__ = ("connection",)
    #: See `cyasgi._types.Connection`.
    connection: Any

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, deep copy or pickle is a plain dict: a connection has no place in it.
        return dict, (dict(self),)

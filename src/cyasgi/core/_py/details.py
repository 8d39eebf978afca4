"""Details: the mapping of an instance's details."""

from __future__ import annotations

import asyncio
import math
from collections.abc import (
    Hashable,
    ItemsView,
    Iterator,
    KeysView,
    ValuesView,
)
from concurrent import futures
from typing import Any, Self

from ..._types import ServerPort
from ..constants import (
    DONE,
    KEYS,
)
from ..placeholder import make_placeholder
from .queue import InputQueue

_MISSING: Any = object()


class Details(InputQueue):
    """The mapping of an instance's details."""

    __slots__ = ("_extra", "_placeholder", "_task")

    def __init__(self, server: ServerPort, scope_id: Hashable, scope: Any, maxsize: int) -> None:
        super().__init__(server, scope_id, scope, maxsize)
        self._task: asyncio.Task[Any] | None = None
        self._placeholder: futures.Future[Any] | None = None
        self._extra: dict[str, Any] | None = None

    @property
    def future(self) -> Any:
        """The task; a concurrent.futures.Future in its place until an event loop has started the instance."""
        if self._task is not None:
            return self._task
        if self._placeholder is None:
            self._placeholder = make_placeholder()
            if self._state == DONE:
                self._placeholder.cancel()
        return self._placeholder

    @property
    def input_queue(self) -> Self:
        return self

    @property
    def last_used(self) -> float:
        """When the instance was last looked up, in seconds since the epoch. An assigned value determines its place in
        the order of eviction, until it is looked up again."""
        return self._used if self._assigned is None else self._assigned[0]

    @last_used.setter
    def last_used(self, value: float) -> None:
        moment = _moment(value)
        if self._table is not None:
            self._table._assign(self, moment)
        else:
            self._used = moment

    def __getitem__(self, key: str) -> Any:
        if key == "input_queue":
            return self
        if key in KEYS:
            return getattr(self, key)
        if self._extra is None:
            raise KeyError(key)
        return self._extra[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key in ("application", "future", "input_queue"):
            raise TypeError(f"{key!r} of an application instance cannot be assigned; 'last_used' and 'scope' can")
        if key == "last_used":
            self.last_used = value
        elif key == "scope":
            self.scope = value
        else:
            if self._extra is None:
                self._extra = {}
            self._extra[key] = value

    def __delitem__(self, key: str) -> None:
        if key in KEYS:
            raise TypeError(f"{key!r} of an application instance cannot be deleted; keys added by callers can")
        if self._extra is None:
            raise KeyError(key)
        del self._extra[key]

    def __iter__(self) -> Iterator[str]:
        return iter((*KEYS, *(self._extra or ())))

    def __len__(self) -> int:
        return len(KEYS) + len(self._extra or ())

    def __contains__(self, key: object) -> bool:
        return key in KEYS or (self._extra is not None and key in self._extra)

    def __bool__(self) -> bool:
        return True

    def keys(self) -> KeysView[str]:
        return KeysView(self)

    def values(self) -> ValuesView[Any]:
        return ValuesView(self)

    def items(self) -> ItemsView[str, Any]:
        return ItemsView(self)

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        if key not in KEYS and (self._extra is None or key not in self._extra):
            if default is _MISSING:
                raise KeyError(key)
            return default
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Remove the key that a caller has added last; raise KeyError if there is none."""
        if not self._extra:
            raise KeyError("popitem(): no key was added to this application instance")
        return self._extra.popitem()

    def clear(self) -> None:
        """Remove the keys that callers have added."""
        self._extra = None

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *others: Any, **values: Any) -> None:
        for key, value in dict(*others, **values).items():
            self[key] = value


def _moment(value: Any) -> float:
    """Check and convert a value for `last_used`."""
    try:
        moment = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"last_used={value!r}: accepted is a number of seconds since the epoch") from None
    if isinstance(value, str) or math.isnan(moment):
        raise (TypeError if isinstance(value, str) else ValueError)(
            f"last_used={value!r}: accepted is a number of seconds since the epoch"
        )
    return moment

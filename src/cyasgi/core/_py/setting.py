"""Setting: a checked attribute of a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Setting:
    """A checked attribute with a default, kept in the instance's `__dict__` under its own name. `changed` is called
    with the instance after a change."""

    __slots__ = ("_changed", "_check", "_default", "_name")

    def __init__(
        self, default: Any, check: Callable[[str, Any], None], changed: Callable[[Any], None] | None = None
    ) -> None:
        self._default = default
        self._check = check
        self._changed = changed
        self._name = ""

    @property
    def default(self) -> Any:
        return self._default

    @property
    def check(self) -> Callable[[str, Any], None]:
        return self._check

    @property
    def changed(self) -> Callable[[Any], None] | None:
        return self._changed

    @property
    def name(self) -> str:
        return self._name

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self._default
        return instance.__dict__.get(self._name, self._default)

    def __set__(self, instance: Any, value: Any) -> None:
        self._check(self._name, value)
        instance.__dict__[self._name] = value
        if self._changed is not None:
            self._changed(instance)

    def __delete__(self, instance: Any) -> None:
        if self._name not in instance.__dict__:
            raise AttributeError(self._name)
        del instance.__dict__[self._name]
        if self._changed is not None:
            self._changed(instance)

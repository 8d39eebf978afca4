"""Setting: a checked attribute of a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Setting:
    """A checked attribute with a default, kept in the instance's `__dict__` under its own name. `changed` is called
    with the instance after a change."""

    __slots__ = ("changed", "check", "default", "name")

    def __init__(
        self, default: Any, check: Callable[[str, Any], None], changed: Callable[[Any], None] | None = None
    ) -> None:
        self.default = default
        self.check = check
        self.changed = changed
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self.default
        return instance.__dict__.get(self.name, self.default)

    def __set__(self, instance: Any, value: Any) -> None:
        self.check(self.name, value)
        instance.__dict__[self.name] = value
        if self.changed is not None:
            self.changed(instance)

    def __delete__(self, instance: Any) -> None:
        if self.name not in instance.__dict__:
            raise AttributeError(self.name)
        del instance.__dict__[self.name]
        if self.changed is not None:
            self.changed(instance)

"""Setting: a checked attribute of a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Setting(Generic[T]):
    """A checked attribute with a default, kept in the instance's `__dict__` under its own name.

    On the class it is its default, so that a subclass may assign another one, as ``max_queue_size = 100``.

    Args:
        default: the value of an instance that has none of its own.
        check: called with the name and a new value; raises an error if that is not accepted.
        changed: called with the instance after a change.
    """

    __slots__ = ("_changed", "_check", "_default", "_name")

    def __init__(
        self, default: T, check: Callable[[str, Any], None], changed: Callable[[Any], None] | None = None
    ) -> None:
        self._default = default
        self._check = check
        self._changed = changed
        self._name = ""

    @property
    def default(self) -> T:
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

    def __get__(self, instance: object, owner: type | None = None) -> T:
        if instance is None:
            return self._default
        value: T = instance.__dict__.get(self._name, self._default)
        return value

    def __set__(self, instance: object, value: T) -> None:
        self._check(self._name, value)
        instance.__dict__[self._name] = value
        if self._changed is not None:
            self._changed(instance)

    def __delete__(self, instance: object) -> None:
        if self._name not in instance.__dict__:
            raise AttributeError(self._name)
        del instance.__dict__[self._name]
        if self._changed is not None:
            self._changed(instance)

"""The attributes that tune a server: checked when set, on instances and in the class bodies of subclasses alike."""

from __future__ import annotations

import math
from typing import Any

from ._backend import Setting
from ._constants import HOOK, POLICIES, SUCCESSOR

#: Bounds and default of `application_checker_interval`, in seconds.
INTERVAL_DEFAULT = 0.1
INTERVAL_LEAST = 0.001
INTERVAL_MOST = 3600.0


def number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def as_float(value: float) -> float:
    """As a float, infinite where an int is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def refuse(kind: type[Exception], name: str, value: Any, accepted: str) -> Exception:
    return kind(f"{name}={value!r}: accepted is {accepted}")


def check_max_applications(name: str, value: Any) -> None:
    accepted = "an int of at least 1, or None for no limit"
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise refuse(TypeError, name, value, accepted)
    if value < 1:
        raise refuse(ValueError, name, value, accepted)


def check_max_queue_size(name: str, value: Any) -> None:
    accepted = "an int of at least 0, 0 for no bound"
    if not isinstance(value, int) or isinstance(value, bool):
        raise refuse(TypeError, name, value, accepted)
    if value < 0:
        raise refuse(ValueError, name, value, accepted)


def check_idle_timeout(name: str, value: Any) -> None:
    accepted = "a finite number of seconds above 0, or None for never"
    if value is None:
        return
    if not number(value):
        raise refuse(TypeError, name, value, accepted)
    if not 0 < as_float(value) < math.inf:
        raise refuse(ValueError, name, value, accepted)


def check_shutdown_timeout(name: str, value: Any) -> None:
    accepted = "a finite number of seconds, at least 0"
    if not number(value):
        raise refuse(TypeError, name, value, accepted)
    if not 0 <= as_float(value) < math.inf:
        raise refuse(ValueError, name, value, accepted)


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    accepted = " or ".join(map(repr, choices))
    if not isinstance(value, str):
        raise refuse(TypeError, name, value, accepted)
    if value not in choices:
        raise refuse(ValueError, name, value, accepted)


def check_eviction_policy(name: str, value: Any) -> None:
    _check_choice(name, value, POLICIES)


def check_undelivered_to(name: str, value: Any) -> None:
    _check_choice(name, value, (HOOK, SUCCESSOR))


def clamped_interval(value: Any) -> float:
    """`application_checker_interval` as it is used: never an error, always a sensible number of seconds."""
    if not number(value) or math.isnan(seconds := as_float(value)):
        return INTERVAL_DEFAULT
    return min(max(seconds, INTERVAL_LEAST), INTERVAL_MOST)


def segments_changed(server: Any) -> None:
    """The policy, or the bound of the protected segment: for a table that is there already."""
    life = server.__dict__.get("_cyasgi")
    if life is not None:
        life.table.follow(server)


def adopt_class_settings(cls: type) -> None:
    """Checks what a subclass's body assigns to a setting, and keeps it checked when it is set on instances."""
    for name, value in list(vars(cls).items()):
        if hasattr(type(value), "__get__"):
            continue
        settings = (vars(base).get(name) for base in cls.__mro__[1:])
        inherited = next((setting for setting in settings if isinstance(setting, Setting)), None)
        if inherited is not None:
            inherited.check(name, value)
            setting = Setting(value, inherited.check, inherited.changed)
            setting.__set_name__(cls, name)
            setattr(cls, name, setting)

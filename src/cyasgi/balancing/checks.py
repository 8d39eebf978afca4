"""What the settings of a balancer may be: each check raises an error that names the value and what is accepted."""

from __future__ import annotations

from typing import Any


def _refuse(kind: type[Exception], name: str, value: Any, accepted: str) -> Exception:
    return kind(f"{name}={value!r}: accepted is {accepted}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    accepted = f"an int of at least {least}"
    if not isinstance(value, int) or isinstance(value, bool):
        raise _refuse(TypeError, name, value, accepted)
    if value < least:
        raise _refuse(ValueError, name, value, accepted)


def check_seconds(name: str, value: Any, alternative: str = "") -> None:
    _check_number(name, value, f"a number of seconds above 0, at most 1e9{alternative}")
    # Compared before anything is computed with it: an int may be too large for a float.
    if not 0 < value <= 1e9:
        raise _refuse(ValueError, name, value, f"a number of seconds above 0, at most 1e9{alternative}")


def check_weight(name: str, value: Any) -> None:
    # Bounded, so that sums of weights stay finite and small ones are not lost in them.
    _check_number(name, value, "a number from 1e-6 to 1e6")
    if not 1e-6 <= value <= 1e6:
        raise _refuse(ValueError, name, value, "a number from 1e-6 to 1e6")


def _check_number(name: str, value: Any, accepted: str) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _refuse(TypeError, name, value, accepted)


def check_callable(name: str, value: Any, accepted: str) -> None:
    if not callable(value):
        raise _refuse(TypeError, name, value, accepted)

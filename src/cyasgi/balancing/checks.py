"""Checks of a balancer's settings; each raises an error that names the value and what is accepted."""

from __future__ import annotations

from typing import Any

from .._settings import (
    Integer,
    Number,
    refuse,
)

#: Bounded, so that sums of weights stay finite and small weights are not lost in them.
check_weight = Number(least=1e-6, most=1e6)


def check_count(name: str, value: Any, least: int = 1) -> None:
    Integer(least)(name, value)


def check_seconds(name: str, value: Any, none: str = "") -> None:
    Number("number of seconds", most=1e9, none=none)(name, value)


def check_callable(name: str, value: Any, accepted: str) -> None:
    if not callable(value):
        raise refuse(TypeError, name, value, accepted)

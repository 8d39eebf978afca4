"""Values of options, from the text that was given."""

from __future__ import annotations

import math


def parse_limit(text: str) -> int | None:
    """A number of at least 1, or None for "none"."""
    if text == "none":
        return None
    if text.isascii() and text.isdigit() and int(text) >= 1:
        return int(text)
    raise ValueError(f"{text!r}: accepted are a whole number of at least 1, and none for no limit")


def parse_number(text: str) -> int:
    """A number of at least 1."""
    if text.isascii() and text.isdigit() and int(text) >= 1:
        return int(text)
    raise ValueError(f"{text!r}: accepted is a whole number of at least 1")


def parse_count(text: str) -> int:
    """A number of at least 0, which stands for no limit."""
    if text.isascii() and text.isdigit():
        return int(text)
    raise ValueError(f"{text!r}: accepted is a whole number of at least 0, where 0 stands for no limit")


def parse_seconds(text: str, *, zero: bool = True) -> float:
    """Seconds, 0 or more; more than 0 unless `zero`."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0 or not (seconds or zero):
        raise ValueError(f"{text!r}: accepted is a number of seconds, {'0 or more' if zero else 'more than 0'}")
    return seconds


def parse_interval(text: str) -> float:
    """Seconds, more than 0."""
    return parse_seconds(text, zero=False)


def parse_timeout(text: str) -> float | None:
    """Seconds, more than 0, or None for "none"."""
    try:
        return None if text == "none" else parse_seconds(text, zero=False)
    except ValueError as error:
        raise ValueError(f"{error}, and none for no timeout") from None
